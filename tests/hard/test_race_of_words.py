"""The race of candidates, what it costs, and what luck gives."""

import random

import pytest

from overture.core.records.hard import Candidate
from overture.hard.race import luck_of, raced, row_scores


def racing(num_candidates: int, num_rows: int, noise: float, seed: int):
    """Candidates of known quality with noisy losses, and a counter of the pairs that were asked for."""
    chance = random.Random(seed)
    candidates = [Candidate(text=f"text {number}") for number in range(num_candidates)]
    quality = {candidate.key: chance.random() for candidate in candidates}
    losses = {key: [value + chance.gauss(0, noise) for _ in range(num_rows)] for key, value in quality.items()}
    asked: list[tuple[str, int]] = []

    def score(some, numbers):
        asked.extend((candidate.key, number) for candidate in some for number in numbers)
        return [[losses[candidate.key][number] for number in numbers] for candidate in some]

    return candidates, score, losses, asked


def test_without_noise_the_best_wins_and_each_pair_is_scored_once():
    candidates, score, losses, asked = racing(32, 64, 0.0, 0)
    standings = raced(candidates, score, range(64), first=4, keep=1)
    best = min(losses, key=lambda key: losses[key][0])
    assert standings[0].candidate.key == best
    assert standings[0].log_likelihood == pytest.approx(-losses[best][0])
    assert len(asked) == len(set(asked)) == row_scores(32, 64, 4)
    assert len(asked) <= 32 * 64 / 5
    assert {standing.candidate.key for standing in standings} == set(losses)


def test_the_winner_is_near_the_exhaustive_one_at_a_fifth_of_the_pairs():
    near = 0
    for seed in range(20):
        candidates, score, losses, asked = racing(64, 128, 0.3, seed)
        standings = raced(candidates, score, range(128), first=8, keep=2)
        means = {key: sum(values) / len(values) for key, values in losses.items()}
        near += means[standings[0].candidate.key] - min(means.values()) < 0.02
        assert len(asked) <= 64 * 128 / 3
    assert near >= 18


def test_controls_are_never_dropped():
    candidates, score, losses, _ = racing(16, 32, 0.0, 1)
    worst = max(losses, key=lambda key: losses[key][0])
    standings = raced(candidates, score, range(32), first=2, keep=1, always={worst})
    assert next(standing for standing in standings if standing.candidate.key == worst).rows == 32


def test_luck_grows_with_candidates_and_falls_with_rows():
    # z of the largest of C: 1.77, 2.34, 2.83, 3.24 for C = 16, 64, 256, 1000.
    for count, z in ((16, 1.77), (64, 2.34), (256, 2.83), (1000, 3.24)):
        rights = [[True] * 10 + [False] * 90, [False] * 10 + [False] * 90]
        luck = luck_of(count, rights)
        assert luck.disagreement == pytest.approx(0.1)
        assert luck.points == pytest.approx(z * (0.1 / 200) ** 0.5, rel=0.02)
    assert luck_of(64, [[True, False], [True, False]]).points == 0
    assert luck_of(1, [[True, False], [False, False]]).points == 0
