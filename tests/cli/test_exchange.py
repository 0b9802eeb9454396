"""Import and export, as commands and from Python."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy
import pytest
import safetensors.torch
import torch

from overture.core.errors import ConfigError
from overture.core.records.prompt import MadeWith
from overture.exchange.export import FORMATS, LOST
from overture.exchange.peft_forms import ModelShape
from overture.jobs.transfer import exchange
from overture.store.artifact import load_artifact
from overture.store.store import Store

WIDTH, LAYERS = 32, 3


@pytest.fixture
def adapter(tmp_path: Path, tiny: Path) -> Callable[..., Path]:
    """A prompt-tuning adapter for the tiny model; keywords change its config."""

    def make(width: int = WIDTH, **changes: object) -> Path:
        folder = tmp_path / "adapter"
        folder.mkdir(exist_ok=True)
        config = {"peft_type": "PROMPT_TUNING", "task_type": "CAUSAL_LM", "base_model_name_or_path": str(tiny)}
        config |= {"num_virtual_tokens": 3, "token_dim": width, "num_layers": LAYERS, "peft_version": "0.21.2"}
        (folder / "adapter_config.json").write_text(json.dumps(config | changes))
        table = torch.randn(3, width, generator=torch.Generator().manual_seed(0))
        (folder / "adapter_model.safetensors").write_bytes(safetensors.torch.save({"prompt_embeddings": table}))
        return folder

    return make


def test_import_measure_predict(adapter, make_task, overture, tiny) -> None:
    done = overture("import", adapter(), "--task", make_task(), "--json")
    assert done.code == 0
    found = done.json
    assert (found["prompt"], found["method"], found["place"], found["length"]) == ("mood@1", "vectors", "before", 3)
    assert (found["imported_from"], found["peft_type"], found["peft_version"]) == ("peft", "PROMPT_TUNING", "0.21.2")
    assert (found["backbone"], found["notices"]) == (str(tiny), [])
    manifest = overture("show", "mood", "--json").json["manifest"]
    assert manifest["task"]["backbone"] == str(tiny)
    assert manifest["task"]["data"]["train"] == "train.jsonl"
    assert manifest["trainable"] == 3 * WIDTH
    assert overture("list").code == overture("show", "mood").code == 0
    assert overture("predict", "mood", "fine 1", "--json").json["predictions"][0]["label"] in ("good", "bad")
    assert overture("eval", "mood", "test.jsonl", "--json").json["metrics"]["data"]["accuracy"]["n"] == 8
    assert "FILE" in overture("eval", "mood", "--json").json["fix"]


def test_import_for_people(adapter, make_task, overture, tiny, tmp_path) -> None:
    folder = adapter(base_model_name_or_path="its/own")
    words = ["--task", make_task(), "--backbone", tiny, "--name", "theirs", "--store", tmp_path / "elsewhere"]
    done = overture("import", folder, *words)
    assert done.code == 0
    assert "stored theirs@1: vectors at before, 3 tokens" in done.out
    assert f'overture predict theirs@1 --store {tmp_path / "elsewhere"} "some text"' in done.out
    assert "note: the adapter names its/own" in done.err


def test_a_prompt_of_another_store_is_kept_whole(adapter, make_task, overture, tiny, tmp_path) -> None:
    theirs, ours = tmp_path / "theirs", tmp_path / "ours"
    overture("import", adapter(), "--task", make_task(), "--store", theirs)
    folder = theirs / "prompts" / "mood" / "v1"
    for name, wanted in (([], "mood@1"), ([], "mood@2"), (["--name", "other"], "other@1")):
        assert overture("import", folder, *name, "--store", ours, "--json").json["prompt"] == wanted
    before, after = ((store / "prompts/mood/v1/prompt.safetensors").read_bytes() for store in (theirs, ours))
    assert before == after
    manifest = overture("show", "other", "--store", ours, "--json").json["manifest"]
    assert (manifest["task"]["name"], manifest["trainable"]) == ("mood", 3 * WIDTH)
    assert "stored mood@3: vectors at before, 3 tokens" in overture("import", folder, "--store", ours).out
    refused = overture("import", folder, "--task", make_task(), "--store", ours)
    assert (refused.code, "--task" in refused.err) == (2, True)
    (folder / "prompt.safetensors").write_bytes(b"torn")
    assert overture("import", folder, "--store", ours).code == 2


def test_a_folder_is_kept_by_its_whole_path(adapter, make_task, overture, tiny, monkeypatch) -> None:
    folder, task = adapter(base_model_name_or_path=tiny.name), make_task()
    monkeypatch.chdir(tiny.parent)
    assert overture("import", folder, "--task", task, "--json").json["backbone"] == str(tiny)
    assert overture("import", folder, "--task", task, "--backbone", f"./{tiny.name}", "--json").json["backbone"] == str(
        tiny
    )


@pytest.mark.parametrize(
    ("changes", "words", "message"),
    [
        ({}, [], "--task"),
        ({}, ["--task", "nowhere.yaml"], "no such file"),
        ({}, ["--task", "task.yaml", "--name", "../x"], "no name for a prompt"),
        ({}, ["--task", "task.yaml", "--task-id", "1"], "only an adapter for several tasks"),
        ({}, ["--task", "task.yaml", "--task-id", "-1"], "--task-id"),
        ({"base_model_name_or_path": None}, ["--task", "task.yaml"], "--backbone"),
        ({"base_model_name_or_path": "./nowhere"}, ["--task", "task.yaml"], "no such model folder"),
        ({"auto_mapping": {"parent_library": "evil"}}, ["--task", "task.yaml"], "asks for code"),
        ({"width": 33}, ["--task", "task.yaml"], "another model"),
        ({"num_layers": 4}, ["--task", "task.yaml"], "another model"),
    ],
)
def test_what_is_refused_leaves_nothing(adapter, make_task, overture, changes, words, message) -> None:
    make_task()
    for more in ([], ["--json"]):
        done = overture("import", adapter(**changes), *words, *more)
        assert done.code == 2
        assert message in done.out + done.err
    assert overture("list", "--json").json["prompts"] == []


def test_an_adapter_of_an_embedded_model_names_what_is_here(adapter, make_task, overture, monkeypatch) -> None:
    make_task()
    monkeypatch.setitem(exchange.HUB_IDS, "embedded", "./nowhere")
    done = overture("import", adapter(base_model_name_or_path="./nowhere"), "--task", "task.yaml")
    assert done.code == 2
    assert "or name the model with --backbone embedded" in " ".join(done.err.split())


def test_an_unsafe_adapter_is_refused_before_the_model_is_loaded(adapter, make_task, overture, monkeypatch) -> None:
    def load(*_: object, **__: object) -> None:
        pytest.fail("the model was loaded")

    monkeypatch.setattr(exchange, "load_backbone", load)
    folder = adapter()
    (folder / "adapter_model.safetensors").unlink()
    (folder / "adapter_model.bin").write_bytes(b"\x80\x04")
    assert "pickled" in overture("import", folder, "--task", make_task()).err
    folder = adapter(trust_remote_code=True)
    (folder / "adapter_model.bin").unlink()
    assert "asks for code" in overture("import", folder, "--task", make_task()).err
    assert "no name" in overture("import", adapter(), "--task", make_task(), "--name", "A B").err


def test_a_template_that_does_not_fit_is_told_before_anything_is_kept(adapter, make_task, overture) -> None:
    task = make_task(labels={"good": " good", "bad": " good"})
    assert overture("import", adapter(), "--task", task).code == 2
    assert overture("list", "--json").json["prompts"] == []


def test_the_revision_goes_with_the_adapters_own_model(adapter, make_task, tiny, tmp_path, monkeypatch) -> None:
    asked = []
    load = exchange.load_backbone

    def note(name: str, **options: object) -> object:
        asked.append(options.pop("revision"))
        return load(name, **options)

    monkeypatch.setattr(exchange, "load_backbone", note)
    store, folder, task = Store(tmp_path / "store"), adapter(revision="abc"), make_task()
    exchange.import_adapter(folder, store, task=task)
    exchange.import_adapter(folder, store, task=task, backbone=f"{tiny}/.")
    assert asked == ["abc", None]


@pytest.mark.parametrize("to", ["peft", "npy", "json"])
def test_export(adapter, make_task, overture, tmp_path, to) -> None:
    overture("import", adapter(), "--task", make_task())
    done = overture("export", "mood", "-o", "out", "--to", to, "--json")
    assert (done.code, done.json["prompt"], done.json["folder"]) == (0, "mood@1", "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == done.json["files"]
    again = overture("export", "mood", "-o", "out", "--to", to)
    assert again.code == 2
    assert "exists already" in again.err
    second = overture("export", "mood@1", "-o", "second", "--to", to)
    assert "wrote" in second.out
    notes = [line.removeprefix("note: ") for line in second.err.splitlines() if line.startswith("note: ")]
    assert done.json["lost"] == notes
    assert len(done.json["lost"]) == (to == "peft")
    _, tensors = load_artifact(Path("store/prompts/mood/v1"))
    if to == "peft":
        assert (tmp_path / "out" / "adapter_model.safetensors").read_bytes().endswith(tensors["vectors"].numpy().data)
        assert overture("import", "out", "--task", "task.yaml", "--json").json["prompt"] == "mood@2"
    if to == "npy":
        assert numpy.array_equal(numpy.load("out/vectors.npy"), tensors["vectors"].numpy())


@pytest.mark.parametrize("to", ["npy", "json"])
def test_what_cannot_travel_is_said(adapter, make_task, overture, tmp_path, to) -> None:
    overture("import", adapter(), "--task", make_task())
    store = Store(tmp_path / "store")
    manifest, tensors = load_artifact(store.get("mood"))
    late = {"method": "late", "options": MadeWith(prompt={"options": {"layer": 2}}), "version": 0, "tensors_sha256": ""}
    store.add(manifest.model_copy(update=late), tensors)
    done = overture("export", "mood", "out", "--to", to)
    assert "note: The vectors are no input embeddings: they join the text's hidden states before layer 2" in done.err
    assert "note" not in done.out
    (text,) = json.loads((tmp_path / "out" / "prompt.json").read_text())["lost"]
    assert f"note: {text}" in done.err


def test_a_tuned_prompt_behind_the_input_cannot_go_to_peft(tuned, overture, tmp_path) -> None:
    done = overture("export", "mood", "out", "--to", "peft", "--json")
    assert (done.code, done.json["what"]) == (2, "peft has no form for this prompt")
    assert "--to npy" in done.json["fix"]
    assert "loading" not in done.err
    assert not (tmp_path / "out").exists()
    assert overture("export", tuned["folder"], "out", "--to", "json").code == 0


def test_what_cannot_be_exported(overture, tmp_path) -> None:
    assert overture("export", "moood", "out", "--to", "npy", "--json").json["what"] == "no such prompt"
    assert overture("export", "mood", "out", "--to", "onnx").code == 2
    assert overture("export", "mood", "out").code == 2
    with pytest.raises(ConfigError, match="wanted: peft, npy, json"):
        exchange.export_prompt("mood", tmp_path / "out", Store(tmp_path / "store"), to="onnx")


@pytest.mark.parametrize("to", ["text", "openai", "promptfoo", "lm-eval"])
def test_a_form_that_cannot_hold_the_prompt_is_refused_before_torch_is_imported(adapter, make_task, overture, to):
    assert overture("import", adapter(), "--task", make_task()).code == 0
    done = overture("export", "mood", "-o", "out", "--to", to)
    assert done.code == 2
    assert "peft or npy or json or vllm" in done.err
    assert "loading" not in done.err
    assert not Path("out").exists()


@pytest.mark.parametrize("command", ["import", "export"])
def test_help_is_instant(command) -> None:
    import subprocess
    import sys

    code = f"""
