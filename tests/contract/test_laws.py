"""The laws of the design, for every registered method and place, and in every family; `test_grid` has all cells.

Precision is float64, in which the tiny models agree far closer than the 1e-5 that is promised; the padding law is also
checked in float32, where the promise is made.
"""

import errno
import os
import random
from dataclasses import replace

import pytest
import torch

from fakes import (
    FAMILY_CASES,
    backbone_of,
    compiled_of,
    injection_of,
    is_fit,
    make_backbone,
    make_prompt,
    make_rows,
    with_kinds,
)
from overture.core.contracts import RowMethod
from overture.core.rows import Encoded
from overture.data.task import Task
from overture.engine.cache import InputCache
from overture.engine.info import weights_digest
from overture.engine.prompted import PromptedModel
from overture.evaluate.scoring import score
from overture.prompt.methods import METHODS

EACH = pytest.mark.parametrize(("family", "case"), FAMILY_CASES, ids=str)
EACH_KIND = pytest.mark.parametrize(("family", "case", "kind"), with_kinds(FAMILY_CASES), ids=str)

DOUBLE = torch.float64
CLOSE = {"rtol": 1e-8, "atol": 1e-8}
PROMISED = {"rtol": 0, "atol": 1e-5}
LENGTHS = (5, 19, 0, 2, 11, 3, 30)


def gradients(model: PromptedModel, rows: list[Encoded]) -> dict[str, torch.Tensor]:
    values = model.trainable()
    found = torch.autograd.grad(model.loss(rows), list(values.values()))
    return dict(zip(values, found, strict=True))


def assert_same_loss_and_gradients(one: PromptedModel, other: PromptedModel, rows: list[Encoded]) -> None:
    torch.testing.assert_close(one.loss(rows), other.loss(rows), **CLOSE)
    torch.testing.assert_close(gradients(one, rows), gradients(other, rows), **CLOSE)


# -- 1: the weights stay


@EACH
def test_weights_are_bit_identical_after_everything(family, case):
    backbone = make_backbone(family)
    before = weights_digest(backbone.model)
    prompt = make_prompt(case, backbone)
    model = PromptedModel(backbone, prompt, InputCache(budget_bytes=1 << 20))
    rows = make_rows("several tokens", (4, 9))
    optimiser = torch.optim.AdamW(prompt.trainable().values(), lr=0.1)
    with backbone.checkpointing(True):
        model.loss(rows).backward()
    optimiser.step()
    model.loss(rows).backward()
    model.label_scores(rows)
    if backbone.family.is_causal:
        model.generate(rows, 3, [])
    compiled_of(backbone, prompt)
    assert weights_digest(backbone.model) == before
    assert backbone.info.weights_sha256 == before
    assert all(value.grad is None for value in backbone.model.parameters())
    assert not any(module.training for module in backbone.model.modules())


# -- 2 and 3: padding and company change nothing


@pytest.mark.parametrize(("family", "case", "kind"), with_kinds(FAMILY_CASES, ["one token", "several tokens"]), ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE], ids=["float32", "float64"])
def test_scores_alone_equal_scores_beside_longer_rows(family, case, kind, dtype):
    backbone = backbone_of(family, dtype)
    model = PromptedModel(backbone, make_prompt(case, backbone))
    rows = make_rows(kind, (3, 60, 0, 41))
    together = model.label_scores(rows)
    alone = torch.cat([model.label_scores([row]) for row in rows])
    torch.testing.assert_close(together, alone, **(PROMISED if dtype == torch.float32 else CLOSE))


@EACH_KIND
def test_loss_is_the_sum_of_the_rows_whatever_their_company(family, case, kind):
    backbone = backbone_of(family, DOUBLE)
    model = PromptedModel(backbone, make_prompt(case, backbone))
    rows = make_rows(kind, LENGTHS)
    each = {row.row: model.loss([row]).item() for row in rows}
    chance = random.Random(0)
    for size in (2, 3, len(rows)):
        group = chance.sample(rows, size)
        assert model.loss(group).item() == pytest.approx(sum(each[row.row] for row in group), rel=1e-8)


