"""Learned position: what is drawn in training, where it ends; the contract suite has losses and gradients."""

from collections import Counter
from typing import Any

import pytest
import torch

from fakes import backbone_of, make_rows, source_of
from overture.core.errors import ArtifactError
from overture.core.injection import Injection, Vectors
from overture.engine.compiled import compiled_prompt
from overture.engine.prompted import PromptedModel
from overture.jobs.tune.adapted import _fixed
from overture.prompt.build import build_prompt
from overture.prompt.config import PromptConfig
from overture.prompt.pack import prompt_from, prompt_tensors


def built(length: int = 3, seed: int = 0, **options: Any) -> Any:
    config = PromptConfig(method="split", place="around", length=length, options=options)
    return build_prompt(config, source_of(backbone_of("llama")), seed)


def test_splits_are_drawn_as_often_as_their_logits_say() -> None:
    prompt, counts = built(), Counter()
    wanted = torch.tensor([0.0, 1.0, -1.0, 0.5]).softmax(0)
    with torch.no_grad():
        prompt.logits.copy_(torch.tensor([0.0, 1.0, -1.0, 0.5]))
    for draw in range(2000):
        with torch.no_grad():
            # The same odds with other bits: only differences count.
            prompt.logits.copy_(torch.tensor([0.0, 1.0, -1.0, 0.5]) + draw / 1000)
        counts[prompt.injection().vectors.num_before] += 1
    found = torch.tensor([counts[front] / 2000 for front in range(4)])
    torch.testing.assert_close(found, wanted, rtol=0, atol=0.04)


def test_one_draw_lasts_as_long_as_the_values() -> None:
    prompt = built()
    first = prompt.injection().vectors.split
    assert torch.equal(prompt.injection().vectors.split, first)
    drawn = {built(seed=seed).injection().vectors.num_before for seed in range(20)}
    assert len(drawn) > 1


def test_a_finished_prompt_stands_at_the_likeliest_split() -> None:
    prompt = built()
    with torch.no_grad():
        prompt.logits.copy_(torch.tensor([0.0, 0.1, 0.2, 0.1]))
    tensors = prompt_tensors(prompt)
    assert tensors["split"].tolist() == [0, 0, 1, 0]
    found = prompt_from(tensors, PromptConfig(method="split", place="around", length=3))
    assert found.vectors.num_before == 2


def test_beside_an_adapter_that_is_trained_later_it_stands_where_it_ended() -> None:
    prompt = built()
    with torch.no_grad():
        prompt.logits.copy_(torch.tensor([0.0, 0.0, 0.0, 0.5]))
    found = _fixed(prompt).vectors
    assert found.split.tolist() == [0, 0, 0, 1]
    assert not found.split.requires_grad
    assert not found.values.requires_grad


@pytest.mark.parametrize("front", range(4))
def test_compiled_it_costs_only_what_stands_after(front: int) -> None:
    backbone = backbone_of("llama", torch.float64)
    values = torch.randn(3, backbone.info.hidden_size, dtype=torch.float64)
    split = torch.nn.functional.one_hot(torch.tensor(front), 4)
    live = Injection(Vectors(values, "around", split=split))
    compiled = compiled_prompt(backbone, live)
    assert (compiled.vectors.length if compiled.vectors else 0) == 3 - front
    assert (compiled.memory.length if compiled.memory else 0) == front
    rows = make_rows("several tokens", (4, 0, 9))
    one, other = [PromptedModel(backbone, each).label_scores(rows) for each in (live, compiled)]
    torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-8)
    place = {0: "after", 3: "before"}.get(front)
    if place:
        plain = PromptedModel(backbone, Injection(Vectors(values, place))).label_scores(rows)
        torch.testing.assert_close(one, plain, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("front", range(4))
def test_compiled_it_keeps_its_label_vectors(front: int) -> None:
    backbone = backbone_of("llama", torch.float64)
    values, labels = (torch.randn(3, backbone.info.hidden_size, dtype=torch.float64) for _ in range(2))
    split = torch.nn.functional.one_hot(torch.tensor(front), 4)
    live = Injection(Vectors(values, "around", split=split), labels=labels)
    rows = make_rows("one token", (4, 0, 9))
    one, other = [PromptedModel(backbone, each).label_scores(rows) for each in (live, compiled_prompt(backbone, live))]
    torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-8)


def test_only_vectors_around_the_input_are_split() -> None:
    values = torch.zeros(2, 4)
    with pytest.raises(ValueError, match="are split"):
        Vectors(values, "before", split=torch.ones(3))
    with pytest.raises(ValueError, match="are split"):
        Vectors(values, "around")
    for place, tensors in (("around", {}), ("before", {"split": torch.ones(3)}), ("around", {"split": torch.ones(2)})):
        with pytest.raises(ArtifactError, match="not the tensors"):
            prompt_from({"vectors": values, **tensors}, PromptConfig(method="split", place=place, length=2))