import sys
from overture.cli.app import app
try:
    app([{command!r}, "--help"], prog_name="overture")
except SystemExit:
    pass
assert not {{"torch", "transformers", "numpy", "safetensors", "sklearn", "scipy"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)


def test_the_peft_package_is_never_imported(adapter, make_task, overture, monkeypatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "peft", None)
    assert overture("import", adapter(), "--task", make_task()).code == 0
    assert overture("export", "mood", "out", "--to", "peft").code == 0


def test_a_prompt_too_long_to_be_loaded_again_is_not_kept(make_task, tiny, tmp_path, monkeypatch) -> None:
    long = 20_001
    folder = tmp_path / "long"
    folder.mkdir()
    config = {"peft_type": "PROMPT_TUNING", "task_type": "CAUSAL_LM", "base_model_name_or_path": str(tiny)}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    table = safetensors.torch.save({"prompt_embeddings": torch.ones(long, WIDTH)})
    (folder / "adapter_model.safetensors").write_bytes(table)
    monkeypatch.setattr(exchange, "ModelShape", lambda *_: ModelShape("tiny", WIDTH, LAYERS, 2, 8, 40_000))
    store = Store(tmp_path / "store")
    with pytest.raises(ConfigError, match="length"):
        exchange.import_adapter(folder, store, task=make_task())
    assert store.list() == []


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore:Position ids:UserWarning")
@pytest.mark.parametrize("template", ["{text}\nMood:", [{"role": "user", "content": "{text}"}]], ids=["text", "chat"])
@pytest.mark.parametrize(("method", "place"), [("vectors", "before"), ("prefix", "memory")])
def test_the_lines_of_an_export_s_readme_run(make_task, overture, tmp_path, monkeypatch, tiny, method, place, template):
    pytest.importorskip("peft")
    model = tmp_path / "chat-model"
    shutil.copytree(tiny, model)
    (model / "chat_template.jinja").write_text("{% for m in messages %}{{ m['content'] }}{% endfor %}: ")
    task = make_task(backbone=str(model), template=template, prompt={"method": method, "place": place, "length": 3})
    tuned = overture("tune", task, "--json").json
    assert "peft_gap" not in tuned
    overture("export", "mood", "out", "--to", "peft")
    config = json.loads((tmp_path / "out/adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(model)
    readme = (tmp_path / "out/README.md").read_text()
    snippet = readme.split("```python\n")[1].split("```")[0]
    assert len(snippet.strip().splitlines()) == 6
    monkeypatch.chdir(tmp_path / "out")
    shown = []
    exec(snippet, {"print": shown.append})
    assert isinstance(shown[0], str)
    assert '{"' not in readme.replace(snippet, "")


def test_a_model_s_alias_becomes_its_id_on_the_hub(adapter, make_task, overture, tmp_path) -> None:
    overture("import", adapter(), "--task", make_task())
    manifest, tensors = load_artifact(Store(tmp_path / "store").get("mood"))
    named = manifest.model_copy(update={"backbone": manifest.backbone.model_copy(update={"id": "smollm2"})})
    config = json.loads(FORMATS["peft"](named, tensors)["adapter_config.json"])
    assert config["base_model_name_or_path"] == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert len(LOST["peft"](named, tensors)) == 2


def test_tune_says_that_its_prompt_cannot_go_to_peft(tuned, overture) -> None:
    assert "memory" in tuned["peft_gap"]
    assert "peft" in overture("resume", tuned["run"]).out
