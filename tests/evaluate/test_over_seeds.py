"""Intervals and tests over seeds and rows: against simulated truth, known values and the limits of few seeds."""

import numpy as np
import pytest
from scipy.stats import false_discovery_control, ttest_1samp

from overture.core.errors import DataError
from overture.evaluate.intervals import bootstrap, paired_test
from overture.evaluate.over_seeds import difference_over_seeds, holm, interval_over_seeds, resampled


def test_holm_by_hand() -> None:
    """As R's p.adjust(c(0.01, 0.04, 0.03, 0.005), "holm") has it."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9, 0.5]) == [1.0, 1.0, 1.0]
    assert holm([0.02]) == [0.02]
    assert holm([]) == []


def test_holm_is_never_below_a_weaker_correction() -> None:
    drawn = np.random.default_rng(0).random(20) ** 3
    assert np.all(np.array(holm(drawn.tolist())) >= false_discovery_control(drawn) - 1e-12)


def crossed(generator: np.random.Generator, effect: float, seeds: int = 4, rows: int = 200) -> tuple:
    """Right and wrong answers of two ways whose seeds, rows and both together differ."""
    row = generator.normal(0, 1, rows)
    seed = generator.normal(0, 0.3, (2, seeds, 1))
    noise = generator.logistic(0, 1, (2, seeds, rows))
    right = row + seed + noise + np.array([effect, 0.0])[:, None, None] > -0.5
    gold = ["x"] * rows
    return gold, *[[["x" if hit else "y" for hit in own] for own in way] for way in right]


def test_alike_ways_are_seldom_told_apart() -> None:
    generator, alarms, covered = np.random.default_rng(1), 0, 0
    for _ in range(200):
        gold, a, b = crossed(generator, 0.0)
        found = difference_over_seeds(
            resampled("accuracy", gold, a, resamples=300), resampled("accuracy", gold, b, resamples=300)
        )
        alarms += found.p_value < 0.05
        covered += found.difference.low <= 0 <= found.difference.high
    assert alarms <= 18
    assert covered >= 182
    assert covered + alarms == 200


def test_unlike_ways_are_told_apart() -> None:
    generator, found = np.random.default_rng(2), 0
    for _ in range(20):
        gold, a, b = crossed(generator, 2.0)
        pair = difference_over_seeds(resampled("accuracy", gold, a), resampled("accuracy", gold, b))
        found += pair.p_value < 0.05 and pair.difference.low > 0
    assert found >= 18


def test_with_endless_rows_it_is_the_t_test_over_seeds() -> None:
    """Rows that never vary leave the spread of the seeds alone."""
    gold = ["x"] * 40_000
    shares = [0.5, 0.6, 0.55, 0.7]
    a = [["x"] * round(40_000 * share) + ["y"] * round(40_000 * (1 - share)) for share in shares]
    b = [["x"] * 20_000 + ["y"] * 20_000]
    pair = difference_over_seeds(
        resampled("accuracy", gold, a, resamples=100), resampled("accuracy", gold, b, resamples=100)
    )
    oracle = ttest_1samp([share - 0.5 for share in shares], 0)
    assert pair.difference.value == pytest.approx(0.0875)
    assert pair.p_value == pytest.approx(oracle.pvalue, abs=0.005)
    low, high = oracle.confidence_interval(0.95)
    assert (pair.difference.low, pair.difference.high) == pytest.approx((low, high), abs=0.01)


def test_one_seed_falls_back_on_the_rows() -> None:
    gold, a, b = crossed(np.random.default_rng(3), 1.0, seeds=1)
    one, other = resampled("accuracy", gold, a), resampled("accuracy", gold, b)
    oracle = paired_test(gold, a[0], b[0])
    found = difference_over_seeds(one, other)
    assert (found.p_value, found.difference, found.n_seeds) == (oracle.p_value, oracle.difference, 1)
    assert "one seed" in found.test
    assert interval_over_seeds(one) == bootstrap("accuracy", gold, a[0])


def test_a_way_without_seeds_pairs_with_one_that_has_some() -> None:
    gold, a, b = crossed(np.random.default_rng(4), 1.0)
    constant = resampled("accuracy", gold, b[:1])
    assert difference_over_seeds(resampled("accuracy", gold, a), constant).n_seeds == 4
    with pytest.raises(DataError):
        difference_over_seeds(resampled("accuracy", gold, a), resampled("accuracy", gold, b[:2]))


def test_equal_predictions_keep_a_width() -> None:
    gold = ["x", "y"] * 10
    same = resampled("accuracy", gold, [gold, gold, gold])
    found = difference_over_seeds(same, same)
    assert (found.difference.value, found.p_value) == (0, 1)
    assert found.difference.low < 0 < found.difference.high
    assert interval_over_seeds(same).low < 1


def test_interval_is_wider_than_either_source_alone() -> None:
    gold, a, _ = crossed(np.random.default_rng(5), 1.0)
    found = interval_over_seeds(resampled("accuracy", gold, a))
    of_rows = bootstrap("accuracy", gold, a[0])
    assert found.high - found.low > 0.8 * (of_rows.high - of_rows.low)
    assert found.low < found.value < found.high
