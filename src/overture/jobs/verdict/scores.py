"""Cells of a comparison by way and size: their scores, and every two ways tested against each other."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from overture.core.errors import StoreError
from overture.core.records.scores import Interval
from overture.evaluate.metrics import as_answers
from overture.evaluate.over_seeds import Resampled, differences_over_seeds, holm, interval_over_seeds, resampled

SURE = 0.05
Cell = dict[str, Any]


class Scores:
    """Cells by way and size, their scores resampled on the same test rows.

    Args:
        ways: in order.
        sizes: training rows.
        cells: of one task.
        metric: what is compared.
    """

    def __init__(self, ways: Sequence[str], sizes: Sequence[int], cells: Sequence[Cell], metric: str) -> None:
        self.ways, self.sizes, self.metric = ways, sizes, metric
        self.notices: list[str] = []
        self.num_diverged: dict[tuple[str, int], int] = {}
        """Seeds whose training diverged, by way and size."""
        self._cells: dict[tuple[str, int], dict[int, Cell]] = {}
        for cell in cells:
            if not cell["metrics"]:
                self.notices.append(f"{cell['way']}, {cell['size']} rows, seed {cell['seed']}: training diverged")
                place = (cell["way"], cell["size"])
                self.num_diverged[place] = self.num_diverged.get(place, 0) + 1
                continue
            if len(cell["predicted"]) != len(cell["gold"]):
                raise StoreError("a cell was scored on other rows", got=f"{cell['way']}:{cell['size']}:{cell['seed']}")
            self._cells.setdefault((cell["way"], cell["size"]), {})[cell["seed"]] = cell
        self._resampled: dict[tuple[str, int], Resampled] = {}

    @property
    def largest(self) -> int:
        """The largest size that has cells."""
        return max((size for _, size in self._cells), default=0)

    def each(self) -> list[tuple[str, int]]:
        """(way, size) of all cells, in order; a way without training rows has size 0."""
        return [(way, size) for way in self.ways for size in (0, *self.sizes) if (way, size) in self._cells]

    def cells(self, way: str, size: int) -> dict[int, Cell]:
        """Cells by seed; those of size 0 where a way does not depend on rows."""
        return self._cells.get((way, size)) or self._cells.get((way, 0), {})

    def resampled(self, way: str, size: int, seeds: Sequence[int] | None = None) -> Resampled:
        """Scores of the seeds, or of some of them."""
        cells = self.cells(way, size)
        chosen = sorted(cells) if seeds is None or len(cells) == 1 else list(seeds)
        if chosen != sorted(cells):
            return self._drawn([cells[seed] for seed in chosen], self.metric)
        key = (way, size if (way, size) in self._cells else 0)
        if key not in self._resampled:
            self._resampled[key] = self._drawn([cells[seed] for seed in chosen], self.metric)
        return self._resampled[key]

    def _drawn(self, cells: Sequence[Cell], metric: str) -> Resampled:
        gold = as_answers(cells[0]["gold"])
        return resampled(metric, gold, [as_answers(cell["predicted"]) for cell in cells])

    def common(self, a: str, b: str, size: int) -> list[int] | None:
        """Seeds that both ways have; None where they have none in common."""
        ours, theirs = self.cells(a, size), self.cells(b, size)
        if not ours or not theirs:
            return None
        is_constant = [set(cells) == {0} and all(cell["size"] == 0 for cell in cells.values())
                       for cells in (ours, theirs)]  # fmt: skip
        if all(is_constant):
            return [0]
        if any(is_constant):
            return sorted(theirs if is_constant[0] else ours)
        return sorted(set(ours) & set(theirs)) or None

    def score(self, way: str, size: int) -> dict[str, Any]:
        """Mean over seeds, its interval, and each seed."""
        found = self.resampled(way, size)
        interval = interval_over_seeds(found).model_dump()
        return {"way": way, "size": size, **interval, "n_seeds": len(found.values), "each": list(found.values)}

    def interval(self, way: str, size: int, metric: str) -> Interval:
        """Another metric's mean over seeds with its interval."""
        if metric == self.metric:
            return interval_over_seeds(self.resampled(way, size))
        return interval_over_seeds(self._drawn(list(self.cells(way, size).values()), metric))


def pairs_at(found: Scores, size: int, margin: float) -> list[dict[str, Any]]:
    """Every two ways at a size, with p-values corrected for how many pairs there are.

    ``together`` is the interval of the difference that all pairs' intervals hold at once (Bonferroni): whether two ways
    are level is asked of every pair, as whether they differ is.
    """
    drawn = {
        (a, b): (found.resampled(a, size, seeds), found.resampled(b, size, seeds))
        for a, b in itertools.combinations(found.ways, 2)
        if (seeds := found.common(a, b, size)) is not None
    }
    compared = differences_over_seeds(drawn)
    together = differences_over_seeds(drawn, level=1 - SURE / max(1, len(drawn)))
    corrected = holm([one.p_value for one in compared.values()])
    return [
        {"size": size, "a": a, "b": b, **one.model_dump(), "p_corrected": p_value}
        | _judged(one.difference, together[a, b].difference, p_value, margin)
        for ((a, b), one), p_value in zip(compared.items(), corrected, strict=True)
    ]


def _judged(difference: Interval, together: Interval, p_corrected: float, margin: float) -> dict[str, Any]:
    """``better`` or ``worse`` where the test is sure, ``level`` where all pairs' interval lies within the margin."""
    verdict = "undecided"
    if p_corrected < SURE and not difference.low <= 0 <= difference.high:
        verdict = "better" if difference.value > 0 else "worse"
    elif -margin <= together.low and together.high <= margin:
        verdict = "level"
    return {"together": together.model_dump(include={"value", "low", "high", "level"}), "verdict": verdict}


def pair_of(pairs: Sequence[dict[str, Any]], a: str, b: str, size: int) -> dict[str, Any] | None:
    """The pair seen from the first way."""
    for pair in pairs:
        if pair["size"] == size and {pair["a"], pair["b"]} == {a, b}:
            return pair if pair["a"] == a else _turned(pair)
    return None


def _turned(pair: Mapping[str, Any]) -> dict[str, Any]:
    verdict = {"better": "worse", "worse": "better"}.get(pair["verdict"], pair["verdict"])
    turned = {name: _negative(pair[name]) for name in ("difference", "together")}
    return {**pair, "a": pair["b"], "b": pair["a"], **turned, "verdict": verdict}


def _negative(interval: Mapping[str, Any]) -> dict[str, Any]:
    return {**interval, "value": -interval["value"], "low": -interval["high"], "high": -interval["low"]}
