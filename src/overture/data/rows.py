"""One row of data, and what can be wrong with it."""

import difflib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from overture.core.errors import Problem
from overture.data.task import Task
from overture.data.values import as_text, kind, label_text


@dataclass(frozen=True, slots=True)
class Row:
    """A row as it was read.

    Args:
        fields: all its fields, by name.
        line: its line in the file, from 1.
        file: the file or data set.
    """

    fields: dict[str, Any]
    line: int
    file: str

    @property
    def where(self) -> str:
        """``file:line``."""
        return f"{self.file}:{self.line}"


def texts_of(task: Task, row: Row) -> dict[str, str]:
    """The texts of the fields that the template shows; the row must have passed `row_problems`."""
    return {name: as_text(row.fields[name]) or "" for name in task.fields}


def label_of(task: Task, row: Row) -> str:
    """The row's label as text; the row must have passed `row_problems`."""
    return label_text(row.fields[task.label_field]) or ""


def answers_of(task: Task, row: Row) -> tuple[str, ...]:
    """The answers that count as right: one, or all of a list. The first is the one that is trained on."""
    found = row.fields[task.target_field]
    return tuple(as_text(answer) or "" for answer in (found if isinstance(found, list) else [found]))


def row_problems(task: Task, row: Row, with_answer: bool = True, skip: Collection[str] = ()) -> list[Problem]:
    """Everything that is wrong with a row.

    Args:
        task: names the fields.
        row: the row.
        with_answer: whether its label or answer is needed.
        skip: fields that were reported already.
    """
    fields = [name for name in task.fields if name not in skip]
    problems = [problem for name in fields for problem in _field_problems(name, row)]
    if not problems and len(fields) == len(task.fields) and not any(t.strip() for t in texts_of(task, row).values()):
        problems.append(Problem(row.where, f"empty text in {', '.join(map(repr, task.fields))}"))
    if with_answer and task.target_field not in skip:
        problems += _answer_problems(task, row) if task.answer_field else _label_problems(task, row)
    return problems


def _field_problems(name: str, row: Row) -> list[Problem]:
    if name not in row.fields:
        return [missing_field(name, row.where, list(row.fields))]
    text = as_text(row.fields[name])
    if text is None:
        return [Problem(row.where, f"field {name!r} is {kind(row.fields[name])}", "wanted text or a number")]
    return _broken_text(name, text, row)


def missing_field(name: str, where: str, known: Sequence[str]) -> Problem:
    """That a field is not there, with the nearest that is."""
    near = difflib.get_close_matches(name, known, 1)
    return Problem(where, f"no field {name!r}", f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}")


def _broken_text(name: str, text: str, row: Row) -> list[Problem]:
    try:
        text.encode()
    except UnicodeEncodeError:
        return [Problem(row.where, f"field {name!r} holds half of a surrogate pair", "write whole characters")]
    return []


def _label_problems(task: Task, row: Row) -> list[Problem]:
    if task.label_field not in row.fields:
        return [missing_field(task.label_field, row.where, list(row.fields))]
    label = label_text(row.fields[task.label_field])
    if label is None:
        return [Problem(row.where, f"the label is {kind(row.fields[task.label_field])}", "wanted text or a number")]
    if label in task.words:
        return []
    near = difflib.get_close_matches(label, task.words, 1)
    fix = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(task.words)}"
    if label.lower() in ("yes", "no", "on", "off") and {"true", "false"} & set(task.words):
        fix = f"YAML reads {label} as a truth value; write it in quotes"
    return [Problem(row.where, f"unknown label {label!r}", fix)]


def _answer_problems(task: Task, row: Row) -> list[Problem]:
    name = task.target_field
    if name not in row.fields:
        return [missing_field(name, row.where, list(row.fields))]
    found = row.fields[name]
    answers = found if isinstance(found, list) else [found]
    texts = [as_text(answer) for answer in answers]
    if None in texts:
        bad = answers[texts.index(None)]
        return [Problem(row.where, f"answer {name!r} is {kind(bad)}", "wanted text, or a list of texts")]
    if not texts or not all(text and text.strip() for text in texts):
        return [Problem(row.where, f"empty answer in {name!r}")]
    return [problem for text in texts for problem in _broken_text(name, text or "", row)]
