"""Prompts in files for others: adapters of peft, arrays, JSON; what cannot travel, and what is not replaced."""

import json
import re

import numpy
import pytest
import torch

from overture.core.errors import ArtifactError, ConfigError, StoreError
from overture.exchange.export import FORMATS, LOST, check_target, write_files
from overture.exchange.peft_files import adapter_files, fitted_tensors, read_adapter
from overture.exchange.peft_forms import ModelShape

P, D, N, H, K = 4, 8, 2, 2, 3
MODEL = ModelShape("tiny/model", D, N, H, K, 100)


def numbers(*shape: int) -> torch.Tensor:
    return torch.arange(torch.Size(shape).numel(), dtype=torch.float32).reshape(shape)


VECTORS = {"vectors": numbers(P, D)}
MEMORY = {"keys": numbers(N, H, P, K), "values": -numbers(N, H, P, K)}


@pytest.mark.parametrize(
    ("method", "place", "tensors", "peft_type"),
    [
        ("vectors", "before", VECTORS, "PROMPT_TUNING"),
        ("p_tuning", "before", VECTORS, "P_TUNING"),
        ("mpt", "before", VECTORS, "MULTITASK_PROMPT_TUNING"),
        ("cpt", "before", VECTORS, "PROMPT_TUNING"),
        ("one of a later Overture", "before", VECTORS, "PROMPT_TUNING"),
        # A type that keeps something else is not the prompt's.
        ("cartridge", "before", VECTORS, "PROMPT_TUNING"),
        ("mpt", "memory", MEMORY, "PREFIX_TUNING"),
        ("prefix", "memory", MEMORY, "PREFIX_TUNING"),
        ("cartridge", "memory", MEMORY, "CARTRIDGE"),
    ],
)
def test_what_is_written_is_read_again(tmp_path, make_manifest, method, place, tensors, peft_type):
    manifest = make_manifest(method=method, place=place)
    write_files(tmp_path / "out", adapter_files(manifest, tensors))
    adapter = read_adapter(tmp_path / "out")
    assert adapter.config.peft_type == peft_type
    found = fitted_tensors(adapter, MODEL)
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], tensors[name]) for name in tensors)
    assert (adapter.config.base_model_name_or_path, adapter.config.revision) == ("tiny/model", "abc")
    raw = (tmp_path / "out" / "adapter_model.safetensors").read_bytes()
    assert b'"__metadata__":{"format":"pt"}' in raw


def test_options_that_are_not_the_methods_are_told(make_manifest):
    odd = make_manifest(method="cartridge", place="memory", options={"prompt": {"options": {"frozen": "many"}}})
    with pytest.raises(ConfigError, match="frozen"):
        adapter_files(odd, MEMORY)


@pytest.mark.parametrize(
    ("place", "tensors"),
    [
        ("after", VECTORS),
        ("after", MEMORY),
        ("slots", VECTORS),
        ("before", MEMORY),
        ("memory", VECTORS),
        ("before", {"vectors": numbers(2, P, D)}),
        ("memory", {"keys": MEMORY["keys"]}),
        ("memory", {**MEMORY, "weights": numbers(N, P)}),
        ("memory", {"keys": MEMORY["keys"], "values": numbers(N, H, P + 1, K)}),
        # An offset on the text's own vectors, the weights of a network that reads the row, vectors on both sides.
        ("before", {**VECTORS, "offset": numbers(3, D)}),
        ("before", {"state.outer_weight": numbers(P, D)}),
        ("memory", {"state.keys": MEMORY["keys"], "state.labels": numbers(2, D)}),
        ("around", {**VECTORS, "split": numbers(P + 1)}),
        ("before", {**VECTORS, "split": numbers(P + 1)}),
    ],
)
def test_what_peft_has_no_form_for(make_manifest, place, tensors):
    with pytest.raises(ArtifactError, match=f"(?s)no form for this prompt.*at {place}.*in front of the text.*--to npy"):
        adapter_files(make_manifest(place=place), tensors)


HEADS = {"head_weight": numbers(D, D), "head_bias": numbers(D), "label_bias": numbers(2)}


