"""Law 3 whole: prompts of every method, place and length, and rows without one, in one batch equal one by one."""

from dataclasses import replace
from itertools import product

import pytest
import torch

from fakes import CASES, FAMILIES, WHOLE, backbone_of, make_prompt, make_rows
from overture.core.rows import Encoded
from overture.engine.backbone import Backbone
from overture.engine.cache import InputCache
from overture.engine.prompted import OnePrompt, PromptedModel, RowPrompts

WAYS = list(product(["one token", "several tokens"], [False, True]))
LENGTHS = tuple((5, 19, 0, 2, 11, 3, 30, 7)[number % 8] for number in range(len(CASES) + 2))


def prompts_for(backbone: Backbone) -> list[OnePrompt | None]:
    """One of each case, each of its own length, then none, then the first again."""
    found = [make_prompt(case, backbone, length=2 + number) for number, case in enumerate(CASES)]
    return [*found, None, found[0]]


def numbered(kind: str) -> list[Encoded]:
    return [replace(row, row=number) for number, row in enumerate(make_rows(kind, LENGTHS))]


@pytest.mark.parametrize(
    ("family", "kind", "is_cached"),
    [*(("llama", *way) for way in WAYS), *((family, *WAYS[n % 4]) for n, family in enumerate(FAMILIES[1:]))],
)
def test_scores_in_a_mixed_batch_equal_one_by_one(family, kind, is_cached):
    backbone = backbone_of(family, torch.float64)
    prompts = prompts_for(backbone)
    rows = numbered(kind)
    cache = InputCache(1 << 24) if is_cached else None
    together = PromptedModel(backbone, RowPrompts(prompts), cache).label_scores(rows)
    alone = [PromptedModel(backbone, found).label_scores([row]) for row, found in zip(rows, prompts, strict=True)]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-8, atol=1e-8)
    assert len({tuple(row.tolist()) for row in together}) == len(rows)


@pytest.mark.parametrize("family", WHOLE)
def test_answers_in_a_mixed_batch_equal_one_by_one(family):
    backbone = backbone_of(family, torch.float64)
    prompts = prompts_for(backbone)
    rows = numbered("free text")
    together = PromptedModel(backbone, RowPrompts(prompts)).generate(rows, 6, [])
    alone = [PromptedModel(backbone, found).generate([row], 6, [])[0] for row, found in zip(rows, prompts, strict=True)]
    assert together == alone
