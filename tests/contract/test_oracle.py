"""Every method and place, and every family, against the untouched model: scores, losses and gradients of all rows."""

import oracles
import pytest
import torch

from fakes import (
    FAMILIES,
    FAMILY_CASES,
    KINDS,
    VARIANT_CASES,
    VARIANTS,
    Case,
    backbone_of,
    is_fit,
    make_prompt,
    make_rows,
    reference_of,
    with_kinds,
)
from overture.engine.cache import InputCache
from overture.engine.prompted import PromptedModel
from overture.prompt.methods import METHODS

EXACT = {"rtol": 1e-8, "atol": 1e-8}
# Within Gemma's window of eight and beyond it.
LENGTHS = (1, 2, 0, 5, 19, 11)


def _gradients(prompt, loss) -> dict[str, torch.Tensor]:
    values = prompt.trainable()
    return dict(zip(values, torch.autograd.grad(loss, list(values.values())), strict=True))


@pytest.mark.parametrize(("family", "case", "kind"), with_kinds([*FAMILY_CASES, *VARIANT_CASES]), ids=str)
def test_loss_and_gradients_are_the_untouched_models(family, case, kind):
    if not is_fit(case, kind):
        pytest.skip("vectors of labels have no part in free text, so no gradient")
    backbone, reference = backbone_of(family, torch.float64), reference_of(family, torch.float64)
    prompt = make_prompt(case, backbone, length=2)
    rows = make_rows(kind, LENGTHS)
    model = PromptedModel(backbone, prompt)
    ours = model.loss(rows)
    theirs = oracles.loss(reference, [model.injections([row])[0] for row in rows], rows)
    torch.testing.assert_close(ours, theirs, **EXACT)
    torch.testing.assert_close(_gradients(prompt, ours), _gradients(prompt, theirs), **EXACT)


@pytest.mark.parametrize(
    ("family", "case", "kind"),
    with_kinds([*FAMILY_CASES, *VARIANT_CASES], ["one token", "several tokens"]),
    ids=str,
)
def test_label_scores_are_the_untouched_models(family, case, kind):
    backbone, reference = backbone_of(family, torch.float64), reference_of(family, torch.float64)
    prompt = make_prompt(case, backbone, length=2)
    rows = make_rows(kind, LENGTHS, seed=1)
    with torch.no_grad():
        model = PromptedModel(backbone, prompt, InputCache(budget_bytes=1 << 20))
        theirs = torch.stack([oracles.label_scores(reference, model.injections([row])[0], row) for row in rows])
    ours = model.label_scores(rows)
    torch.testing.assert_close(ours, theirs, **EXACT)


@pytest.mark.parametrize("is_cached", [False, True])
@pytest.mark.parametrize("place", METHODS["late"].places)
@pytest.mark.parametrize(("family", "layer"), [("llama", 2), ("gpt2", 2), ("gemma3_text", 2), ("gemma3_text", 3)])
def test_higher_layers_are_the_untouched_models(family, layer, place, is_cached):
    backbone, reference = backbone_of(family, torch.float64), reference_of(family, torch.float64)
    prompt, rows = make_prompt(Case("late", place, {"layer": layer}), backbone), make_rows("several tokens", LENGTHS)
    ours = PromptedModel(backbone, prompt, InputCache(budget_bytes=1 << 20) if is_cached else None).loss(rows)
    torch.testing.assert_close(ours, oracles.loss(reference, [prompt.injection()] * len(rows), rows), **EXACT)


@pytest.mark.parametrize("is_cached", [False, True])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", [*FAMILIES, *VARIANTS])
def test_no_prompt_is_the_untouched_model(family, kind, is_cached):
    backbone, reference = backbone_of(family, torch.float64), reference_of(family, torch.float64)
    rows = make_rows(kind, LENGTHS, seed=2)
    model = PromptedModel(backbone, None, InputCache(budget_bytes=1 << 20) if is_cached else None)
    torch.testing.assert_close(model.loss(rows), oracles.loss(reference, [None] * len(rows), rows), **EXACT)
    assert model.trainable() == {}


@pytest.mark.parametrize("family", [*FAMILIES, *VARIANTS])
def test_loaded_precision_agrees_too(family):
    backbone, reference = backbone_of(family), reference_of(family)
    rows = make_rows("several tokens", LENGTHS)
    theirs = torch.stack([oracles.label_scores(reference, None, row) for row in rows])
    torch.testing.assert_close(PromptedModel(backbone).label_scores(rows), theirs, rtol=1e-5, atol=2e-5)
