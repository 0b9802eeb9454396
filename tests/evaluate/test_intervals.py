"""Intervals: known values, seeds, and how often they hold the truth."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from overture.core.errors import ConfigError, DataError
from overture.core.records.scores import Interval
from overture.evaluate.intervals import across_seeds, bootstrap, paired_test, wilson
from overture.evaluate.metrics import METRICS

LABELS = 3


def answers(generator, n, right):
    """Gold labels and predictions of which a share is right, the rest drawn from all labels."""
    gold = generator.choice(LABELS, size=n, p=[0.6, 0.3, 0.1])
    guess = generator.integers(0, LABELS, size=n)
    return gold.tolist(), np.where(generator.random(n) < right, gold, guess).tolist()


@given(st.integers(1, 500), st.data())
def test_wilson_is_scipys(n, data):
    num_right = data.draw(st.integers(0, n))
    wanted = binomtest(num_right, n).proportion_ci(method="wilson")
    assert wilson(num_right, n) == pytest.approx((wanted.low, wanted.high), abs=1e-12)


def test_accuracy_by_hand():
    # 8 of 10: the interval that Wilson's formula gives, (0.4902, 0.9433).
    found = bootstrap("accuracy", [1] * 10, [1] * 8 + [0] * 2, seed=3)
    assert (found.value, found.n, found.level, found.method, found.seed) == (0.8, 10, 0.95, "Wilson", 3)
    assert (found.low, found.high) == pytest.approx((0.4902, 0.9433), abs=1e-4)


@pytest.mark.parametrize("metric", ["accuracy", "exact_match", "macro_f1"])
def test_all_right_and_all_wrong_still_have_a_width(metric):
    right = bootstrap(metric, ["a", "b"] * 10, ["a", "b"] * 10)
    wrong = bootstrap(metric, ["a", "b"] * 10, ["b", "a"] * 10)
    assert (right.value, right.high) == (1.0, 1.0)
    assert 0.8 < right.low < 0.9
    assert (wrong.value, wrong.low) == (0.0, 0.0)
    assert 0.1 < wrong.high < 0.2
    assert right.method.startswith("Wilson")


def test_the_multinomial_draw_is_the_bootstrap():
    """The same percentiles as drawing rows one by one, to simulation error."""
    gold, predicted = answers(np.random.default_rng(5), 150, 0.6)
    found = bootstrap("macro_f1", gold, predicted, resamples=4000)
    rows = np.random.default_rng(6).integers(0, 150, size=(1500, 150))
    scores = [METRICS["macro_f1"]([gold[i] for i in row], [predicted[i] for i in row]) for row in rows]
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(scores, [0.025, 0.975])), abs=0.015)
    assert found.method == "bootstrap percentile"


def test_the_seed_decides_the_interval():
    gold, predicted = answers(np.random.default_rng(0), 200, 0.5)
    first, again, other = (bootstrap("macro_f1", gold, predicted, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert (first.low, first.high) != (other.low, other.high)
    assert first.value == other.value


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from("abc")), min_size=1, max_size=40))
@pytest.mark.parametrize("metric", ["accuracy", "macro_f1"])
def test_the_order_of_rows_changes_no_score(metric, pairs):
    gold, predicted = zip(*pairs, strict=True)
    found = bootstrap(metric, gold, predicted, resamples=100)
    back = bootstrap(metric, gold[::-1], predicted[::-1], resamples=100)
    assert 0 <= found.low <= found.high <= 1
    assert back.value == pytest.approx(found.value)


def test_rows_without_entities_do_not_tell_how_good_no_entity_is():
    named, none = (("per", 0, 1),), ()
    gold = [named] * 40 + [none] * 160
    found = bootstrap("entity_f1", gold, [none] * 200, resamples=100)
    assert (found.value, found.low) == (0.0, 0.0)
    assert found.high == pytest.approx(wilson(0, 40)[1])
    nothing = bootstrap("entity_f1", [none] * 9, [none] * 9, resamples=100)
    assert (nothing.low, nothing.high) == (0.0, 1.0)


def _true_macro_f1(right):
    # The joint distribution of (gold, predicted) in `answers`.
    shares = np.array([0.6, 0.3, 0.1])
    joint = np.diag(shares) * right + np.outer(shares, np.ones(LABELS) / LABELS) * (1 - right)
    return float(np.mean(2 * np.diag(joint) / (joint.sum(0) + joint.sum(1))))


@pytest.mark.parametrize(("metric", "right"), [("accuracy", 0.7), ("accuracy", 0.97), ("macro_f1", 0.7)])
def test_the_interval_holds_the_truth_as_often_as_it_says(metric, right):
    truth = _true_macro_f1(right) if metric == "macro_f1" else right + (1 - right) / LABELS
    held = 0
    for seed in range(300):
        found = bootstrap(metric, *answers(np.random.default_rng(seed), 200, right), seed=seed, resamples=400)
        held += found.low <= truth <= found.high
    # Two-sided bounds: an interval that is far too wide is as wrong as one that is too narrow.
    assert 0.91 <= held / 300 <= 0.985


@pytest.mark.parametrize(("shift", "least"), [(0.0, 0.75), (0.06, 0.85), (0.25, 0.85)])
def test_the_interval_of_a_calibration_error_holds_the_truth(shift, least):
    """Percentiles never hold the 0 of a calibrated model: drawing rows makes a distance larger."""
    generator = np.random.default_rng(0)
    held = []
    for _ in range(100):
        confidence = generator.beta(8, 3, size=200)
        right = generator.random(200) < np.clip(confidence - shift, 0, 1)
        said = [("a", float(sure)) for sure in confidence]
        found = bootstrap("ece", ["a" if is_right else "b" for is_right in right], said, resamples=200)
        held.append(found.low <= shift <= found.high)
        assert 0 <= found.low <= found.value <= found.high <= 1
    assert np.mean(held) > least


def test_two_thousand_resamples_of_a_thousand_rows_are_fast():
    generator = np.random.default_rng(0)
    gold, predicted = generator.integers(0, 50, size=(2, 1000)).tolist()
    started_s = time.perf_counter()
    bootstrap("macro_f1", gold, predicted)
    assert time.perf_counter() - started_s < 2.0


def test_mcnemar_by_hand():
    # 5 rows only a, 1 row only b: 2 * (C(6,0) + C(6,1)) / 2**6 = 14/64.
    gold = [1] * 20
    a = [1] * 5 + [0] * 1 + [1] * 14
    b = [0] * 5 + [1] * 1 + [1] * 14
    found = paired_test(gold, a, b)
    assert (found.only_a, found.only_b, found.test) == (5, 1, "exact McNemar")
    assert found.p_value == pytest.approx(14 / 64)
    assert (found.a, found.b, found.difference.value) == pytest.approx((0.95, 0.75, 0.2))
    assert found.difference.low < 0.2 < found.difference.high


@pytest.mark.parametrize("metric", ["accuracy", "macro_f1"])
def test_the_test_tells_a_real_difference_from_none(metric):
    generator = np.random.default_rng(1)
    gold, good = answers(generator, 300, 0.9)
    poor = np.where(generator.random(300) < 0.3, 0, good).tolist()
    far = paired_test(gold, good, poor, metric)
    assert far.p_value < 0.01
    assert far.difference.low > 0
    back = paired_test(gold, poor, good, metric)
    assert back.difference.value == pytest.approx(-far.difference.value)
    assert back.p_value == pytest.approx(far.p_value, abs=0.005)
    same = paired_test(gold, good, good, metric)
    assert (same.p_value, same.difference.value) == (1.0, 0.0)
    assert same.difference.low < 0 < same.difference.high


def test_the_permutation_test_is_calibrated():
    """Predictions of equal quality: p below 0.1 in about a tenth of the draws."""
    num_small = 0
    for seed in range(200):
        generator = np.random.default_rng(seed)
        gold, a = answers(generator, 80, 0.6)
        guess = generator.integers(0, LABELS, size=80)
        b = np.where(generator.random(80) < 0.6, gold, guess).tolist()
        num_small += paired_test(gold, a, b, "macro_f1", seed=seed, resamples=200).p_value < 0.1
    assert 0.04 <= num_small / 200 <= 0.16


def test_across_seeds_by_hand():
    # t(0.975, 2) = 4.302653; sd of 1, 2, 3 is 1.
    found = across_seeds([1.0, 2.0, 3.0])
    assert (found.mean, found.sd, found.n_seeds) == (2.0, 1.0, 3)
    assert (found.low, found.high) == pytest.approx((2 - 4.302653 / 3**0.5, 2 + 4.302653 / 3**0.5))


def test_across_seeds_ends_at_the_bounds():
    found = across_seeds([0.9, 1.0, 1.0], bounds=(0.0, 1.0))
    assert 0.8 < found.low < 0.9
    assert found.high == 1


def test_one_seed_tells_no_spread():
    found = across_seeds([0.5])
    assert (found.mean, found.sd, found.low, found.high) == (0.5, None, None, None)


def test_what_cannot_be_computed_is_refused():
    with pytest.raises(DataError, match="no seeds"):
        across_seeds([])
    with pytest.raises(DataError, match="no rows"):
        bootstrap("accuracy", [], [])
    with pytest.raises(DataError, match="pair up"):
        paired_test([1, 2], [1, 2], [1])
    with pytest.raises(ConfigError, match="too few resamples"):
        bootstrap("macro_f1", [1], [1], resamples=10)
    with pytest.raises(ConfigError, match="no such metric"):
        bootstrap("f1", [1], [1])


def test_an_interval_goes_through_json():
    found = bootstrap("accuracy", [1, 0], [1, 1])
    assert Interval.model_validate_json(found.model_dump_json()) == found
