"""The two kinds of formats, containers and shapes, and the records that they share."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

from overture.core.errors import Problem
from overture.data.formats.options import FileOptions
from overture.data.notices import Notices

Record = dict[str, Any]
Records = list[Record]
Problems = list[Problem]
UNREADABLE = "unreadable_line"
"""The field that keeps the text of a line that is no row."""


@dataclass(slots=True)
class Item:
    """A record of a file.

    Args:
        fields: its fields, by name.
        line: the line on which it starts, from 1; its number where a format has no lines of its own.
        split: train, validation or test where a file holds several splits; else empty.
    """

    fields: Record
    line: int
    split: str = ""


@dataclass(slots=True)
class Source:
    """A file that is being read, and the facts that reading it has shown.

    Args:
        file: the file's name, as problems and notices show it.
        raw: its bytes.
        options: the form that the task file states.
        problems: everything that is wrong.
        notices: everything that was assumed, dropped or mended.
        settings: options that were guessed and that a task file should state.
        names: the names of numbered labels, by field, where the file holds them.
        misfits: what lines say that cannot be read as rows, as fields, by line: the cells of rows with too few or too
            many, else the line's text as `UNREADABLE`.
        rows_file: the file within a folder whose lines the rows are; empty where they have no such file.
    """

    file: str
    raw: bytes = b""
    options: FileOptions = field(default_factory=FileOptions)
    problems: Problems = field(default_factory=list)
    notices: Notices = field(default_factory=Notices)
    settings: Record = field(default_factory=dict)
    names: dict[str, Sequence[str]] = field(default_factory=dict)
    misfits: dict[int, Record] = field(default_factory=dict)
    rows_file: str = ""

    @property
    def name(self) -> str:
        """The file's name without its folder."""
        return PurePath(self.file).name

    def place(self, line: int) -> str:
        """``file:line``."""
        return f"{self.file}:{line}"

    def problem(self, line: int, what: str, fix: str = "", setting: str = "") -> None:
        """Report what is wrong on a line, or in the file as a whole if the line is 0; see `Problem`."""
        self.problems.append(Problem(self.place(line) if line else self.file, what, fix, setting))


@dataclass(frozen=True, slots=True)
class Container:
    """How records lie in a file.

    Args:
        name: the value of `data.format`.
        suffixes: of files that are read so if `data.format` is not given.
        read: gives the records of a file.
        is_like: whether the first text of an unknown file looks like this format.
    """

    name: str
    suffixes: tuple[str, ...]
    read: Callable[[Source], list[Item]]
    is_like: Callable[[str], bool] = lambda text: False


@dataclass(frozen=True, slots=True)
class Shape:
    """The fields of a record, whatever file it lies in.

    Args:
        name: the value of `data.format`.
        title: as its users call it.
        is_like: whether a record looks like this format.
        read: gives the plain rows of all records.
    """

    name: str
    title: str
    is_like: Callable[[Record], bool]
    read: Callable[[Sequence[Item], Source], list[Item]]


def is_list_with(value: Any, key: str) -> bool:
    """Whether a value is a list of objects, at least one, that all have a key."""
    return isinstance(value, list) and bool(value) and all(isinstance(item, dict) and key in item for item in value)
