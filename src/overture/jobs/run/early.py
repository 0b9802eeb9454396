"""Checks of a request that need neither torch nor the model: what is wrong is answered within a second."""

from pathlib import Path

from overture.core.errors import DataError
from overture.data.read import parts_of
from overture.data.splits import Splits, load_splits
from overture.data.task import Task
from overture.engine.options import check_source
from overture.jobs.run.request import TuneConfig, pinned
from overture.store.store import Store

_MAX_BYTES = 50_000_000
"""Larger data files are read once, when the run begins: reading them takes longer than torch's import."""


def check_early(config: TuneConfig, store: Store, *, is_tuned: bool = True) -> None:
    """Refuse a model, a stored prompt or rows that a run could not use.

    Args:
        config: the request.
        store: where the stored prompts are that the request names.
        is_tuned: whether the run trains, and so needs validation rows.

    Raises:
        UserError: what is wrong.
    """
    check_source(config.task.backbone)
    pinned(config, store)
    data = config.task.data
    files = [path for path in (data.train, data.validation, data.test, data.path) if path is not None]
    if files and sum(_num_bytes(path) for path in files) <= _MAX_BYTES:
        rows_of(config.task) if is_tuned else load_splits(config.task)


def _num_bytes(path: Path) -> int:
    """Size of a file, of all parts of a pattern, or of a folder's files."""
    files = path.rglob("*") if path.is_dir() else parts_of(path) or [path]
    return sum(file.stat().st_size for file in files if file.is_file())


def rows_of(task: Task) -> Splits:
    """A task's rows for tuning.

    Raises:
        DataError: rows are wrong, or none are there to choose by.
    """
    splits = load_splits(task)
    if not splits.validation:
        raise DataError(
            "tuning needs validation rows: they choose the best epoch",
            where="data",
            fix="set data.validation_share: 0.2",
        )
    return splits
