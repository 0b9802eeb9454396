"""A prompt's folder: bit-equal, durable, refused when it does not fit."""

import errno
import json
import os
import random
import stat
from pathlib import Path

import pytest
import torch
import yaml
from pydantic import ValidationError

from overture.core.errors import ArtifactError, DiskFull, StoreError
from overture.store.artifact import load_artifact, read_manifest, save_artifact
from overture.store.manifest import check_fingerprint

NEW_YEAR = "2026-01-01T00:00:00+00:00"


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_tensors_come_back_bit_equal(tmp_path, make_manifest, dtype):
    whole = torch.randn(6, 8, generator=torch.Generator().manual_seed(1)).to(dtype)
    whole[0, 0] = -0.0
    given = {"view": whole.T[:, ::2], "shared": whole, "one": torch.tensor(1.5, dtype=dtype)}
    save_artifact(tmp_path / "p", make_manifest(), given)
    _, found = load_artifact(tmp_path / "p")
    assert found.keys() == given.keys()
    for name, tensor in given.items():
        assert found[name].dtype == dtype
        assert found[name].shape == tensor.shape
        as_bytes = [t.contiguous().reshape(-1).view(torch.uint8) for t in (found[name], tensor)]
        assert torch.equal(*as_bytes)


def test_manifest_comes_back_equal(saved, make_manifest):
    manifest, _ = load_artifact(saved)
    assert manifest.options.prompt["betas"] == [0.9, 0.999]
    assert manifest.model_copy(
        update={"tensors_sha256": "", "manifest_sha256": "", "created": NEW_YEAR}
    ) == make_manifest(created=NEW_YEAR)


def test_files_have_normal_modes(saved):
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in saved.iterdir()}
    assert modes == {"prompt.safetensors": 0o644, "prompt.json": 0o644, "README.md": 0o644}
    assert stat.S_IMODE(saved.stat().st_mode) == 0o755


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_values_that_are_no_numbers_are_not_saved(tmp_path, make_manifest, bad):
    values = torch.zeros(3, 5)
    values[1, 4] = bad
    values[2, 0] = bad
    with pytest.raises(ArtifactError, match=r"values\[1, 4\]: is -?(nan|inf)"):
        save_artifact(tmp_path / "p", make_manifest(), {"fine": torch.ones(2), "values": values})
    assert list(tmp_path.iterdir()) == []


def test_values_that_are_no_numbers_are_not_loaded(rewrite):
    import safetensors.torch

    values = torch.zeros(3)
    values[2] = float("nan")
    with pytest.raises(ArtifactError, match=r"values\[2\]: is nan"):
        load_artifact(rewrite(safetensors.torch.save({"values": values})))


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({}, "0 of them"),
        ({f"t{i}": torch.ones(1) for i in range(4097)}, "4097 of them"),
        ({"ids": torch.ones(2, dtype=torch.int64)}, "dtype torch.int64"),
        ({"none": torch.ones(0, 3)}, r"shape \[0, 3\]"),
        ({"__metadata__": torch.ones(1)}, "is no name"),
        ({"a\n": torch.ones(1)}, "is no name"),
    ],
)
def test_tensors_that_could_not_be_read_back_are_not_saved(tmp_path, make_manifest, tensors, message):
    with pytest.raises(ArtifactError, match=message):
        save_artifact(tmp_path / "p", make_manifest(), tensors)
    assert not (tmp_path / "p").exists()


def test_an_existing_folder_is_not_replaced(saved, make_manifest, tensors):
    before = (saved / "prompt.json").read_bytes()
    with pytest.raises(StoreError, match="exists already"):
        save_artifact(saved, make_manifest(name="other"), tensors)
    assert (saved / "prompt.json").read_bytes() == before


@pytest.mark.parametrize("value", [float("nan"), float("inf"), object(), "\ud800"])
def test_manifest_holds_only_what_json_can(make_manifest, value):
    with pytest.raises(ValidationError):
        make_manifest(options={"prompt": {"init": value}})


def test_a_manifest_that_could_not_be_read_back_is_not_saved(tmp_path, make_manifest, tensors):
    with pytest.raises(ArtifactError, match="too long"):
        save_artifact(tmp_path / "p", make_manifest(task={"text": "x" * 1_000_000}), tensors)
    assert not (tmp_path / "p").exists()


def test_everything_is_on_the_disk_before_save_returns(tmp_path, make_manifest, tensors, monkeypatch):
    synced = []
    real = os.fsync

    def record(number):
        synced.append(os.readlink(f"/proc/self/fd/{number}"))
        real(number)

    monkeypatch.setattr(os, "fsync", record)
    save_artifact(tmp_path / "p", make_manifest(), tensors)
    temporary = Path(synced[0]).parent
    files = {str(temporary / name) for name in ("prompt.safetensors", "prompt.json", "README.md")}
    assert set(synced[:3]) == files
    assert synced[3:] == [str(temporary), str(tmp_path)]


