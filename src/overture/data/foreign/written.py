"""A translated task as the text of a task file, checked and with the options' comments."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from overture.core.config import validated
from overture.data.foreign.jinja import Field, Parsed
from overture.data.read import read_found
from overture.data.task import Task


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
    """The field of a template that shows one and, but for white space, nothing else."""
    fields = [part for part in found.parts if isinstance(part, Field)]
    texts = [part for part in found.parts if isinstance(part, str) and part.strip()]
    return fields[0] if len(fields) == 1 and not texts else None


def source_of(path: Path) -> dict[str, Any]:
    """The `data` of a task on one file that the user named."""
    return {"path": str(path.resolve())}


def values_of(data: Mapping[str, Any], name: str) -> list[Any]:
    """Some values of a field in local data; none where the data is elsewhere or lacks it."""
    file = data.get("train") or data.get("path")
    if not file:
        return []
    rows = read_found(Path(file), data.get("format")).rows[:1000]
    return [row[name] for row in rows if row.get(name) is not None]
