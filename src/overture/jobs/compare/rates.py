"""Which learning rate a comparison tries next, and which it takes."""

from collections.abc import Mapping, Sequence
from typing import Any

Tried = Mapping[str, Any]
"""A trial: ``lr``, and ``score`` and ``loss`` on validation rows, None where it diverged."""

FURTHER = 2
"""Rates beyond the list at most."""


def best_rate(rates: Sequence[float], tried: Sequence[Tried]) -> float:
    """The rate of the best score, then of the least loss; the first of the list where all diverged."""
    usable = [one for one in tried if one["score"] is not None]
    return float(max(usable, key=lambda one: (one["score"], -one["loss"]))["lr"]) if usable else rates[0]


def next_rate(rates: Sequence[float], tried: Sequence[Tried]) -> float | None:
    """The next to try: those of the list, then beyond it for as long as the best lies at an end of what was tried.

    A step beyond is as long as the last one before it. A list that ends below what a way needs would be unfair to it.
    """
    known = sorted(float(one["lr"]) for one in tried)
    left = [rate for rate in rates if rate not in known]
    if left:
        return left[0]
    if len(known) < 2 or len(known) >= len(rates) + FURTHER or all(one["score"] is None for one in tried):
        return None
    best = best_rate(rates, tried)
    if best not in (known[0], known[-1]):
        return None
    beside = known[1] if best == known[0] else known[-2]
    return float(f"{best * best / beside:.1g}")
