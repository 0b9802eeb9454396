"""Scores of a comparison's cells by way and size, and the paired test of every two ways."""

import itertools
from collections.abc import Sequence
from typing import Any

from overture.core.errors import StoreError
from overture.core.records.cells import Cell, DivergedCell, ScoredCell
from overture.core.records.compare import Bounds, Pair, Score, Verdict
from overture.core.records.scores import Interval
from overture.evaluate.over_seeds import Resampled, differences_over_seeds, holm, interval_over_seeds, resampled

SURE = 0.05


class Scores:
    """Cells by way and size, their scores resampled on the same test rows.

    Args:
        ways: in order.
        sizes: training rows.
        cells: of one task.
        gold: right answers of the test rows.
        metric: the metric that ways are compared by.
    """

    def __init__(
        self, ways: Sequence[str], sizes: Sequence[int], cells: Sequence[Cell], gold: tuple[Any, ...], metric: str
    ) -> None:
        self.ways, self.sizes, self.gold, self.metric = ways, sizes, gold, metric
        self.notices: list[str] = []
        self.num_diverged: dict[tuple[str, int], int] = {}
        """Seeds whose training diverged, by way and size."""
        self._cells: dict[tuple[str, int], dict[int, ScoredCell]] = {}
        for cell in cells:
            place = (cell.way, cell.size)
            if isinstance(cell, DivergedCell):
                self.notices.append(f"{cell.way}, {cell.size} rows, seed {cell.seed}: training diverged")
                self.num_diverged[place] = self.num_diverged.get(place, 0) + 1
                continue
            if len(cell.predicted) != len(gold):
                raise StoreError(
                    "a cell was scored on other rows",
                    where=str(cell.key),
                    got=f"{len(cell.predicted)} answers",
                    wanted=f"{len(gold)} answers",
                    fix=f"run it again with --cell {cell.key}",
                )
            self._cells.setdefault(place, {})[cell.seed] = cell
        self._resampled: dict[tuple[str, int], Resampled] = {}

    @property
    def largest(self) -> int:
        """The largest size that has cells."""
        return max((size for _, size in self._cells), default=0)

    def places(self) -> list[tuple[str, int]]:
        """(way, size) of all cells, in order; a way without training rows has size 0."""
        return [(way, size) for way in self.ways for size in (0, *self.sizes) if (way, size) in self._cells]

    def cells(self, way: str, size: int) -> dict[int, ScoredCell]:
        """Cells by seed; those of size 0 where a way does not depend on rows."""
        return self._cells.get((way, size)) or self._cells.get((way, 0), {})

    def resampled(self, way: str, size: int, seeds: Sequence[int] | None = None) -> Resampled:
        """Scores of all seeds, or of some of them."""
        cells = self.cells(way, size)
        used_seeds = sorted(cells) if seeds is None or len(cells) == 1 else list(seeds)
        if used_seeds != sorted(cells):
            return self._of_cells([cells[seed] for seed in used_seeds], self.metric)
        place = (way, size if (way, size) in self._cells else 0)
        if place not in self._resampled:
            self._resampled[place] = self._of_cells([cells[seed] for seed in used_seeds], self.metric)
        return self._resampled[place]

    def _of_cells(self, cells: Sequence[ScoredCell], metric: str) -> Resampled:
        return resampled(metric, self.gold, [cell.predicted for cell in cells])

    def common_seeds(self, a: str, b: str, size: int) -> list[int] | None:
        """Seeds that both ways have; None where they have none in common."""
        cells_a, cells_b = self.cells(a, size), self.cells(b, size)
        if not cells_a or not cells_b:
            return None
        is_constant = [all((cell.size, cell.seed) == (0, 0) for cell in cells.values())
                       for cells in (cells_a, cells_b)]  # fmt: skip
        if all(is_constant):
            return [0]
        if any(is_constant):
            return sorted(cells_b if is_constant[0] else cells_a)
        return sorted(set(cells_a) & set(cells_b)) or None

    def score(self, way: str, size: int) -> Score:
        """The mean over the seeds with its interval, and each seed's score."""
        scores = self.resampled(way, size)
        interval = interval_over_seeds(scores)
        return Score(**dict(interval), way=way, size=size, n_seeds=len(scores.values), each=scores.values)

    def interval(self, way: str, size: int, metric: str) -> Interval:
        """Mean over the seeds of any metric, with its interval."""
        if metric == self.metric:
            return interval_over_seeds(self.resampled(way, size))
        return interval_over_seeds(self._of_cells(list(self.cells(way, size).values()), metric))


def pairs_at(scores: Scores, size: int, margin: float) -> list[Pair]:
    """Every two ways at a size, with p-values corrected for the number of pairs.

    A pair is ``better`` or ``worse`` where its corrected test is sure, and ``level`` where the difference lies within
    the margin by an interval that holds for all pairs at once (Bonferroni).
    """
    samples = {
        (a, b): (scores.resampled(a, size, seeds), scores.resampled(b, size, seeds))
        for a, b in itertools.combinations(scores.ways, 2)
        if (seeds := scores.common_seeds(a, b, size)) is not None
    }
    differences = differences_over_seeds(samples)
    together = differences_over_seeds(samples, level=1 - SURE / max(1, len(samples)))
    corrected_p = holm([difference.p_value for difference in differences.values()])
    pairs = []
    for ((a, b), result), p_corrected in zip(differences.items(), corrected_p, strict=True):
        gap, bounds = result.difference, together[a, b].difference
        verdict: Verdict = "undecided"
        if p_corrected < SURE and not gap.low <= 0 <= gap.high:
            verdict = "better" if gap.value > 0 else "worse"
        elif -margin <= bounds.low and bounds.high <= margin:
            verdict = "level"
        pairs.append(
            Pair(
                **dict(result),
                size=size,
                a=a,
                b=b,
                p_corrected=p_corrected,
                together=Bounds(value=bounds.value, low=bounds.low, high=bounds.high, level=bounds.level),
                verdict=verdict,
            )
        )
    return pairs


def pair_of(pairs: Sequence[Pair], a: str, b: str, size: int) -> Pair | None:
    """The pair at a size, seen from the first way; None where the two were not compared."""
    for pair in pairs:
        if pair.size == size and {pair.a, pair.b} == {a, b}:
            return pair if pair.a == a else pair.reversed()
    return None