@EACH
def test_gradient_is_the_sum_of_the_rows(family, case):
    backbone = backbone_of(family, DOUBLE)
    model = PromptedModel(backbone, make_prompt(case, backbone))
    rows = make_rows("free text" if is_fit(case, "free text") else "several tokens", (3, 25, 0))
    parts = [gradients(model, [row]) for row in rows]
    summed = {name: sum(part[name] for part in parts) for name in parts[0]}
    torch.testing.assert_close(gradients(model, rows), summed, **CLOSE)


@EACH
def test_order_of_rows_is_the_order_of_scores(family, case):
    backbone = backbone_of(family, DOUBLE)
    model = PromptedModel(backbone, make_prompt(case, backbone))
    rows = make_rows("several tokens", LENGTHS)
    order = random.Random(1).sample(range(len(rows)), len(rows))
    torch.testing.assert_close(model.label_scores([rows[i] for i in order]), model.label_scores(rows)[order], **CLOSE)


# -- 4: cached equals uncached


def is_kept(prompt, backbone) -> bool:
    """Whether texts run once under this prompt: whole inputs that it leaves as they are, or what lies below it."""
    found = injection_of(prompt, backbone)
    return (found.leaves_input and backbone.family.is_causal) or found.layer > 0


@EACH_KIND
def test_cache_in_memory(family, case, kind):
    backbone = backbone_of(family, DOUBLE)
    prompt, rows = make_prompt(case, backbone), make_rows(kind, LENGTHS)
    cached = PromptedModel(backbone, prompt, InputCache(budget_bytes=1 << 24), max_tokens=40)
    cached.warm(rows)
    assert len(cached.cache) == (len(rows) if is_kept(prompt, backbone) else 0)
    uncached = PromptedModel(backbone, prompt)
    assert_same_loss_and_gradients(cached, uncached, rows)
    assert_same_loss_and_gradients(cached, uncached, rows[::2])


@EACH
def test_cache_on_disk(family, case, tmp_path):
    backbone = backbone_of(family, DOUBLE)
    prompt, rows = make_prompt(case, backbone), make_rows("several tokens", LENGTHS)
    cached = PromptedModel(backbone, prompt, InputCache(budget_bytes=0, spill_dir=tmp_path))
    cached.warm(rows[:4])
    assert_same_loss_and_gradients(cached, PromptedModel(backbone, prompt), rows)
    assert (cached.cache.spilled_bytes > 0) == is_kept(prompt, backbone)
    assert list(tmp_path.iterdir()) == []


