"""The sizes and seeds that fit into a time, by seconds measured on a few rows."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from overture.core.errors import ConfigError
from overture.core.records.cells import BuiltCell, Cell, Plan
from overture.train.options import TrainConfig

Seconds = Callable[[Sequence[int], int, bool], float]
_FEW_SEEDS, _ENOUGH_SEEDS = 2, 3


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
        """From a cell that was run, and the wall time that it took in all."""
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
        """Of one way that is not trained, at a size."""
        return self.fixed + self.read * (size + num_validation)

    def training(self, train: TrainConfig, size: int, num_validation: int, min_steps: int) -> float:
        """Of one training at a size."""
        epochs = train.with_steps(size, min_steps).num_epochs
        epoch = size * self.step + num_validation * self.validate
        return self.building(size, num_validation) + epochs * epoch

    def scoring(self, num_test: int) -> float:
        """Of scoring test rows."""
        return self.score * num_test


def chosen_plan(sizes: Sequence[int], seeds: int, is_tuned: bool, budget: float, seconds: Seconds) -> Plan:
    """The most that fits: two seeds before tuned rates, tuned rates before a third seed, then sizes, then more seeds.

    Smaller sizes are kept; the largest is the first to go.

    Args:
        sizes: asked for, rising.
        seeds: asked for.
        is_tuned: whether learning rates should be chosen.
        budget: seconds.
        seconds: what (sizes, seeds, tuned) would take.

    Raises:
        ConfigError: not even the smallest comparison fits.
    """
    options = [
        (sizes[:count], num_seeds, tuned)
        for count in range(1, len(sizes) + 1)
        for num_seeds in range(1, seeds + 1)
        for tuned in ((True, False) if is_tuned else (False,))
    ]
    fitting = [option for option in options if seconds(*option) <= budget]
    if not fitting:
        least = seconds(sizes[:1], 1, False)
        raise ConfigError(
            "the budget is too small for any comparison",
            where="--budget",
            got=f"{budget / 60:g} minutes",
            wanted=f"about {math.ceil(least / 60)} minutes for {sizes[0]} rows and one seed",
            fix="fewer ways, or fewer test rows: --set data.test_rows=200",
        )

    def rank(option: tuple[Sequence[int], int, bool]) -> tuple[int, bool, int, int, int]:
        kept, num_seeds, tuned = option
        return min(num_seeds, _FEW_SEEDS), tuned, min(num_seeds, _ENOUGH_SEEDS), len(kept), num_seeds

    kept, num_seeds, tuned = max(fitting, key=rank)
    missing = [f"{size} rows" for size in sizes[len(kept) :]]
    if num_seeds < seeds:
        missing.append(f"seeds beyond the first {num_seeds} of {seeds}")
    if is_tuned and not tuned:
        missing.append("the choice of learning rates: each way ran at its default")
    whole = seconds(sizes, seeds, is_tuned)
    left_out = [f"{', '.join(missing)} (all of it would take about {whole / 60:.0f} minutes)"] if missing else []
    expected = seconds(kept, num_seeds, tuned)
    return Plan(sizes=tuple(kept), seeds=num_seeds, is_tuned=tuned, seconds=expected, left_out=tuple(left_out))
