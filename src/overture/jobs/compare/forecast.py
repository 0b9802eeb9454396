"""The work that a comparison still has to do, and about how long it takes."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from overture.core.errors import ConfigError
from overture.core.records.cells import DivergedCell, Key, Plan
from overture.core.records.events import PlanStep
from overture.data.splits import Splits
from overture.jobs.compare.budget import Speed
from overture.jobs.compare.cells import CellContext, measured
from overture.jobs.compare.folder import CellFolder, keys_of
from overture.jobs.compare.rates import FURTHER
from overture.jobs.compare.ways import Way


def times_text(count: int) -> str:
    """How often something is done."""
    return "once" if count == 1 else f"{count} times"


@dataclass(frozen=True, slots=True)
class Forecast:
    """The work that is left of a comparison.

    Args:
        ways: those that are compared.
        folder: where finished cells and measured speeds are.
        context: the rows and the least number of steps.
        seeds: all that were asked for.
    """

    ways: Sequence[Way]
    folder: CellFolder
    context: CellContext
    seeds: range

    def timed(self, way: Way, size: int) -> Speed:
        """A way's speed, from a short training on few rows whose cell is not kept.

        Raises:
            ConfigError: the training diverged.
        """
        context, splits = self.context, self.context.splits
        small = replace(context, splits=Splits(splits.train, splits.validation, splits.test[:16]), min_steps=3)
        train = way.config.train.model_copy(update={"epochs": 1, "patience": 1})
        tiny = replace(way, config=way.config.model_copy(update={"train": train}))  # type: ignore[type-var]
        start = time.monotonic()
        key = Key(way=way.name, size=size, seed=self.seeds[0])
        cell = measured(small, tiny, key, way.rates[0] if way.rates else None)
        if isinstance(cell, DivergedCell):
            raise ConfigError("training diverged at once", where=f"--way {way.name}", fix="a smaller learning rate")
        return Speed.of(cell, time.monotonic() - start)

    def steps(self, plan: Plan) -> list[PlanStep]:
        """Each way's work, with its time where its speed was measured; none of ways that are finished."""
        steps, num_test = [], len(self.context.splits.test)
        for way in self.ways:
            keys = [key for key in keys_of(way, plan.sizes, self.seeds[: plan.seeds]) if not self.folder.has(key)]
            if not keys:
                continue
            rows = f"on {', '.join(map(str, sorted({key.size for key in keys})))} rows"
            work_text = f"built {times_text(len(keys))} {rows}" if way.needs_rows else "as it is"
            if way.rates:
                work_text = f"{len(keys)} training{'s' if len(keys) > 1 else ''} {rows}"
            if num_trials := self._num_trials(way, plan):
                work_text += f" and {num_trials} to {num_trials + FURTHER} for its learning rate"
            speed = self.folder.speed(way)
            seconds = self.of_way(way, speed, plan) if speed else None
            steps.append(PlanStep(what=f"{way.name}: {work_text}, {num_test} test rows scored", seconds=seconds))
        return steps

    def seconds(self, plan: Plan, speed: Speed) -> float:
        """Seconds of all trainings that are left; ways whose speed was not measured have the one given."""
        trained_ways = [way for way in self.ways if way.rates]
        return sum(self.of_way(way, self.folder.speed(way) or speed, plan) for way in trained_ways)

    def of_way(self, way: Way, speed: Speed, plan: Plan) -> float:
        """Seconds that a way's missing cells and trials of learning rates take."""
        context, train = self.context, way.config.train

        def training(size: int) -> float:
            num_validation = min(size, context.max_validation)
            if not way.rates:
                return speed.building(size, num_validation)
            return speed.training(train, size, num_validation, context.min_steps)

        scoring = speed.scoring(len(context.splits.test))
        missing = [key for key in keys_of(way, plan.sizes, self.seeds[: plan.seeds]) if not self.folder.has(key)]
        num_trials = self._num_trials(way, plan)
        trials = num_trials + FURTHER if num_trials else 0
        return sum(training(key.size) + scoring for key in missing) + trials * training(plan.sizes[-1])

    def _num_trials(self, way: Way, plan: Plan) -> int:
        """Learning rates of the way's list that are still to be tried."""
        return len(way.rates) if plan.is_tuned and len(way.rates) > 1 and not self.folder.chosen(way) else 0
