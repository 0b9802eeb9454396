"""A stopped run taken up again: what every kind of run does before its own work goes on."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from pydantic import BaseModel

from overture.core.errors import DataError
from overture.core.records.events import Listener
from overture.data.read import parts_of
from overture.jobs.run.request import DATA_FILES, TuneConfig, with_moved_data
from overture.store.runs import RESULT, Run
from overture.store.store import Store

C = TypeVar("C", bound=TuneConfig)
R = TypeVar("R", bound=BaseModel)
W = TypeVar("W")


def resumed(
    ref: str,
    store: Store,
    listener: Listener,
    settings: Sequence[str],
    request: type[C],
    result: type[R],
    work: Callable[[Run, C], W],
) -> R | W:
    """The result of a finished run again; else that of its work, under its own request.

    Args:
        ref: the run's name or folder.
        store: where its prompt goes.
        listener: called with each event.
        settings: where data files lie now: ``data.train=rows.jsonl``.
        request: the class of its request.
        result: the class of its result.
        work: goes on with the run.

    Raises:
        StoreError: there is no such run.
        ConfigError: a setting is no data file's.
        DataError: a data file is gone.
    """
    run = Run.open(store.runs, ref, listener)
    earlier = run.read(RESULT, result)
    if earlier is not None:
        return earlier
    config = with_moved_data(run.config(request), settings)
    files = {name: getattr(config.task.data, name) for name in DATA_FILES}
    for name, path in files.items():
        if path is not None and not path.exists() and not parts_of(path):
            raise DataError(
                "a data file of the run is not there any more",
                where=str(path),
                fix=f"put it back, or say where it is now: overture resume {run.name} --set data.{name}=FILE",
            )
    store.check_can_add(config.task.name)
    return work(run, config)
