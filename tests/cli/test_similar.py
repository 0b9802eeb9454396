"""Prompts beside each other: both similarities by value, and the command."""

from pathlib import Path

import pytest
import torch

from overture.jobs.transfer.similar import Points, average_cosine, pairwise_cosine, points_of
from overture.store.artifact import load_artifact
from overture.store.manifest import BackboneRef, Manifest

MODEL = {"id": "m", "model_type": "llama", "hidden_size": 2, "num_layers": 2, "weights_sha256": "w"}


def manifest_of(method: str, **changes: object) -> Manifest:
    backbone = BackboneRef(**MODEL, tokenizer_sha256="t")
    return Manifest(name="x", method=method, place="after", length=2, backbone=backbone, trainable=1, **changes)


def points(*tokens: tuple[float, float]) -> Points:
    found = points_of(manifest_of("vectors"), {"vectors": torch.tensor(tokens)})
    assert found is not None
    return found


def test_similarities_by_value() -> None:
    a, b = points((2.0, 0.0), (0.0, 2.0)), points((3.0, 0.0))
    assert average_cosine(a, b) == pytest.approx(0.5**0.5)
    assert pairwise_cosine(a, b) == pytest.approx(0.5)
    assert average_cosine(a, a) == pytest.approx(1)
    assert pairwise_cosine(a, a) == pytest.approx(0.5)
    assert average_cosine(points((1.0, 1.0)), points((-1.0, -1.0))) == pytest.approx(-1)


def memory(keys: float, values: float, weights: list[list[float]] | None = None) -> Points:
    """Two layers of one head, two columns; the first layer's keys, and the second's values, point elsewhere."""
    one = torch.tensor([1.0, 0.0]).expand(2, 1, 2, 2).clone()
    tensors = {"keys": one.clone(), "values": one.clone()}
    tensors["keys"][0, 0, :, 0] = keys
    tensors["values"][1, 0, :, 0] = values
    if weights:
        tensors["weights"] = torch.tensor(weights)
    found = points_of(manifest_of("prefix"), tensors)
    assert found is not None
    return found


def test_keys_with_keys_and_values_with_values() -> None:
    assert average_cosine(memory(1, 1), memory(1, 1)) == pytest.approx(1)
    assert average_cosine(memory(1, 1), memory(-1, 1)) == pytest.approx(0.5)
    assert pairwise_cosine(memory(1, 1), memory(-1, -1)) == pytest.approx(0)
    # What weighs nothing has no say.
    assert pairwise_cosine(memory(1, 1), memory(-1, -1, [[0, 0], [1, 0]])) == pytest.approx(0)
    assert pairwise_cosine(memory(1, 1), memory(-1, 1, [[0, 0], [1, 1]])) == pytest.approx(1)


def test_kinds() -> None:
    late = manifest_of("late", options={"prompt": {"options": {"layer": 1}}})
    found = points_of(late, {"vectors": torch.ones(2, 2)})
    assert found is not None
    assert found.kind == "vectors at layer 1"
    assert points_of(manifest_of("lopa"), {"state.x": torch.ones(1)}) is None


def test_command(make_task, overture, tuned) -> None:
    task = make_task(shots=0, train={"epochs": 1, "batch_size": 8, "lr": 0.01})
    vectors = ["--method", "vectors", "--place", "before", "--json"]
    for name, more in (("one", []), ("two", ["--length", "2"]), ("far", ["--set", "seed=5"])):
        assert overture("tune", task, "--name", name, *vectors, *more).code == 0
    late = ["--method", "late", "--set", "prompt.options.layer=1", "--place", "before", "--json"]
    assert overture("tune", task, "--name", "late", *late).code == 0
    assert overture("tune", task, "--name", "rows", "--method", "lopa", "--place", "before", "--json").code == 0
    found = overture("similar", "one", "--json").json
    assert (found["prompt"], found["kind"]) == ("one@1", "vectors")
    assert [each["prompt"] for each in found["similar"]] == ["two@1", "far@1"]
    assert found["left_out"] == {"vectors at layer 1": 1, "keys and values": 1, "depends on the row": 1}
    two = found["similar"][0]
    assert (two["task"], two["method"], two["length"]) == ("two", "vectors", 2)
    vectors_of = [load_artifact(Path("store/prompts") / name / "v1")[1]["vectors"] for name in ("one", "two")]
    means = [each.mean(0) for each in vectors_of]
    assert two["average"] == pytest.approx(float(torch.cosine_similarity(*means, dim=0)), abs=1e-6)
    shown = overture("similar", "one").out
    assert "average tokens" in shown
    assert "left out: " in shown
    command = next(line for line in shown.splitlines() if "prompt.init=prompt" in line)
    assert command.endswith("--method vectors --place before --set prompt.init=prompt --set prompt.init_prompt=two@1")
    words = command.replace("TASK.yaml", str(task)).split()[1:]
    assert overture(*words, "--json").code == 0
    assert "no other prompt" in overture("similar", "late").out


@pytest.mark.parametrize(
    "words",
    [["split", "--place", "around"], ["deep", "--place", "after"], ["gated", "--place", "after"]],
    ids=lambda words: words[0],
)
def test_the_command_it_says_next_starts_a_task(make_task, overture, words) -> None:
    task = make_task(shots=0, train={"epochs": 1, "batch_size": 8, "lr": 0.01})
    for name in ("one", "two"):
        assert overture("tune", task, "--name", name, "--method", *words, "--json").code == 0
    command = next(line for line in overture("similar", "one").out.splitlines() if "prompt.init=prompt" in line)
    assert overture(*command.replace("TASK.yaml", str(task)).split()[1:], "--json").code == 0


def test_what_cannot_be_compared(make_task, overture, tmp_path) -> None:
    task = make_task(shots=0)
    assert overture("similar", "mood").code == 2
    assert overture("tune", task, "--method", "lopa", "--place", "before", "--json").code == 0
    refused = overture("similar", "mood", "--json")
    assert (refused.code, refused.json["got"]) == (2, "method lopa")
    (tmp_path / "store" / "prompts" / "mood" / "v1" / "prompt.safetensors").write_bytes(b"x")
    assert overture("similar", "mood", "--json").json["error"] == "ArtifactError"


def test_keys_and_values_and_damaged_ones(tuned, make_task, overture, tmp_path) -> None:
    for seed in (1, 2):
        overture("tune", make_task(shots=0), "--set", f"seed={seed}", "--json")
    (tmp_path / "store" / "prompts" / "mood" / "v3" / "prompt.safetensors").write_bytes(b"x")
    found = overture("similar", tuned["folder"], "--json").json
    assert [each["prompt"] for each in found["similar"]] == ["mood@2"]
    assert found["left_out"] == {"damaged": 1}
    assert "--method prefix --place after --length 3 --set prompt.init=prompt" in overture("similar", "mood@1").out
