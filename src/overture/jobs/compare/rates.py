"""Which learning rate a comparison tries next, and which it takes."""

from collections.abc import Sequence

from overture.core.records.cells import Trial

FURTHER = 2
"""Largest number of rates beyond the list."""


def best_rate(rates: Sequence[float], trials: Sequence[Trial]) -> float:
    """The rate of the best score, then of the least loss; the first of the list where all diverged."""
    scored = [
        (trial.score, -trial.loss, trial.lr) for trial in trials if trial.score is not None and trial.loss is not None
    ]
    return max(scored, key=lambda entry: entry[:2])[2] if scored else rates[0]


def next_rate(rates: Sequence[float], trials: Sequence[Trial]) -> float | None:
    """The rate to try next; None where enough are tried.

    First those of the list, then up to two beyond it for as long as the best lies at an end of those tried, so that no
    way is compared at a rate that its list ended before. A step beyond is as long as the last one before it.
    """
    known = sorted(trial.lr for trial in trials)
    left = [rate for rate in rates if rate not in known]
    if left:
        return left[0]
    if len(known) < 2 or len(known) >= len(rates) + FURTHER or all(trial.score is None for trial in trials):
        return None
    best = best_rate(rates, trials)
    if best not in (known[0], known[-1]):
        return None
    beside = known[1] if best == known[0] else known[-2]
    return float(f"{best * best / beside:.1g}")
