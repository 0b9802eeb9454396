"""Occlusion of a row's text: the log-likelihood that an answer loses without some of the words.

Shape letters: B rows, U pieces of a text.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from statistics import fmean

from torch import Tensor

from overture.core.records.explain import Check
from overture.explain.parts import mean_of

_SHARES = (0.1, 0.2, 0.5)
_ORDERS = 2
_FEWEST_PIECES = 5


def pieces_of(text: str, most: int) -> list[str]:
    """The words of a text with the space behind them; neighbours stay together where there are too many."""
    words = re.findall(r"\s*\S+\s*", text) or [text]
    size = -(-len(words) // most)
    return ["".join(words[start : start + size]) for start in range(0, len(words), size)]


def without(pieces: Sequence[str], left_out: Sequence[int]) -> str:
    """The text without some of its pieces; a full stop if none remains, since a row's text may not be empty."""
    remaining = [piece for number, piece in enumerate(pieces) if number not in set(left_out)]
    return "".join(remaining).strip() or "."


@dataclass(frozen=True, slots=True)
class Occluded:
    """A row whose pieces were left out one by one under the prompt.

    Args:
        num_pieces: of its text, image or sound.
        loss: negative log-likelihood of the answer under the prompt.
        drops: log-likelihood that the answer loses without each piece.
        losses_of: takes sets of pieces; negative log-likelihoods of the answer without each set.
    """

    num_pieces: int
    loss: float
    drops: list[float]
    losses_of: Callable[[Sequence[Sequence[int]]], Tensor]


def words_check(rows: Sequence[Occluded], seed: int, pieces: str = "words") -> Check:
    """Check that the most important pieces matter more to the answer under the prompt than random ones.

    Comprehensiveness is the log-likelihood lost without the first 10, 20 and 50% of the pieces, sufficiency the loss
    with them alone (DeYoung et al. 2020, "ERASER"). Raw values do not compare between models or prompts (Edin et al.
    2024, "Normalized AOPC"), so both stand beside those of random orders.

    Args:
        rows: occluded rows.
        seed: of the random orders.
        pieces: the word for the pieces, which names the check too.
    """
    random, gains, row_values = Random(seed), [], []
    for row in rows:
        length = row.num_pieces
        if length < _FEWEST_PIECES:
            continue
        ranked = sorted(range(length), key=lambda number: -row.drops[number])
        orders = [ranked, *(random.sample(range(length), length) for _ in range(_ORDERS))]
        depths = [max(1, round(length * share)) for share in _SHARES]
        removed = [[order[:depth], order[depth:]] for order in orders for depth in depths]
        losses = row.losses_of([numbers for pair in removed for numbers in pair])
        # [orders, depths, (without the first, with them alone)].
        losses_ODS = (losses - row.loss).view(len(orders), len(depths), 2).mean(1)
        gains.append(float(losses_ODS[0, 0] - losses_ODS[1:, 0].mean()))
        row_values.append((*losses_ODS[0].tolist(), *losses_ODS[1:].mean(0).tolist()))
    if len(gains) < 2:
        return Check(name=pieces, passed=None, text=f"too few rows of at least {_FEWEST_PIECES} {pieces}")
    gain = mean_of(gains)
    without_first, first_alone, without_random, random_alone = [
        fmean(column) for column in zip(*row_values, strict=True)
    ]
    text = (
        f"leaving out the {pieces} that are named first costs the answer {without_first:.3f} nats, random {pieces} "
        f"{without_random:.3f}; the difference is {gain.value:.3f} ({gain.low:.3f} to {gain.high:.3f}) on {gain.n} "
        f"rows; wanted: above 0. With the named {pieces} alone it loses {first_alone:.3f}, with random ones "
        f"{random_alone:.3f}"
    )
    return Check(name=pieces, passed=gain.low > 0, value=gain.value, text=text)
