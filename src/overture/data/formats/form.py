"""The two kinds of formats, containers and shapes, and functions that several formats share."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from overture.core.errors import Problem

Record = dict[str, Any]
Records = list[Record]
Problems = list[Problem]
_FIX = "save it as UTF-8"


@dataclass(frozen=True, slots=True)
class Container:
    """How records lie in a file.

    Args:
        name: the value of `data.format`.
        suffixes: of files that are read so if `data.format` is not given.
        read: takes bytes, the file's name and a list for problems; gives the records and the line of each.
        is_like: whether the first text of an unknown file looks like this format.
    """

    name: str
    suffixes: tuple[str, ...]
    read: Callable[[bytes, str, Problems], tuple[Records, list[int]]]
    is_like: Callable[[str], bool] = lambda text: False


@dataclass(frozen=True, slots=True)
class Shape:
    """The fields of a record, whatever file it lies in.

    Args:
        name: the value of `data.format`.
        title: as its users call it.
        is_like: whether a record looks like this format.
        rows: takes a record, its place and a list for problems; gives its plain rows, one or several.
        has_several: a record may hold several rows, so rows have numbers of their own.
    """

    name: str
    title: str
    is_like: Callable[[Record], bool]
    rows: Callable[[Record, str, Problems], Sequence[Record]]
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
    """Refuse NaN and infinities, which `json` would accept."""
    raise ValueError(f"{name} is not a JSON value")


def reason(error: Exception) -> str:
    """Why a text is not JSON, in a few words."""
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at character {error.colno}"
    return "nested too deeply" if isinstance(error, RecursionError) else str(error)
