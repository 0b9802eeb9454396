"""Checks of a request that need neither torch nor the model: what is wrong is answered within a second."""

import json

from overture.core.errors import DataError
from overture.data.read import parts_of
from overture.data.splits import Splits, load_splits
from overture.data.task import Task
from overture.engine.options import check_source
from overture.jobs.run.request import TuneConfig
from overture.jobs.run.settled import pinned
from overture.store.store import Store

_read: dict[str, Splits] = {}
"""The rows that were checked last, by the task and its files' state: the run that begins takes them."""


def check_early(config: TuneConfig, store: Store, *, is_tuned: bool = True) -> None:
    """Refuse a model, a stored prompt or rows that a run could not use.

    Args:
        config: the request.
        store: where the stored prompts are that the request names.
        is_tuned: whether the run trains, and so needs validation rows.

    Raises:
        UserError: the model, a stored prompt or the rows cannot be used.
    """
    check_source(config.task.backbone)
    pinned(config, store)
    read_early(config.task, is_tuned=is_tuned)


def read_early(task: Task, *, is_tuned: bool) -> None:
    """Read a task's rows for the run that is about to begin.

    Raises:
        DataError: rows are wrong, or none are there to choose by and it trains.
    """
    splits = load_splits(task)
    if is_tuned:
        _check_validation(splits)
    _read.clear()
    _read[_state(task)] = splits


def splits_of(task: Task) -> Splits:
    """A task's rows: those that `check_early` has read, if the files are as they were, else read now.

    Raises:
        DataError: rows are wrong.
    """
    return _read.pop(_state(task), None) or load_splits(task)


def rows_of(task: Task) -> Splits:
    """A task's rows for tuning; see `splits_of`.

    Raises:
        DataError: rows are wrong, or none are there to choose by.
    """
    splits = splits_of(task)
    _check_validation(splits)
    return splits


def _state(task: Task) -> str:
    """The task with size and time of its files; those of the Hub are taken as they are."""
    data = task.data
    paths = [path for path in (data.train, data.validation, data.test, data.path, data.more) if path is not None]
    files = [file for path in paths for file in (path.rglob("*") if path.is_dir() else parts_of(path) or [path])]
    states = sorted((str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files if file.is_file())
    return json.dumps([task.dump(), states])


def _check_validation(splits: Splits) -> None:
    if not splits.validation:
        raise DataError(
            "tuning needs validation rows: they choose the best epoch",
            where="data",
            fix="set data.validation_share: 0.2",
        )
