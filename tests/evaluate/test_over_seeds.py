"""Intervals and tests over seeds and rows: against simulated truth, known values and the limits of few seeds."""

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
from scipy.stats import false_discovery_control, ttest_1samp

from overture.core.errors import DataError
from overture.evaluate.intervals import bootstrap, paired_test
from overture.evaluate.over_seeds import (
    BOTH,
    POOLED,
    Resampled,
    _moderated,
    difference_over_seeds,
    differences_over_seeds,
    holm,
    interval_over_seeds,
    resampled,
)


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


def table(
    generator: np.random.Generator, spreads: Sequence[float], seeds: int, rows: int = 200, best: float = 0.0
) -> dict[str, Resampled]:
    """Ways whose scores differ from seed to seed by about a quarter of their spread; the last is better by `best`."""
    weights = generator.multinomial(rows, np.full(rows, 1 / rows), size=100) / rows
    row, gold, found = generator.normal(0, 1, rows), ["x"] * rows, {}
    for number, spread in enumerate(spreads):
        middle = 1 + (best if number == len(spreads) - 1 else 0.0)
        own = middle + generator.normal(0, spread, (seeds, 1)) + generator.normal(0, 1, (seeds, rows))
        right = (row + own > 0).astype(float)
        values = tuple(right.mean(axis=1).tolist())
        found[str(number)] = Resampled("accuracy", gold, (gold,) * seeds, values, right @ weights.T)
    return found


def every_pair(ways: dict[str, Resampled]) -> dict[tuple[str, str], tuple[Resampled, Resampled]]:
    return {(a, b): (ways[a], ways[b]) for a, b in itertools.combinations(ways, 2)}


@pytest.mark.parametrize("seeds", [2, 3, 5])
@pytest.mark.parametrize("spreads", [[0.2] * 5, [0.5, 0.1, 0.1, 0.1, 0.1], [0.4, 0.2, 0.1, 0.1, 0.05]])
def test_a_table_of_alike_ways_seldom_tells_any_apart(seeds: int, spreads: list[float]) -> None:
    generator, alarms = np.random.default_rng(3), 0
    for _ in range(60):
        found = differences_over_seeds(every_pair(table(generator, spreads, seeds)))
        alarms += min(holm([one.p_value for one in found.values()])) < 0.05
    assert alarms <= 0.15 * 60


def test_one_way_that_varies_does_not_hide_what_others_are() -> None:
    generator, told = np.random.default_rng(5), []
    for _ in range(30):
        found = differences_over_seeds(every_pair(table(generator, [0.5, *[0.05] * 4], 5, rows=400, best=0.4)))
        corrected = dict(zip(found, holm([one.p_value for one in found.values()]), strict=True))
        told += [corrected[name, "4"] < 0.05 for name in "123"]
    assert sum(told) > len(told) / 2


def test_variances_are_drawn_together_as_far_as_they_are_alike() -> None:
    """Variances drawn from the model itself: 2 times an F of 3 and 4 degrees of freedom."""
    generator = np.random.default_rng(0)
    true = 2 * 4 / generator.chisquare(4, 4000)
    values = generator.normal(0, np.sqrt(true)[:, None], (4000, 4)).tolist()
    found = _moderated(values, 10**6)
    assert {freedom for _, freedom in found} == {found[0][1]}
    prior = found[0][1] - 3
    assert prior == pytest.approx(4, rel=0.15)
    own = np.var(values, axis=1, ddof=1)
    drawn = np.array([one for one, _ in found])
    middle = np.median(drawn * (prior + 3) - 3 * own) / prior
    assert middle == pytest.approx(2, rel=0.1)
    assert np.allclose(drawn, (prior * middle + 3 * own) / (prior + 3))
    # Nearer to what was drawn than the pairs' own, and than their mean.
    wrong = [np.mean(np.abs(np.log(one / true))) for one in (drawn, own, np.full(4000, own.mean()))]
    assert wrong[0] < min(wrong[1:])


def test_variances_that_differ_by_chance_alone_are_averaged() -> None:
    values = [[-size, 0.0, 0.0, size] for size in (0.8, 1.0, 1.2, 0.9, 1.1, 1.0)]
    mean = np.mean(np.var(values, axis=1, ddof=1))
    assert _moderated(values, 4) == [(pytest.approx(mean), 9)] * 6
    # Two seeds tell too little to be weighed, however much they differ.
    two = [[0.0, scale] for scale in (1e-6, 1e-3, 1.0, 9.0)]
    assert len({one for one, _ in _moderated(two, 4)}) == 1
    assert _moderated([[0.5] * 3] * 4, 4) == [(0, 6)] * 4
    # Some agree to the last digit; that is no proof that their seeds always do.
    some = _moderated([[0.5] * 3, *np.random.default_rng(2).normal(0, 1, (5, 3)).tolist()], 4)
    assert 0 < some[0][0] < 1


def test_no_pair_is_surer_in_a_table_than_alone() -> None:
    ways = table(np.random.default_rng(4), [0.2] * 5, 2)
    constant = ways.pop("4")
    ways["none"] = Resampled("accuracy", constant.gold, constant.predicted[:1], constant.values[:1], constant.draws[:1])
    pairs = every_pair(ways)
    found = differences_over_seeds(pairs)
    for names, pair in pairs.items():
        alone = difference_over_seeds(*pair)
        assert (alone.test, found[names].test) == (BOTH, POOLED)
        assert found[names].difference.value == alone.difference.value
        assert found[names].p_value >= alone.p_value
        assert found[names].difference.low <= alone.difference.low
    # Against what knows no seeds, the spread is that of one way and not of two.
    one = {names: pair for names, pair in pairs.items() if "none" in names}
    assert differences_over_seeds(one) == {names: found[names] for names in one}


@pytest.mark.parametrize(
    ("metric", "least", "most"), [("macro_f1", 0, 1), ("accuracy", 0, 1), ("pearson", -1, 1), ("r2", -np.inf, 1)]
)
def test_intervals_stay_within_what_a_metric_can_be(metric: str, least: float, most: float) -> None:
    gold = [float(number % 2) for number in range(100)]
    bad = [1 - value if number % 3 else value for number, value in enumerate(gold)]
    found = resampled(metric, gold, [gold, bad], resamples=200)
    interval = interval_over_seeds(found)
    assert least <= interval.low <= interval.value <= interval.high == most
    turned = difference_over_seeds(found, resampled(metric, gold, [bad, bad], resamples=200)).difference
    assert least - most <= turned.low <= turned.high <= most - least


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
