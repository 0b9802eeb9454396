"""Ways over several seeds: intervals and paired tests that count seeds and test rows alike, and corrections for many.

A score varies with the seed (training rows, start, order) and with the test rows, and the test rows are the same for
all seeds. The two variances are estimated apart and added: that of the mean over S seeds from the spread of the seeds,
that of the rows by a bootstrap in which all seeds share the drawn rows. What a seed and a row do together is in both,
so intervals are a little too wide rather than too narrow. Degrees of freedom follow Satterthwaite (1946), so intervals
of few seeds are wide.

Source of the demand: Dror et al., "The hitchhiker's guide to testing statistical significance in NLP", 2018;
Bouthillier et al., "Accounting for variance in machine learning benchmarks", 2021.

Shape letters: S seeds, B test rows, R resamples.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import stdev, variance
from typing import TYPE_CHECKING

from overture.core.errors import DataError
from overture.core.records.scores import LEVEL, Difference, Interval, Spread
from overture.evaluate.intervals import bootstrap, interval_around, paired_test, within
from overture.evaluate.metric import Answers, check_rows
from overture.evaluate.metrics import metric_named

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

RESAMPLES = 1000
BOTH = "t over seeds and test rows"
POOLED = f"{BOTH}, of a pair's seeds and of all pairs' seeds"


@dataclass(frozen=True, slots=True)
class Resampled:
    """One way at one size: its seeds' scores, as they are and under resamplings of the test rows.

    Args:
        metric: its name.
        gold: the right answers.
        predicted: the answers of each seed.
        values: the score of each seed.
        draws: the same under each resampling, [S, R]; all ways resampled with one seed share the drawn rows.
    """

    metric: str
    gold: Answers
    predicted: tuple[Answers, ...]
    values: tuple[float, ...]
    draws: "Floats"

    @property
    def mean(self) -> float:
        """Mean over the seeds."""
        return math.fsum(self.values) / len(self.values)


def resampled(
    metric: str, gold: Answers, predicted: Sequence[Answers], seed: int = 0, resamples: int = RESAMPLES
) -> Resampled:
    """Scores of several seeds on the same test rows, with the rows drawn again and again.

    Args:
        metric: a name in `METRICS`.
        gold: the right answers.
        predicted: the answers of each seed, in the same order.
        seed: of the resampling; the same for all ways that are compared.
        resamples: how often the rows are drawn.

    Raises:
        DataError: no seeds, no rows, or not as many predictions as rows.
        ConfigError: no such metric.
    """
    import numpy as np

    measure = metric_named(metric)
    if not predicted:
        raise DataError("there are no seeds to summarise", wanted="the predictions of at least one")
    check_rows(gold, *predicted)
    n = len(gold)
    weights_RB = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=resamples).astype(np.float64)
    draws = np.stack([measure.weighted(gold, answers, weights_RB) for answers in predicted])
    return Resampled(metric, gold, tuple(predicted), tuple(measure(gold, answers) for answers in predicted), draws)


def interval_over_seeds(samples: Resampled) -> Interval:
    """The mean over seeds with its interval; of one seed the interval over the rows alone."""
    if len(samples.values) == 1:
        return bootstrap(samples.metric, samples.gold, samples.predicted[0])
    half = _half_width(samples.values, samples.draws.mean(axis=0), len(samples.gold), LEVEL)[0]
    if half == 0:
        # No seed and no row differ; the rows' own interval keeps its width.
        return bootstrap(samples.metric, samples.gold, samples.predicted[0])
    measure, mean = metric_named(samples.metric), samples.mean
    low, high = within(measure.bounds, mean - half, mean + half)
    return interval_around(mean, low, high, measure, n=len(samples.gold), level=LEVEL, method=BOTH)


def spread_over_seeds(scores: Resampled) -> Spread:
    """The mean over seeds, its standard deviation, and its interval over seeds and test rows; none of one seed."""
    interval = interval_over_seeds(scores) if len(scores.values) > 1 else None
    return Spread(
        mean=scores.mean,
        sd=stdev(scores.values) if interval else None,
        low=interval.low if interval else None,
        high=interval.high if interval else None,
        n_seeds=len(scores.values),
        method=interval.method if interval else BOTH,
    )


def difference_over_seeds(a: Resampled, b: Resampled) -> Difference:
    """The difference between two ways, paired by seed and by test row.

    Args:
        a: the first; resampled with the same seed as the second.
        b: the second; either may have one seed when it does not depend on any.

    Returns:
        The difference a - b with its interval and a two-sided p-value; of one seed `paired_test`, which says nothing
        about other seeds.

    Raises:
        DataError: the seeds do not pair up.
    """
    return differences_over_seeds({("a", "b"): (a, b)})["a", "b"]


def differences_over_seeds(
    pairs: Mapping[tuple[str, str], tuple[Resampled, Resampled]], level: float = LEVEL
) -> dict[tuple[str, str], Difference]:
    """The differences of several pairs that are compared together.

    Two or three seeds of one pair hardly tell how much seeds differ, and among many pairs some seem to differ by
    nothing. So each pair is tested twice, with its own variance of seeds and with one drawn towards all pairs' by as
    much as they are alike (`_moderated`); the larger p-value and the wider interval count. Pairs with a way that
    depends on no seed are a family of their own.

    Simulated, tables of 6 equal ways and one without seeds, some pair told apart after Holm's correction: of three
    seeds in 4 to 8% and of five in 2 to 6%, whether all ways vary by 0.02 or 0.05 from seed to seed, one by 0.1 and the
    others hardly, or each otherwise; of two, whose variances tell too little to be weighed and are averaged, in 4 to
    10%. A way that is better by 0.08 beside one that varies by 0.1 and four that vary by 0.02, five seeds: told from
    the others in 53%, by the average alone in 20%.

    Source: G. K. Smyth, "Linear models and empirical Bayes methods for assessing differential expression in microarray
    experiments", 2004. That a pair's own variance is asked as well is ours, and so is the limit on the degrees of
    freedom.

    Args:
        pairs: by the names of both ways; each as in `difference_over_seeds`.
        level: of the intervals.

    Raises:
        DataError: the seeds of a pair do not pair up.
    """
    values = {names: _differences(*pair) for names, pair in pairs.items()}
    pooled: dict[tuple[str, str], tuple[float, float]] = {}
    for has_constant in (True, False):
        family = [
            pair
            for pair, ways in pairs.items()
            if len(values[pair]) > 1 and any(len(way.values) == 1 for way in ways) == has_constant
        ]
        if len(family) > 1:
            ways = {name for pair in family for name, way in zip(pair, pairs[pair], strict=True) if len(way.values) > 1}
            pooled |= zip(family, _moderated([values[pair] for pair in family], len(ways)), strict=True)
    return {names: _tested(*pair, values[names], pooled.get(names), level) for names, pair in pairs.items()}


def _differences(a: Resampled, b: Resampled) -> list[float]:
    n_seeds = max(len(a.values), len(b.values))
    if not {len(a.values), len(b.values)} <= {1, n_seeds}:
        raise DataError("the seeds of two ways do not pair up", got=f"{len(a.values)} and {len(b.values)}")
    return [first - second for first, second in zip(_spread(a, n_seeds), _spread(b, n_seeds), strict=True)]


def _moderated(values: Sequence[Sequence[float]], num_ways: int) -> list[tuple[float, float]]:
    """Each pair's variance of its differences over seeds, drawn towards all pairs', and its degrees of freedom.

    How far is estimated from how much more the variances differ than equal ones would (Smyth 2004, section 6.2): where
    that is nothing, all are their mean. W ways have (S - 1)(W - 1) degrees of freedom at most.
    """
    import numpy as np
    from scipy.optimize import brentq
    from scipy.special import digamma, polygamma

    variances = np.array([variance(differences) for differences in values])
    freedom = np.array([len(differences) - 1.0 for differences in values])
    most = float(freedom.mean()) * max(1, num_ways - 1)
    mean_for_all = [(float(variances.mean()), most)] * len(values)
    median = float(np.median(variances))
    if freedom.min() < _LEAST_FREEDOM or median == 0:
        return mean_for_all
    # A pair whose seeds happen to agree has no logarithm.
    variances = np.maximum(variances, 1e-5 * median)
    logs = np.log(variances) - digamma(freedom / 2) + np.log(freedom / 2)
    excess = float(logs.var(ddof=1) - polygamma(1, freedom / 2).mean())
    if excess <= polygamma(1, _MOST_FREEDOM / 2):
        return mean_for_all
    prior = 2 * float(brentq(lambda half: polygamma(1, half) - excess, 1e-4, _MOST_FREEDOM / 2))
    middle = math.exp(float(logs.mean()) + float(digamma(prior / 2)) - math.log(prior / 2))
    pooled = (prior * middle + freedom * variances) / (prior + freedom)
    return [(float(value), min(most, prior + df)) for value, df in zip(pooled, freedom.tolist(), strict=True)]


_LEAST_FREEDOM, _MOST_FREEDOM = 2, 1e6


def _tested(
    a: Resampled, b: Resampled, values: Sequence[float], pooled: tuple[float, float] | None, level: float
) -> Difference:
    n_seeds, n = len(values), len(a.gold)
    mean = math.fsum(values) / n_seeds
    draws_R = a.draws.mean(axis=0) - b.draws.mean(axis=0)
    plain = _half_width(values, draws_R, n, level)
    if n_seeds == 1 or plain[1] == 0:
        one_seed = paired_test(a.gold, a.predicted[0], b.predicted[0], a.metric, level=level)
        test = f"{one_seed.test}, one seed"
        return Difference(difference=one_seed.difference, p_value=one_seed.p_value, test=test, n_seeds=n_seeds)
    from scipy.special import stdtr

    method, tests = BOTH, [plain]
    if pooled:
        method, tests = POOLED, [plain, _half_width(values, draws_R, n, level, pooled)]
    half = max(half for half, *_ in tests)
    measure = metric_named(a.metric)
    least, most = measure.bounds
    low, high = within((least - most, most - least), mean - half, mean + half)
    interval = interval_around(mean, low, high, measure, n=n, level=level, method=method)
    p_value = max(float(2 * stdtr(freedom, -abs(mean) / error)) for _, error, freedom in tests)
    return Difference(difference=interval, p_value=p_value, test=method, n_seeds=n_seeds)


def _spread(samples: Resampled, n_seeds: int) -> tuple[float, ...]:
    return samples.values if len(samples.values) == n_seeds else samples.values * n_seeds


def _half_width(
    values: Sequence[float], draws_R: "Floats", n: int, level: float, pooled: tuple[float, float] | None = None
) -> tuple[float, float, float]:
    """Half the interval's width, the standard error, and the degrees of freedom."""
    from scipy.special import stdtrit

    num_seeds = len(values)
    seed_variance, seed_freedom = pooled or (variance(values) if num_seeds > 1 else 0.0, num_seeds - 1)
    of_seeds = seed_variance / num_seeds
    of_rows = float(draws_R.var(ddof=1))
    error = math.sqrt(of_seeds + of_rows)
    # A sum of equal numbers differs by rounding; that is no spread.
    if error < 1e-12:
        return 0.0, 0.0, math.inf
    terms = (of_seeds**2 / seed_freedom if num_seeds > 1 else 0.0) + of_rows**2 / max(1, n - 1)
    freedom = (of_seeds + of_rows) ** 2 / terms
    return float(stdtrit(freedom, (1 + level) / 2)) * error, error, freedom


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for how many there are, in their order: below 0.05 holds for all that are, together.

    Source: S. Holm, "A simple sequentially rejective multiple test procedure", 1979.
    """
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    corrected_p, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected_p[index] = largest
    return corrected_p
