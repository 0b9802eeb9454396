"""Prompts that share values over tasks (MPT, ATTEMPT), beside a prompt for each task. One JSON a cell, resumable.

Films and question types are trained alone, then together; news, with few rows, begins at the prompt that they share. A
cell that is there is not run again; `--minutes` ends a sitting between two runs. Prompts that a run begins with are in
the store under `--work`, and are made again where they are not.

    python bench/quality/shared.py --data DIR
    python bench/pages/methods_page.py
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from overture.core.records.tune import TuneResult
from overture.evaluate.host import Host
from overture.jobs.run.request import TuneConfig
from overture.jobs.transfer.multi import multi
from overture.jobs.transfer.options import MultiConfig
from overture.jobs.tune.tune import tune

sys.path.insert(0, str(Path(__file__).parents[1]))

from cells import Lab, opened, study_parser
from common import in_time

TASKS, THIRD = ("movie", "trec"), "bbc"
Options = Callable[[int], dict[str, Any]]
Facts = dict[str, dict[str, Any]]
"""For each task what its cell says of the training."""


def named(way: str, seed: int) -> str:
    """A way's prompt in the store; with a task behind it, the task's own."""
    return f"{way}-seed{seed}"


def task_named(way: str, task: str, seed: int) -> str:
    return f"{named(way, seed)}-{task}"


@dataclass(frozen=True)
class Entry:
    """One run, which gives a prompt for each of its tasks.

    Args:
        way: its name in the files.
        tasks: whose prompts it gives.
        method: of the prompts.
        train: how.
        needs: ways whose prompts it begins with, for all their tasks.
        options: of the method, by seed.
    """

    way: str
    tasks: tuple[str, ...]
    method: str
    train: Callable[[Lab, "Entry", Sequence[TuneConfig], int], Facts]
    needs: tuple[str, ...] = ()
    options: Options = lambda seed: {}


def one_by_one(lab: Lab, entry: Entry, requests: Sequence[TuneConfig], seed: int) -> Facts:
    """Each task by itself."""
    facts: Facts = {}
    for task, request in zip(entry.tasks, requests, strict=True):
        before = time.process_time()
        task_request = request.model_copy(update={"name": task_named(entry.way, task, seed)})
        result = tune(task_request, lab.store, backbone=lab.backbone)
        assert isinstance(result, TuneResult)
        facts[task] = {
            "trainable": result.trainable,
            "train_seconds": result.seconds,
            "cpu_seconds": time.process_time() - before,
        }
    return facts


def as_one(config: MultiConfig) -> Callable[[Lab, Entry, Sequence[TuneConfig], int], Facts]:
    """All tasks together; the prompts that each was tuned alone to are there, and may teach."""

    def trained(lab: Lab, entry: Entry, requests: Sequence[TuneConfig], seed: int) -> Facts:
        before = time.process_time()
        teachers = [task_named("alone", task, seed) for task in entry.tasks]
        name = named(entry.way, seed)
        result = multi(requests, lab.store, name, config, teachers=teachers, backbone=lab.backbone).dump()
        run = {
            "train_seconds": result["seconds"],
            "cpu_seconds": time.process_time() - before,
            "weights": result["weights"],
            "values": result["values"],
            "together": list(entry.tasks),
        }
        return {
            task_result["task"]: {"trainable": task_result["multi"]["trainable"], **run}
            for task_result in result["tasks"]
        }

    return trained


UNTAUGHT, TAUGHT = MultiConfig(logits=0, hidden=0), MultiConfig()
PLAN = (
    Entry("alone", (*TASKS, THIRD), "vectors", one_by_one),
    Entry("mpt", TASKS, "mpt", as_one(UNTAUGHT), needs=("alone",)),
    Entry("mpt-taught", TASKS, "mpt", as_one(TAUGHT), needs=("alone",)),
    Entry(
        "attempt",
        TASKS,
        "attempt",
        as_one(TAUGHT),
        needs=("alone",),
        options=lambda seed: {"sources": [task_named("alone", task, seed) for task in (*TASKS, THIRD)]},
    ),
    # What starting from a shared prompt gives, and what its factors give without it.
    Entry("mpt-new", (THIRD,), "mpt", one_by_one),
    Entry(
        "mpt-started",
        (THIRD,),
        "mpt",
        one_by_one,
        needs=("mpt-taught",),
        options=lambda seed: {"source": named("mpt-taught", seed)},
    ),
)
BY_WAY = {entry.way: entry for entry in PLAN}


def missing(lab: Lab) -> Iterator[tuple[Entry, int]]:
    """Runs of which a cell is not there: all of the first seed before any of the second."""
    for seed in range(lab.args.seeds):
        for entry in PLAN:
            is_asked = not lab.args.way or entry.way in lab.args.way
            if is_asked and not all(lab.file(entry.way, task, seed).exists() for task in entry.tasks):
                yield entry, seed


def num_train(lab: Lab, task: str) -> int:
    return int(lab.args.third_rows if task == THIRD else lab.args.train_rows)


def run(lab: Lab, entry: Entry, seed: int) -> None:
    """Train, score what is in the store, and write the cells that are not there."""
    for way in entry.needs:
        if not is_stored(lab, BY_WAY[way], seed):
            run(lab, BY_WAY[way], seed)
    prompt = {"method": entry.method, "place": "after", "length": 10, "options": entry.options(seed)}
    requests = [lab.request(task, num_train(lab, task), seed, prompt) for task in entry.tasks]
    for task, facts in entry.train(lab, entry, requests, seed).items():
        if not lab.file(entry.way, task, seed).exists():
            keep(lab, entry, task, seed, facts)


def is_stored(lab: Lab, entry: Entry, seed: int) -> bool:
    known = {found.name for found in lab.store.list()}
    return known >= {task_named(entry.way, task, seed) for task in entry.tasks}


def keep(lab: Lab, entry: Entry, task: str, seed: int, facts: dict[str, Any]) -> None:
    """The cell of a stored prompt."""
    handle = Host(lab.backbone, lab.store).open(task_named(entry.way, task, seed))
    scores = lab.scores(handle.model(lab.cache), task, num_train(lab, task), seed)
    cell = {"train_rows": num_train(lab, task), "config": handle.manifest.options.dump(), **facts, **scores}
    lab.keep(entry.way, task, seed, cell)


def main() -> None:
    parser = study_parser(__doc__, "shared")
    parser.add_argument("--way", action="append", choices=BY_WAY, help="all when none is named")
    parser.add_argument("--third-rows", type=int, default=64, help="training rows of the third task")
    args: argparse.Namespace = parser.parse_args()
    lab = opened(args)
    for entry, seed in in_time(missing(lab), args.minutes):
        run(lab, entry, seed)


if __name__ == "__main__":
    main()
