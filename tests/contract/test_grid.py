"""The whole grid: every method, place and option in every family equals the untouched model, or is refused with a fix.

The other laws sample the families (see `fakes`); here no cell is left out, so a cell is as cheap as can be: two rows of
unlike length, each of which the oracle runs once.
"""

import itertools

import encoder_oracles
import oracles
import pytest
import seq2seq_oracles
import test_laws as laws
import torch

from fakes import (
    CASES,
    ENCODERS,
    FAMILIES,
    SEQ2SEQ,
    Case,
    backbone_of,
    is_fit,
    is_for_encoders,
    make_prompt,
    make_rows,
    reference_of,
)
from overture.core.errors import BackboneError
from overture.engine.cache import InputCache
from overture.engine.prompted import PromptedModel

EXACT = {"rtol": 1e-8, "atol": 1e-8}
# Within the sliding windows and beyond them.
LENGTHS = (3, 13)


def rows_of(family: str, case: Case) -> list:
    """Rows that one pass of the oracle answers: an answer, a word at a mask, or label vectors."""
    if family in ENCODERS:
        return make_rows("mask", LENGTHS)
    return make_rows("free text" if is_fit(case, "free text") else "one token", LENGTHS)


def is_refused(family: str, case: Case) -> bool:
    return not is_for_encoders(case) if family in ENCODERS else family in SEQ2SEQ and case.method == "cpt"


def loss_of_untouched(family: str, injections: list, rows: list) -> torch.Tensor:
    reference = reference_of(family, torch.float64)
    if family in ENCODERS:
        return encoder_oracles.loss(reference, injections, rows)
    if family in SEQ2SEQ:
        start = backbone_of(family, torch.float64).info.start_ids
        return seq2seq_oracles.loss(reference, injections, rows, start)
    return oracles.loss(reference, injections, rows)


CELLS = list(itertools.product((*FAMILIES, *ENCODERS, *SEQ2SEQ), CASES))


@pytest.mark.parametrize(("family", "case"), CELLS, ids=str)
def test_every_cell_is_the_untouched_models_or_refused(family, case):
    backbone, rows = backbone_of(family, torch.float64), rows_of(family, case)
    prompt = make_prompt(case, backbone, length=2)
    model, cached = PromptedModel(backbone, prompt), PromptedModel(backbone, prompt, InputCache(budget_bytes=1 << 20))
    if is_refused(family, case):
        for ask in (model.check, model.loss, cached.loss):
            with pytest.raises(BackboneError) as caught:
                ask(rows)
            assert caught.value.fix
        return
    values = list(prompt.trainable().values())
    theirs = loss_of_untouched(family, [model.injections([row])[0] for row in rows], rows)
    gradients = torch.autograd.grad(theirs, values)
    for ours in (model.loss(rows), cached.loss(rows)):
        torch.testing.assert_close(ours, theirs, **EXACT)
        torch.testing.assert_close(torch.autograd.grad(ours, values), gradients, **EXACT)
    assert len(cached.cache) == (len(rows) if laws.is_kept(prompt, backbone) else 0)
