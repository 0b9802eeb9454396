"""Ways side by side: over training-set sizes and seeds, on the same rows, with everything they cost.

The folder holds one JSON file a cell, so a comparison goes on where it stopped, takes further ways, sizes and seeds
later, and any cell can be run again alone. The report is made from these files.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import OutOfMemoryError

from overture.core.errors import (
    ConfigError,
    DataError,
    DeviceFull,
    DiskFull,
    OvertureError,
    Problem,
    Stopped,
    StoreError,
    UserError,
)
from overture.core.files import exclusive, sweep_temporaries, write_json
from overture.core.records.compare import Plan
from overture.core.records.events import CellEvent, Listener, NoticeEvent, ProgressEvent, StartEvent, ignore
from overture.core.versions import versions
from overture.data.splits import Splits, load_splits
from overture.engine.backbone import Backbone
from overture.engine.load import load_backbone
from overture.jobs.compare.budget import Speed, chosen_plan
from overture.jobs.compare.cells import Key, Lab, measured, passages_of, trial
from overture.jobs.compare.folder import CellFolder, constant, keys_of
from overture.jobs.compare.options import CompareConfig
from overture.jobs.compare.rates import FURTHER, best_rate, next_rate
from overture.jobs.compare.ways import Bench, Way, way_named, with_versions
from overture.jobs.run.request import check_no_adapter, fitting_place, with_slots
from overture.prompt.registry import check_effect
from overture.store.store import Store

_TINY = {"epochs": 1, "patience": 1}
_USUAL = ("none", "in-context", "linear", "head", "lora")


def compare(
    config: CompareConfig,
    folder: Path,
    store: Store,
    listener: Listener = ignore,
    is_stop_asked: Callable[[], bool] = lambda: False,
    backbone: Backbone | None = None,
    only: Key | None = None,
) -> dict[str, Any]:
    """Run what is not there yet, and sum up all that is.

    Args:
        config: the request.
        folder: where cells are kept; cells that are there are not run again.
        store: where prompts are, for starts from a stored one.
        listener: told of every event.
        is_stop_asked: looked at after each step; cells that are finished are kept.
        backbone: a loaded model; loaded by the task's name when None.
        only: run this cell, whether it is there or not, and no other.

    Returns:
        ``{"status": "finished", ...}`` with the summary, ``"incomplete"`` if a way could not be run, or
        ``{"status": "interrupted", "folder": ...}``.

    Raises:
        UserError: task, data, model or a way is wrong; told before anything is trained.
        StoreError: the folder holds cells of another request, or another process works on it.
    """
    from overture.jobs.verdict.summary import summary

    check_no_adapter(config.tune, "compare")
    check_effect(config.tune.prompt)
    if config.ways:
        # Told before a model is loaded.
        _ways(config, store, only)
    with exclusive(folder / ".lock", "this comparison"):
        sweep_temporaries(folder / "cells")
        listener(StartEvent(run=f"comparison on {config.tune.task.name}", folder=str(folder)))
        lab = _lab(config, store, listener, is_stop_asked, backbone)
        known = () if config.ways else _fitting_ways(config, lab)
        config = config if config.ways else config.model_copy(update={"ways": (*known, _own_way(config, lab))})
        ways = _ways(config, store, only)
        work = _Comparison(config, folder, ways, lab, known)
        try:
            plan = work.ran(only)
        except Stopped:
            return {"status": "interrupted", "folder": str(folder)}
        cells = work.cells(plan, only)
        found = summary(config, plan, [way.name for way in ways], cells, work.rates(), work.facts(), work.failed)
        write_json(folder / "result.json", found)
        return found


def _ways(config: CompareConfig, store: Store, only: Key | None) -> list[Way]:
    ways = [way_named(name, config.tune, config.settings.get(name, ())) for name in config.ways]
    unknown = [name for name in (*config.settings, *([only.way] if only else [])) if name not in config.ways]
    if config.reference and config.reference not in config.ways:
        unknown.append(config.reference)
    if unknown:
        raise ConfigError(
            "this way is not compared", where="--way", got=unknown[0], wanted=", ".join(config.ways), fix="add it"
        )
    return [with_versions(way, store) for way in ways]


def _own_way(config: CompareConfig, lab: Lab) -> str:
    """The task's own prompt."""
    prompt = with_slots(fitting_place(config.tune, lab.bench.backbone)).prompt
    return f"{prompt.method}-{prompt.place}"


