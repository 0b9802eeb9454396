"""Metrics of numbers: correlations, explained variance, squared error.

Shape letters: U distinct outcomes, R weightings, V distinct values.
"""

import math
from typing import TYPE_CHECKING

from overture.evaluate.metric import Answers, Metric, from_sums, ratio

if TYPE_CHECKING:
    from collections.abc import Callable

    from overture.evaluate.metric import Floats


def _columns(gold: Answers, predicted: Answers) -> "Floats":
    """Number of rows, sums, squares and products about each side's mean, and squared errors: [U, 7]."""
    import numpy as np

    gold_U, predicted_U = np.array(gold, dtype=np.float64), np.array(predicted, dtype=np.float64)
    errors = gold_U - predicted_U
    # About the means: squares of large numbers would lose their last digits.
    gold_U, predicted_U = gold_U - gold_U.mean(), predicted_U - predicted_U.mean()
    return np.stack(
        [np.ones(len(gold_U)), gold_U, predicted_U, gold_U**2, predicted_U**2, gold_U * predicted_U, errors**2], axis=1
    )


def _squared_error(sums_RS: "Floats") -> "Floats":
    return ratio(sums_RS[:, 6], sums_RS[:, 0])


def _explained(sums_RS: "Floats") -> "Floats":
    """1 - squared error / variance; 0 where the right numbers do not vary."""
    variance_R = _variance(sums_RS[:, 0], sums_RS[:, 1], sums_RS[:, 3])
    return (variance_R > 0) * (1 - ratio(_squared_error(sums_RS), variance_R))


def _correlation(sums_RS: "Floats") -> "Floats":
    """Pearson's; 0 where one side does not vary."""
    import numpy as np

    n, total, predicted, squares, predicted_squares, products = sums_RS[:, :6].T
    deviations_R = np.sqrt(_variance(n, total, squares)) * np.sqrt(_variance(n, predicted, predicted_squares))
    return np.clip(ratio(products / n - total * predicted / n**2, deviations_R), -1.0, 1.0)


def _variance(n_R: "Floats", sums_R: "Floats", squares_R: "Floats") -> "Floats":
    """Variances; exactly 0 where what is left of the mean square is rounding alone."""
    import numpy as np

    mean_squares_R = squares_R / n_R
    variance_R = mean_squares_R - (sums_R / n_R) ** 2
    does_vary: Floats = np.where(variance_R > 1e-12 * mean_squares_R, variance_R, 0.0)
    return does_vary


def _rank_correlation(gold: Answers, predicted: Answers) -> "Callable[[Floats], Floats]":
    """Spearman's: Pearson's of the ranks, equal values sharing the mean of theirs."""
    import numpy as np

    gold_ranks, predicted_ranks = _ranks(gold), _ranks(predicted)

    def correlation(weights_RU: "Floats") -> "Floats":
        gold_RU, predicted_RU = gold_ranks(weights_RU), predicted_ranks(weights_RU)
        parts = [np.ones_like(gold_RU), gold_RU, predicted_RU, gold_RU**2, predicted_RU**2, gold_RU * predicted_RU]
        return _correlation(np.stack([(weights_RU * part).sum(axis=1) for part in parts], axis=1))

    return correlation


def _ranks(values: Answers) -> "Callable[[Floats], Floats]":
    """Ranks of the rows in each weighting, from 0 to 1 about a half, as a function of the weights."""
    import numpy as np

    distinct_V, codes_U = np.unique(np.array(values, dtype=np.float64), return_inverse=True)
    is_value_UV = np.eye(len(distinct_V))[codes_U]

    def ranks(weights_RU: "Floats") -> "Floats":
        weights_RV = weights_RU @ is_value_UV
        middle_RV = np.cumsum(weights_RV, axis=1) - weights_RV / 2
        ranks_RU: Floats = (middle_RV / weights_RU.sum(axis=1, keepdims=True))[:, codes_U] - 0.5
        return ranks_RU

    return ranks


METRICS_OF_NUMBERS = (
    Metric("spearman", "numbers", None, _rank_correlation, bounds=(-1.0, 1.0)),
    Metric("pearson", "numbers", None, from_sums(_columns, _correlation), bounds=(-1.0, 1.0)),
    Metric("r2", "numbers", None, from_sums(_columns, _explained), bounds=(-math.inf, 1.0)),
    Metric("mse", "numbers", None, from_sums(_columns, _squared_error), is_error=True, bounds=(0.0, math.inf)),
)