@pytest.mark.parametrize("failing", ["prompt.safetensors", "prompt.json", "README.md"])
def test_a_full_disk_leaves_nothing_behind(tmp_path, make_manifest, tensors, monkeypatch, failing):
    real = Path.write_bytes

    def full(path, raw):
        if path.name == failing:
            real(path, raw[: len(raw) // 2])
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(path, raw)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(DiskFull, match="disk is full"):
        save_artifact(tmp_path / "p", make_manifest(), tensors)
    assert list(tmp_path.iterdir()) == []


def test_swapped_tensors_are_refused(saved, tmp_path, make_manifest):
    save_artifact(tmp_path / "other", make_manifest(), {"values": torch.zeros(4, 8)})
    (tmp_path / "other" / "prompt.safetensors").replace(saved / "prompt.safetensors")
    with pytest.raises(ArtifactError, match="manifest describes"):
        load_artifact(saved)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format_version": 2}, "format_version 2"),
        ({"lenght": 4}, "did you mean 'length'"),
        ({"length": -1}, "length"),
        ({"backbone": None}, "backbone"),
    ],
)
def test_a_manifest_that_cannot_be_read_is_an_artifact_error(saved, change, message):
    values = json.loads((saved / "prompt.json").read_text()) | change
    (saved / "prompt.json").write_text(json.dumps(values))
    with pytest.raises(ArtifactError, match=message):
        load_artifact(saved)


@pytest.mark.parametrize("change", [{"weights_sha256": "x"}, {"hidden_size": 16}, {"num_layers": 3}])
@pytest.mark.parametrize("allow_drift", [False, True])
def test_another_model_is_always_refused_by_name(make_backbone, change, allow_drift):
    with pytest.raises(ArtifactError, match="another model") as caught:
        check_fingerprint(make_backbone(), make_backbone(id="big/other", **change), allow_drift)
    assert "tiny/model" in caught.value.wanted
    assert "big/other" in caught.value.got


@pytest.mark.parametrize(
    "change",
    [{"tokenizer_sha256": "x"}, {"chat_template_sha256": "x"}, {"chat_template_sha256": None}, {"revision": "def"}],
)
def test_drift_is_refused_unless_allowed(make_backbone, change):
    with pytest.raises(ArtifactError, match=f"(?s)has changed.*{next(iter(change))}.*--allow-drift"):
        check_fingerprint(make_backbone(), make_backbone(**change), allow_drift=False)
    check_fingerprint(make_backbone(), make_backbone(**change), allow_drift=True)


def test_the_same_weights_from_elsewhere_are_the_same_model(make_backbone):
    check_fingerprint(make_backbone(), make_backbone(id="local/copy", revision=None), allow_drift=False)


def test_the_card_tells_model_scores_and_limits(saved):
    card = (saved / "README.md").read_text()
    front = yaml.safe_load(card.split("---")[1])
    assert front["base_model"] == "tiny/model"
    assert "| test.accuracy | 0.8 | 0.7 to 0.9 (95%) | 100 | Wilson |" in card
    assert "fits only tiny/model" in card
    assert "licence" in card


def test_the_card_keeps_others_text_harmless(tmp_path, make_manifest, make_backbone, tensors):
    evil = 'x"\n---\n<script>|[a](b)'
    manifest = make_manifest(backbone=make_backbone(id=evil), task={"name": "<img src=x>\n# Title"}, metrics={})
    save_artifact(tmp_path / "p", manifest, tensors)
    card = (tmp_path / "p" / "README.md").read_text()
    front = card.removeprefix("---\n").partition("\n---\n")[0]
    assert yaml.safe_load(front)["base_model"] == evil
    assert "\n# Title" not in card
    assert "<script>" not in card.removeprefix("---\n").partition("\n---\n")[2].replace(r"\<", "")
    assert "Not measured." in card


def test_any_flipped_bit_of_the_manifest_is_refused_or_harmless(saved):
    path, chance, refused = saved / "prompt.json", random.Random(0), 0
    whole, wanted = path.read_bytes(), read_manifest(saved)
    for _ in range(300):
        raw = bytearray(whole)
        raw[chance.randrange(len(raw))] ^= 1 << chance.randrange(8)
        path.write_bytes(raw)
        try:
            assert read_manifest(saved) == wanted
        except ArtifactError:
            refused += 1
    assert refused > 200


def test_a_manifest_edited_by_hand_is_read_without_its_checksum(saved):
    path = saved / "prompt.json"
    values = json.loads(path.read_text())
    path.write_text(json.dumps(values, indent=4, sort_keys=True))
    assert read_manifest(saved).method == values["method"]
    values["task"]["template"] = "another"
    path.write_text(json.dumps(values))
    with pytest.raises(ArtifactError) as refused:
        read_manifest(saved)
    assert "manifest_sha256" in refused.value.fix
    del values["manifest_sha256"]
    path.write_text(json.dumps(values))
    assert read_manifest(saved).task["template"] == "another"
