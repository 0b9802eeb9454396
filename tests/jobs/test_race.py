"""Races against what exact tests and simulations say."""

import random
from dataclasses import replace

import pytest
from scipy.stats import binomtest

from overture.evaluate.intervals import permutation_test
from overture.jobs.search.halving import first_rung, halving_tokens, is_rung
from overture.jobs.search.race import Lane, drop_worse, winner_of
from overture.report.search_charts import frontier

GOLD = ["a"] * 60


def answers(num_right: int, seed: int = 0) -> list[str]:
    right = set(random.Random(seed).sample(range(len(GOLD)), num_right))
    return ["a" if row in right else "b" for row in range(len(GOLD))]


@pytest.mark.parametrize(("only_a", "only_b"), [(9, 2), (5, 5), (12, 1), (3, 0)])
def test_one_seed_is_mcnemar(only_a: int, only_b: int) -> None:
    a = ["a"] * only_a + ["b"] * only_b + ["a"] * (60 - only_a - only_b)
    b = ["b"] * only_a + ["a"] * (60 - only_a)
    exact = binomtest(only_a, only_a + only_b, 0.5).pvalue
    assert permutation_test(GOLD, [a], [b], "accuracy", resamples=20_000) == pytest.approx(exact, abs=0.015)


def test_same_rows_of_many_seeds_are_no_more_evidence() -> None:
    a, b = answers(40), answers(30, 1)
    once = permutation_test(GOLD, [a], [b], "accuracy")
    assert permutation_test(GOLD, [a] * 5, [b] * 5, "accuracy") == once


def test_alike_settings_are_told_apart_as_rarely_as_promised() -> None:
    chance = random.Random(5)
    told = 0
    for number in range(150):
        hard = [chance.random() for _ in GOLD]
        seeds = [[["a" if chance.random() > h else "b" for h in hard] for _ in range(3)] for _ in range(2)]
        told += permutation_test(GOLD, *seeds, "accuracy", seed=number, resamples=200) < 0.05
    assert told <= 16  # 150 times 5% is 7.5; more than 16 would happen once in 300 tries


def test_macro_f1_of_swaps() -> None:
    gold = ["a", "b"] * 30
    assert permutation_test(gold, [gold], [["a"] * 60], "macro_f1") < 0.01
    assert permutation_test(gold, [gold], [gold], "macro_f1") == 1.0


def lane(key: str, cost: float, *scores: int) -> Lane:
    predicted = [answers(score, number) for number, score in enumerate(scores)]
    return Lane(key, (cost, 0.0), predicted, [score / 60 for score in scores])


def test_worse_is_dropped_and_cheaper_of_equals_wins() -> None:
    lanes = [lane("dear", 10, 50, 50), lane("cheap", 0, 50, 49), lane("bad", 0, 20, 22)]
    p_values = drop_worse(lanes, GOLD, "accuracy", 0.05)
    assert [one.dropped_after for one in lanes] == [None, None, 2]
    assert winner_of(lanes, p_values, 0.05, 0.01).key == "cheap"
    assert winner_of(lanes, p_values, 0.05, 0.0).key == "dear"


def test_few_rows_do_not_make_the_cheapest_an_equal() -> None:
    lanes = [lane("good", 10, 50), lane("free", 0, 45)]
    p_values = drop_worse(lanes, GOLD, "accuracy", 0.05)
    assert p_values["free"] > 0.05
    assert winner_of(lanes, p_values, 0.05, 0.01).key == "good"


def test_nobody_below_the_default_wins_however_cheap() -> None:
    default = replace(lane("default", 5, 50, 50), is_default=True)
    below, above = lane("below", 0, 50, 49), lane("above", 4, 50, 51)
    for lanes, key in (([default, below], "default"), ([default, below, above], "above")):
        p_values = drop_worse(lanes, GOLD, "accuracy", 0.05)
        assert winner_of(lanes, p_values, 0.05, 0.05).key == key


def test_the_default_is_never_dropped() -> None:
    lanes = [replace(lane("default", 0, 20, 22), is_default=True), lane("good", 10, 50, 50)]
    p_values = drop_worse(lanes, GOLD, "accuracy", 0.05)
    assert p_values["default"] < 0.05
    assert lanes[0].dropped_after is None
    assert winner_of(lanes, p_values, 0.05, 0.01).key == "good"


def test_rungs_and_their_cost() -> None:
    assert [epoch for epoch in range(1, 10) if is_rung(epoch, 1)] == [1, 2, 4, 8]
    assert [epoch for epoch in range(1, 25) if is_rung(epoch, 3)] == [3, 6, 12, 24]
    assert [epoch for epoch in range(1, 25) if is_rung(epoch, 5)] == [5, 10, 20]
    # 8 for one epoch, 4 for one, 2 for two, 1 for one.
    assert halving_tokens([10.0] * 8, 5, 1) == 10 * (8 + 4 + 2 * 2 + 1)
    # One more than the best goes on after each rung, until two are left.
    assert halving_tokens([10.0] * 8, 5, 1, 1) == 10 * (8 + 5 + 4 * 2 + 3)
    assert halving_tokens([10.0] * 2, 5, 1, 1) == 10 * 2 * 5
    # 8 for three epochs, 4 for two.
    assert halving_tokens([10.0] * 8, 5, 3) == 10 * (8 * 3 + 4 * 2)


def test_the_first_rung_is_counted_in_steps() -> None:
    assert first_rung(16, 30) == 2
    # Three steps an epoch: a score after the first says how high the rate is.
    assert first_rung(3, 30) == 10
    assert first_rung(625, 30) == first_rung(3, 0) == 1


def test_frontier() -> None:
    assert frontier([(0, 0.3), (10, 0.5), (10, 0.4), (20, 0.5), (30, 0.6)]) == [True, True, False, False, True]
