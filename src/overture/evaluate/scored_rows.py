"""The rows that a stored prompt is scored on; imports no torch, so that mistakes are reported at once."""

from collections.abc import Sequence
from datetime import datetime

from overture.core.config import validated
from overture.core.errors import DataError
from overture.data.fingerprint import check_rows, facts_of, newer_files
from overture.data.row import Row
from overture.data.rows import row_problems
from overture.data.splits import load_splits
from overture.data.task import Task
from overture.store.manifest import Manifest
from overture.store.runs import REQUEST, run_of
from overture.store.store import Store


def rows_of_run(store: Store, manifest: Manifest, split: str, command: str = "eval") -> tuple[str, list[Row]]:
    """The rows that a prompt's run scored it on.

    Args:
        store: where the run is.
        manifest: names the run.
        split: test or validation; test rows, or validation rows when there are none, if empty.
        command: the command that wants them, which errors show with a file of rows.

    Returns:
        The split and its rows.

    Raises:
        StoreError: the run is not in this store.
        DataError: its data cannot be read, has no such rows, or has changed since.
    """
    fix = f"name a file of rows: overture {command} {manifest.ref} FILE"
    run = run_of(store, manifest, fix)
    request = run.request()
    task = validated(Task, request.config.get("task"), str(run.folder / REQUEST))
    splits = load_splits(task)
    split_name = split or ("test" if splits.test else "validation")
    rows: list[Row] = getattr(splits, split_name)
    newer = newer_files(rows, datetime.fromisoformat(request.created))
    check_rows(request.rows, {split_name: facts_of(rows)}, task.data, f"put it back as it was, or {fix}", newer)
    if not rows:
        raise DataError(f"the run has no {split_name} rows", where=run.name, fix=fix)
    return split_name, rows


def check_scorable(task: Task, rows: Sequence[Row]) -> None:
    """Refuse rows that lack a field, or whose answer is none of the task's.

    Raises:
        DataError: names all of them, or there are none.
    """
    problems = [problem for row in rows for problem in row_problems(task, row)]
    if problems or not rows:
        raise DataError("the rows cannot be scored" if problems else "there are no rows to score", problems=problems)
