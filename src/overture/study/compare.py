"""Ways side by side: over training-set sizes and seeds, on the same rows, with everything they cost.

The folder holds one JSON file a cell, so a comparison goes on where it stopped, takes further ways, sizes and seeds
later, and any cell can be run again alone. The report is made from these files.
"""

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator
from torch import OutOfMemoryError

from overture.core.config import Config
from overture.core.errors import (
    ConfigError,
    DataError,
    DeviceFull,
    DiskFull,
    OvertureError,
    Problem,
    StoreError,
    UserError,
)
from overture.core.files import exclusive, sweep_temporaries, write_json
from overture.data import Splits, load_splits
from overture.engine import Backbone, load_backbone
from overture.store import Store
from overture.study.budget import Plan, Speed, chosen_plan
from overture.study.cells import Key, Lab, Listener, Stopped, measured, trial
from overture.study.request import TuneConfig, check_no_adapter
from overture.study.result import portable
from overture.study.run import versions
from overture.study.ways import Bench, Way, way_named
from overture.train import MIN_STEPS, TrainConfig

_TINY = {"epochs": 1, "patience": 1}


class CompareConfig(Config):
    """What is compared."""

    tune: TuneConfig = Field(description="Task, prompt and training options that all ways share.")
    ways: tuple[str, ...] = Field(
        ("none", "in-context", "vectors-before", "prefix-after"),
        min_length=1,
        description="Ways: none, in-context, linear, head, lora, full, or a prompt: METHOD-PLACE. Repeatable.",
    )
    settings: dict[str, tuple[str, ...]] = Field({}, description="Settings of one way alone: KEY=VALUE by way.")
    sizes: tuple[int, ...] = Field(
        (16, 64, 256), min_length=1, description="Numbers of training rows to compare at. Repeatable."
    )
    seeds: int = Field(3, ge=1, le=100, description="Seeds: each draws rows, start and order, the same for all ways.")
    budget: float | None = Field(
        None, gt=0, description="Minutes; sizes and seeds that do not fit are left out, and the report says which."
    )
    price: float | None = Field(None, ge=0, description="Price of an hour of this machine, in any currency.")
    watts: float = Field(
        65.0, gt=0, description="Power of the machine, assumed where it has no meter that can be read."
    )
    margin: float = Field(
        0.02, gt=0, lt=1, description="Ways are called level when their difference surely lies within this."
    )
    reference: str = Field(
        "", description="The way that prompts are set against; lora, full, or the costliest trained one if not given."
    )
    unrelated: Path | None = Field(
        None, description="Text for measuring forgetting, passages parted by empty lines; a text of ours if not given."
    )
    is_rate_tuned: bool = Field(
        True, description="Whether each way's learning rate is chosen on validation rows, at the largest size."
    )
    min_steps: int = Field(
        MIN_STEPS, ge=1, description="Optimiser steps given to every training at least, however few the rows."
    )
    max_validation: int = Field(256, ge=2, description="Validation rows at most; never more than training rows.")

    @field_validator("sizes")
    @classmethod
    def _rising(cls, sizes: tuple[int, ...]) -> tuple[int, ...]:
        if any(size < 2 for size in sizes):
            raise ValueError("a size is a number of training rows, two at least")
        return tuple(sorted(set(sizes)))

    @field_validator("ways")
    @classmethod
    def _once(cls, ways: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(ways))


