"""Rows from files of every known format, with every bad line reported in one pass. No file's own code ever runs."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from overture.core.errors import DataError, Problem
from overture.data.formats.form import Records
from overture.data.formats.registry import CONTAINERS, SHAPES, container_of, shape_of

SUFFIXES = tuple(suffix for container in CONTAINERS.values() for suffix in container.suffixes)
_MAX_BYTES = 2 << 30
_HEAD_BYTES = 1 << 14


@dataclass(frozen=True, slots=True)
class Table:
    """The rows of one file.

    Args:
        rows: plain fields.
        lines: the line on which each row starts, from 1; its number where a format has no lines of its own.
        format: the name of the format; empty where nothing could be read.
        notices: what was assumed.
    """

    rows: Records = field(default_factory=list)
    lines: list[int] = field(default_factory=list)
    format: str = ""
    notices: list[str] = field(default_factory=list)


def read_table(path: str | Path, format: str | None = None) -> Table:
    """Read a file.

    Args:
        path: the file.
        format: one of `formats.registry.FORMATS`; detected by the file's name and content if None.

    Raises:
        DataError: every bad line, or that the file is missing, empty, or not of its suffix's format.
        ConfigError: Parquet without `pyarrow`.
    """
    problems: list[Problem] = []
    table = scan(Path(path), problems, format)
    if problems:
        raise DataError("the data cannot be read", where=str(path), problems=problems)
    return table


def read_rows(path: str | Path, format: str | None = None) -> tuple[Records, list[int]]:
    """The rows and lines of `read_table`."""
    table = read_table(path, format)
    return table.rows, table.lines


def read_rows_like(path: str | Path, format: str | None) -> tuple[Records, list[int]]:
    """As `read_rows`; the format is that of a task's own files, used where the file's suffix says nothing."""
    return read_rows(path, None if Path(path).suffix.lower() in SUFFIXES else format)


def scan(path: Path, problems: list[Problem], format: str | None = None) -> Table:
    """As `read_table`, but adds what is wrong to `problems`, so that several files make one report."""
    num_before = len(problems)
    raw = _bytes_of(path, problems)
    if raw is None:
        return Table()
    container = CONTAINERS.get(format or "") or container_of(path, raw[:_HEAD_BYTES])
    if container is None:
        fix = f"known: {', '.join(SUFFIXES)}; or say it with data.format"
        problems.append(Problem(str(path), f"unknown suffix {path.suffix!r}", fix))
        return Table()
    rows, lines = container.read(raw, str(path), problems)
    # A container that is named leaves the records as they are.
    table = Table(rows, lines) if format in CONTAINERS else flattened(rows, lines, str(path), problems, format)
    if not table.rows and len(problems) == num_before:
        problems.append(Problem(str(path), "no rows in the file"))
    notices = table.notices
    if format is None and path.suffix.lower() not in container.suffixes:
        notices = [f"{path.name} is read as {container.name}; set data.format if it is not", *notices]
    return replace(table, format=table.format or container.name, notices=notices)


def flattened(
    records: Records, lines: Sequence[int], file: str, problems: list[Problem], format: str | None = None
) -> Table:
    """Records of a known shape as plain rows; all others unchanged.

    Args:
        records: as a file or the Hub has them.
        lines: the line of each.
        file: names the source in problems and notices.
        problems: what is wrong is added here.
        format: a shape's name; detected by the records if None.
    """
    shape = SHAPES.get(format or "") or (shape_of(records) if format is None else None)
    if shape is None:
        return Table(records, list(lines))
    notices = []
    if format is None:
        notices.append(f"{Path(file).name} is read as {shape.title} (data.format: {shape.name})")
    table = Table(format=shape.name, notices=notices)
    for record, line in zip(records, lines, strict=True):
        rows = shape.rows(record, f"{file}:{line}", problems)
        first = len(table.rows) + 1
        table.rows.extend(rows)
        table.lines.extend(range(first, first + len(rows)) if shape.has_several else [line] * len(rows))
    return table


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
