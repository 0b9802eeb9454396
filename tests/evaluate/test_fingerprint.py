"""A stored prompt belongs to one model: its weights, and the values of its config that change its answers."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from fakes import make_inner_tokenizer, make_model
from overture.core.errors import ArtifactError, BackboneError
from overture.engine import model_files
from overture.engine.load import load_backbone
from overture.engine.options import check_source
from overture.evaluate.facts import backbone_ref
from overture.evaluate.host import Host
from overture.store.artifact import read_manifest, save_artifact
from overture.store.manifest import Manifest

TASK = {"name": "mood", "data": {"path": "rows.jsonl"}, "template": "{text}\nMood:", "labels": {"a": "a", "b": "b"}}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OVERTURE_CACHE", str(tmp_path / "cache"))


def model_folder(path: Path, family: str) -> Path:
    make_model(family, "sdpa").save_pretrained(path)
    make_inner_tokenizer(family).save_pretrained(path)
    return path


def change_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def stored_prompt(tmp_path: Path, family: str = "llama") -> tuple[Path, Path]:
    """A model's folder, and a prompt for it."""
    model = model_folder(tmp_path / "model", family)
    backbone = load_backbone(str(model))
    manifest = Manifest(
        name="mood",
        method="vectors",
        place="before",
        length=2,
        backbone=backbone_ref(backbone),
        task={**TASK, "backbone": str(model)},
        trainable=1,
    )
    vectors = torch.randn(2, backbone.info.hidden_size, generator=torch.Generator().manual_seed(0))
    save_artifact(tmp_path / "prompt", manifest, {"vectors": vectors})
    return model, tmp_path / "prompt"


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("llama", {"rope_parameters": {"rope_theta": 500.0, "rope_type": "default"}}),
        ("llama", {"rms_norm_eps": 1e-2}),
        ("llama", {"hidden_act": "relu"}),
        ("llama", {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16}),
        ("gpt2", {"activation_function": "relu"}),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}),
        ("t5", {"relative_attention_max_distance": 5}),
        ("bert", {"layer_norm_eps": 1e-2}),
        ("gemma3_text", {"final_logit_softcapping": 2.0}),
        ("gemma3_text", {"sliding_window": 4}),
    ],
    ids=lambda value: value if isinstance(value, str) else next(iter(value)),
)
def test_another_config_around_the_same_weights_is_refused(tmp_path, family, changes):
    model, prompt = stored_prompt(tmp_path, family)
    notices: list[str] = []
    Host(notify=notices.append).open(str(prompt))
    change_config(model, **changes)
    with pytest.raises(ArtifactError) as error:
        Host(notify=notices.append).open(str(prompt))
    assert any(problem.where.startswith(f"config.{next(iter(changes))}") for problem in error.value.problems)
    assert not notices


def test_a_changed_config_is_drift_that_may_be_allowed(tmp_path):
    model, prompt = stored_prompt(tmp_path)
    change_config(model, rms_norm_eps=1e-2)
    assert Host(allow_drift=True).open(str(prompt)).manifest.name == "mood"


def test_settings_that_change_no_answer_are_no_drift(tmp_path):
    model, prompt = stored_prompt(tmp_path)
    change_config(model, use_cache=False, attention_dropout=0.3, id2label={"0": "x"}, initializer_range=1.0, new=1)
    Host().open(str(prompt))


def test_prompts_from_before_configs_were_recorded_load_with_a_notice(tmp_path):
    _, prompt = stored_prompt(tmp_path)
    values = json.loads((prompt / "prompt.json").read_text())
    del values["backbone"]["config"], values["manifest_sha256"]
    (prompt / "prompt.json").write_text(json.dumps(values))
    assert read_manifest(prompt).backbone.config is None
    notices: list[str] = []
    Host(notify=notices.append).open(str(prompt))
    assert len(notices) == 1