def compare(
    config: CompareConfig,
    folder: Path,
    store: Store,
    listener: Listener = lambda event: None,
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
    from overture.study.verdict import summary

    check_no_adapter(config.tune, "compare")
    ways = [way_named(name, config.tune, config.settings.get(name, ())) for name in config.ways]
    _check(config, only)
    with exclusive(folder / ".lock", "this comparison"):
        sweep_temporaries(folder / "cells")
        listener({"event": "start", "run": f"comparison on {config.tune.task.name}", "folder": str(folder)})
        work = _Comparison(config, folder, ways, _lab(config, store, listener, is_stop_asked, backbone))
        try:
            plan = work.ran(only)
        except Stopped:
            return {"status": "interrupted", "folder": str(folder)}
        cells = work.cells(plan, only)
        found = summary(config, plan, [way.name for way in ways], cells, work.rates(), work.facts(), work.failed)
        write_json(folder / "result.json", found)
        return found


def _check(config: CompareConfig, only: Key | None) -> None:
    unknown = [name for name in (*config.settings, *([only.way] if only else [])) if name not in config.ways]
    if config.reference and config.reference not in config.ways:
        unknown.append(config.reference)
    if unknown:
        raise ConfigError(
            "this way is not compared", where="--way", got=unknown[0], wanted=", ".join(config.ways), fix="add it"
        )


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
    passages = _passages(config.unrelated)

    def notify(text: str) -> None:
        listener({"event": "notice", "text": text})

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
    return Lab(bench, tune.task, splits, config.min_steps, config.max_validation, passages, listener, is_stop_asked)


def _check_rows(config: CompareConfig, splits: Splits) -> None:
    problems = []
    for name in ("validation", "test"):
        if not getattr(splits, name):
            problems.append(Problem(f"data.{name}", "no rows", f"set data.{name}_share: 0.2"))
    if config.sizes[-1] > len(splits.train):
        problems.append(Problem("--size", f"{config.sizes[-1]}, but there are {len(splits.train)} training rows"))
    if problems:
        raise DataError("these rows cannot be compared on", problems=problems)


def _passages(path: Path | None) -> list[str]:
    """Texts that have nothing to do with the task.

    Raises:
        ConfigError: the file cannot be read, or holds no text.
    """
    try:
        text = (path or files("overture.data") / "unrelated.txt").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError("the unrelated text cannot be read", where="--unrelated", got=str(error)) from error
    found = [" ".join(part.split()) for part in text.split("\n\n") if part.strip()]
    if not found:
        raise ConfigError("the unrelated text is empty", where=str(path), wanted="passages parted by empty lines")
    return found


class _Comparison:
    """The folder, and what is done in it."""

    def __init__(self, config: CompareConfig, folder: Path, ways: Sequence[Way], lab: Lab) -> None:
        self.config, self.folder, self.ways, self.lab = config, folder, ways, lab
        self.digest = _digest(lab.splits)
        self.seeds = range(config.tune.seed, config.tune.seed + config.seeds)
        self.failed: list[dict[str, Any]] = []
        self._first_error: OvertureError | None = None

    # -- running

    def ran(self, only: Key | None) -> Plan:
        """Run all that is planned and not there, or one cell."""
        if only:
            way = next(way for way in self.ways if way.name == only.way)
            key = only if way.needs_rows else Key(way=way.name, size=0, seed=0)
            if key.size > len(self.lab.splits.train) or (way.needs_rows and key.size < 2):
                raise ConfigError("no such number of training rows", where="--cell", got=str(only))
            plan = self._known_plan() or self._whole()
            if key not in self._keys(plan):
                wanted = f"of {', '.join(map(str, plan.sizes))} rows, of seeds {', '.join(map(str, self._seeds(plan)))}"
                raise ConfigError("not a cell of this comparison", where="--cell", got=str(only), wanted=wanted)
            self._no_strangers(key)
            self._run(way, key, plan)
            return plan
        for way in self.ways:
            self._fits(way)
        self._no_strangers()
        started = time.monotonic()
        plan = self._plan()
        expected = plan.seconds
        for number, seed in enumerate(self._seeds(plan)):
            if number and expected and self._is_late(started, number, plan):
                told = f"seeds beyond the first {number}: the time was over before"
                return self._kept(plan.model_copy(update={"seeds": number, "left_out": (*plan.left_out, told)}))
            for size in plan.sizes:
                for way in self.ways:
                    key = Key(way=way.name, size=size, seed=seed) if way.needs_rows else _constant(way)
                    if not self._path(key).exists():
                        self._tried(way, key, plan)
        if self._first_error and not self._done(plan):
            raise self._first_error
        return plan

    def _tried(self, way: Way, key: Key, plan: Plan) -> None:
        """Run a cell; where it cannot be, the others are, but not this way's with as many rows or more."""
        if any(one["way"] == way.name and one["size"] <= key.size for one in self.failed):
            return
        try:
            self._run(way, key, plan)
        except (StoreError, DiskFull):
            raise
        except (OvertureError, OutOfMemoryError) as error:
            # Of torch's error the text alone: it holds the frames, and they the tensors.
            own = error if isinstance(error, OvertureError) else DeviceFull("the memory is full", got=str(error)[:200])
            self._first_error = self._first_error or own
            self.failed.append({**key.model_dump(), "what": own.what})
            self.lab.listener({"event": "notice", "text": f"{key.title} failed, the others go on: {own}"})

    def _is_late(self, started: float, done: int, plan: Plan) -> bool:
        """Whether another seed as slow as those before would end a tenth or more after the budget."""
        spent = time.monotonic() - started
        return spent / done * (done + 1) > 1.1 * 60 * (self.config.budget or float("inf")) and done < plan.seeds

    def _run(self, way: Way, key: Key, plan: Plan | None = None) -> None:
        started = time.monotonic()
        plan = plan or self._known_plan() or self._whole()
        self._tell(plan)
        rate = self._rate(way, plan)
        found = measured(self.lab, way, key, rate)
        if "gold" in found:
            write_json(self._gold_path, {"data": self.digest, "gold": found["gold"]})
        cell = {name: value for name, value in found.items() if name != "gold"}
        write_json(self._path(key), {**cell, "config": self._identity(way, key, rate)})
        metric = self.config.tune.task.metric
        value = found["metrics"]["test"][metric]["value"] if found["metrics"] else None
        facts = {"what": key.title, "metric": metric, "value": value, "seconds": time.monotonic() - started}
        self.lab.listener({"event": "cell", **facts})
        self._tell(plan)

    def _tell(self, plan: Plan) -> None:
        done, total = self._done(plan), len(self._keys(plan))
        self.lab.listener({"event": "progress", "what": "cells", "done": done, "total": total})

    def _done(self, plan: Plan) -> int:
        return sum(self._path(key).exists() for key in self._keys(plan))

    def _rate(self, way: Way, plan: Plan) -> float | None:
        """A way's learning rate: chosen once for the folder, at the largest size, with the first seed."""
        if not way.rates:
            return None
        chosen = self._chosen(way)
        if not chosen:
            path = self._rates_path(way)
            if path.exists():
                text = f"the learning rate of {way.name} was chosen for another request, and is chosen anew"
                self.lab.listener({"event": "notice", "text": text})
            is_tuned = plan.is_tuned and len(way.rates) > 1
            key = Key(way=way.name, size=plan.sizes[-1], seed=self.seeds[0])
            tried = [trial(self.lab, way, key, rate) for rate in way.rates] if is_tuned else []
            usable = [one for one in tried if one["score"] is not None]
            best = max(usable, key=lambda one: (one["score"], -one["loss"])) if usable else {"lr": way.rates[0]}
            chosen = {"way": way.name, "lr": best["lr"], "size": key.size, "seed": key.seed, "tried": tried}
            write_json(path, {**chosen, "config": self._of_rates(way)})
        return float(chosen["lr"])

    def _chosen(self, way: Way) -> dict[str, Any]:
        """How a way's learning rate was chosen; empty where it was not, or for another request."""
        path = self._rates_path(way)
        found = _read(path, "way", "lr", "size", "seed", "tried", "config") if path.exists() else {}
        by_hand = way.config.train.lr
        if not found or (by_hand and found["lr"] != by_hand):
            return {}
        is_same = all(found["config"].get(name) == value for name, value in self._of_rates(way).items())
        return found if is_same else {}

    def _of_rates(self, way: Way) -> dict[str, Any]:
        """What decides a way's learning rate; the size it is chosen at does not, so that cells belong together."""
        return self._identity(way, _constant(way), None)

    def _rates_path(self, way: Way) -> Path:
        return self.folder / "rates" / f"{way.name.replace(':', '_')}.json"

    def _fits(self, way: Way) -> None:
        """Build the way once, so that what does not fit is known before hours were spent."""
        rows = self.lab.rows(self.config.sizes[0], self.seeds[0])
        try:
            # Rows are encoded when they are asked for; too long ones are found now.
            assert way.make(self.lab.bench, rows, self.seeds[0]).rows["test"]
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

    def _kept(self, plan: Plan) -> Plan:
        asked = self.config.model_dump(mode="json", include={"ways", "sizes", "seeds", "budget", "is_rate_tuned"})
        write_json(self.folder / "plan.json", {"asked": asked, "plan": plan.model_dump(mode="json")})
        return plan

    def _known_plan(self) -> Plan | None:
        """The plan of an earlier call for the same, so that going on does not plan anew."""
        path = self.folder / "plan.json"
        asked = self.config.model_dump(mode="json", include={"ways", "sizes", "seeds", "budget", "is_rate_tuned"})
        found = _read(path) if path.exists() else {}
        return Plan(**found["plan"]) if found.get("asked") == asked else None

    def _whole(self) -> Plan:
        return Plan(sizes=self.config.sizes, seeds=self.config.seeds, is_tuned=self.config.is_rate_tuned)

    def _within(self, minutes: float) -> Plan:
        started = time.monotonic()
        speeds = {way.name: self._speed(way) for way in self.ways}
        # Timing the ways is a part of the time that was given.
        spent = time.monotonic() - started
        lab = self.lab
        # What is there already costs nothing more; how much of it depends on nothing but the files.
        tuned = {way.name for way in self.ways if self._chosen(way)}

        def seconds(sizes: Sequence[int], seeds: int, is_tuned: bool) -> float:
            total = spent
            for way in self.ways:
                speed, train = speeds[way.name], way.config.train
                of = {n: speed.training(train, n, min(n, lab.max_validation), lab.min_steps) for n in sizes}
                if not way.rates:
                    of = dict.fromkeys(sizes, speed.fixed)
                scoring = speed.scoring(len(lab.splits.test))
                keys = [Key(way=way.name, size=n, seed=s) for n in sizes for s in self.seeds[:seeds]]
                if not way.needs_rows:
                    keys, of = [_constant(way)], {0: speed.fixed}
                total += sum(of[key.size] + scoring for key in keys if not self._path(key).exists())
                if is_tuned and way.name not in tuned and len(way.rates) > 1:
                    total += len(way.rates) * of[sizes[-1]]
            return total

        plan = chosen_plan(self.config.sizes, self.config.seeds, self.config.is_rate_tuned, 60 * minutes, seconds)
        return plan

    def _speed(self, way: Way) -> Speed:
        """From a tiny cell that is not kept."""
        lab, splits = self.lab, self.lab.splits
        small = replace(lab, splits=Splits(splits.train, splits.validation, splits.test[:16]), min_steps=3)
        train = way.config.train.model_copy(update=_TINY)
        slow = replace(way, config=way.config.model_copy(update={"train": train}))  # type: ignore[type-var]
        key = Key(way=way.name, size=min(self.config.sizes[-1], 32), seed=self.seeds[0])
        lab.listener({"event": "notice", "text": f"timing {way.name}"})
        started = time.monotonic()
        cell = measured(small, slow, key, way.rates[0] if way.rates else None)
        if not cell["metrics"]:
            raise ConfigError("training diverged at once", where=f"--way {way.name}", fix="a smaller learning rate")
        return Speed.of(cell, time.monotonic() - started)

    # -- the folder

    def _path(self, key: Key) -> Path:
        return self.folder / "cells" / f"{key.slug}.json"

    @property
    def _gold_path(self) -> Path:
        return self.folder / "gold.json"

    def _seeds(self, plan: Plan) -> range:
        return self.seeds[: plan.seeds]

    def _keys(self, plan: Plan) -> list[Key]:
        keys = []
        for way in self.ways:
            each = [Key(way=way.name, size=n, seed=s) for n in plan.sizes for s in self._seeds(plan)]
            keys += each if way.needs_rows else [_constant(way)]
        return keys

    def cells(self, plan: Plan, only: Key | None = None) -> list[dict[str, Any]]:
        """All cells of the plan that are there; after one alone was run, the others may be missing."""
        found = [self._cell(key) for key in self._keys(plan) if self._path(key).exists()]
        gold = self._gold() if any(cell["metrics"] for cell in found) else []
        assert only or self.failed or len(found) == len(self._keys(plan))
        return [{**cell, "gold": gold} for cell in found]

    def _cell(self, key: Key) -> dict[str, Any]:
        return _read(self._path(key), "way", "size", "seed", "metrics")

    def _gold(self) -> list[Any]:
        """The right answers by which the cells are scored.

        Raises:
            StoreError: they are missing, damaged, or those of other rows.
        """
        path = self._gold_path
        if not path.exists():
            raise StoreError(
                "the right answers of the cells are missing",
                where=str(path),
                fix="run any of the cells again with --cell",
            )
        found = _read(path, "data", "gold")
        if found["data"] != self.digest:
            raise StoreError(
                "the right answers are those of other rows",
                where=str(path),
                got=found["data"],
                wanted=self.digest,
                fix="name another folder with --out",
            )
        return list(found["gold"])

    def rates(self) -> dict[str, Any]:
        """How each way's learning rate was chosen."""
        return {way.name: chosen for way in self.ways if (chosen := self._chosen(way))}

    def facts(self) -> dict[str, Any]:
        """What the report says of task, data and machine."""
        info = self.lab.bench.backbone.info
        return {
            "backbone": {"id": _named(info.id), "parameters": info.num_parameters, "dtype": info.dtype},
            "device": self.lab.bench.backbone.device.type,
            "versions": versions(),
            "data": self.digest,
            "passages": len(self.lab.passages),
        }

    def _no_strangers(self, replaced: Key | None = None) -> None:
        """Refuse to mix cells of another request into this one's report.

        Args:
            replaced: a cell that will be run again, whatever it is now.

        Raises:
            StoreError: names what differs.
        """
        problems = []
        for way in self.ways:
            rate = self._chosen(way).get("lr")
            for key in self._keys(self._whole()):
                if key.way != way.name or key == replaced or not self._path(key).exists():
                    continue
                cell = self._cell(key)
                wanted = self._identity(way, key, rate)
                other = [name for name, value in wanted.items() if cell.get("config", {}).get(name) != value]
                if other:
                    problems.append(Problem(str(key), f"another {', '.join(other)}"))
        # The folder may hold cells that are not asked for now; all are scored by the same right answers.
        others = {path.stem for path in self.folder.glob("cells/*.json")} - {replaced.slug if replaced else ""}
        if others and self._gold_path.exists() and _read(self._gold_path, "data", "gold")["data"] != self.digest:
            problems.append(Problem(self._gold_path.name, "another data"))
        if problems:
            raise StoreError(
                "the folder holds cells of another request",
                where=str(self.folder),
                problems=problems,
                fix="name another folder with --out, or delete its cells",
            )

    def _identity(self, way: Way, key: Key, rate: float | None) -> dict[str, Any]:
        """What decides a cell's numbers, but for the machine."""
        train = way.config.train.with_steps(max(1, key.size), self.config.min_steps).model_copy(update={"lr": rate})
        task = portable(self.config.tune.task)
        return {
            "task": {name: value for name, value in task.items() if name not in ("data", "backbone")},
            "data": self.digest,
            "settings": way.settings,
            "train": _schedule(train) if way.rates else None,
            "max_validation": self.config.max_validation,
            "weights": self.lab.bench.backbone.info.weights_sha256,
            "dtype": self.lab.bench.backbone.info.dtype,
            "unrelated": hashlib.sha256("\n".join(self.lab.passages).encode()).hexdigest()[:16],
        }


def _named(model: str) -> str:
    """A model's name as a report may have it: of a folder, its last part."""
    return Path(model).name if Path(model).is_absolute() else model


def _constant(way: Way) -> Key:
    return Key(way=way.name, size=0, seed=0)


def _digest(splits: Splits) -> str:
    """Fingerprint of all rows and their order."""
    rows = [[row.fields for row in getattr(splits, name)] for name in ("train", "validation", "test")]
    return hashlib.sha256(json.dumps(rows, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _read(path: Path, *names: str) -> dict[str, Any]:
    """A file of the folder, with what must be in it.

    Raises:
        StoreError: it is damaged.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StoreError("the file is damaged", where=str(path), got=str(error), fix="delete it and go on") from None
    if not isinstance(found, dict):
        raise StoreError("the file is damaged", where=str(path), wanted="a JSON object", fix="delete it and go on")
    missing = [name for name in names if name not in found]
    if missing:
        got = f"no {', '.join(missing)}"
        raise StoreError("the file is damaged", where=str(path), got=got, fix="delete it and go on")
    return found


def _schedule(train: TrainConfig) -> dict[str, Any]:
    """Training options as cells record them; one pass an epoch goes unsaid, as before there could be more."""
    return train.model_dump(mode="json", exclude={"passes"} if train.passes == 1 else None)
