"""Ways side by side: over training-set sizes and seeds, on the same rows, with everything they cost.

The folder holds one file a cell, so a comparison goes on where it stopped, takes further ways, sizes and seeds later,
and any cell can be run again alone. The summary and the report are made from these files.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import TypeAdapter

from overture.core.contracts import Executor
from overture.core.errors import (
    ConfigError,
    DiskFull,
    OvertureError,
    Stopped,
    StoreError,
    UserError,
)
from overture.core.files import exclusive, sweep_temporaries, write_json
from overture.core.records.cells import (
    CELLS,
    NO_PROMPT,
    Cell,
    DivergedCell,
    FailedCell,
    Key,
    Plan,
    Request,
    RightAnswers,
    Trial,
)
from overture.core.records.compare import Facts, Interrupted, ModelFacts, Summary
from overture.core.records.events import (
    CellEvent,
    Event,
    Listener,
    NoticeEvent,
    PlanEvent,
    ProgressEvent,
    StartEvent,
    StepEvent,
    ignore,
)
from overture.core.versions import versions
from overture.data.task import portable
from overture.engine.backbone import Backbone
from overture.jobs.compare.budget import SmallestComparison, Speed, check_smallest, chosen_plan
from overture.jobs.compare.cells import CellContext, CellJob, context_of, measured, trial
from overture.jobs.compare.fixes import named_as_ways
from overture.jobs.compare.folder import CellFolder, PlanRequest, constant, keys_of
from overture.jobs.compare.forecast import Forecast
from overture.jobs.compare.options import CompareConfig
from overture.jobs.compare.rates import Rates
from overture.jobs.compare.ways import Way, way_named, ways_of, with_versions
from overture.jobs.run.local import LocalExecutor
from overture.jobs.run.request import check_no_adapter, check_one_process, with_slots
from overture.jobs.run.settled import fitting_place
from overture.jobs.run.where import HERE, Where
from overture.jobs.verdict.summary import summary
from overture.prompt.registry import check_effect
from overture.report.track import Trackers
from overture.store.store import Store

if TYPE_CHECKING:
    from overture.jobs.run.on_ray import Workers

_WORTH_TELLING_S = 60.0
_USUAL = (NO_PROMPT, "in-context", "linear", "head", "lora")


def compare(
    config: CompareConfig,
    folder: Path,
    store: Store,
    listener: Listener = ignore,
    is_stop_asked: Callable[[], bool] = lambda: False,
    backbone: Backbone | None = None,
    only: Key | None = None,
    command: str = "",
    where: Where = HERE,
) -> Summary | Interrupted:
    """Run the cells that are missing, and summarise all.

    Args:
        config: the request.
        folder: where cells are kept; cells that are there are not run again.
        store: where prompts are, for starts from a stored one.
        listener: called with every event.
        is_stop_asked: looked at after each step; cells that are finished are kept.
        backbone: a loaded model; loaded by the task's name when None.
        only: run this cell, whether it is there or not, and no other.
        command: the command line, for the report.
        where: where cells are run.

    Returns:
        The summary, ``incomplete`` if a way could not be run; `Interrupted` if a stop was asked for.

    Raises:
        UserError: task, data, model or a way is wrong; raised before anything is trained.
        StoreError: the folder holds cells of another request, or another process works on it.
    """
    check_no_adapter(config.tune, "compare")
    check_one_process(config.tune)
    check_effect(config.tune.prompt)
    # Wrong ways are refused before a model is loaded.
    _ways(config, store, only)
    with ExitStack() as stack:
        stack.enter_context(exclusive(folder / ".lock", "this comparison"))
        for swept in (folder, folder / "cells"):
            sweep_temporaries(swept)
        name, request = f"comparison on {config.tune.task.name}", config.tune.model_dump(mode="json")
        tell = stack.enter_context(Trackers(config.tune.track, name, folder, request, listener))
        tell(StartEvent(run=name, folder=str(folder)))
        if rate := config.tune.train.lr:
            fix = f"--set-way WAY:train.lr={rate:g} sets that of one way"
            tell(NoticeEvent(text=f"train.lr {rate:g} is not used, since each way has a rate of its own: {fix}"))
        context = context_of(config, store, tell, is_stop_asked, backbone)
        fitting: tuple[str, ...] = ()
        if not config.ways:
            fitting = _fitting_ways(config, context)
            prompt = with_slots(fitting_place(config.tune, context.resources.backbone)).prompt
            config = config.model_copy(update={"ways": (*fitting, f"{prompt.method}-{prompt.place}")})
        ways = _ways(config, store, only)
        workers = stack.enter_context(_workers(where, config, ways, context)) if where.on else None
        comparison = _Comparison(config, folder, ways, context, fitting, workers)
        try:
            plan = comparison.run_one(only) if only else comparison.run_all()
        except Stopped:
            return Interrupted(folder=str(folder))
        result = comparison.summary(plan, command)
        write_json(folder / "result.json", result.dump())
        return result


def _workers(
    where: Where, config: CompareConfig, ways: Sequence[Way], context: CellContext
) -> AbstractContextManager["Workers"]:
    """Workers with the same rows, model and ways."""
    from overture.jobs.compare.remote import CellsRequest, facts_of
    from overture.jobs.run.on_ray import workers_on

    request = CellsRequest(config=config, ways=tuple(way.name for way in ways))
    module, has_gpu = "overture.jobs.compare.remote", context.resources.backbone.device.type == "cuda"
    return workers_on(where, module, request, context.resources.store, facts_of(context), has_gpu, context.listener)


def _ways(config: CompareConfig, store: Store, only: Key | None) -> list[Way]:
    return [with_versions(way, store) for way in ways_of(config, only.way if only else "")]


def _fitting_ways(config: CompareConfig, context: CellContext) -> tuple[str, ...]:
    """The usual ways that fit model and task: beside these a prompt shows whether it is worth tuning."""
    fitting: list[str] = []
    for name in _USUAL:
        if name == "head" and "linear" in fitting:
            continue
        try:
            _build_once(way_named(name, config.tune, config.settings.get(name, ())), config, context)
        except UserError as error:
            context.listener(NoticeEvent(text=f"{name} is left out: {error.what}"))
        else:
            fitting.append(name)
    return tuple(fitting)


def _build_once(way: Way, config: CompareConfig, context: CellContext) -> None:
    """Build a way for few rows, and encode its test rows, so that rows which are too long are found early."""
    built_way = way.make(context.resources, context.rows(config.sizes[0], config.tune.seed), config.tune.seed)
    assert built_way.rows["test"]


class _Comparison:
    """The cells of one request: which of them run, in which order, and what is made of them.

    Args:
        config: the request.
        folder: where cells are kept.
        ways: those that are compared.
        context: the rows, the model and the task.
        fitting: names of ways that are known to fit the model.
        workers: run the cells; this process when None.
    """

    def __init__(
        self,
        config: CompareConfig,
        folder: Path,
        ways: Sequence[Way],
        context: CellContext,
        fitting: Sequence[str] = (),
        workers: "Workers | None" = None,
    ) -> None:
        self.config, self.ways, self.context, self.fitting = config, ways, context, fitting
        self.folder = CellFolder(folder, context)
        self.seeds = range(config.tune.seed, config.tune.seed + config.seeds)
        self.failed: list[FailedCell] = []
        self._by_name = {way.name: way for way in ways}
        self._cells: Executor[CellJob, Cell]
        self._has_workers = workers is not None
        if workers is None:
            self._cells = LocalExecutor(
                lambda job, on_event: measured(context, self._by_name[job.key.way], job.key, job.lr),
                context.is_stop_asked,
            )
            trials: Executor[CellJob, Trial] = LocalExecutor(
                lambda job, on_event: trial(context, self._by_name[job.key.way], job.key, job.lr), context.is_stop_asked
            )
        else:
            from overture.jobs.compare.remote import CELL, TRIAL
            from overture.jobs.run.on_ray import RayExecutor

            self._cells = RayExecutor(workers, CELL, CELLS, context.is_stop_asked)
            trials = RayExecutor(workers, TRIAL, TypeAdapter(Trial), context.is_stop_asked)
        self._rates = Rates(ways, self.folder, trials, self._listener, self.seeds)
        self._first_error: OvertureError | None = None
        self._started = time.monotonic()
        self._forecast = Forecast(ways, self.folder, context, self.seeds)
        self._is_forecast = False

    # -- running

    def run_one(self, only: Key) -> Plan:
        """Run one cell of the plan, also where it is there already.

        Raises:
            ConfigError: the comparison has no such cell.
        """
        way = self._by_name[only.way]
        key = only if way.needs_rows else constant(way)
        if key.size > len(self.context.splits.train) or (way.needs_rows and key.size < 2):
            raise ConfigError("no such number of training rows", where="--cell", got=str(only))
        plan = self._stored_plan() or self._whole_plan()
        if key not in self._keys(plan):
            cells_text = f"of {', '.join(map(str, plan.sizes))} rows, of seeds {', '.join(map(str, self._seeds(plan)))}"
            raise ConfigError("not a cell of this comparison", where="--cell", got=str(only), wanted=cells_text)
        self._refuse_other_requests(key)
        self._show_progress(plan)
        for outcome in self._cells.map([CellJob(key=key, lr=self._rates.of(way, plan))], self._listener):
            self._keep(outcome.checked(), outcome.seconds, plan)
        return plan

    def run_all(self) -> Plan:
        """Run all cells of the plan that are missing, seed by seed, as long as the budget lasts."""
        whole = self._whole_plan()
        for way in self.ways:
            is_done = all(map(self.folder.has, keys_of(way, whole.sizes, self._seeds(whole))))
            if not is_done and way.name not in self.fitting:
                self._check_fit(way)
        self._refuse_other_requests()
        plan = self._stored_plan()
        if plan is None:
            plan = self._whole_plan() if self.config.budget is None else self._plan_within(self.config.budget)
            self.folder.keep_plan(self._plan_request, plan)
        self._rates.notify_untuned(plan)
        self._notify_lengthened(plan)
        if steps := self._forecast.steps(plan):
            self.context.listener(PlanEvent(steps=steps))

        seconds_of_last = 0.0
        for number, seed in enumerate(self._seeds(plan)):
            # A tenth more than the budget is allowed.
            end = time.monotonic() - self._started + seconds_of_last if plan.seconds else 0.0
            if seconds_of_last > 0 and end > 1.1 * 60 * (self.config.budget or float("inf")):
                left_out = f"seeds beyond the first {number}: another one would have ended after the time"
                plan = plan.model_copy(update={"seeds": number, "left_out": (*plan.left_out, left_out)})
                self.folder.keep_plan(self._plan_request, plan)
                return plan
            start, trials = time.monotonic(), self._rates.seconds
            self._show_progress(plan)
            if self._has_workers and number == 0:
                # Before any cell, while all workers are free to try them side by side.
                self._rates.choose_all(plan)
            # A cell that fails does not stop the others.
            for outcome in self._cells.map(self._missing(seed, plan), self._listener):
                if outcome.error:
                    self._note_failure(outcome.job.key, outcome.error)
                else:
                    self._keep(outcome.checked(), outcome.seconds, plan)
            seconds_of_last = time.monotonic() - start - (self._rates.seconds - trials)
        if self._first_error and not self._num_done(plan):
            raise self._first_error
        return plan

    def _missing(self, seed: int, plan: Plan) -> Iterator[CellJob]:
        """A seed's missing cells; none of a way that failed with as many rows or fewer."""
        for size in plan.sizes:
            for way in self.ways:
                key = Key(way=way.name, size=size, seed=seed) if way.needs_rows else constant(way)
                has_failed = any(failure.way == way.name and failure.size <= key.size for failure in self.failed)
                if self.folder.has(key) or has_failed:
                    continue
                try:
                    yield CellJob(key=key, lr=self._rates.of(way, plan))
                except (StoreError, DiskFull):
                    raise
                except OvertureError as error:
                    self._note_failure(key, error)

    def _keep(self, cell: Cell, seconds: float, plan: Plan) -> None:
        self.folder.keep(self._by_name[cell.way], cell)
        metric = self.config.tune.task.metric
        value = None if isinstance(cell, DivergedCell) else cell.metrics["test"][metric].value
        self.context.listener(CellEvent(what=cell.key.title, metric=metric, value=value, seconds=seconds))
        self._show_progress(plan)
        if not self._is_forecast and self._by_name[cell.way].rates and not isinstance(cell, DivergedCell):
            self._is_forecast = True
            seconds_left = self._forecast.seconds(plan, Speed.of(cell, seconds))
            if seconds_left > _WORTH_TELLING_S:
                self._notify(f"about {seconds_left / 60:.0f} more minutes, by the first training")

    def _note_failure(self, key: Key, error: OvertureError) -> None:
        self._first_error = self._first_error or error
        self.failed.append(FailedCell(**dict(key), what=error.what))
        self._notify(f"{key.title} failed, the others go on: {error}")

    def _show_progress(self, plan: Plan) -> None:
        num_done, total = self._num_done(plan), len(self._keys(plan))
        self.context.listener(ProgressEvent(what="cells", done=num_done, total=total))

    def _notify(self, text: str) -> None:
        self.context.listener(NoticeEvent(text=text))

    def _listener(self, event: Event) -> None:
        """Hand on events of cells; of several workers no steps, which would jump to and fro in one bar."""
        if not (self._has_workers and isinstance(event, ProgressEvent | StepEvent)):
            self.context.listener(event)

    def _notify_lengthened(self, plan: Plan) -> None:
        """Notify that trainings have more epochs than were asked for, so that they have the least number of steps."""
        train, least = self.config.tune.train, self.config.min_steps
        if train.epochs and (most := train.with_steps(plan.sizes[0], least).num_epochs) > train.epochs:
            self._notify(
                f"up to {most} epochs in place of {train.epochs}: every training has {least} optimiser steps at least "
                "(--min-steps)"
            )

    # -- planning

    @property
    def _plan_request(self) -> PlanRequest:
        return PlanRequest(**self.config.model_dump(include=set(PlanRequest.model_fields)))

    def _stored_plan(self) -> Plan | None:
        return self.folder.plan(self._plan_request)

    def _whole_plan(self) -> Plan:
        return Plan(sizes=self.config.sizes, seeds=self.config.seeds, is_tuned=self.config.is_rate_tuned)

    def _plan_within(self, minutes: float) -> Plan:
        """The most that fits into a time, by a tiny cell of each way; refused as soon as it cannot be enough."""
        size, num_test = self.config.sizes[0], len(self.context.splits.test)
        smallest = SmallestComparison(size, len(self.ways), num_test)
        speeds: dict[str, Speed] = {}
        without_scoring: dict[str, float] = {}
        for way in self.ways:
            speed = self.folder.speed(way)
            if speed is None:
                self._notify(f"timing {way.name}")
                speed = self._forecast.timed(way, min(self.config.sizes[-1], 32))
                self.folder.keep_speed(way, speed)
            speeds[way.name] = speed
            seconds_left = self._forecast.of_way(way, speed, Plan(sizes=(size,), seeds=1, is_tuned=False))
            without_scoring[way.name] = max(0.0, seconds_left - speed.scoring(num_test))
            # Building and timing the ways is a part of the time that was given.
            elapsed_s = time.monotonic() - self._started
            if seconds_left:
                check_smallest(60 * minutes, speeds, without_scoring, elapsed_s, smallest)

        def seconds(sizes: Sequence[int], seeds: int, is_tuned: bool) -> float:
            plan = Plan(sizes=tuple(sizes), seeds=seeds, is_tuned=is_tuned)
            return elapsed_s + sum(self._forecast.of_way(way, speeds[way.name], plan) for way in self.ways)

        return chosen_plan(self.config.sizes, self.config.seeds, self.config.is_rate_tuned, 60 * minutes, seconds)

    # -- checks

    def _check_fit(self, way: Way) -> None:
        """Build a way once, so that one that does not fit is refused before hours are spent."""
        try:
            _build_once(way, self.config, self.context)
        except UserError as error:
            where = f"--way {way.name}" + (f": {error.where}" if error.where else "")
            raise type(error)(
                error.what,
                where=where,
                got=error.got,
                wanted=error.wanted,
                fix=named_as_ways(error.fix, way),
                problems=error.problems,
            ) from error

    def _refuse_other_requests(self, rerun_key: Key | None = None) -> None:
        """Refuse to mix cells of another request into this one's report.

        Args:
            rerun_key: a cell that will be run again, whatever it is now.

        Raises:
            StoreError: names what differs.
        """
        whole, problems = self._whole_plan(), []
        for way in self.ways:
            keys = keys_of(way, whole.sizes, self._seeds(whole))
            problems += self.folder.check(way, keys, rerun_key)
        problems += self.folder.check_answers(rerun_key)
        if problems:
            raise StoreError(
                "the folder holds cells of another request",
                where=str(self.folder.folder),
                problems=problems,
                fix="name another folder with --output, or delete its cells",
            )

    # -- stored cells

    def _seeds(self, plan: Plan) -> range:
        return self.seeds[: plan.seeds]

    def _keys(self, plan: Plan) -> list[Key]:
        return [key for way in self.ways for key in keys_of(way, plan.sizes, self._seeds(plan))]

    def _num_done(self, plan: Plan) -> int:
        return sum(map(self.folder.has, self._keys(plan)))

    def summary(self, plan: Plan, command: str) -> Summary:
        """The summary of the plan's cells; some may be missing after a failure, or after one was run alone."""
        config, info = self.config, self.context.resources.backbone.info
        model = Path(info.id).name if Path(info.id).is_absolute() else info.id
        request = Request(
            **config.model_dump(mode="json", exclude={"tune", "unrelated"}),
            tune={
                **config.tune.model_dump(mode="json", exclude={"task"}),
                "task": {**portable(config.tune.task), "backbone": model},
            },
        )
        facts = Facts(
            backbone=ModelFacts(id=model, parameters=info.num_parameters, dtype=info.dtype),
            device=self.context.resources.backbone.device.type,
            versions=versions(),
            data=self.folder.data,
            passages=len(self.context.passages),
        )
        cells = self.folder.cells(self._keys(plan))
        has_scores = any(not isinstance(cell, DivergedCell) for cell in cells)
        answers = self.folder.answers() if has_scores else RightAnswers(data=self.folder.data, gold=())
        rates = {way.name: choice for way in self.ways if (choice := self.folder.chosen(way))}
        return summary(request, plan, cells, answers, rates, facts, self.failed, command)
