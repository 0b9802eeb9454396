"""Texts, answers and problems of a task's rows."""

from collections.abc import Callable, Collection, Hashable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from overture.core.errors import Problem
from overture.core.media import Media
from overture.data.media.read import media_of, shown
from overture.data.row import Row, broken_text, missing_field
from overture.data.task import Task
from overture.data.template import column_of
from overture.data.values import kind


@dataclass(frozen=True, slots=True)
class ShownRow:
    """A row as reports show it.

    Args:
        where: file and line.
        text: the texts of the template's fields.
        part: describes one part of an answer in words; None where answers are not sets of parts.
    """

    where: str
    text: str
    part: Callable[[Any], str] | None = None


def texts_of(task: Task, row: Row) -> dict[str, str]:
    """The texts of the fields that the template shows; the row must have passed `row_problems`."""
    may_be_null = len(task.fields) > 1
    return {
        name: shown(row.fields[name], row.where)
        if name in task.media
        else task.spec.field_text(task, name, _value(name, row, may_be_null)) or ""
        for name in task.fields
    }


def content_of(task: Task, row: Row) -> dict[str, Media | Problem]:
    """The images and sounds of a row by field, or what is wrong with them; fields that it lacks are left out."""
    root = Path(row.root) if row.root else None
    return {
        name: media_of(row.fields[name], modality, root, row.where)
        for name, modality in task.media.items()
        if row.fields.get(name) is not None
    }


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
        with_answer: whether its label or answer is checked too.
        skip: fields that were reported already.
    """
    fields = [name for name in task.fields if column_of(name)[0] not in skip]
    problems = list(dict.fromkeys(problem for name in fields for problem in _field_problems(task, name, row)))
    if not problems and len(fields) == len(task.fields) and not any(t.strip() for t in texts_of(task, row).values()):
        problems.append(Problem(row.where, f"empty text in {', '.join(map(repr, task.fields))}"))
    problems += [problem for problem in task.spec.input_problems(task, row) if problem not in problems]
    if with_answer and not any(name in skip for name in task.target_fields):
        problems += task.spec.problems(task, row)
    return problems


def _value(name: str, row: Row, may_be_null: bool = False) -> Any:
    """The value of a row's field, or of one entry of it; an empty text for null where that may be."""
    column, entry = column_of(name)
    value = row.fields[column] if entry is None else row.fields[column][entry]
    return "" if value is None and may_be_null else value


def _field_problems(task: Task, name: str, row: Row) -> list[Problem]:
    column, entry = column_of(name)
    if column not in row.fields:
        return [missing_field(column, row.where, list(row.fields))]
    value = row.fields[column]
    if column in task.media:
        content = content_of(task, row).get(column, Problem(row.where, f"field {column!r} is {kind(value)}"))
        return [content] if isinstance(content, Problem) else []
    if entry is not None and not isinstance(value, list):
        return [Problem(row.where, f"field {column!r} is {kind(value)}", f"wanted a list, for {{{name}}}")]
    if entry is not None and len(value) <= entry:
        fix = f"wanted {entry + 1} at least, for {{{name}}}"
        return [Problem(row.where, f"field {column!r} has {len(value)} entries", fix)]
    # Of several fields some may be empty, as null or as a text.
    text = task.spec.field_text(task, name, _value(name, row, may_be_null=len(task.fields) > 1))
    if text is None:
        return [Problem(row.where, f"field {name!r} is {kind(_value(name, row))}", task.spec.wanted)]
    return broken_text(name, text, row)