@pytest.mark.parametrize(
    ("model_type", "own", "message"),
    [
        # An encoder reads words, or vectors of labels, where the task says: at a mask, the first token, or as a mean.
        ("bert", {}, "label words at a mask, encoder"),
        ("bert", {"labels": numbers(2, D)}, "labels, encoder"),
        ("modernbert", {"labels": numbers(2, D)}, "labels, encoder"),
        ("t5", {"labels": numbers(2, D)}, "labels, encoder-decoder"),
        ("llama", {"labels": numbers(2, D), **HEADS}, "head_bias, head_weight, label_bias, labels, decoder"),
    ],
)
def test_labels_that_peft_cannot_read(make_manifest, make_backbone, model_type, own, message):
    manifest = make_manifest(place="before", backbone=make_backbone(model_type=model_type))
    with pytest.raises(ArtifactError, match=f"(?s)no form for how this prompt's labels are read.*{message}.*--to npy"):
        adapter_files(manifest, {**VECTORS, **own})


def test_a_late_prompt_stays(make_manifest):
    late = make_manifest(place="before", options={"prompt": {"options": {"layer": 3}}})
    with pytest.raises(ArtifactError, match=r"(?s)no form for this prompt.*vectors at before, from layer 3 up"):
        adapter_files(late, VECTORS)
    assert "positions" not in json.loads(FORMATS["json"](late, VECTORS)["prompt.json"])


def test_the_template_and_labels_go_along_as_text(make_manifest):
    task = {"template": "{text} ```\n<b>", "labels": {"good": [" a", "```` b"]}}
    readme = adapter_files(make_manifest(place="before", task=task), VECTORS)["README.md"].decode()
    assert f"\n{task['template']}\n" in readme
    assert "good: ' a', '```` b'" in readme
    # A fence inside the text ends no block early, and no JSON stands in it.
    assert "````\n{text} ```\n<b>\n````" in readme
    assert '{"' not in readme


@pytest.mark.parametrize("to", ["peft", "npy", "json"])
def test_values_that_are_no_numbers_do_not_leave(make_manifest, to):
    with pytest.raises(ArtifactError, match="is nan"):
        FORMATS[to](make_manifest(place="before"), {"vectors": torch.full((P, D), float("nan"))})


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16], ids=str)
def test_arrays(tmp_path, make_manifest, dtype):
    tensors = {name: torch.randn(N, H, P, K).to(dtype) for name in MEMORY}
    write_files(tmp_path / "out", FORMATS["npy"](make_manifest(place="after"), tensors))
    told = json.loads((tmp_path / "out" / "prompt.json").read_text())
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"keys.npy", "values.npy", "prompt.json"}
    for name, tensor in tensors.items():
        array = numpy.load(tmp_path / "out" / told["tensors"][name]["file"], allow_pickle=False)
        assert torch.equal(torch.from_numpy(array).to(dtype), tensor)
        assert told["tensors"][name]["dtype"] == str(dtype).removeprefix("torch.")
        assert told["tensors"][name]["file_dtype"] == str(array.dtype)
        assert told["tensors"][name]["shape"] == list(tensor.shape)
    assert told["manifest"]["task"] == make_manifest().task


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16], ids=str)
def test_numbers_in_json(tmp_path, make_manifest, dtype):
    tensors = {"vectors": torch.randn(P, D).to(dtype)}
    write_files(tmp_path / "out", FORMATS["json"](make_manifest(place="before"), tensors))
    told = json.loads((tmp_path / "out" / "prompt.json").read_text())
    found = told["tensors"]["vectors"]
    assert torch.equal(torch.tensor(found["values"], dtype=torch.float64).to(dtype), tensors["vectors"])
    assert (found["shape"], found["axes"]) == ([P, D], ["prompt token", "width"])
    assert "positions 0" in told["positions"]


@pytest.mark.parametrize("to", ["npy", "json"])
@pytest.mark.parametrize("name", ["../x", "a/b", "CON", ".hidden"])
def test_a_tensors_name_cannot_lead_elsewhere(make_manifest, to, name):
    with pytest.raises(ArtifactError, match="cannot be a file's"):
        FORMATS[to](make_manifest(), {name: numbers(1)})


