"""The sizes and seeds that fit into a time, by seconds measured on a few rows."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from overture.core.errors import ConfigError
from overture.core.records.cells import BuiltCell, Cell, Plan
from overture.train.options import TrainConfig

Seconds = Callable[[Sequence[int], int, bool], float]
_FEW_SEEDS, _ENOUGH_SEEDS = 2, 3
_FEW_TEST_ROWS = 30
"""The fewest test rows that are proposed: with fewer, intervals are too wide to separate any ways."""


@dataclass(frozen=True, slots=True)
class SmallestComparison:
    """The smallest comparison that a request can be cut to.

    Args:
        size: training rows.
        num_ways: number of ways.
        num_test: number of test rows.
    """

    size: int
    num_ways: int
    num_test: int


@dataclass(frozen=True, slots=True)
class Speed:
    """Seconds of one way, from a small cell.

    Args:
        fixed: of a cell, whatever its rows.
        read: of each training and validation row, once; where nothing is trained, building the way is such work.
        step: of each visit of a training row.
        validate: of each visit of a validation row.
        score: of each test row.
    """

    fixed: float
    read: float
    step: float
    validate: float
    score: float

    @classmethod
    def of(cls, cell: Cell, seconds: float) -> "Speed":
        """The speed of a cell's way, from the cell's ledger and its whole wall time."""
        ledger, rows = cell.ledger, cell.rows
        # Features, or examples that are looked for, are found while a way without training is built.
        reading = (ledger.building if isinstance(cell, BuiltCell) else ledger.reading).seconds
        training, validation = ledger.training.seconds, ledger.validation.seconds
        scoring = ledger.scoring.seconds + ledger.serving.seconds
        num_epochs = 1 if isinstance(cell, BuiltCell) else len(cell.history) or 1
        return cls(
            fixed=max(0.0, seconds - (reading + training + validation) - scoring),
            read=reading / max(1, rows.train + rows.validation),
            step=training / max(1, num_epochs * rows.train),
            validate=validation / max(1, num_epochs * rows.validation),
            score=scoring / rows.test,
        )

    def building(self, size: int, num_validation: int) -> float:
        """Seconds to build a way that is not trained, for some numbers of rows."""
        return self.fixed + self.read * (size + num_validation)

    def training(self, train: TrainConfig, size: int, num_validation: int, min_steps: int) -> float:
        """Seconds of one training, for some numbers of rows."""
        epochs = train.with_steps(size, min_steps).num_epochs
        epoch = size * self.step + num_validation * self.validate
        return self.building(size, num_validation) + epochs * epoch

    def scoring(self, num_test: int) -> float:
        """Seconds to score test rows."""
        return self.score * num_test


def chosen_plan(sizes: Sequence[int], seeds: int, is_tuned: bool, budget: float, seconds: Seconds) -> Plan:
    """The largest plan that fits the budget.

    Two seeds come before tuned rates, tuned rates before a third seed, then more sizes, then more seeds. The largest
    size is the first to be left out.

    Args:
        sizes: numbers of training rows in the request, rising.
        seeds: number of seeds in the request.
        is_tuned: whether learning rates should be chosen.
        budget: seconds.
        seconds: gives the seconds that (sizes, seeds, tuned) take.

    Raises:
        ConfigError: nothing fits; `check_smallest` says so earlier, with a fix.
    """
    options = [
        (sizes[:count], num_seeds, with_rates)
        for count in range(1, len(sizes) + 1)
        for num_seeds in range(1, seeds + 1)
        for with_rates in ((True, False) if is_tuned else (False,))
    ]
    fitting = [option for option in options if seconds(*option) <= budget]
    if not fitting:
        raise _too_small(budget, seconds(sizes[:1], 1, False), sizes[0], "")

    def rank(option: tuple[Sequence[int], int, bool]) -> tuple[int, bool, int, int, int]:
        some_sizes, num_seeds, has_rates = option
        return min(num_seeds, _FEW_SEEDS), has_rates, min(num_seeds, _ENOUGH_SEEDS), len(some_sizes), num_seeds

    plan_sizes, num_seeds, with_rates = max(fitting, key=rank)
    missing = [f"{size} rows" for size in sizes[len(plan_sizes) :]]
    if num_seeds < seeds:
        missing.append(f"seeds beyond the first {num_seeds} of {seeds}")
    if is_tuned and not with_rates:
        missing.append("the choice of learning rates: each way ran at its default")
    whole = seconds(sizes, seeds, is_tuned)
    left_out = [f"{', '.join(missing)} (all of it would take about {whole / 60:.0f} minutes)"] if missing else []
    plan_seconds = seconds(plan_sizes, num_seeds, with_rates)
    return Plan(
        sizes=tuple(plan_sizes), seeds=num_seeds, is_tuned=with_rates, seconds=plan_seconds, left_out=tuple(left_out)
    )


def check_smallest(
    budget: float,
    speeds: Mapping[str, Speed],
    without_scoring: Mapping[str, float],
    elapsed_s: float,
    smallest: SmallestComparison,
) -> None:
    """Refuse a budget as soon as it is known to be too small, with what would fit.

    Args:
        budget: seconds.
        speeds: way -> its speed, of the ways that were timed so far.
        without_scoring: way -> seconds of its smallest comparison, of those ways, without scoring.
        elapsed_s: seconds that loading and timing took.
        smallest: the smallest comparison.

    Raises:
        ConfigError: the ways that were timed take longer, though every other took no more than the fastest of them.
    """
    # A way that was not timed scores the test rows at least.
    other_ways = (smallest.num_ways - len(speeds)) * min(speed.score for speed in speeds.values())
    scoring = other_ways + sum(speed.score for speed in speeds.values())
    before_scoring = elapsed_s + sum(without_scoring.values())
    seconds = before_scoring + scoring * smallest.num_test
    if seconds <= budget:
        return
    num_test = math.floor((budget - before_scoring) / scoring) if scoring else 0
    fix = f"--set data.test_rows={num_test}, or " if _FEW_TEST_ROWS <= num_test < smallest.num_test else ""
    raise _too_small(budget, seconds, smallest.size, fix)


def _too_small(budget: float, least: float, size: int, fix: str) -> ConfigError:
    minutes = math.ceil(least / 60)
    return ConfigError(
        "the budget is too small for any comparison",
        where="--budget",
        got=f"{budget / 60:g} minutes",
        wanted=f"at least {minutes} minutes for {size} rows and one seed",
        fix=f"{fix}--budget {math.ceil(1.2 * least / 60)}, or fewer ways; what was timed is kept",
    )
