"""Racing: settings trained with the same fresh seeds, told apart by paired tests, of equals the cheaper.

The test is `evaluate.intervals.permutation_test`: rows are swapped between two settings, all seeds of a row together.

Source: dropping settings between seeds follows racing (Maron and Moore 1994; Birattari et al. 2002,
F-race). No correction for the number of comparisons: dropping too late costs seconds, and the last choice is by score.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean

from overture.evaluate.intervals import permutation_test
from overture.evaluate.metrics import Answers

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
        p_values[lane.key] = permutation_test(gold, leader.predicted, lane.predicted, metric)
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