@EACH
def test_cache_on_a_full_disk(family, case, tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    notices = []
    backbone = backbone_of(family, DOUBLE)
    kind = "free text" if is_fit(case, "free text") else "several tokens"
    prompt, rows = make_prompt(case, backbone), make_rows(kind, LENGTHS)
    cached = PromptedModel(backbone, prompt, InputCache(0, tmp_path, notices.append))
    cached.warm(rows)
    assert_same_loss_and_gradients(cached, PromptedModel(backbone, prompt), rows)
    assert len(notices) == int(is_kept(prompt, backbone))
    assert not notices or "computed anew" in notices[0]


# -- 5: compiled equals live


def scored(prompt):
    """The prompt without what its own vectors must predict in training: finished prompts do not have that."""
    found = None if isinstance(prompt, RowMethod) else prompt.injection()
    return replace(found, vectors=replace(found.vectors, targets=())) if found and found.vectors else prompt


@EACH_KIND
def test_compiled_equals_live(family, case, kind):
    backbone = backbone_of(family, DOUBLE)
    prompt, rows = make_prompt(case, backbone), make_rows(kind, LENGTHS)
    constant = compiled_of(backbone, prompt)
    live, compiled = PromptedModel(backbone, scored(prompt)), PromptedModel(backbone, constant)
    torch.testing.assert_close(compiled.loss(rows).detach(), live.loss(rows).detach(), **CLOSE)
    if case.place != "before" or isinstance(constant, RowMethod) or backbone.family.kind != "decoder":
        return
    if backbone.family.is_rotary or not constant.layer:
        assert constant.vectors is None
        assert constant.memory.place == "memory"


# -- 9: the gradient


@EACH
def test_gradient_reaches_every_value_and_nothing_else(family, case):
    backbone = backbone_of(family, DOUBLE)
    # Short rows: behind a sliding window, values of some layers rightly have no part in the loss.
    model = PromptedModel(backbone, make_prompt(case, backbone, length=2))
    model.loss(make_rows("one token", (1, 2, 0))).backward()
    for name, value in model.trainable().items():
        assert value.grad.isfinite().all(), name
        assert (value.grad != 0).all(), name
    assert all(value.grad is None for value in backbone.model.parameters())


@EACH_KIND
def test_gradient_equals_finite_differences(family, case, kind):
    backbone = backbone_of(family, DOUBLE)
    model, rows = PromptedModel(backbone, make_prompt(case, backbone, seed=2)), make_rows(kind, (4, 12, 0))
    found = gradients(model, rows)
    generator = torch.Generator().manual_seed(0)
    for name, value in model.trainable().items():
        if name in METHODS[case.method].estimated:
            # The untouched model's gradient is the oracle of these.
            continue
        random_part = torch.randn(value.shape, generator=generator, dtype=DOUBLE)
        # Leaning on the gradient, so that the slope is never next to nothing.
        direction = random_part / random_part.norm() + found[name] / found[name].norm()
        # A short step, since OPT's rectifiers have kinks; hence a bound for the rounding of losses too.
        slope = (
            _loss_at(model, rows, value, 1e-6 * direction) - _loss_at(model, rows, value, -1e-6 * direction)
        ) / 2e-6
        assert slope == pytest.approx(float((found[name] * direction).sum()), rel=1e-5, abs=2e-8), name


@torch.no_grad()
def _loss_at(model: PromptedModel, rows: list[Encoded], value: torch.Tensor, shift: torch.Tensor) -> float:
    kept = value.clone()
    value.add_(shift)
    # A prompt that draws something in training draws it with gradients alone.
    with torch.enable_grad():
        loss = float(model.loss(rows).detach())
    value.copy_(kept)
    return loss


@pytest.mark.parametrize(("family", "case", "kind"), with_kinds(FAMILY_CASES, ["several tokens", "free text"]), ids=str)
def test_gradient_checkpointing_changes_nothing(family, case, kind):
    backbone = backbone_of(family, DOUBLE)
    model, rows = PromptedModel(backbone, make_prompt(case, backbone)), make_rows(kind, LENGTHS)
    plain, loss = gradients(model, rows), model.loss(rows).detach()
    with backbone.checkpointing(True):
        torch.testing.assert_close(model.loss(rows).detach(), loss, rtol=0, atol=0)
        torch.testing.assert_close(gradients(model, rows), plain, rtol=1e-12, atol=1e-12)


# -- 10: evaluation does not depend on its batches


@EACH_KIND
def test_score_does_not_depend_on_the_batch_size(family, case, kind):
    backbone = backbone_of(family)
    model = PromptedModel(backbone, make_prompt(case, backbone), InputCache(budget_bytes=1 << 20))
    rows, task = make_rows(kind, LENGTHS), make_task(kind)
    answers = ["x"] * len(rows) if kind == "free text" else ()
    one_by_one, together = [score(model, rows, task, answers, max_tokens=size) for size in (1, 10_000)]
    assert one_by_one.predicted == together.predicted
    assert one_by_one.gold == together.gold
    assert one_by_one.loss == pytest.approx(together.loss, abs=1e-5)


def make_task(kind: str) -> Task:
    values = {"name": "tiny", "data": {"path": "rows.jsonl"}, "template": "{text}", "max_new_tokens": 4}
    aim = (
        {"answer_field": "answer"} if kind == "free text" else {"labels": {"no": "n", "maybe": "m", "yes": ["y", "j"]}}
    )
    return Task.model_validate(values | aim)
