"""Likelihoods of words behind their rows, and of a text's tokens, over the whole vocabulary.

Shape letters: B rows, S live tokens, D width, T places that predict, V vocabulary.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from overture.core.rows import Encoded, Likelihood, OneOf, ScoredToken
from overture.engine.backbone import Backbone
from overture.engine.layout import Layout
from overture.engine.lines import log_shares_of

_MAX_LOGITS = 1 << 25
"""Logits that exist at a time: 128 MiB of float32."""


def word_likelihoods(
    backbone: Backbone, rows: Sequence[Encoded], hidden: Tensor, layout: Layout
) -> list[list[Likelihood]]:
    """Likelihoods of each row's candidate words, in order.

    Args:
        backbone: its head.
        rows: rows with candidates; they need not be the same.
        hidden: of the live tokens, [B, S, D].
        layout: as `label_layout` made it.
    """
    words_of = [row.target.candidates.words if isinstance(row.target, OneOf) else () for row in rows]
    places: dict[tuple[int, int], int] = {}
    # Of each predicted token: its row, its word, the number of its place, the token.
    token_facts: list[tuple[int, int, int, int]] = []
    ends = layout.trunk_end.tolist()
    first_tokens = [
        (row, word, ends[row], ids[0]) for row, words in enumerate(words_of) for word, ids in enumerate(words)
    ]
    later_tokens = [
        (row, word, index, token) for (row, index, token), word in zip(layout.targets, layout.words, strict=True)
    ]
    for row, word, index, token in (*first_tokens, *later_tokens):
        token_facts.append((row, word, places.setdefault((row, index), len(places)), token))
    values, is_likeliest = _token_likelihoods(backbone, hidden, list(places), token_facts)
    sums = [[0.0] * len(words) for words in words_of]
    is_greedy = [[True] * len(words) for words in words_of]
    for (row, word, _, _), value, is_first in zip(token_facts, values, is_likeliest, strict=True):
        sums[row][word] += value
        is_greedy[row][word] &= is_first
    return [
        [Likelihood(*pair) for pair in zip(*row_parts, strict=True)] for row_parts in zip(sums, is_greedy, strict=True)
    ]


def token_shares(backbone: Backbone, hidden: Tensor, layout: Layout, num_top: int) -> list[list[ScoredToken]]:
    """Log-likelihood of each token of a row's text given those before it, and the likeliest token after the text.

    Args:
        backbone: its head.
        hidden: of the live tokens, all of the text among them, [B, S, D].
        layout: where they stand.
        num_top: how many of the likeliest tokens are given at each place.
    """
    step, rows = max(1, _MAX_LOGITS // backbone.info.vocab_size), []
    for row, line in enumerate(layout.lines):
        places = [index for index, number in enumerate(line.trunk_index) if number >= 0]
        ids = [element for index in places if isinstance(element := line.ids[index], int)]
        scored_tokens = [ScoredToken(ids[0], None)]
        for start in range(0, len(places), step):
            shares = log_shares_of(backbone.head(hidden[row, places[start : start + step]]))
            next_tokens = [*ids[start + 1 : start + step + 1], int(shares[-1].argmax())][: len(shares)]
            log_likelihoods = shares.gather(1, torch.tensor(next_tokens, device=shares.device)[:, None])[:, 0].tolist()
            values, tokens = (part.tolist() for part in shares.topk(num_top))
            tops = (tuple(zip(*pair, strict=True)) for pair in zip(tokens, values, strict=True))
            scored_tokens += [ScoredToken(*facts) for facts in zip(next_tokens, log_likelihoods, tops, strict=True)]
        rows.append(scored_tokens)
    return rows


def _token_likelihoods(
    backbone: Backbone,
    hidden: Tensor,
    places: Sequence[tuple[int, int]],
    predictions: Sequence[tuple[int, int, int, int]],
) -> tuple[list[float], list[bool]]:
    """Log-likelihood of each predicted token, and whether it is the likeliest at its place."""
    row_and_index = torch.tensor(places, device=hidden.device)
    place, token = torch.tensor([token_facts[2:] for token_facts in predictions], device=hidden.device).T
    values = torch.empty(len(predictions), dtype=torch.float64, device=hidden.device)
    is_likeliest = torch.empty(len(predictions), dtype=torch.bool, device=hidden.device)
    step = max(1, _MAX_LOGITS // backbone.info.vocab_size)
    for start in range(0, len(places), step):
        part = row_and_index[start : start + step]
        logits = backbone.head(hidden[part[:, 0], part[:, 1]])
        is_here = (place >= start) & (place < start + step)
        row, column = place[is_here] - start, token[is_here]
        values[is_here] = (logits[row, column] - logits.logsumexp(-1)[row]).double()
        is_likeliest[is_here] = logits.argmax(-1)[row] == column
    return values.tolist(), is_likeliest.tolist()
