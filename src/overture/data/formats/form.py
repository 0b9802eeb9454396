"""What every format is made of, and the few things that several need."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from overture.core.errors import Problem

Row = dict[str, Any]
Rows = list[Row]
Problems = list[Problem]
_FIX = "save it as UTF-8"


@dataclass(frozen=True, slots=True)
class Container:
    """How records lie in a file.

    Args:
        name: as `data.format` says it.
        suffixes: of files that are read so when nothing else is said.
        read: bytes, the file's name and a list for problems, to the records and the line each starts on.
        is_like: whether an unknown file's first text looks so.
    """

    name: str
    suffixes: tuple[str, ...]
    read: Callable[[bytes, str, Problems], tuple[Rows, list[int]]]
    is_like: Callable[[str], bool] = lambda text: False


@dataclass(frozen=True, slots=True)
class Shape:
    """What a record says, whatever file it lies in.

    Args:
        name: as `data.format` says it.
        title: as its users call it.
        is_like: whether a record looks so.
        rows: a record, where it stands and a list for problems, to plain rows: one, or several.
        has_several: a record may hold several rows, so rows are numbered by themselves.
    """

    name: str
    title: str
    is_like: Callable[[Row], bool]
    rows: Callable[[Row, str, Problems], Sequence[Row]]
    has_several: bool = False


def text_of(raw: bytes, file: str, problems: Problems) -> str:
    """A file's text; empty, with a problem, where it is not UTF-8."""
    if raw[:2] in (b"\xff\xfe", b"\xfe\xff"):
        problems.append(Problem(f"{file}:1", "UTF-16 text", _FIX))
        return ""
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        problems.append(Problem(f"{file}:{line}", f"not UTF-8 text (byte 0x{raw[error.start]:02x})", _FIX))
        return ""
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        problems.append(Problem(f"{file}:{line}", "not text: it holds a zero byte", _FIX))
        return ""
    return text


def no_constant(name: str) -> NoReturn:
    """For `json`: NaN and infinities are no JSON."""
    raise ValueError(f"{name} is not a JSON value")


def reason(error: Exception) -> str:
    """Why something is not JSON."""
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at character {error.colno}"
    return "nested too deeply" if isinstance(error, RecursionError) else str(error)
