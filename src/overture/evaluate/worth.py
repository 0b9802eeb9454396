"""Training rows that a way saves: the distance between two learning curves along the axis of rows.

Source: Le Scao and Rush, "How many data points is a prompt worth?", 2021: curves are made monotone, and the horizontal
distance is averaged over the scores that both reach. Deviation: between measured sizes we interpolate in the logarithm
of the rows, since sizes grow by factors, and give the ratio beside the difference.

Shape letters: N sizes, S seeds, R resamples, G scores.
"""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from overture.core.errors import DataError
from overture.core.records.compare import Worth
from overture.evaluate.over_seeds import Resampled

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

_GRID = 64
_MOSTLY = 0.9


NOT_READ_OFF = Worth(
    rows=None, low=None, high=None, times=None, times_low=None, times_high=None, scores=None, read_off=0.0
)
"""Of curves that have nothing in common."""


def worth(a: Mapping[int, Resampled], b: Mapping[int, Resampled], seed: int = 0, level: float = 0.95) -> Worth:
    """How many more rows the second way needs than the first for the same scores.

    The interval draws seeds, paired over ways and sizes, and test rows again; with few seeds it is too narrow.

    Args:
        a: the first way's curve: scores by number of training rows, resampled with one seed.
        b: the second way's, at the same sizes or others.
        seed: of the drawing of seeds.
        level: confidence of the interval.

    Raises:
        DataError: a curve has fewer than two sizes.
    """
    import numpy as np

    for curve in (a, b):
        if len(curve) < 2:
            raise DataError("a curve needs at least two sizes", got=str(len(curve)))
    sizes_a, sizes_b = sorted(a), sorted(b)
    whole = _distance(sizes_a, _means(a, sizes_a), sizes_b, _means(b, sizes_b))
    num_seeds = min(len(scores.values) for curve in (a, b) for scores in curve.values())
    num_draws = min(scores.draws.shape[1] for curve in (a, b) for scores in curve.values())
    drawn_RS = np.random.default_rng(seed).integers(0, num_seeds, size=(num_draws, num_seeds))
    curves_a, curves_b = _drawn(a, sizes_a, drawn_RS), _drawn(b, sizes_b, drawn_RS)
    distances = [_distance(sizes_a, of_a, sizes_b, of_b) for of_a, of_b in zip(curves_a, curves_b, strict=True)]
    known_distances = [distance for distance in distances if distance is not None]
    share = len(known_distances) / num_draws
    ends: list[tuple[float | None, float | None]] = [(None, None), (None, None)]
    if whole is not None and share >= _MOSTLY:
        tails = [(1 - level) / 2, (1 + level) / 2]
        quantiles = np.quantile(np.array(known_distances)[:, :2], tails, axis=0).T.tolist()
        # Each interval holds its value.
        ends = [(min(low, value), max(high, value)) for (low, high), value in zip(quantiles, whole[:2], strict=True)]
    rows, times, low, high = whole or (None, None, 0.0, 0.0)
    return Worth(
        rows=rows,
        low=ends[0][0],
        high=ends[0][1],
        times=times,
        times_low=ends[1][0],
        times_high=ends[1][1],
        scores=(low, high) if whole else None,
        read_off=share,
    )


def _means(curve: Mapping[int, Resampled], sizes: Sequence[int]) -> "Floats":
    import numpy as np

    return np.array([curve[size].mean for size in sizes])


def _drawn(curve: Mapping[int, Resampled], sizes: Sequence[int], drawn_RS: "NDArray[np.int64]") -> "Floats":
    """The curve under each resampling of seeds and rows, [R, N]."""
    import numpy as np

    draws_R1 = np.arange(len(drawn_RS))[:, None]
    return np.stack([curve[size].draws[drawn_RS, draws_R1].mean(axis=1) for size in sizes], axis=1)


def monotone(scores_N: "Floats") -> "Floats":
    """The nearest curve, in squares, that never falls; by its formula of means, which few sizes allow."""
    import numpy as np

    count = len(scores_N)
    sums = np.concatenate([[0.0], np.cumsum(scores_N)])

    def least_mean(first: int, index: int) -> float:
        return min(float(sums[last] - sums[first]) / (last - first) for last in range(index + 1, count + 1))

    return np.array([max(least_mean(first, index) for first in range(index + 1)) for index in range(count)])


def _distance(
    sizes_a: Sequence[int], scores_a: "Floats", sizes_b: Sequence[int], scores_b: "Floats"
) -> tuple[float, float, float, float] | None:
    """(rows more, times as many, lowest and highest shared score); None where the curves share no scores."""
    import numpy as np

    up_a, up_b = monotone(scores_a), monotone(scores_b)
    low, high = max(up_a[0], up_b[0]), min(up_a[-1], up_b[-1])
    if high - low < 1e-9:
        return None
    grid_G = low + (high - low) * (np.arange(_GRID) + 0.5) / _GRID
    logs_a, logs_b = _log_rows(sizes_a, up_a, grid_G), _log_rows(sizes_b, up_b, grid_G)
    rows = float((np.exp(logs_b) - np.exp(logs_a)).mean())
    return rows, math.exp(float((logs_b - logs_a).mean())), float(low), float(high)


def _log_rows(sizes: Sequence[int], up_N: "Floats", grid_G: "Floats") -> "Floats":
    """Logarithm of the rows at which a curve reaches each score."""
    import numpy as np

    logs_N = np.log(np.array(sizes, dtype=np.float64))
    # The step that crosses a score is strictly rising, also behind a level stretch.
    after = np.clip(np.searchsorted(up_N, grid_G, side="left"), 1, len(up_N) - 1)
    share = (grid_G - up_N[after - 1]) / (up_N[after] - up_N[after - 1])
    logs_G: Floats = logs_N[after - 1] + share * (logs_N[after] - logs_N[after - 1])
    return logs_G
