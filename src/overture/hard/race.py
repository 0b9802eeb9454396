"""A race between candidates on the likelihood of right answers: after each rung the better half goes on.

Rungs double their rows and keep the earlier ones, so C candidates cost C n0 (1 + log2(N / n0) / 2) pairs of a candidate
and a row instead of C N. Candidates are dropped by the mean log-likelihood alone, which is less noisy than accuracy;
nothing is claimed from a race.

Source: Jamieson and Talwalkar 2016, "Non-stochastic best arm identification" (successive halving).
"""

import math
from collections.abc import Callable, Collection, Sequence
from itertools import combinations
from statistics import NormalDist, fmean

from overture.core.records.hard import Candidate, Luck, Standing

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
        losses: scores them.
        numbers: rows in the order in which they are used.
        first: rows of the first rung.
        keep: candidates that stay to the last rung at least.
        always: keys of candidates that are never dropped.
    """
    running, done = list(candidates), 0
    of_candidate: dict[str, list[float]] = {candidate.key: [] for candidate in candidates}

    def mean(candidate: Candidate) -> float:
        return -fmean(of_candidate[candidate.key])

    end = min(first, len(numbers))
    while True:
        for candidate, values in zip(running, losses(running, numbers[done:end]), strict=True):
            of_candidate[candidate.key] += values
        done = end
        if done == len(numbers):
            break
        num_kept = max(keep, math.ceil(len(running) / 2))
        ranked = sorted(running, key=mean, reverse=True)
        running = ranked[:num_kept] + [candidate for candidate in ranked[num_kept:] if candidate.key in always]
        # When no candidate can be dropped any more, all remaining rows are scored at once.
        end = len(numbers) if len(running) <= keep + len(always) else min(2 * done, len(numbers))
    standings = [
        Standing(candidate=candidate, log_likelihood=mean(candidate), rows=len(of_candidate[candidate.key]))
        for candidate in candidates
    ]
    return sorted(standings, key=lambda standing: (-standing.rows, -standing.log_likelihood))


def row_scores(num_candidates: int, num_rows: int, first: int) -> int:
    """Pairs of a candidate and a row that a race scores, when half of the candidates go on."""
    total, done, running = 0, 0, num_candidates
    end = min(first, num_rows)
    while True:
        total += running * (end - done)
        done = end
        if done == num_rows:
            return total
        running, end = math.ceil(running / 2), min(2 * done, num_rows)


def luck_of(num_candidates: int, rights: Sequence[Sequence[bool]]) -> Luck:
    """The expected gain of the best of several equal candidates by luck: z_C sqrt(d / 2n).

    Args:
        num_candidates: C.
        rights: for each finalist which of the n rows it answers right; d is the mean share of rows on which two of
            them differ.
    """
    n = len(rights[0])
    pairs = list(combinations(rights, 2))
    disagreement = fmean(sum(a != b for a, b in zip(*pair, strict=True)) / n for pair in pairs) if pairs else 0.0
    # The mean of the largest of C normal values, by Blom's approximation.
    z = NormalDist().inv_cdf((num_candidates - 0.375) / (num_candidates + 0.25)) if num_candidates > 1 else 0.0
    points = z * math.sqrt(disagreement / (2 * n))
    return Luck(candidates=num_candidates, rows=n, disagreement=disagreement, points=points)
