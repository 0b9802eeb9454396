"""Rows from files of every known format, with every bad line found in one pass. No file's own code ever runs."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from overture.core.errors import DataError, Problem
from overture.data.formats import CONTAINERS, SHAPES, container_of, shape_of
from overture.data.formats.form import Rows, Shape

SUFFIXES = tuple(suffix for container in CONTAINERS.values() for suffix in container.suffixes)
_MAX_BYTES = 2 << 30
_HEAD_BYTES = 1 << 14


@dataclass(frozen=True, slots=True)
class Found:
    """Rows as they were read.

    Args:
        rows: plain fields.
        lines: the line each row starts on, from 1; its number where a format has no lines of its own.
        format: what was read; empty where nothing could be.
        notices: what was assumed.
    """

    rows: Rows = field(default_factory=list)
    lines: list[int] = field(default_factory=list)
    format: str = ""
    notices: list[str] = field(default_factory=list)


def read_rows(path: str | Path, format: str | None = None) -> tuple[Rows, list[int]]:
    """The rows of a file and the line each one starts on (for Parquet: the row's number), from 1.

    Args:
        path: the file.
        format: one of `formats.FORMATS`; found by the file's name and content if None.

    Raises:
        DataError: every bad line, or that the file is missing, empty, or not what its suffix says.
        ConfigError: Parquet without `pyarrow`.
    """
    found = read_found(path, format)
    return found.rows, found.lines


def read_rows_like(path: str | Path, format: str | None) -> tuple[Rows, list[int]]:
    """As `read_rows`; the format is that of a task's own files, taken where the file's name says nothing.

    Raises:
        DataError, ConfigError: as `read_rows`.
    """
    return read_rows(path, None if Path(path).suffix.lower() in SUFFIXES else format)


def read_found(path: str | Path, format: str | None = None) -> Found:
    """As `read_rows`, with the format and what was assumed.

    Raises:
        DataError, ConfigError: as `read_rows`.
    """
    problems: list[Problem] = []
    found = scan(Path(path), problems, format)
    if problems:
        raise DataError("the data cannot be read", where=str(path), problems=problems)
    return found


def scan_rows(path: Path, problems: list[Problem], format: str | None = None) -> tuple[Rows, list[int]]:
    """As `read_rows`, but what is wrong is added to `problems`, so that several files make one report."""
    found = scan(path, problems, format)
    return found.rows, found.lines


def scan(path: Path, problems: list[Problem], format: str | None = None) -> Found:
    """As `read_found`, but what is wrong is added to `problems`."""
    before = len(problems)
    raw = _bytes_of(path, problems)
    if raw is None:
        return Found()
    container = CONTAINERS.get(format or "") or container_of(path, raw[:_HEAD_BYTES])
    if container is None:
        fix = f"known: {', '.join(SUFFIXES)}; or say it with data.format"
        problems.append(Problem(str(path), f"unknown suffix {path.suffix!r}", fix))
        return Found()
    rows, lines = container.read(raw, str(path), problems)
    # A container that is named leaves the records as they are.
    found = Found(rows, lines) if format in CONTAINERS else flattened(rows, lines, str(path), problems, format)
    if not found.rows and len(problems) == before:
        problems.append(Problem(str(path), "no rows in the file"))
    notices = found.notices
    if format is None and path.suffix.lower() not in container.suffixes:
        notices = [f"{path.name} is read as {container.name}; set data.format if it is not", *notices]
    return replace(found, format=found.format or container.name, notices=notices)


def flattened(
    records: Rows, lines: Sequence[int], file: str, problems: list[Problem], format: str | None = None
) -> Found:
    """Records of a known shape as plain rows; all others as they are.

    Args:
        records: as a file or the Hub has them.
        lines: where each stands.
        file: names the source in problems and notices.
        problems: what is wrong is added here.
        format: a shape's name; found by the records if None.
    """
    shape = SHAPES.get(format or "") or (shape_of(records) if format is None else None)
    if shape is None:
        return Found(records, list(lines))
    notices = []
    if format is None:
        notices.append(f"{Path(file).name} is read as {shape.title} (data.format: {shape.name})")
    rows: Rows = []
    numbers: list[int] = []
    for record, line in zip(records, lines, strict=True):
        found = shape.rows(record, f"{file}:{line}", problems)
        rows += found
        numbers += _numbers(shape, len(found), line, len(numbers))
    return Found(rows, numbers, shape.name, notices)


def _numbers(shape: Shape, count: int, line: int, done: int) -> list[int]:
    return list(range(done + 1, done + count + 1)) if shape.has_several else [line] * count


def _bytes_of(path: Path, problems: list[Problem]) -> bytes | None:
    try:
        size = path.stat().st_size
        if size > _MAX_BYTES:
            fix = "take a part of it"
            problems.append(Problem(str(path), f"{size / 2**30:.1f} GiB; at most {_MAX_BYTES >> 30} are read", fix))
            return None
        return path.read_bytes()
    except FileNotFoundError:
        missing = "no such file" if path.parent.is_dir() else f"no such folder: {path.parent}"
        problems.append(Problem(str(path), missing, "check the path"))
    except IsADirectoryError:
        problems.append(Problem(str(path), "a folder, not a file", "name a file in it"))
    except OSError as error:
        problems.append(Problem(str(path), f"cannot be read: {error.strerror}"))
    return None
