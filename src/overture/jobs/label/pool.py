"""Rows to be labelled: which of them are alike, which have a label, which are kept apart for an honest score; no torch.

A row's lot is a function of its content: whether it is kept apart does not depend on the file's order, on what was
labelled before, or on when it is asked. So rows kept apart are a random sample of all rows, whatever the others teach.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from overture.core.errors import ConfigError
from overture.data.row import Row
from overture.data.task import Task

RANDOM, TEACHES = "random", "teaches"


def check_labels_of(task: Task, where: str) -> None:
    """Refuse tasks whose rows are not labelled by one of the task's labels.

    Raises:
        ConfigError: the task's kind has other answers.
    """
    if not (task.spec.is_one_of and task.spec.has_classes):
        raise ConfigError(
            "only rows with one of a task's labels can be suggested",
            where=where,
            got=f"kind {task.kind}",
            wanted="classification",
        )


def content_of(task: Task, row: Row) -> str:
    """A key of a row's shown fields: rows with equal keys are the same to the model."""
    return json.dumps({name: row.fields.get(name) for name in task.columns}, sort_keys=True, default=str)


def lot_of(content: str, seed: int) -> float:
    """A number from 0 to 1 that is drawn for a row."""
    return int.from_bytes(hashlib.sha256(f"{seed} {content}".encode()).digest()[:7]) / (1 << 56)


@dataclass(frozen=True, slots=True)
class Pool:
    """Rows without labels.

    Args:
        apart: those kept apart for scoring, in the order of their lots.
        others: those that may teach.
        num_repeats: rows that show the same as another, left out.
    """

    apart: tuple[Row, ...]
    others: tuple[Row, ...]
    num_repeats: int


def is_apart(task: Task, row: Row, share: float, seed: int) -> bool:
    """Whether a row is kept apart."""
    return lot_of(content_of(task, row), seed) < share


def pool_of(task: Task, rows: Iterable[Row], known_rows: Iterable[Row], share: float, seed: int) -> Pool:
    """The rows that have no label yet.

    Args:
        task: says what rows show, and which field holds the label.
        rows: all rows.
        known_rows: rows that have a label, or that were suggested before.
        share: of rows that are kept apart.
        seed: of the lots.
    """
    contents = {content_of(task, row) for row in known_rows}
    apart: list[tuple[float, Row]] = []
    others: list[Row] = []
    num_repeats = 0
    for row in rows:
        content = content_of(task, row)
        if content in contents:
            num_repeats += 1
            continue
        contents.add(content)
        lot = lot_of(content, seed)
        if lot < share:
            apart.append((lot, row))
        else:
            others.append(row)
    return Pool(tuple(row for _, row in sorted(apart, key=lambda pair: pair[0])), tuple(others), num_repeats)


def sampled(task: Task, rows: Sequence[Row], count: int, seed: int) -> Sequence[Row]:
    """So many of the rows, drawn by their lots; all, in their order, if there are no more."""
    if len(rows) <= count:
        return rows
    return sorted(rows, key=lambda row: lot_of(content_of(task, row), seed + 1))[:count]
