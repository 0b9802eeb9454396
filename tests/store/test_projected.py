"""Vectors of a random projection on disk: few numbers, the same vectors again, or a refusal."""

import json

import pytest
import torch

from overture.core.errors import ArtifactError, ConfigError
from overture.core.projected import MAX_VALUES, NAMES, expanded, origin, projection
from overture.prompt.config import PromptConfig
from overture.prompt.labels import with_labels
from overture.prompt.pack import prompt_from, prompt_tensors
from overture.prompt.ulpt import ProjectedVectors
from overture.store.artifact import load_artifact, save_artifact

WIDTH = 576


def prompt_of(length: int = 10, rank: int = 2) -> ProjectedVectors:
    """A prompt whose values have moved from their start."""
    generator = torch.Generator().manual_seed(length)
    prompt = ProjectedVectors(torch.randn(length, WIDTH, generator=generator), "before", rank, seed=7)
    with torch.no_grad():
        for value in prompt.parameters():
            value.add_(0.1 * torch.randn(value.shape, generator=generator))
    return prompt


def values_of(prompt) -> torch.Tensor:
    return prompt.injection().vectors.values.detach()


def saved(folder, manifest, tensors):
    """The folder's file, and how many bytes of it are numbers."""
    save_artifact(folder, manifest, tensors)
    raw = (folder / "prompt.safetensors").read_bytes()
    return len(raw), len(raw) - 8 - int.from_bytes(raw[:8], "little")


@pytest.mark.parametrize("rank", [2, 16])
@pytest.mark.parametrize("length", [10, 100])
def test_a_file_is_smaller_by_what_the_formula_says(tmp_path, make_manifest, length, rank):
    prompt = prompt_of(length, rank)
    few, few_numbers = saved(tmp_path / "few", make_manifest(), prompt_tensors(prompt))
    whole, whole_numbers = saved(tmp_path / "whole", make_manifest(), {"vectors": values_of(prompt)})
    assert few_numbers == 4 * (length * rank + 2 * WIDTH + 18)
    assert whole_numbers == 4 * length * WIDTH
    # Names and shapes of four tensors instead of one.
    assert 0 < (few - few_numbers) - (whole - whole_numbers) < 300


def test_a_loaded_prompt_has_the_very_vectors(tmp_path, make_manifest):
    prompt = prompt_of()
    save_artifact(tmp_path / "prompt", make_manifest(), prompt_tensors(prompt))
    tensors = load_artifact(tmp_path / "prompt")[1]
    assert set(tensors) == {"vectors"}
    assert torch.equal(tensors["vectors"], values_of(prompt))
    for kept in (tensors, prompt_tensors(prompt)):
        assert torch.equal(prompt_from(kept, PromptConfig(method="ulpt")).vectors.values, values_of(prompt))


def test_what_stands_beside_the_vectors_stays():
    prompt = with_labels(prompt_of(), torch.ones(3, WIDTH))
    tensors = prompt_tensors(prompt)
    assert set(tensors) == {*NAMES, "labels"}
    assert set(expanded({**tensors, "adapter.x": torch.ones(1)})) == {"vectors", "labels", "adapter.x"}
    found = prompt_from(tensors, PromptConfig(method="ulpt"))
    assert torch.equal(found.vectors.values, values_of(prompt))
    assert torch.equal(found.labels, torch.ones(3, WIDTH))


def test_vectors_are_kept_where_they_are_fewer():
    assert set(prompt_tensors(prompt_of(length=2))) == {"vectors"}
    assert set(prompt_tensors(prompt_of(length=3))) == {*NAMES}


def test_the_projection_is_the_same_everywhere():
    drawn = projection(0, 2, 3)
    first, second = [-0.5047193765640259, -0.23596225678920746], [0.19324979186058044, 0.06187421828508377]
    assert drawn[:, :2].tolist() == [first, second]
    assert origin(0, drawn)[:4].tolist() == [0, 0, 60371, 11252]
    assert origin(3 * 2**16 + 5, drawn)[:4].tolist() == [3, 5, 60371, 11252]
    # Normal: variance 1/r, and a fourth moment of three squared variances.
    many = projection(1, 100, 1000).double()
    assert float(many.mean()) == pytest.approx(0, abs=1e-3)
    assert float(many.var()) == pytest.approx(1 / 100, rel=0.02)
    assert float(many.pow(4).mean() / many.var() ** 2) == pytest.approx(3, rel=0.03)


def test_another_projection_is_refused(tmp_path, make_manifest):
    tensors = {name: value.detach().clone() for name, value in prompt_tensors(prompt_of()).items()}
    # Another seed, and another fingerprint.
    for word in (1, 9):
        other = {**tensors, "projection": tensors["projection"].clone()}
        other["projection"][word] = 12
        folder = tmp_path / str(word)
        save_artifact(folder, make_manifest(), other)
        with pytest.raises(ArtifactError, match="another projection") as caught:
            load_artifact(folder)
        assert "--to npy" in caught.value.fix
        assert json.dumps(str(folder))[1:-1] in caught.value.where


@pytest.mark.parametrize(
    "changed",
    [
        {"codes": None},
        {"codes": torch.ones(10)},
        {"scale": torch.ones(3)},
        {"projection": torch.ones(17)},
        {"projection": torch.full((18,), 0.5)},
        {"projection": torch.full((18,), -1.0)},
        {"projection": torch.full((18,), 65536.0)},
        {"codes": torch.ones(1, MAX_VALUES // WIDTH + 1)},
        {"vectors": torch.ones(10, WIDTH)},
    ],
    ids=str,
)
def test_numbers_that_do_not_fit_are_refused(changed):
    tensors = {name: value for name, value in (prompt_tensors(prompt_of()) | changed).items() if value is not None}
    with pytest.raises(ArtifactError, match="do not fit") as caught:
        expanded(tensors)
    assert "codes [P, r]" in caught.value.wanted


def test_a_projection_is_no_larger_than_what_is_drawn_in_seconds():
    with pytest.raises(ConfigError, match="too large") as caught:
        projection(0, MAX_VALUES // WIDTH + 1, WIDTH)
    assert caught.value.wanted.startswith(f"at most {MAX_VALUES // WIDTH} ")
