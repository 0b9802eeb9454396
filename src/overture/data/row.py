"""One row of a data file, and checks of its fields that all kinds of task share."""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, get_args

from overture.core.errors import Problem
from overture.core.media import Modality
from overture.data.values import as_text, kind

MEDIA_TABLE_STEM, FILE_COLUMN = "metadata", "file_name"
"""What tables of images or sounds are called, and their column of files; both are fixed by use elsewhere."""
_MAX_LISTED = 20
"""Fields that an error lists."""


@dataclass(frozen=True, slots=True)
class Row:
    """A row of a data file.

    Args:
        fields: all its fields, by name.
        line: its line in the file, from 1; 0 where the file is the row, as that of a picture is.
        file: the file or data set.
        root: the folder in which files that its fields name lie; empty where none may be read.
        content: digests of its images and sounds, whatever their files are called.
    """

    fields: dict[str, Any]
    line: int
    file: str
    root: str = ""
    content: tuple[str, ...] = ()

    @property
    def where(self) -> str:
        """``file:line``, or the file where it is the row."""
        return f"{self.file}:{self.line}" if self.line else self.file


def missing_field(name: str, where: str, fields: Sequence[str], option: str = "") -> Problem:
    """The problem of a missing field.

    Args:
        name: of the field.
        where: the row or the file.
        fields: the fields that are there; the nearest one is suggested.
        option: of the task file, where it can name another field.
    """
    if (
        name in get_args(Modality)
        and FILE_COLUMN in fields
        and PurePath(where.rpartition(":")[0]).stem == MEDIA_TABLE_STEM
    ):
        fix = f"name the folder that holds the table: its column {FILE_COLUMN} is read as {name} then"
        return Problem(where, f"no field {name!r}", fix)
    near = difflib.get_close_matches(name, fields, 1)
    names = ", ".join(fields[:_MAX_LISTED]) + (", ..." if len(fields) > _MAX_LISTED else "")
    guess = f"did you mean {near[0]!r}? " if near else ""
    rename = f"rename {'it' if near else 'one'} to {name!r}" + (f", or name another in {option}" if option else "")
    return Problem(where, f"no field {name!r}", f"{guess}the fields are {names}; {rename}" if fields else "")


def broken_text(name: str, text: str, row: Row) -> list[Problem]:
    """The problem of a text that cannot be written as UTF-8; none for others."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return [Problem(row.where, f"field {name!r} holds half of a surrogate pair", "write whole characters")]
    return []


def answer_texts(value: Any) -> tuple[str, ...]:
    """One answer, or all of a list, as texts; values that are no text are left out."""
    texts = [as_text(answer) for answer in (value if isinstance(value, list) else [value])]
    return tuple(text for text in texts if text is not None)


def answer_problems(name: str, row: Row, may_be_empty: bool = False) -> list[Problem]:
    """The problems of a field that should hold one right text, or a list of them."""
    if name not in row.fields:
        return [missing_field(name, row.where, list(row.fields))]
    value = row.fields[name]
    answers = value if isinstance(value, list) else [value]
    bad = [answer for answer in answers if as_text(answer) is None]
    if bad:
        return [Problem(row.where, f"answer {name!r} is {kind(bad[0])}", "wanted text, or a list of texts")]
    texts = answer_texts(value)
    if not may_be_empty and (not texts or not all(text.strip() for text in texts)):
        return [Problem(row.where, f"empty answer in {name!r}")]
    return [problem for text in texts for problem in broken_text(name, text, row)]
