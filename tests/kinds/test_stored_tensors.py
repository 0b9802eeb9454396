"""Tensors of a stored prompt are held against the model before anything is computed with them."""

import json
import random
from pathlib import Path

import pytest
import torch
from kind_samples import SAMPLES, task_of
from safetensors.torch import load_file
from test_host import stored

from fakes import backbone_of
from overture.core.errors import ArtifactError
from overture.evaluate.host import Ask, Host
from overture.store.artifact import save_artifact
from overture.store.manifest import Manifest

KIND = "classification"
METHODS = [
    ("vectors", "before"),
    ("vectors", "after"),
    ("prefix", "after"),
    ("prefix", "memory"),
    ("gated", "memory"),
    ("late", "before"),
    ("dept", "before"),
    ("split", "around"),
    ("idpg", "before"),
]


def changed(folder: Path, name: str, tensor: torch.Tensor) -> Path:
    """The prompt with another tensor, under a right checksum."""
    values = json.loads((folder / "prompt.json").read_text())
    tensors = load_file(folder / "prompt.safetensors") | {name: tensor}
    other = folder.with_name(folder.name + "-changed")
    save_artifact(other, Manifest(**values), tensors)
    return other


@pytest.fixture
def task():
    return task_of(SAMPLES[KIND])


@pytest.mark.parametrize(("method", "place"), METHODS, ids=str)
@pytest.mark.parametrize("family", ["llama", "t5"])
def test_odd_shapes_are_refused_or_work(tmp_path, task, family, method, place):
    if family == "t5" and (method, place) in (("split", "around"),):
        pytest.skip("an encoder-decoder has no vectors around a text")
    backbone = backbone_of(family)
    folder = stored(tmp_path / "whole", family, task, method, place)
    rows = SAMPLES[KIND].rows[:2]
    dice, num_refused = random.Random(0), 0
    for name, tensor in load_file(folder / "prompt.safetensors").items():
        shapes = [(*tensor.shape, 1), tensor.shape[1:]]
        for axis, size in enumerate(tensor.shape):
            shapes.append((*tensor.shape[:axis], max(1, size + dice.choice([-2, -1, 1, 3])), *tensor.shape[axis + 1 :]))
        for number, shape in enumerate(shapes):
            odd = changed(folder, name, torch.rand(shape, generator=torch.Generator().manual_seed(number)))
            host = Host(backbone)
            try:
                replies = host.answer([Ask(host.open(str(odd)), row) for row in rows])
            except ArtifactError:
                num_refused += 1
            else:
                assert all(reply.result().text in task.labels for reply in replies)
            for file in odd.iterdir():
                file.unlink()
            odd.rmdir()
    assert num_refused


@pytest.mark.parametrize("value", [-0.5, 1.5])
def test_gates_out_of_range_are_refused(tmp_path, task, value):
    folder = stored(tmp_path / "gated", "llama", task, "gated", "memory")
    weights = load_file(folder / "prompt.safetensors")["weights"]
    weights[0, 0] = value
    with pytest.raises(ArtifactError) as error:
        Host(backbone_of("llama")).open(str(changed(folder, "weights", weights)))
    assert [problem.where for problem in error.value.problems] == ["weights"]


@pytest.mark.parametrize("layer", [-1, 3, 99])
def test_a_layer_that_the_model_does_not_have_is_refused(tmp_path, task, layer):
    folder = stored(tmp_path / "late", "llama", task, "late", "before")
    values = json.loads((folder / "prompt.json").read_text())
    values["options"]["prompt"]["options"]["layer"] = layer
    del values["manifest_sha256"]
    (folder / "prompt.json").write_text(json.dumps(values))
    with pytest.raises(ArtifactError) as error:
        Host(backbone_of("llama")).open(str(folder))
    assert [problem.where for problem in error.value.problems] == ["prompt.options.layer"]


def test_label_vectors_are_as_many_as_labels(tmp_path, task):
    folder = stored(tmp_path / "labels", "llama", task, "vectors", "before")
    width = backbone_of("llama").info.hidden_size
    with pytest.raises(ArtifactError):
        Host(backbone_of("llama")).open(str(changed(folder, "labels", torch.rand(len(task.labels) + 1, width))))
