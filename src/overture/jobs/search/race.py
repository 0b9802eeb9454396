"""Racing: settings trained with the same fresh seeds, told apart by paired tests, of equals the cheaper.

For two settings A and B with predictions of the same S seeds on the same rows, the statistic is the mean over seeds of
the metric's difference. Under the null hypothesis A and B are alike, so a row's predictions may be swapped between
them; a row's predictions of all seeds are swapped together, because they share the row's difficulty and are not
independent. The p-value is the share of random swaps that part A and B at least as far: a permutation test paired by
row. With one seed and accuracy it is McNemar's test by simulation.

Source: sign-flip permutation tests (Fisher 1935; Good, "Permutation, Parametric and Bootstrap Tests of Hypotheses",
2005, section 3.2); dropping settings between seeds follows racing (Maron and Moore 1994; Birattari et al. 2002,
F-race). No correction for the number of comparisons: dropping too late costs seconds, and the last choice is by score.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from overture.evaluate.metrics import Answers, metric_named

_CHUNK = 256
_ROUNDING = 1e-9


@dataclass(slots=True)
class Lane:
    """One setting in the race.

    Args:
        key: names it.
        cost: what it costs, first things first: live tokens of a request, tokens of its training.
        predicted: each seed's answers on the validation rows.
        scores: each seed's score.
        out_after: how many seeds it had when it was dropped; None while it runs.
        is_default: what the others are held against: it is never dropped, and nobody below it wins.
    """

    key: str
    cost: tuple[float, ...]
    predicted: list[Answers] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    out_after: int | None = None
    is_default: bool = False

    @property
    def mean(self) -> float:
        """Mean score over its seeds."""
        return fmean(self.scores)


def paired_over_seeds(
    gold: Answers, a: Sequence[Answers], b: Sequence[Answers], metric: str, seed: int = 0, resamples: int = 2000
) -> float:
    """Probability of such a difference if the two were alike.

    Args:
        gold: the right answers.
        a: the first's answers, one list a seed.
        b: the second's, of the same seeds in the same order.
        metric: a name in `METRICS`.
        seed: of the random swaps.
        resamples: how often rows are swapped.
    """
    import numpy as np

    measure, n = metric_named(metric), len(gold)
    generator = np.random.default_rng(seed)
    of_seeds = [measure.prepared((*gold, *gold), (*one, *other)) for one, other in zip(a, b, strict=True)]

    def apart(swapped_RB: Any) -> Any:
        kept_RB = 1.0 - swapped_RB
        first, second = np.concatenate([kept_RB, swapped_RB], 1), np.concatenate([swapped_RB, kept_RB], 1)
        return np.abs(np.mean([weighted(first) - weighted(second) for weighted in of_seeds], axis=0))

    observed = apart(np.zeros((1, n)))[0]
    num_as_far = 0
    for done in range(0, resamples, _CHUNK):
        swaps = generator.integers(0, 2, size=(min(_CHUNK, resamples - done), n)).astype(np.float64)
        # Equal but for rounding counts as equally far.
        num_as_far += int((apart(swaps) >= observed - 1e-12).sum())
    return (num_as_far + 1) / (resamples + 1)


def drop_worse(lanes: Sequence[Lane], gold: Answers, metric: str, alpha: float) -> dict[str, float]:
    """Drop what is worse than the leader by the paired test; each running lane's p-value beside the leader.

    The default stays, so that all have its seeds to be held against.
    """
    running = [lane for lane in lanes if lane.out_after is None]
    leader = max(running, key=lambda lane: lane.mean)
    p_values = {}
    for lane in running:
        if lane is leader:
            continue
        p_values[lane.key] = paired_over_seeds(gold, leader.predicted, lane.predicted, metric)
        if p_values[lane.key] < alpha and lane.mean < leader.mean and not lane.is_default:
            lane.out_after = len(lane.scores)
    return p_values


def winner_of(lanes: Sequence[Lane], p_values: Mapping[str, float], alpha: float, tolerance: float) -> Lane:
    """The leader, or the cheapest of those that are its equal: not told apart by the test, and within the tolerance.

    The tolerance keeps few rows, on which no test tells anything, from making everything equal to the cheapest. Who
    scored below the default is nobody's equal, however cheap.
    """
    running = [lane for lane in lanes if lane.out_after is None]
    leader = max(running, key=lambda lane: lane.mean)
    floor = max((lane.mean for lane in running if lane.is_default), default=-math.inf)
    equals = [
        lane
        for lane in running
        if lane is leader
        # Rounding must not decide where the difference is the tolerance itself.
        or (
            p_values.get(lane.key, 1.0) >= alpha
            and leader.mean - lane.mean <= tolerance + _ROUNDING
            and lane.mean >= floor - _ROUNDING
        )
    ]
    return min(equals, key=lambda lane: (lane.cost, -lane.mean))
