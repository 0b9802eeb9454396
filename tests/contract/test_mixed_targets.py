"""Law 3: rows with different kinds of target, each under a prompt of its own, in one batch equal one by one."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from fakes import ONE_TOKEN, SEVERAL_TOKENS, Case, backbone_of, make_prompt, make_rows
from overture.core.contracts import LabelScores, Losses, Readouts
from overture.core.rows import Answer, AtMarks, Candidates, Encoded, Marks, OneOf, Target
from overture.engine.backbone import Backbone
from overture.engine.cache import InputCache
from overture.engine.distil import right
from overture.engine.prompted import OnePrompt, PromptedModel, RowPrompts
from overture.evaluate.scoring import mean_loss
from overture.prompt.labels import with_labels

CHOICES = Candidates(("a", "b"), ((70, 71), (80,)), (0, 1), is_mean=True, is_own=True)
OTHER_CHOICES = Candidates(("a", "b", "c"), ((60,), (61, 62, 63), (90,)), (0, 1, 2), is_own=True)
WRITTEN: dict[str, Target] = {
    "one token": OneOf(ONE_TOKEN, 1),
    "several tokens": OneOf(SEVERAL_TOKENS, 2),
    "shares": OneOf(ONE_TOKEN, shares=(0.25, 0.75, 0.0)),
    "choices": OneOf(CHOICES, 0),
    "other choices": OneOf(OTHER_CHOICES, 2),
    "answer": Answer((65, 66, 67, 257)),
    "short answer": Answer((257,)),
}
MARKED: dict[str, Target] = {
    "tags": AtMarks(ONE_TOKEN, Marks((1, 2, 3), "labels", (0, 2, 1))),
    "places": AtMarks(ONE_TOKEN, Marks((1, 2, 4), "places", (0, 2, 1))),
    "each": AtMarks(ONE_TOKEN, Marks((0,), "each", (0, 2))),
    "vectors": OneOf(ONE_TOKEN, 2, read=0),
}
"""Read by label vectors."""
MASKED: dict[str, Target] = {"mask": OneOf(ONE_TOKEN, 0, read=2, is_mask=True)}
TARGETS = {"llama": {**WRITTEN, **MARKED}, "bert": {**MASKED, **MARKED}, "t5": WRITTEN}
CASES = [
    Case("vectors", "before"),
    Case("prefix", "memory"),
    Case("late", "before", {"layer": 1}),
    Case("gated", "memory"),
]


def made(family: str) -> tuple[Backbone, list[Encoded], list[OnePrompt | None]]:
    """Each target twice, with unlike prompts; those that label vectors read have them."""
    backbone = backbone_of(family, torch.float64)
    targets = [*TARGETS[family].values()] * 2
    lengths = tuple((5, 19, 7, 6, 11)[number % 5] for number in range(len(targets)))
    rows = [replace(row, target=target) for row, target in zip(make_rows("one token", lengths), targets, strict=True)]
    prompts: list[OnePrompt | None] = []
    for number, target in enumerate(targets):
        prompt = make_prompt(CASES[number % len(CASES)], backbone, length=2 + number % 3, seed=number)
        if target in MARKED.values():
            generator = torch.Generator().manual_seed(number)
            labels = torch.randn(3, backbone.info.hidden_size, generator=generator, dtype=torch.float64)
            prompt = with_labels(prompt, labels)
        prompts.append(None if number == 0 else prompt)
    return backbone, rows, prompts


def gradients(losses: list[torch.Tensor], prompts: list[OnePrompt | None]) -> list[torch.Tensor]:
    values = [value for prompt in prompts if prompt is not None for value in prompt.trainable().values()]
    return list(torch.autograd.grad(torch.stack(losses).sum(), values))


@pytest.mark.parametrize("family", TARGETS)
@pytest.mark.parametrize("is_cached", [False, True], ids=["uncached", "cached"])
def test_losses_and_gradients_equal_one_by_one(family, is_cached):
    backbone, rows, prompts = made(family)
    model = PromptedModel(backbone, RowPrompts(prompts), InputCache(1 << 24) if is_cached else None)
    model.warm(rows)
    together = model.ask(rows, Losses())
    alone = [PromptedModel(backbone, prompts[row.row]).ask([row], Losses())[0] for row in rows]
    torch.testing.assert_close(torch.stack(together), torch.stack(alone), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(gradients(together, prompts), gradients(alone, prompts), rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(model.loss(rows), torch.stack(alone).sum(), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("family", TARGETS)
def test_weights_add_up_and_the_mean_is_over_them(family):
    backbone, rows, prompts = made(family)
    model = PromptedModel(backbone, RowPrompts(prompts))
    assert model.weight(rows) == sum(model.weight([row]) for row in rows)
    with torch.no_grad():
        losses = torch.stack(model.ask(rows, Losses(with_vector_targets=False)))
    mean = float(losses.sum()) / model.weight(rows)
    for max_tokens in (1, 60, 4096):
        assert mean_loss(model, rows, max_tokens) == pytest.approx(mean, rel=1e-6)


@pytest.mark.parametrize("family", TARGETS)
def test_readouts_give_the_losses(family):
    backbone, rows, prompts = made(family)
    model = PromptedModel(backbone, RowPrompts(prompts))
    readouts, losses = model.ask(rows, Readouts()), model.ask(rows, Losses(with_vector_targets=False))
    for row, readout, loss in zip(rows, readouts, losses, strict=True):
        torch.testing.assert_close(right(backbone, [readout], [row])[0], loss, rtol=1e-9, atol=1e-9)


def test_scores_are_of_a_finished_prompt_wherever_they_are_asked():
    """A split is drawn for gradients alone, and scores have none."""
    backbone, rows = backbone_of("llama", torch.float64), make_rows("one token")
    prompt = make_prompt(Case("split", "around"), backbone)
    with torch.no_grad():
        wanted = PromptedModel(backbone, prompt).ask(rows, LabelScores())
        prompt.seed = next(seed for seed in range(99) if _drawn(prompt, seed) != int(prompt.logits.argmax()))
    torch.testing.assert_close(PromptedModel(backbone, prompt).ask(rows, LabelScores()), wanted, rtol=0, atol=0)


def _drawn(prompt: Any, seed: int) -> int:
    prompt.seed = seed
    with torch.enable_grad():
        return int(prompt.injection().vectors.num_before)