def _fitting_ways(config: CompareConfig, lab: Lab) -> tuple[str, ...]:
    """The usual ways that fit model and task: beside these a prompt shows whether it is worth tuning."""
    found: list[str] = []
    for name in _USUAL:
        if name == "head" and "linear" in found:
            continue
        try:
            _built(way_named(name, config.tune, config.settings.get(name, ())), config, lab)
        except UserError as error:
            lab.listener(NoticeEvent(text=f"{name} is left out: {error.what}"))
        else:
            found.append(name)
    return tuple(found)


def _built(way: Way, config: CompareConfig, lab: Lab) -> None:
    """Build a way once for few rows; rows are encoded when they are asked for, so too long ones are found as well."""
    made = way.make(lab.bench, lab.rows(config.sizes[0], config.tune.seed), config.tune.seed)
    assert made.rows["test"]


def _lab(
    config: CompareConfig,
    store: Store,
    listener: Listener,
    is_stop_asked: Callable[[], bool],
    backbone: Backbone | None,
) -> Lab:
    tune = config.tune
    splits = load_splits(tune.task)
    _check_rows(config, splits)
    passages = passages_of(config.unrelated)

    def notify(text: str) -> None:
        listener(NoticeEvent(text=text))

    for text in splits.notices:
        notify(text)
    backbone = backbone or load_backbone(
        tune.task.backbone,
        revision=tune.revision,
        device=tune.device,
        dtype=tune.dtype,
        compile_layers=tune.compile_layers,
        notify=notify,
    )
    cache_bytes = None if tune.cache_gb is None else int(tune.cache_gb * 1e9)
    bench = Bench(backbone, store, cache_bytes, notify)
    return Lab(bench, tune.task, splits, config.min_steps, passages, listener, is_stop_asked)


def _check_rows(config: CompareConfig, splits: Splits) -> None:
    problems = []
    for name in ("validation", "test"):
        if not getattr(splits, name):
            problems.append(Problem(f"data.{name}", "no rows", f"set data.{name}_share: 0.2"))
    if config.sizes[-1] > len(splits.train):
        problems.append(Problem("--size", f"{config.sizes[-1]}, but there are {len(splits.train)} training rows"))
    if problems:
        raise DataError("these rows cannot be compared on", problems=problems)


