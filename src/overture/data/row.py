"""One row as it was read, and what any kind of task may find wrong with its fields."""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from overture.core.errors import Problem
from overture.data.values import as_text, kind


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


def missing_field(name: str, where: str, known: Sequence[str]) -> Problem:
    """That a field is not there, with the nearest that is."""
    near = difflib.get_close_matches(name, known, 1)
    return Problem(where, f"no field {name!r}", f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}")


def broken_text(name: str, text: str, row: Row) -> list[Problem]:
    """Whether a text cannot be written as UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return [Problem(row.where, f"field {name!r} holds half of a surrogate pair", "write whole characters")]
    return []


def answer_texts(found: Any) -> tuple[str, ...]:
    """One answer, or all of a list, as texts; what is no text is left out."""
    texts = [as_text(answer) for answer in (found if isinstance(found, list) else [found])]
    return tuple(text for text in texts if text is not None)


def answer_problems(name: str, row: Row, may_be_empty: bool = False) -> list[Problem]:
    """What is wrong with a field that holds one right text, or a list of them."""
    if name not in row.fields:
        return [missing_field(name, row.where, list(row.fields))]
    found = row.fields[name]
    answers = found if isinstance(found, list) else [found]
    bad = [answer for answer in answers if as_text(answer) is None]
    if bad:
        return [Problem(row.where, f"answer {name!r} is {kind(bad[0])}", "wanted text, or a list of texts")]
    texts = answer_texts(found)
    if not may_be_empty and (not texts or not all(text.strip() for text in texts)):
        return [Problem(row.where, f"empty answer in {name!r}")]
    return [problem for text in texts for problem in broken_text(name, text, row)]
