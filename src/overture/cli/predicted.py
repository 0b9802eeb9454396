"""Predictions as lines of JSON, and as records of a file beside the rows' own columns."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from overture.cli.inputs import Inputs
from overture.core.errors import Problem
from overture.core.rows import Prediction
from overture.data.formats.form import UNREADABLE
from overture.data.media.read import plain
from overture.data.task import Task
from overture.data.write import ColumnType

Outcome = Prediction | list[Problem]
"""The prediction for a row, or why there is none."""


class Predicted:
    """Turns predictions into lines of JSON and records of files.

    Args:
        inputs: the rows.
        tasks: those of the prompts.
        refs: the prompts as they were asked for, where there may be several; none where one prompt was named first.
        on_error: what happens to rows that cannot be predicted; `null` gives tables a column of reasons.
    """

    def __init__(self, inputs: Inputs, tasks: Sequence[Task], refs: Sequence[str], on_error: str) -> None:
        self.inputs, self.tasks, self.refs, self.on_error = inputs, tasks, refs, on_error
        # Rows that are skipped need no column.
        skipped = inputs.problems if on_error == "skip" else {}
        rows = [row for index, row in enumerate(inputs.rows) if index not in skipped]
        self._own_columns = list(dict.fromkeys(name for row in rows for name in row.fields))
        # What each prompt answers is known from its first answer.
        self._answer_columns: list[dict[str, ColumnType] | None] = [None] * len(tasks)

    @property
    def own_rows(self) -> list[dict[str, Any]]:
        """The rows' own fields."""
        return [plain(row.fields, row.where) for row in self.inputs.rows]

    def line(self, index: int, outcomes: Sequence[Outcome]) -> dict[str, Any]:
        """A prediction as a line of JSON: the row's file and line, the text that the template shows, the answers."""
        row = self.inputs.rows[index]
        row_fields = plain(row.fields, row.where)
        shown_inputs = []
        for task in self.tasks:
            fields = {name: row_fields.get(name) for name in task.columns}
            shown_inputs.append(fields[task.columns[0]] if len(fields) == 1 else fields)
        # Templates of different fields show different inputs.
        same = all(text == shown_inputs[0] for text in shown_inputs)
        line: dict[str, Any] = {}
        if self.inputs.source == "file":
            line = {"where": row.where, "row": row_fields}
        line["input"] = row_fields.get(UNREADABLE, shown_inputs[0] if same else row_fields)
        answers = [_answer_fields(task, outcome) for task, outcome in zip(self.tasks, outcomes, strict=True)]
        if self.refs:
            return {**line, "prompts": dict(zip(self.refs, answers, strict=True))}
        return {**line, **answers[0]}

    def record(self, index: int, outcomes: Sequence[Outcome], suffix: str) -> dict[str, Any]:
        """A row of the output file: its own fields, and the answers under names that no column of the rows has."""
        row = self.inputs.rows[index]
        fields = plain(row.fields, row.where)
        answers = [_answer_fields(task, outcome) for task, outcome in zip(self.tasks, outcomes, strict=True)]
        flat_answers = [_flat(task, answer) for task, answer in zip(self.tasks, answers, strict=True)]
        for number, (flat, outcome) in enumerate(zip(flat_answers, outcomes, strict=True)):
            if self._answer_columns[number] is None and isinstance(outcome, Prediction):
                self._answer_columns[number] = {
                    name: "number" if isinstance(value, int | float) else "text" for name, value in flat.items()
                }
        if suffix == ".jsonl":
            if self.refs:
                return {**fields, self._free("prompts"): dict(zip(self.refs, answers, strict=True))}
            return {**fields, **{self._free(name): value for name, value in answers[0].items()}}
        record = dict(fields)
        for number, flat in enumerate(flat_answers):
            record |= {self._column(number, name): value for name, value in flat.items()}
        return record

    @property
    def has_all_columns(self) -> bool:
        """Whether every prompt has answered a row, so that the columns of a table are known."""
        return None not in self._answer_columns

    def columns(self) -> dict[str, ColumnType]:
        """The columns of a table: the rows' own, those of the answers, and one for what went wrong."""
        columns: dict[str, ColumnType] = dict.fromkeys(self._own_columns, "any")
        for number, task in enumerate(self.tasks):
            answer_columns = self._answer_columns[number] or {task.spec.answer_key: "text"}
            if self.on_error == "null":
                answer_columns = {**answer_columns, "error": "text"}
            columns |= {self._column(number, name): column_type for name, column_type in answer_columns.items()}
        return columns

    def notices(self) -> list[str]:
        """Notices of answers whose columns were renamed, because the rows have a column of that name."""
        names = ["prompts"] if self.refs else [name for columns in self._answer_columns for name in columns or {}]
        renamed = [f"{name!r} is in {self._free(name)!r}" for name in names if name in self._own_columns]
        return [f"the rows have columns of the same names: {', '.join(renamed)}"] if renamed else []

    def _column(self, number: int, name: str) -> str:
        return self._free(f"{self.refs[number]}.{name}" if self.refs else name)

    def _free(self, name: str) -> str:
        """A column name that the rows do not have."""
        while name in self._own_columns:
            name = f"predicted_{name}"
        return name


def _answer_fields(task: Task, outcome: Outcome) -> dict[str, Any]:
    if isinstance(outcome, Prediction):
        return task.spec.shown(task, outcome)
    reasons = "; ".join(str(replace(problem, where="")) for problem in outcome)
    return {task.spec.answer_key: None, "error": reasons}


def _flat(task: Task, answer: Mapping[str, Any]) -> dict[str, Any]:
    """An answer as cells: a column for each label's probability, JSON for lists and objects."""
    flat: dict[str, Any] = {}
    for name, value in answer.items():
        if isinstance(value, dict) and list(value) == list(task.words):
            flat |= {f"probability_{label}": share for label, share in value.items()}
        elif isinstance(value, list) and task.words and not any("," in label for label in task.words):
            flat[name] = ", ".join(value)
        elif isinstance(value, bool):
            flat[name] = "true" if value else "false"
        elif isinstance(value, list | dict):
            flat[name] = json.dumps(value, ensure_ascii=False)
        else:
            flat[name] = value
    return flat
