"""The gradient of MAML: against finite differences of what it is the gradient of, through every step of a visit."""

import math
from collections.abc import Sequence

import pytest
import torch

from fakes import SMALL, Case, backbone_of, make_prompt, make_rows
from overture.core.rows import Encoded
from overture.engine.cache import InputCache
from overture.engine.prompted import PromptedModel
from overture.jobs.transfer.maml import Maml

LR = 1e-3
BATCHES = [[5, 11], [7], [3, 9, 4]]


def model_of(family: str, method: str, place: str) -> PromptedModel:
    backbone = backbone_of(family, torch.float64)
    return PromptedModel(backbone, make_prompt(Case(method, place, SMALL.get(method, {})), backbone), InputCache())


def batches_of(kind: str = "one token") -> list[list[Encoded]]:
    return [make_rows(kind, lengths, seed=number) for number, lengths in enumerate(BATCHES)]


def maml_of(model: PromptedModel, clip: float, max_tokens: int = 4096) -> Maml:
    return Maml(model, LR, clip, max_tokens, lambda text: None)


def loss_after_steps(model: PromptedModel, batches: Sequence[list[Encoded]], clip: float) -> float:
    """The last batch's loss after a clipped gradient step on each of the others; the values are moved."""
    values = list(model.trainable().values())
    rate = LR * math.sqrt(sum(value.numel() for value in values))
    for batch in batches[:-1]:
        found = torch.autograd.grad(model.loss(batch) / model.weight(batch), values)
        for value, slope in zip(values, found, strict=True):
            value.grad = slope
        torch.nn.utils.clip_grad_norm_(values, clip)
        with torch.no_grad():
            torch._foreach_sub_(values, [rate * value.grad for value in values])
    return float(model.log_loss(batches[-1])) / model.weight(batches[-1])


@pytest.mark.parametrize("clip", [1e-3, 1e3], ids=["clipped", "whole"])
@pytest.mark.parametrize(
    ("family", "method", "place"),
    [("llama", "vectors", "after"), ("llama", "prefix", "after"), ("gemma2", "residual", "before"),
     ("bert", "prefix", "memory"), ("t5", "vectors", "before")],
)  # fmt: skip
def test_the_gradient_is_that_of_the_last_loss(family: str, method: str, place: str, clip: float) -> None:
    model, batches = model_of(family, method, place), batches_of("mask" if family == "bert" else "one token")
    values = model.trainable()
    start = {name: value.detach().clone() for name, value in values.items()}
    gradient, loss = maml_of(model, clip).gradient(batches)
    assert all(torch.equal(value, start[name]) for name, value in values.items())
    assert math.isfinite(loss)
    found, wanted = [], []
    for seed in range(3):
        random = torch.Generator().manual_seed(seed)
        way = {name: torch.randn(value.shape, generator=random, dtype=value.dtype) for name, value in values.items()}
        ends = []
        for side in (1e-6, -1e-6):
            with torch.no_grad():
                for name, value in values.items():
                    value.copy_(start[name] + side * way[name])
            ends.append(loss_after_steps(model, batches, clip))
        wanted.append((ends[0] - ends[1]) / 2e-6)
        found.append(sum(float((gradient[name] * way[name]).sum()) for name in values))
    torch.testing.assert_close(torch.tensor(found), torch.tensor(wanted), rtol=1e-4, atol=1e-7)


def test_one_batch_gives_its_own_gradient_and_parts_change_nothing() -> None:
    model, batches = model_of("llama", "vectors", "after"), batches_of()
    ((name, value),) = model.trainable().items()
    (plain,) = torch.autograd.grad(model.loss(batches[0]) / model.weight(batches[0]), [value])
    torch.testing.assert_close(maml_of(model, 1.0).gradient(batches[:1])[0][name], plain)
    whole, cut = (maml_of(model, 1.0, limit).gradient(batches)[0][name] for limit in (4096, 8))
    torch.testing.assert_close(cut, whole)
    assert not torch.allclose(whole, plain)


@pytest.mark.parametrize("place", ["before", "after"])
def test_activations_that_are_made_again_change_nothing(place: str) -> None:
    model, batches = model_of("llama", "vectors", place), batches_of()
    plain, _ = maml_of(model, 1e-3).gradient(batches)
    with model.backbone.checkpointing(True):
        again, _ = maml_of(model, 1e-3).gradient(batches)
    torch.testing.assert_close(again, plain, rtol=1e-12, atol=0)


def test_a_loss_that_is_not_finite_gives_no_gradient_and_the_values_stay() -> None:
    model, batches = model_of("llama", "vectors", "after"), batches_of()
    (value,) = model.trainable().values()
    with torch.no_grad():
        value[0, 0] = float("inf")
    kept = value.detach().clone()
    gradient, loss = maml_of(model, 1.0).gradient(batches)
    assert (gradient, math.isnan(loss)) == ({}, True)
    assert torch.equal(value, kept)