@pytest.mark.parametrize("to", ["npy", "json"])
@pytest.mark.parametrize(
    ("place", "tensors", "changes", "lost"),
    [
        ("before", VECTORS, {}, []),
        ("after", MEMORY, {}, []),
        ("slots", VECTORS, {}, []),
        ("around", {**VECTORS, "split": numbers(P + 1)}, {}, []),
        ("before", {"state.outer_weight": numbers(P, D)}, {"method": "idpg"}, ["depends on the row.*'idpg'"]),
        ("after", VECTORS, {"options": {"prompt": {"options": {"layer": 3}}}}, ["hidden states before layer 3"]),
        ("before", {**VECTORS, "offset": numbers(3, D)}, {}, ["offset is added"]),
        ("memory", {**MEMORY, "weights": numbers(N, P)}, {}, ["weights multiply"]),
        ("before", {**VECTORS, "labels": numbers(2, D)}, {}, ["compared with the vectors in labels"]),
        ("memory", {**MEMORY, "labels": numbers(2, D), **HEADS}, {}, ["vectors in labels", r"becomes tanh\("]),
    ],
)
def test_what_cannot_travel_in_numbers_is_said(make_manifest, to, place, tensors, changes, lost):
    manifest = make_manifest(place=place, **changes)
    told = json.loads(FORMATS[to](manifest, tensors)["prompt.json"])
    assert told["lost"] == LOST[to](manifest, tensors)
    assert len(told["lost"]) == len(lost)
    assert all(re.search(wanted, text) for wanted, text in zip(lost, told["lost"], strict=True))
    # Weights of a network, and vectors of a later layer, do not stand where input embeddings would.
    assert ("positions" in told) == (set(tensors).isdisjoint({"state.outer_weight"}) and not manifest.layer)
    for name, tensor in tensors.items():
        assert len(told["tensors"][name].get("axes", tensor.shape)) == tensor.dim()


def test_token_vectors_that_the_model_maps(make_manifest, make_backbone):
    """Vectors of the layers' width do not fit among its token vectors; keys and values have nothing to do with them."""
    narrow = make_backbone(model_type="opt", embedding_size=D // 2)
    with pytest.raises(ArtifactError, match=r"(?s)cannot put.*width 8; tiny/model maps.*width 4.*--method prefix"):
        adapter_files(make_manifest(place="before", backbone=narrow), VECTORS)
    assert "adapter_config.json" in adapter_files(make_manifest(place="memory", backbone=narrow), MEMORY)
    told = [
        LOST["npy"](make_manifest(place=place, backbone=narrow), tensors)
        for place, tensors in (("before", VECTORS), ("memory", MEMORY))
    ]
    assert "token vectors of width 4 to width 8" in told[0][0]
    assert told[1] == []


# -- targets


def test_an_empty_folder_may_be_filled(tmp_path):
    (tmp_path / "out").mkdir()
    write_files(tmp_path / "out", {"a": b"1"})
    assert (tmp_path / "out" / "a").read_bytes() == b"1"


@pytest.mark.parametrize("kind", ["full", "file", "link", "broken link"])
def test_what_exists_is_not_replaced(tmp_path, kind):
    target = tmp_path / "out"
    if kind == "full":
        target.mkdir()
        (target / "own").write_text("mine")
    elif kind == "file":
        target.write_text("mine")
    else:
        (tmp_path / "empty").mkdir()
        target.symlink_to(tmp_path / ("empty" if kind == "link" else "nowhere"))
    for write in (check_target, lambda folder: write_files(folder, {"a": b"1"})):
        with pytest.raises(StoreError, match="exists already"):
            write(target)
    assert not list(tmp_path.glob(".overture-tmp-*"))


def test_a_folder_below_a_file(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be written"):
        write_files(tmp_path / "file" / "out", {"a": b"1"})
    with pytest.raises(StoreError, match="cannot be written"):
        write_files(tmp_path / "nul\0", {"a": b"1"})
