"""A translated task as the text of a task file, checked and with the options' comments."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from string import ascii_uppercase
from typing import Any

import yaml

from overture.core.config import validated
from overture.data.read import read_found
from overture.data.row import Row
from overture.data.task import Task
from overture.data.template import column_of, parse, slots_in
from overture.data.values import as_text, label_text
from overture.exchange.tasks.jinja import Field, Parsed

OWN_CHOICES = (
    "a field with a list of texts that the template does not show, and as target its number, text, letter or label"
)


@dataclass(frozen=True, slots=True)
class Translated:
    """A task of another project in our words.

    Args:
        values: as a task file has them; paths are absolute or relative to the working folder.
        notes: what was left out or assumed.
    """

    values: dict[str, Any]
    notes: list[str] = field(default_factory=list)

    def text(self, where: str, folder: Path) -> str:
        """The task file.

        Args:
            where: what was translated, for errors.
            folder: where the file will stand; data paths are relative to it.

        Raises:
            ConfigError: the values make no task.
        """
        validated(Task, self.values, where)
        lines: list[str] = []
        for key, value in self.values.items():
            lines += ["", f"# {Task.model_fields[key].description}"] if key != "name" else []
            shown = _relative(value, folder) if key == "data" else value
            lines.append(yaml.safe_dump({key: shown}, sort_keys=False, allow_unicode=True, width=10**9).rstrip())
        return "\n".join(lines) + "\n"


def _relative(data: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    paths = ("train", "validation", "test", "path")
    return {key: os.path.relpath(value, folder) if key in paths else value for key, value in data.items()}


def labels_of(choices: Sequence[str], first: int, is_index: bool, delimiter: str) -> dict[str, str]:
    """Labels with their words: numbers from `first` on, or the choices themselves."""
    names = [str(first + number) for number in range(len(choices))] if is_index else list(choices)
    return {name: f"{delimiter}{choice}" for name, choice in zip(names, choices, strict=True)}


def only_field(found: Parsed) -> Field | None:
    """The whole field that a template shows, where it shows one and, but for white space, nothing else."""
    fields = [part for part in found.parts if isinstance(part, Field)]
    texts = [part for part in found.parts if isinstance(part, str) and part.strip()]
    is_whole = len(fields) == 1 and column_of(fields[0].name)[1] is None
    return fields[0] if is_whole and not texts else None


def source_of(path: Path) -> dict[str, Any]:
    """The `data` of a task on one file that the user named."""
    return {"path": str(path.resolve())}


def values_of(data: Mapping[str, Any], name: str) -> list[Any]:
    """Some values of a field in local data; none where the data is elsewhere or lacks it."""
    return [row.fields[name] for row in _rows_of(data) if row.fields.get(name) is not None]


def _rows_of(data: Mapping[str, Any]) -> list[Row]:
    """Some rows of local data; none where the data is elsewhere."""
    file = data.get("train") or data.get("path")
    if not file:
        return []
    found = read_found(Path(file), data.get("format"))
    return [Row(fields, line, str(file)) for fields, line in zip(found.rows[:1000], found.lines, strict=False)]


# -- choices of the rows' own


def own_choices(template: str, choices: str, target: Field, likelihood: str) -> dict[str, Any] | None:
    """What a task file says of choices that differ by row; None where kind `choice` cannot read them.

    Args:
        template: in our words; the list must not stand in it, since each project shows a list in a form of its own.
        choices: the list, as `list_of_row` names it.
        target: the field that says which is right.
        likelihood: how choices of unlike length are compared.
    """
    name, _, part = choices.partition(".")
    is_read = part in ("", "text") and target.within in (None, choices, f"{name}.label") and not target.first
    is_shown = name in {slot.name for slot in slots_in(parse(template))}
    count = len(target.choices or ())
    # Letters and numbers mean the same to us; any other list has an order of its own.
    orders = (None, tuple(ascii_uppercase[:count]), tuple(map(str, range(count))))
    if not is_read or is_shown or target.choices not in orders:
        return None
    options = {"choices_field": name, "likelihood": likelihood}
    return {"kind": "choice", "label_field": target.name, "options": options}


def otherwise_read(values: Mapping[str, Any], choices: str, target: Field, where: str) -> str | None:
    """The first local row whose label means one choice there and another here; None where they agree.

    Raises:
        ConfigError: the values make no task.
    """
    task = validated(Task, values, where)
    for row in _rows_of(values["data"]):
        theirs = _right_there(row, choices, target)
        if theirs is not None and not task.spec.problems(task, row) and task.spec.gold(task, row) != theirs:
            return f"{row.where} means {theirs!r:.60} there and {task.spec.gold(task, row)!r:.60} here"
    return None


def _right_there(row: Row, choices: str, target: Field) -> str | None:
    """The choice that the other project takes for right; None where it finds none."""
    texts, value = _in_row(row, choices), row.fields.get(target.name)
    names = list(target.choices) if target.choices is not None else _in_row(row, target.within or choices)
    text = label_text(value) or ""
    at = int(text) if target.is_index and text.isdecimal() else names.index(text) if text in names else len(texts)
    return texts[at] if at < len(texts) else None


def _in_row(row: Row, path: str) -> list[str]:
    """A list of the row's own as texts; empty where the row has none."""
    name, _, part = path.partition(".")
    found = row.fields.get(name)
    found = found.get(part) if part and isinstance(found, dict) else found
    return [as_text(each) or "" for each in found] if isinstance(found, list) else []
