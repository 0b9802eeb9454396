"""How likely words are behind their rows, over the whole vocabulary, and whether greedy decoding would write them.

Shape letters: B rows, S live tokens, D width, T places that predict, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from overture.core.rows import Encoded
from overture.engine.backbone import Backbone
from overture.engine.layout import Layout

_MAX_LOGITS = 1 << 25
"""Logits that exist at a time: 128 MiB of float32."""


@dataclass(frozen=True, slots=True)
class Likelihood:
    """Of one word behind one row.

    Args:
        value: log-likelihood, summed over the word's tokens.
        is_greedy: each token is the likeliest at its place.
    """

    value: float
    is_greedy: bool


def word_likelihoods(
    backbone: Backbone, rows: Sequence[Encoded], hidden: Tensor, layout: Layout
) -> list[list[Likelihood]]:
    """Each row's own candidate words, in order.

    Args:
        backbone: its head.
        rows: rows with candidates; they need not be the same.
        hidden: of the live tokens, [B, S, D].
        layout: as `label_layout` made it.
    """
    places: dict[tuple[int, int], int] = {}
    asked: list[tuple[int, int, int, int]] = []

    def ask(row: int, word: int, index: int, token: int) -> None:
        asked.append((row, word, places.setdefault((row, index), len(places)), token))

    ends = layout.trunk_end.tolist()
    for number, row in enumerate(rows):
        assert row.candidates is not None
        for word, tokens in enumerate(row.candidates.words):
            ask(number, word, ends[number], tokens[0])
    for (number, index, token), word in zip(layout.targets, layout.words, strict=True):
        ask(number, word, index, token)
    values, is_first = _predicted(backbone, hidden, list(places), asked)
    sums = [[0.0] * len(row.candidates.words) for row in rows if row.candidates]
    greedy = [[True] * len(own) for own in sums]
    for (number, word, _, _), value, first in zip(asked, values, is_first, strict=True):
        sums[number][word] += value
        greedy[number][word] &= first
    return [[Likelihood(*pair) for pair in zip(*each, strict=True)] for each in zip(sums, greedy, strict=True)]


def _predicted(
    backbone: Backbone, hidden: Tensor, places: Sequence[tuple[int, int]], asked: Sequence[tuple[int, int, int, int]]
) -> tuple[list[float], list[bool]]:
    """Log-likelihood of each token that is asked for, and whether it is the likeliest at its place."""
    at = torch.tensor(places, device=hidden.device)
    place, token = torch.tensor([found[2:] for found in asked], device=hidden.device).T
    values = torch.empty(len(asked), dtype=torch.float64, device=hidden.device)
    is_first = torch.empty(len(asked), dtype=torch.bool, device=hidden.device)
    step = max(1, _MAX_LOGITS // backbone.info.vocab_size)
    for start in range(0, len(places), step):
        part = at[start : start + step]
        logits = backbone.head(hidden[part[:, 0], part[:, 1]])
        own = (place >= start) & (place < start + step)
        row, column = place[own] - start, token[own]
        values[own] = (logits[row, column] - logits.logsumexp(-1)[row]).double()
        is_first[own] = logits.argmax(-1)[row] == column
    return values.tolist(), is_first.tolist()
