"""How likely words are behind their rows, over the whole vocabulary, and whether greedy decoding would write them.

Shape letters: B rows, S live tokens, D width, T places that predict, V vocabulary.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from overture.core.rows import Encoded, Likelihood, OneOf
from overture.engine.backbone import Backbone
from overture.engine.layout import Layout

_MAX_LOGITS = 1 << 25
"""Logits that exist at a time: 128 MiB of float32."""


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
    words_of = [row.target.candidates.words if isinstance(row.target, OneOf) else () for row in rows]
    places: dict[tuple[int, int], int] = {}
    # Of each predicted token: its row, its word, the number of its place, the token.
    predicted: list[tuple[int, int, int, int]] = []
    ends = layout.trunk_end.tolist()
    firsts = [(row, word, ends[row], ids[0]) for row, words in enumerate(words_of) for word, ids in enumerate(words)]
    later = [(row, word, index, token) for (row, index, token), word in zip(layout.targets, layout.words, strict=True)]
    for row, word, index, token in (*firsts, *later):
        predicted.append((row, word, places.setdefault((row, index), len(places)), token))
    values, is_likeliest = _of_tokens(backbone, hidden, list(places), predicted)
    sums = [[0.0] * len(words) for words in words_of]
    is_greedy = [[True] * len(words) for words in words_of]
    for (row, word, _, _), value, is_first in zip(predicted, values, is_likeliest, strict=True):
        sums[row][word] += value
        is_greedy[row][word] &= is_first
    return [[Likelihood(*pair) for pair in zip(*both, strict=True)] for both in zip(sums, is_greedy, strict=True)]


def _of_tokens(
    backbone: Backbone,
    hidden: Tensor,
    places: Sequence[tuple[int, int]],
    predicted: Sequence[tuple[int, int, int, int]],
) -> tuple[list[float], list[bool]]:
    """Log-likelihood of each predicted token, and whether it is the likeliest at its place."""
    row_and_index = torch.tensor(places, device=hidden.device)
    place, token = torch.tensor([token_facts[2:] for token_facts in predicted], device=hidden.device).T
    values = torch.empty(len(predicted), dtype=torch.float64, device=hidden.device)
    is_likeliest = torch.empty(len(predicted), dtype=torch.bool, device=hidden.device)
    step = max(1, _MAX_LOGITS // backbone.info.vocab_size)
    for start in range(0, len(places), step):
        part = row_and_index[start : start + step]
        logits = backbone.head(hidden[part[:, 0], part[:, 1]])
        is_here = (place >= start) & (place < start + step)
        row, column = place[is_here] - start, token[is_here]
        values[is_here] = (logits[row, column] - logits.logsumexp(-1)[row]).double()
        is_likeliest[is_here] = logits.argmax(-1)[row] == column
    return values.tolist(), is_likeliest.tolist()