@pytest.mark.parametrize("settled_s", [0.0, 2.0], ids=["remembered", "too fresh to be remembered"])
def test_other_weights_under_the_same_size_and_time_are_seen(tmp_path, monkeypatch, settled_s):
    monkeypatch.setattr(model_files, "_SETTLED_S", settled_s)
    model, prompt = stored_prompt(tmp_path)
    weights = model / "model.safetensors"
    before = weights.stat()
    digest = load_backbone(str(model)).info.weights_sha256
    raw = bytearray(weights.read_bytes())
    raw[-8] ^= 1
    weights.write_bytes(raw)
    os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (weights.stat().st_size, weights.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert load_backbone(str(model)).info.weights_sha256 != digest
    with pytest.raises(ArtifactError):
        Host().open(str(prompt))


def test_a_file_is_hashed_once_when_it_is_old_enough(tmp_path, monkeypatch):
    model = model_folder(tmp_path / "model", "llama")
    monkeypatch.setattr(model_files, "_SETTLED_S", 0.0)
    digest = load_backbone(str(model)).info.weights_sha256
    monkeypatch.setattr(model_files, "sha256_file", lambda path: pytest.fail("hashed again"))
    assert load_backbone(str(model)).info.weights_sha256 == digest


@pytest.mark.parametrize("memo", ["[]", "1", "null", '"x"', "{", '{"a": 1}', '{"a": {"stat": 1}}', "\0"])
def test_a_memo_of_another_form_is_made_anew(tmp_path, memo, monkeypatch):
    model = model_folder(tmp_path / "model", "llama")
    monkeypatch.setattr(model_files, "_SETTLED_S", 0.0)
    path = tmp_path / "cache" / "digests.json"
    path.parent.mkdir()
    path.write_text(memo)
    digest = load_backbone(str(model)).info.weights_sha256
    assert load_backbone(str(model)).info.weights_sha256 == digest
    assert json.loads(path.read_text())[str((model / "model.safetensors").resolve())]["sha256"] == digest


@pytest.mark.parametrize(
    ("name", "fix"), [("smollm", "did you mean 'smollm2'?"), ("nosuchmodel", "--backbone smollm2")]
)
def test_a_short_name_of_no_model_is_told_with_those_that_are_embedded(name, fix):
    with pytest.raises(BackboneError) as error:
        check_source(name)
    assert "smollm2 (embedded)" in error.value.wanted
    assert error.value.fix == fix


@pytest.mark.parametrize(
    "name", ["smollm2", "gpt2", "distilgpt2", "bert-base-uncased", "roberta-base", "t5-small", "a/b"]
)
def test_a_name_that_the_hub_may_have_is_left_to_it(name):
    check_source(name)


def test_an_adapter_in_place_of_a_model_is_named(tmp_path):
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "adapter_config.json").write_text(
        '{"peft_type": "PROMPT_TUNING", "base_model_name_or_path": "some/base"}'
    )
    (folder / "adapter_model.safetensors").write_bytes(b"x")
    # Told by the file's names alone, so commands say it before torch is imported.
    with pytest.raises(BackboneError) as error:
        check_source(str(folder))
    assert (error.value.got, error.value.where) == ("a peft adapter for some/base", str(folder))
    assert "overture import" in error.value.fix


def test_what_a_killed_conversion_left_is_removed(tmp_path, monkeypatch):
    models = tmp_path / "cache" / "models"
    left = models / ".overture-tmp-killed"
    left.mkdir(parents=True)
    (left / "model.safetensors").write_bytes(b"half of it")
    packed = tmp_path / "tiny.gguf"
    packed.write_bytes(b"GGUF, as far as its digest goes")

    def convert(gguf: Path, target: Path) -> None:
        shutil.copytree(model_folder(tmp_path / "made", "llama"), target, dirs_exist_ok=True)

    monkeypatch.setattr(model_files, "_convert", convert)
    load_backbone(str(packed))
    assert [path.name for path in models.iterdir() if path.name.startswith(".overture-tmp-")] == []
