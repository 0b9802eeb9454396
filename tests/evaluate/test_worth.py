"""What a way is worth in rows: curves whose distance is known."""

from collections.abc import Callable

import numpy as np
import pytest

from overture.core.errors import DataError
from overture.evaluate.over_seeds import Resampled
from overture.evaluate.worth import monotone, worth

SIZES = (8, 16, 32, 64, 128)


def curve(score: Callable[[int], float], noise: float = 0.0, seed: int = 0, seeds: int = 4) -> dict[int, Resampled]:
    """A curve of given scores, with noise over seeds; its draws vary with the seeds alone."""
    generator = np.random.default_rng(seed)
    found = {}
    for size in SIZES:
        values = np.full(seeds, score(size)) + noise * generator.normal(size=seeds)
        found[size] = Resampled("accuracy", (), (), tuple(values), np.repeat(values[:, None], 300, axis=1))
    return found


def rising(size: float) -> float:
    return 0.5 + 0.05 * float(np.log2(size / 8))


def test_a_shift_by_a_factor_is_read_off() -> None:
    """The other needs four times the rows everywhere; both share the scores 0.5 to 0.6."""
    found = worth(curve(rising), curve(lambda size: rising(size / 4)))
    assert found.times == pytest.approx(4)
    assert found.scores == pytest.approx((0.5, 0.6))
    # The mean of 3 * 8 * 4**u over u in 0 to 1.
    assert found.rows == pytest.approx(24 * 3 / np.log(4), rel=1e-3)
    assert (found.low, found.high) == pytest.approx((found.rows, found.rows))
    assert found.read_off == 1


def test_the_worse_way_is_worth_less_than_nothing() -> None:
    ahead = worth(curve(rising), curve(lambda size: rising(size / 2)))
    behind = worth(curve(lambda size: rising(size / 2)), curve(rising))
    assert behind.rows == pytest.approx(-ahead.rows)
    assert behind.times == pytest.approx(0.5)


def test_noise_gives_an_interval_around_the_truth() -> None:
    hits = 0
    for seed in range(20):
        found = worth(curve(rising, 0.01, seed, 8), curve(lambda size: rising(size / 4), 0.01, seed + 100, 8))
        assert found.times_low < found.times_high
        hits += found.times_low <= 4 <= found.times_high
    assert hits >= 15


def test_curves_without_shared_scores_tell_nothing() -> None:
    found = worth(curve(rising), curve(lambda size: rising(size) - 0.4))
    assert (found.rows, found.times, found.low, found.scores, found.read_off) == (None, None, None, None, 0)


def test_barely_shared_scores_give_no_interval() -> None:
    found = worth(curve(rising, 0.05, 1), curve(lambda size: rising(size) - 0.195, 0.05, 2))
    assert found.read_off < 0.9
    assert (found.low, found.high) == (None, None)


def test_one_size_is_no_curve() -> None:
    whole = curve(rising)
    with pytest.raises(DataError):
        worth({8: whole[8]}, whole)


def test_monotone_is_isotonic_regression() -> None:
    from sklearn.isotonic import IsotonicRegression

    generator = np.random.default_rng(0)
    for count in (1, 2, 5, 8):
        scores = generator.normal(size=count)
        oracle = IsotonicRegression().fit_transform(np.arange(count), scores)
        assert monotone(scores) == pytest.approx(oracle)
