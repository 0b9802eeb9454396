"""Every method, place and family against the untouched model: scores, losses and gradients."""

import oracles
import pytest
import torch

from fakes import CASES, FAMILIES, KINDS, backbone_of, make_prompt, make_rows, reference_of
from overture.engine import InputCache, PromptedModel

EXACT = {"rtol": 1e-8, "atol": 1e-8}
# Within Gemma's window of eight and beyond it.
LENGTHS = (1, 2, 0, 5, 19, 11)


def _gradients(prompt, loss) -> dict[str, torch.Tensor]:
    values = prompt.trainable()
    return dict(zip(values, torch.autograd.grad(loss, list(values.values())), strict=True))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_loss_and_gradients_are_the_untouched_models(family, case, kind):
    backbone, reference = backbone_of(family, torch.float64), reference_of(family, torch.float64)
    prompt = make_prompt(case, backbone, length=2)
    rows = make_rows(kind, LENGTHS)
    ours = PromptedModel(backbone, prompt).loss(rows)
    theirs = oracles.loss(reference, prompt.injection(), rows)
    torch.testing.assert_close(ours, theirs, **EXACT)
    torch.testing.assert_close(_gradients(prompt, ours), _gradients(prompt, theirs), **EXACT)


@pytest.mark.parametrize("kind", ["one token", "several tokens"])
@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_label_scores_are_the_untouched_models(family, case, kind):
    backbone, reference = backbone_of(family, torch.float64), reference_of(family, torch.float64)
    prompt = make_prompt(case, backbone, length=2)
    rows = make_rows(kind, LENGTHS, seed=1)
    with torch.no_grad():
        theirs = torch.stack([oracles.label_scores(reference, prompt.injection(), row) for row in rows])
    ours = PromptedModel(backbone, prompt, InputCache(budget_bytes=1 << 20)).label_scores(rows)
    torch.testing.assert_close(ours, theirs, **EXACT)


@pytest.mark.parametrize("is_cached", [False, True])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_no_prompt_is_the_untouched_model(family, kind, is_cached):
    backbone, reference = backbone_of(family, torch.float64), reference_of(family, torch.float64)
    rows = make_rows(kind, LENGTHS, seed=2)
    model = PromptedModel(backbone, None, InputCache(budget_bytes=1 << 20) if is_cached else None)
    torch.testing.assert_close(model.loss(rows), oracles.loss(reference, None, rows), **EXACT)
    assert model.trainable() == {}


@pytest.mark.parametrize("family", FAMILIES)
def test_loaded_precision_agrees_too(family):
    backbone, reference = backbone_of(family), reference_of(family)
    rows = make_rows("several tokens", LENGTHS)
    theirs = torch.stack([oracles.label_scores(reference, None, row) for row in rows])
    torch.testing.assert_close(PromptedModel(backbone).label_scores(rows), theirs, rtol=1e-5, atol=2e-5)