class _Comparison:
    """What is run, in which order; of ways that are known to fit nothing is built to find out."""

    def __init__(
        self, config: CompareConfig, folder: Path, ways: Sequence[Way], lab: Lab, known: Sequence[str] = ()
    ) -> None:
        self.config, self.ways, self.lab, self.known = config, ways, lab, known
        self.folder = CellFolder(folder, lab)
        self.seeds = range(config.tune.seed, config.tune.seed + config.seeds)
        self.failed: list[dict[str, Any]] = []
        self._first_error: OvertureError | None = None
        self._started = time.monotonic()
        self._trial_seconds = 0.0

    # -- running

    def ran(self, only: Key | None) -> Plan:
        """Run all that is planned and not there, or one cell."""
        return self._ran_one(only) if only else self._ran_all()

    def _ran_one(self, only: Key) -> Plan:
        way = next(way for way in self.ways if way.name == only.way)
        key = only if way.needs_rows else constant(way)
        if key.size > len(self.lab.splits.train) or (way.needs_rows and key.size < 2):
            raise ConfigError("no such number of training rows", where="--cell", got=str(only))
        plan = self._known_plan() or self._whole()
        if key not in self._keys(plan):
            wanted = f"of {', '.join(map(str, plan.sizes))} rows, of seeds {', '.join(map(str, self._seeds(plan)))}"
            raise ConfigError("not a cell of this comparison", where="--cell", got=str(only), wanted=wanted)
        self._no_strangers(key)
        self._run(way, key, plan)
        return plan

    def _ran_all(self) -> Plan:
        whole = self._whole()
        for way in self.ways:
            is_done = all(map(self.folder.has, keys_of(way, whole.sizes, self._seeds(whole))))
            if not is_done and way.name not in self.known:
                self._fits(way)
        self._no_strangers()
        plan, last = self._plan(), 0.0
        self._tell_untuned(plan)
        for number, seed in enumerate(self._seeds(plan)):
            if plan.seconds and self._is_late(last):
                told = f"seeds beyond the first {number}: another one would have ended after the time"
                return self._kept(plan.model_copy(update={"seeds": number, "left_out": (*plan.left_out, told)}))
            last = self._ran_seed(seed, plan)
        if self._first_error and not self._done(plan):
            raise self._first_error
        return plan

    def _ran_seed(self, seed: int, plan: Plan) -> float:
        """Run a seed's missing cells; the seconds that they took, without the choice of learning rates."""
        started, trials = time.monotonic(), self._trial_seconds
        for size in plan.sizes:
            for way in self.ways:
                key = Key(way=way.name, size=size, seed=seed) if way.needs_rows else constant(way)
                if not self.folder.has(key):
                    self._tried(way, key, plan)
        return time.monotonic() - started - (self._trial_seconds - trials)

    def _tried(self, way: Way, key: Key, plan: Plan) -> None:
        """Run a cell; where it cannot be, the others are, but not this way's with as many rows or more."""
        if any(one["way"] == way.name and one["size"] <= key.size for one in self.failed):
            return
        try:
            self._run(way, key, plan)
        except (StoreError, DiskFull):
            raise
        except (OvertureError, OutOfMemoryError) as error:
            own = error if isinstance(error, OvertureError) else DeviceFull("the memory is full", got=str(error)[:200])
            # It is kept to the end: without its frames, which hold the model and the tensors of the cell.
            own.__traceback__ = own.__context__ = own.__cause__ = None
            self._first_error = self._first_error or own
            self.failed.append({**key.model_dump(), "what": own.what})
            self.lab.listener(NoticeEvent(text=f"{key.title} failed, the others go on: {own}"))

    def _is_late(self, last: float) -> bool:
        """Whether another seed as slow as the last would end a tenth or more after the budget; not if none was run."""
        spent = time.monotonic() - self._started
        return last > 0 and spent + last > 1.1 * 60 * (self.config.budget or float("inf"))

    def _run(self, way: Way, key: Key, plan: Plan | None = None) -> None:
        started = time.monotonic()
        plan = plan or self._known_plan() or self._whole()
        self._tell(plan)
        rate = self._rate(way, plan)
        found = measured(self.lab, way, key, rate)
        self.folder.keep(way, key, rate, found)
        metric = self.config.tune.task.metric
        value = found["metrics"]["test"][metric]["value"] if found["metrics"] else None
        self.lab.listener(CellEvent(what=key.title, metric=metric, value=value, seconds=time.monotonic() - started))
        self._tell(plan)

    def _tell(self, plan: Plan) -> None:
        done, total = self._done(plan), len(self._keys(plan))
        self.lab.listener(ProgressEvent(what="cells", done=done, total=total))

    def _done(self, plan: Plan) -> int:
        return sum(map(self.folder.has, self._keys(plan)))

    def _rate(self, way: Way, plan: Plan) -> float | None:
        """A way's learning rate: chosen once for the folder, at the largest size, with the first seed."""
        if not way.rates:
            return None
        chosen = self.folder.chosen(way)
        if not chosen:
            if self.folder.has_other_rates(way):
                text = f"the learning rate of {way.name} was chosen for another request, and is chosen anew"
                self.lab.listener(NoticeEvent(text=text))
            is_tuned = plan.is_tuned and len(way.rates) > 1
            key = Key(way=way.name, size=plan.sizes[-1], seed=self.seeds[0])
            tried = self._trials(way, key) if is_tuned else []
            chosen = {"way": way.name, "lr": best_rate(way.rates, tried), **_at(key), "tried": tried}
            self.folder.keep_chosen(way, chosen)
        return float(chosen["lr"])

    def _trials(self, way: Way, key: Key) -> list[dict[str, Any]]:
        """What each learning rate gives; those that a stopped call has tried are not tried again."""
        started, tried = time.monotonic(), self.folder.tried(way, key)
        while (rate := next_rate(way.rates, tried)) is not None:
            tried.append(trial(self.lab, way, key, rate))
            self.folder.keep_chosen(way, {"way": way.name, "lr": None, **_at(key), "tried": tried})
        self._trial_seconds += time.monotonic() - started
        return tried

    def _tell_untuned(self, plan: Plan) -> None:
        """Say so where learning rates shall be chosen, but cells with the default are there and are kept."""
        for way in self.ways:
            chosen = self.folder.chosen(way)
            if plan.is_tuned and len(way.rates) > 1 and chosen and not chosen["tried"]:
                text = f"{way.name} keeps the default learning rate that its cells here have; another --out chooses it"
                self.lab.listener(NoticeEvent(text=text))

    def _fits(self, way: Way) -> None:
        """Build the way once, so that what does not fit is known before hours were spent."""
        try:
            _built(way, self.config, self.lab)
        except UserError as error:
            named = f"--way {way.name}" + (f": {error.where}" if error.where else "")
            raise type(error)(
                error.what, where=named, got=error.got, wanted=error.wanted, fix=error.fix, problems=error.problems
            ) from error

    # -- planning

    def _plan(self) -> Plan:
        known = self._known_plan()
        if known:
            return known
        return self._kept(self._whole() if self.config.budget is None else self._within(self.config.budget))

    @property
    def _asked(self) -> dict[str, Any]:
        return self.config.model_dump(mode="json", include={"ways", "sizes", "seeds", "budget", "is_rate_tuned"})

    def _kept(self, plan: Plan) -> Plan:
        self.folder.keep_plan(self._asked, plan)
        return plan

    def _known_plan(self) -> Plan | None:
        return self.folder.plan(self._asked)

    def _whole(self) -> Plan:
        return Plan(sizes=self.config.sizes, seeds=self.config.seeds, is_tuned=self.config.is_rate_tuned)

    def _within(self, minutes: float) -> Plan:
        speeds = {way.name: self._speed(way) for way in self.ways}
        # Building and timing the ways is a part of the time that was given.
        spent = time.monotonic() - self._started

        def seconds(sizes: Sequence[int], seeds: int, is_tuned: bool) -> float:
            return spent + sum(self._left(way, speeds[way.name], sizes, seeds, is_tuned) for way in self.ways)

        return chosen_plan(self.config.sizes, self.config.seeds, self.config.is_rate_tuned, 60 * minutes, seconds)

    def _left(self, way: Way, speed: Speed, sizes: Sequence[int], seeds: int, is_tuned: bool) -> float:
        """Seconds that a way's missing cells and rates take; what is there already costs nothing more."""
        lab, train = self.lab, way.config.train

        def training(size: int) -> float:
            num_validation = min(size, lab.max_validation)
            if not way.rates:
                return speed.building(size, num_validation)
            return speed.training(train, size, num_validation, lab.min_steps)

        scoring = speed.scoring(len(lab.splits.test))
        missing = [key for key in keys_of(way, sizes, self.seeds[:seeds]) if not self.folder.has(key)]
        trials = len(way.rates) + FURTHER if is_tuned and len(way.rates) > 1 and not self.folder.chosen(way) else 0
        return sum(training(key.size) + scoring for key in missing) + trials * training(sizes[-1])

    def _speed(self, way: Way) -> Speed:
        """From a tiny cell that is not kept."""
        lab, splits = self.lab, self.lab.splits
        small = replace(lab, splits=Splits(splits.train, splits.validation, splits.test[:16]), min_steps=3)
        train = way.config.train.model_copy(update=_TINY)
        slow = replace(way, config=way.config.model_copy(update={"train": train}))  # type: ignore[type-var]
        key = Key(way=way.name, size=min(self.config.sizes[-1], 32), seed=self.seeds[0])
        lab.listener(NoticeEvent(text=f"timing {way.name}"))
        started = time.monotonic()
        cell = measured(small, slow, key, way.rates[0] if way.rates else None)
        if not cell["metrics"]:
            raise ConfigError("training diverged at once", where=f"--way {way.name}", fix="a smaller learning rate")
        return Speed.of(cell, time.monotonic() - started)

    # -- what is there

    def _seeds(self, plan: Plan) -> range:
        return self.seeds[: plan.seeds]

    def _keys(self, plan: Plan) -> list[Key]:
        return [key for way in self.ways for key in keys_of(way, plan.sizes, self._seeds(plan))]

    def cells(self, plan: Plan, only: Key | None = None) -> list[dict[str, Any]]:
        """All cells of the plan that are there; after one alone was run, the others may be missing."""
        keys = self._keys(plan)
        found = self.folder.cells(keys)
        assert only or self.failed or len(found) == len(keys)
        return found

    def rates(self) -> dict[str, Any]:
        """How each way's learning rate was chosen."""
        return {way.name: chosen for way in self.ways if (chosen := self.folder.chosen(way))}

    def facts(self) -> dict[str, Any]:
        """What the report says of task, data and machine."""
        info = self.lab.bench.backbone.info
        return {
            "backbone": {"id": _named(info.id), "parameters": info.num_parameters, "dtype": info.dtype},
            "device": self.lab.bench.backbone.device.type,
            "versions": versions(),
            "data": self.folder.data,
            "passages": len(self.lab.passages),
        }

    def _no_strangers(self, replaced: Key | None = None) -> None:
        """Refuse to mix cells of another request into this one's report.

        Args:
            replaced: a cell that will be run again, whatever it is now.

        Raises:
            StoreError: names what differs.
        """
        whole, problems = self._whole(), []
        for way in self.ways:
            keys = keys_of(way, whole.sizes, self._seeds(whole))
            problems += self.folder.check(way, keys, replaced)
        problems += self.folder.check_answers(replaced)
        if problems:
            raise StoreError(
                "the folder holds cells of another request",
                where=str(self.folder.folder),
                problems=problems,
                fix="name another folder with --out, or delete its cells",
            )


def _at(key: Key) -> dict[str, int]:
    return {"size": key.size, "seed": key.seed}


def _named(model: str) -> str:
    """A model's name as a report may have it: of a folder, its last part."""
    return Path(model).name if Path(model).is_absolute() else model
