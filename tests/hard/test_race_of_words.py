"""The race of candidates, what it costs, and what luck gives."""

import random

import pytest

from overture.core.records.hard import Candidate
from overture.hard.race import balanced_order, luck_of, raced, row_scores


def racing(num_candidates: int, num_rows: int, noise: float, seed: int):
    """Candidates of known quality with noisy losses, and a counter of the pairs that were asked for."""
    chance = random.Random(seed)
    candidates = [Candidate(text=f"text {number}") for number in range(num_candidates)]
    quality = {candidate.key: chance.random() for candidate in candidates}
    losses = {key: [value + chance.gauss(0, noise) for _ in range(num_rows)] for key, value in quality.items()}
    asked: set[tuple[str, int]] = set()

    def score(some, numbers):
        asked.update((candidate.key, number) for candidate in some for number in numbers)
        return [[losses[candidate.key][number] for number in numbers] for candidate in some]

    return candidates, score, losses, asked


def test_without_noise_the_best_wins_and_the_worse_half_is_scored_no_more():
    candidates, score, losses, asked = racing(32, 64, 0.0, 0)
    standings = raced(candidates, score, range(64), first=4, keep=1)
    best = min(losses, key=lambda key: losses[key][0])
    assert standings[0].candidate.key == best
    assert standings[0].log_likelihood == pytest.approx(-losses[best][0])
    assert len(asked) == row_scores(32, 64, 4)
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


def test_losses_of_all_rows_so_far_decide():
    candidates, wanted, asked = racing(8, 16, 0.0, 2)[0], "text 5", []

    def losses(some, numbers):
        # The loss of a row changes with the others, as under values that are fitted to all of them.
        asked.append(len(numbers))
        return [[float(candidate.text != wanted) / len(numbers)] * len(numbers) for candidate in some]

    standings = raced(candidates, losses, range(16), first=4, keep=1)
    assert standings[0].candidate.text == wanted
    assert [(standing.rows, standing.log_likelihood) for standing in standings[-4:]] == [(4, -0.25)] * 4
    assert asked == [4, 8, 16]


def wrongness(rights):
    """Losses that choose by accuracy."""
    return [[1.0 - right for right in row] for row in rights]


def test_luck_of_independent_finalists_is_that_of_normal_values():
    # z of the largest of C: 1.42 and 1.77 for C = 8 and 16; the answers of each differ from row to row by chance alone.
    for count, z in ((8, 1.42), (16, 1.77)):
        chance = random.Random(count)
        rights = [[chance.random() < 0.5 for _ in range(400)] for _ in range(count)]
        luck = luck_of(4 * count, rights, wrongness(rights))
        assert (luck.candidates, luck.finalists, luck.most) == (4 * count, count, None)
        assert luck.points == pytest.approx(z * (0.25 / 400) ** 0.5, rel=0.1)
        losses = [[chance.random() for _ in row] for row in rights]
        assert abs(luck_of(4 * count, rights, losses).points) < 0.1 * luck.points
    same = [[True, False], [True, False]]
    assert luck_of(64, same, wrongness(same)).points == 0
    assert luck_of(1, same[:1], wrongness(same[:1])).points == 0


def test_finalists_that_answer_alike_add_no_luck():
    chance = random.Random(0)
    first, second = ([chance.random() < 0.5 for _ in range(200)] for _ in range(2))
    two, nine = [first, second], [first] * 4 + [second] * 4
    assert luck_of(9, two, wrongness(two)).points == pytest.approx(luck_of(9, nine, wrongness(nine)).points, rel=0.05)


def test_four_of_five_searches_among_equal_finalists_stay_below_the_stated_luck():
    below, num_searches = 0, 200
    chance = random.Random(0)
    for _ in range(num_searches):
        rights = [[chance.random() < 0.7 for _ in range(64)] for _ in range(8)]
        test = sum(chance.random() < 0.7 for _ in range(150)) / 150
        validation = max(sum(row) for row in rights) / 64
        below += validation - test <= luck_of(8, rights, wrongness(rights), 150).most
    assert 0.72 <= below / num_searches <= 0.9


def test_each_rung_of_a_balanced_order_holds_the_groups_in_their_shares():
    groups = ["rare"] * 8 + ["common"] * 56
    order = balanced_order(groups, random.Random(3))
    assert sorted(order) == list(range(64))
    assert [sum(groups[number] == "rare" for number in order[:end]) for end in (8, 16, 32, 64)] == [1, 2, 4, 8]
    assert order != balanced_order(groups, random.Random(4))


def test_a_balanced_race_tells_apart_candidates_that_lean_towards_different_labels():
    chance = random.Random(0)
    groups = ["a", "b"] * 32
    # Equal leanings in opposite directions, and one candidate that is better by little.
    of_group = {"left": (-1.0, 1.0), "right": (1.0, -1.0), "best": (-0.1, -0.1)}
    candidates = [Candidate(text=name) for name in of_group]
    losses = {name: [pair[group == "b"] + chance.gauss(0, 0.05) for group in groups] for name, pair in of_group.items()}

    def winner(order):
        def score(some, numbers):
            return [[losses[candidate.text][number] for number in numbers] for candidate in some]

        return raced(candidates, score, order, first=4, keep=1)[0].candidate.text

    assert all(winner(balanced_order(groups, random.Random(seed))) == "best" for seed in range(20))
    assert any(winner(random.Random(seed).sample(range(64), 64)) != "best" for seed in range(20))
