"""A race between candidates on the likelihood of right answers: after each rung the better half continues.

Rungs double their rows and keep the earlier ones, so C candidates cost C n0 (1 + log2(N / n0) / 2) pairs of a candidate
and a row instead of C N. Candidates are dropped by the mean log-likelihood alone, which is less noisy than accuracy;
nothing is claimed from a race.

Source: Jamieson and Talwalkar 2016, "Non-stochastic best arm identification" (successive halving).
"""

import math
from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from itertools import combinations
from random import Random
from statistics import fmean

import numpy as np

from overture.core.records.hard import Candidate, Luck, Standing

_RESAMPLES = 2000
_WITHIN = 0.8
Losses = Callable[[Sequence[Candidate], Sequence[int]], list[list[float]]]
"""The losses of candidates on rows of the given numbers, a list for each candidate."""


def raced(
    candidates: Sequence[Candidate],
    losses: Losses,
    numbers: Sequence[int],
    first: int,
    keep: int,
    always: Collection[str] = (),
) -> list[Standing]:
    """Standings of all candidates, those that were scored on most rows first, the better of equals first.

    Args:
        candidates: each once.
        losses: scores them; it is called with all rows so far, since losses may depend on one another, and caches its
            scores.
        numbers: rows in the order in which they are used.
        first: rows of the first rung.
        keep: candidates that stay to the last rung at least.
        always: keys of candidates that are never dropped.
    """
    running, end = list(candidates), min(first, len(numbers))
    standings: dict[str, Standing] = {}
    while True:
        for candidate, values in zip(running, losses(running, numbers[:end]), strict=True):
            standings[candidate.key] = Standing(candidate=candidate, log_likelihood=-fmean(values), rows=end)
        if end == len(numbers):
            break
        num_kept = max(keep, math.ceil(len(running) / 2))
        ranked = sorted(running, key=lambda candidate: standings[candidate.key].log_likelihood, reverse=True)
        running = ranked[:num_kept] + [candidate for candidate in ranked[num_kept:] if candidate.key in always]
        # When no candidate can be dropped any more, all remaining rows are scored at once.
        end = len(numbers) if len(running) <= keep + len(always) else min(2 * end, len(numbers))
    return sorted(standings.values(), key=lambda standing: (-standing.rows, -standing.log_likelihood))


def row_scores(num_candidates: int, num_rows: int, first: int) -> int:
    """Pairs of a candidate and a row that a race scores, if half of the candidates continue after each rung."""
    total, num_scored, running = 0, 0, num_candidates
    end = min(first, num_rows)
    while True:
        total += running * (end - num_scored)
        num_scored = end
        if num_scored == num_rows:
            return total
        running, end = math.ceil(running / 2), min(2 * num_scored, num_rows)


def balanced_order(groups: Sequence[str], random: Random) -> list[int]:
    """Numbers of rows in random order, the rows of each group spread evenly over it.

    Candidates differ most in how much they lean towards a label, so rungs whose labels have unequal shares would
    compare leanings: with the shares of all rows in each rung, differences between candidates vary half as much.

    Args:
        groups: the group of each row, such as its label.
        random: draws the order within groups and between them.
    """
    members: dict[str, list[int]] = defaultdict(list)
    for number in random.sample(range(len(groups)), len(groups)):
        members[groups[number]].append(number)
    places = [
        ((place + 0.5) / len(numbers), random.random(), number)
        for numbers in members.values()
        for place, number in enumerate(numbers)
    ]
    return [number for *_, number in sorted(places)]


def luck_of(
    num_candidates: int, rights: Sequence[Sequence[bool]], losses: Sequence[Sequence[float]], num_test: int = 0
) -> Luck:
    """The accuracy that the winner among equally good finalists would show by chance, by a bootstrap over rows.

    Rows are resampled together with all finalists' answers to them, and each finalist is centred at its own mean.
    Finalists that answer alike add no luck, nor do losses that are unrelated to right answers.

    Args:
        num_candidates: number of all candidates in the race.
        rights: for each finalist whether it answers each validation row right.
        losses: its losses on the same rows, by which the winner is chosen.
        num_test: rows of the test; 0 for none.
    """
    rights_FN, losses_FN = np.array(rights, dtype=float), np.array(losses)
    n = rights_FN.shape[1]
    pairs = list(combinations(rights_FN, 2))
    disagreement = (
        fmean(float(np.mean(one_finalist != other_finalist)) for one_finalist, other_finalist in pairs)
        if pairs
        else 0.0
    )
    random = np.random.default_rng(0)
    weights_RN = random.multinomial(n, [1 / n] * n, size=_RESAMPLES) / n
    excess_RF = weights_RN @ rights_FN.T - rights_FN.mean(1)
    chosen_R = (weights_RN @ losses_FN.T - losses_FN.mean(1)).argmin(1)
    chosen_excess_R = excess_RF[np.arange(_RESAMPLES), chosen_R]
    # The finalists' mean excess is noise of resampling, which this subtracts.
    points = float(np.mean(chosen_excess_R - excess_RF.mean(1)))
    most_points = None
    if num_test:
        share = float(rights_FN.mean())
        test_noise_R = random.normal(0, math.sqrt(share * (1 - share) / num_test), _RESAMPLES)
        most_points = float(np.quantile(chosen_excess_R + test_noise_R, _WITHIN))
    return Luck(
        candidates=num_candidates,
        finalists=len(rights),
        rows=n,
        disagreement=disagreement,
        points=points,
        most=most_points,
    )
