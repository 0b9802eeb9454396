"""The rows of a task, and what can be wrong with them."""

from collections.abc import Callable, Collection, Hashable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from overture.core.errors import Problem
from overture.data.row import Row, answer_texts, broken_text, missing_field
from overture.data.task import Task
from overture.data.template import column_of
from overture.data.values import kind, label_text

__all__ = [
    "Row",
    "ShownRow",
    "answers_of",
    "gold_of",
    "label_of",
    "missing_field",
    "row_problems",
    "shown_rows",
    "texts_of",
]


@dataclass(frozen=True, slots=True)
class ShownRow:
    """A row as reports show it.

    Args:
        where: file and line.
        text: what the template shows.
        part: one part of an answer to it in words; None where answers are not sets of parts.
    """

    where: str
    text: str
    part: Callable[[Any], str] | None = None


def texts_of(task: Task, row: Row) -> dict[str, str]:
    """The texts of the fields that the template shows; the row must have passed `row_problems`."""
    return {name: _text(task, name, _value(name, row)) or "" for name in task.fields}


def label_of(task: Task, row: Row) -> str:
    """The row's label as text; the row must have passed `row_problems`."""
    return label_text(row.fields[task.label_field]) or ""


def answers_of(task: Task, row: Row) -> tuple[str, ...]:
    """The answers that count as right: one, or all of a list. The first is the one that is trained on."""
    return answer_texts(row.fields[task.target_fields[0]])


def gold_of(task: Task, rows: Sequence[Row]) -> tuple[Hashable, ...]:
    """The right answers, as the task's metrics compare them; the rows must have passed `row_problems`."""
    return tuple(task.spec.gold(task, row) for row in rows)


def shown_rows(task: Task, rows: Sequence[Row]) -> list[ShownRow]:
    """The rows for reports; they must have passed `row_problems`."""
    part = task.spec.part
    return [
        ShownRow(row.where, " / ".join(texts_of(task, row).values()), partial(part, task, row) if part else None)
        for row in rows
    ]


def row_problems(task: Task, row: Row, with_answer: bool = True, skip: Collection[str] = ()) -> list[Problem]:
    """Everything that is wrong with a row.

    Args:
        task: names the fields and knows its kind.
        row: the row.
        with_answer: whether its label or answer is needed.
        skip: fields that were reported already.
    """
    fields = [name for name in task.fields if column_of(name)[0] not in skip]
    found = [problem for name in fields for problem in _field_problems(task, name, row)]
    problems = [problem for number, problem in enumerate(found) if problem not in found[:number]]
    if not problems and len(fields) == len(task.fields) and not any(t.strip() for t in texts_of(task, row).values()):
        problems.append(Problem(row.where, f"empty text in {', '.join(map(repr, task.fields))}"))
    problems += [problem for problem in task.spec.input_problems(task, row) if problem not in problems]
    if with_answer and not any(name in skip for name in task.target_fields):
        problems += task.spec.problems(task, row)
    return problems


def _text(task: Task, name: str, value: Any) -> str | None:
    return task.spec.field_text(task, name, value)


def _value(name: str, row: Row) -> Any:
    """What stands in a row's field, or in an entry of it."""
    column, entry = column_of(name)
    return row.fields[column] if entry is None else row.fields[column][entry]


def _field_problems(task: Task, name: str, row: Row) -> list[Problem]:
    column, entry = column_of(name)
    if column not in row.fields:
        return [missing_field(column, row.where, list(row.fields))]
    if entry is not None and (problem := _list_problem(column, entry, row)):
        return [problem]
    text = _text(task, name, _value(name, row))
    if text is None:
        return [Problem(row.where, f"field {name!r} is {kind(_value(name, row))}", task.spec.wanted)]
    return broken_text(name, text, row)


def _list_problem(column: str, entry: int, row: Row) -> Problem | None:
    found = row.fields[column]
    if not isinstance(found, list):
        return Problem(row.where, f"field {column!r} is {kind(found)}", f"wanted a list, for {{{column}[{entry}]}}")
    if len(found) <= entry:
        wanted = f"wanted {entry + 1} at least, for {{{column}[{entry}]}}"
        return Problem(row.where, f"field {column!r} has {len(found)} entries", wanted)
    return None
