"""Rows from files of every known format, with every bad line reported in one pass. No file's own code ever runs."""

import gzip
import re
import stat
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from overture.core.errors import DataError, Problem
from overture.core.media import Media
from overture.core.records.data import DataNotice
from overture.data.formats.arrays import NPZ
from overture.data.formats.form import Container, Item, Records, Source
from overture.data.formats.options import FileOptions
from overture.data.formats.registry import CONTAINERS, SHAPES, container_of, folder_container, shape_of
from overture.data.formats.split_names import split_named
from overture.data.formats.token_tags import without_blank_words
from overture.data.formats.workbook import WORKBOOK
from overture.data.notices import Notices

SUFFIXES = tuple(suffix for container in CONTAINERS.values() for suffix in container.suffixes)
_MAX_BYTES = 2 << 30
_HEAD_BYTES = 1 << 14
_ONE_PART = "one part of several is read"
_PART = re.compile(r"-(\d{5})-of-(\d{5})")
_GZIP = b"\x1f\x8b"
_DETECTED = FileOptions()


_OTHER_FILES = {
    b"pk\x03\x04": ("a ZIP archive, not a data file", "unpack it; a workbook is read where it is called .xlsx"),
    b"%pdf-": ("a PDF document, not a data file", "export its rows as CSV"),
    b"<!doctype html": ("a web page, not a data file", "download the file itself"),
    b"<html": ("a web page, not a data file", "download the file itself"),
    b"version https://git-lfs": ("a pointer of Git LFS, not the file itself", "run git lfs pull"),
}
"""The first bytes of files that data files are mistaken for, in small letters; what each is, and the fix."""


@dataclass(frozen=True, slots=True)
class Table:
    """The rows of one file.

    Args:
        rows: plain fields.
        lines: the line on which each row starts, from 1; its number where a format has no lines of its own.
        splits: the split of each row, train, validation or test; empty where the file does not say.
        files: the file of each row, where there are several, or a folder's own table; else empty.
        format: the name of the format; empty where nothing could be read.
        names: the names of numbered labels, by field, where the file holds them; the rows have the names.
        settings: options that were guessed and that a task file should state.
        notices: what was assumed, left out or mended.
        misfits: what lines say that cannot be read as rows, as fields, by line; such lines are among the problems.
    """

    rows: Records = field(default_factory=list)
    lines: list[int] = field(default_factory=list)
    splits: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    format: str = ""
    names: Mapping[str, Sequence[str]] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    notices: list[DataNotice] = field(default_factory=list)
    misfits: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)

    def numbered(self, name: str) -> Records:
        """The rows with the numbers of a field's labels in place of their names."""
        numbers = {label: number for number, label in enumerate(self.names.get(name, ()))}
        labels = [row.get(name) for row in self.rows]
        return [
            {**row, name: numbers[label]} if isinstance(label, str) and label in numbers else row
            for row, label in zip(self.rows, labels, strict=True)
        ]


def read_table(path: str | Path, options: FileOptions = _DETECTED) -> Table:
    """Read a file.

    Args:
        path: the file, a folder of texts, or a pattern that names several files, such as ``train-*.parquet``.
        options: how rows lie in it; what they leave out is detected.

    Raises:
        DataError: every bad line, or that the file is missing, empty, or not of its suffix's format.
        ConfigError: Parquet without `pyarrow`.
    """
    problems: list[Problem] = []
    table = scan(Path(path), problems, options)
    if problems:
        raise DataError("the data cannot be read", where=str(path), problems=problems)
    return table


def other_options(path: Path, options: FileOptions) -> FileOptions:
    """Options for a file that is not one of the task's own: its suffix says more than the task's format."""
    suffix = (path.with_suffix("") if path.suffix.lower() == ".gz" else path).suffix.lower()
    return options.model_copy(update={"format": None}) if suffix in SUFFIXES else options


def scan(path: Path, problems: list[Problem], options: FileOptions = _DETECTED) -> Table:
    """As `read_table`, but adds what is wrong to `problems`, so that several files make one report."""
    if parts := parts_of(path):
        return _joined({part: scan(part, problems, options) for part in parts})
    num_before = len(problems)
    source = Source(str(path), options=options, problems=problems)
    if pattern := pattern_of_parts(path):
        done = f"{pattern.name} reads all"
        source.notices.add(_ONE_PART, path.name, done=done)
    container = _opened(path, source)
    if container is None:
        return Table()
    items = container.read(source)
    # A container that is named leaves the records as they are.
    table = _table(items, source, container.name, is_plain=options.format in CONTAINERS)
    if not table.rows and len(problems) == num_before:
        left_out = "; ".join(notice.text for notice in table.notices if notice.count)
        is_empty = not path.is_dir() and not source.raw.strip()
        problems.append(Problem(str(path), "no rows in the file", "it is empty" if is_empty else left_out))
    return table


def parts_of(path: Path) -> list[Path]:
    """The files that a pattern such as ``train-*.parquet`` names, sorted; none where the path is no pattern."""
    is_pattern = any(sign in path.name for sign in "*?[") and not path.exists()
    return sorted(part for part in path.parent.glob(path.name) if part.is_file()) if is_pattern else []


def pattern_of_parts(path: Path) -> Path | None:
    """The pattern of all parts of a data set of which a file is one, by names such as train-00000-of-00002.parquet."""
    match = _PART.search(path.name)
    if match is None or int(match[2]) < 2:
        return None
    return path.with_name(f"{path.name[: match.start(1)]}*{path.name[match.end(1) :]}")


def _joined(tables: Mapping[Path, Table]) -> Table:
    """The rows of several files as one table."""
    first = next(iter(tables.values()))
    has_splits = any(table.splits for table in tables.values())
    notices = Notices(notice for table in tables.values() for notice in table.notices if notice.kind != _ONE_PART)
    return Table(
        [row for table in tables.values() for row in table.rows],
        [line for table in tables.values() for line in table.lines],
        [split for table in tables.values() for split in table.splits or [""] * len(table.rows)] if has_splits else [],
        [str(path) for path, table in tables.items() for _ in table.rows],
        first.format,
        {name: labels for table in tables.values() for name, labels in table.names.items()},
        first.settings,
        notices.records(),
    )


def _opened(path: Path, source: Source) -> Container | None:
    """The container of a file, whose bytes are read; None, with a problem, where that fails."""
    if path.is_dir() and (folder := folder_container(path, source.options.format)):
        return folder
    raw = _bytes_of(path, source.problems)
    if raw is None:
        return None
    source.raw = raw
    # Packed files are named twice: reviews.csv.gz.
    inner = path.with_suffix("") if path.suffix.lower() == ".gz" else path
    refusal = next((why for start, why in _OTHER_FILES.items() if raw[:200].lstrip().lower().startswith(start)), None)
    if refusal and inner.suffix.lower() not in (*WORKBOOK.suffixes, *NPZ.suffixes):
        source.problem(0, *refusal)
        return None
    named_container = CONTAINERS.get(source.options.format or "")
    container = named_container or container_of(inner, raw[:_HEAD_BYTES])
    if container is None:
        is_sheet = inner.suffix.lower() in (".xls", ".xlsb", ".ods")
        fix, setting = f"known: {', '.join(SUFFIXES)}", "or say it with data.format"
        if is_sheet:
            fix, setting = "save the sheet as .xlsx or CSV (UTF-8)", ""
        source.problem(0, f"unknown suffix {inner.suffix!r}", fix, setting)
    elif not named_container and inner.suffix.lower() not in container.suffixes:
        source.notices.add(f"read as {container.name}", path.name, setting="set data.format if it is not")
    return container


def _table(items: list[Item], source: Source, format: str, is_plain: bool = False) -> Table:
    """Records of a known shape as plain rows, all others unchanged; numbered labels by name; each row's split."""
    named_shape = SHAPES.get(source.options.format or "")
    shape = named_shape or (None if is_plain or source.options.format else shape_of(items))
    if shape is not None:
        if named_shape is None:
            source.notices.add(f"read as {shape.title}", source.name, setting=f"data.format: {shape.name}")
            source.settings["format"] = shape.name
        items = shape.read(items, source)
    for name, labels in source.names.items():
        for item in items:
            if name in item.fields:
                item.fields[name] = _named(item.fields[name], labels)
    items = without_blank_words(items, source)
    _find_splits(items, source)
    return Table(
        [item.fields for item in items],
        [item.line for item in items],
        [item.split for item in items] if any(item.split for item in items) else [],
        [source.rows_file] * len(items) if source.rows_file else [],
        shape.name if shape else format,
        source.names,
        source.settings,
        source.notices.records(),
        source.misfits,
    )


def _named(value: Any, names: Sequence[str]) -> Any:
    """A label's number, or a list of them, as names; -1 means that there is no label."""
    if isinstance(value, list):
        return [_named(number, names) for number in value]
    if type(value) is not int or not -1 <= value < len(names):
        return value
    return None if value == -1 else names[value]


def _find_splits(items: list[Item], source: Source) -> None:
    """Set each record's split by the field that names it."""
    option = source.options.split_field
    if option is False or not items or any(item.split for item in items):
        return
    name = option or next((name for name in items[0].fields if name.lower() == "split"), "")
    splits = [split_named(item.fields.get(name)) for item in items]
    if option:
        for item, split in zip(items, splits, strict=True):
            if split is None:
                what = f"{item.fields.get(name)!r:.40} in {name!r} is no split"
                source.problem(item.line, what, "known: train, validation, dev, test, ...")
    elif not name or not all(splits) or "train" not in splits:
        return
    else:
        setting = "data.split_field: false draws splits instead"
        source.notices.add(f"the field {name!r} names each row's split", source.name, setting=setting)
    for item, split in zip(items, splits, strict=True):
        item.split = split or ""


def table_of(
    rows: Any,
    name: str = "rows",
    problems: list[Problem] | None = None,
    options: FileOptions = _DETECTED,
    label_names: Mapping[str, Sequence[str]] | None = None,
) -> Table:
    """Rows in memory, with their shape detected as that of a file's records.

    Args:
        rows: mappings, or a DataFrame of pandas.
        name: names the source in problems and notices.
        problems: what is wrong is added here; raised if None.
        options: the records' form.
        label_names: names of numbered labels by field.

    Raises:
        DataError: a row is no mapping, or cannot be read, and there is no list for problems.
    """
    all_problems: list[Problem] = [] if problems is None else problems
    source = Source(name, options=options, problems=all_problems, names=dict(label_names or {}))
    items = []
    for number, row in enumerate(records_of(rows), 1):
        if isinstance(row, Mapping):
            items.append(Item(dict(row), number))
        else:
            source.problem(number, f"a row of type {type(row).__name__}", "wanted a mapping from field to value")
    table = _table(items, source, "rows", is_plain=options.format in CONTAINERS)
    if not table.rows and not all_problems:
        all_problems.append(Problem(name, "no rows"))
    if all_problems and problems is None:
        raise DataError("the rows cannot be read", where=name, problems=all_problems)
    return table


def records_of(rows: Any) -> list[Any]:
    """Rows in memory as a list; mappings with text keys and plain values, everything else as it is.

    Args:
        rows: a DataFrame of pandas or Polars, a table of Arrow, or anything that is iterated over.

    Raises:
        DataError: it cannot be iterated over, or is one text or one mapping.
    """
    if hasattr(rows, "to_dicts"):
        rows = rows.to_dicts()
    elif hasattr(rows, "to_pylist"):
        rows = rows.to_pylist()
    elif hasattr(rows, "iloc") and hasattr(rows, "columns"):
        rows = rows.to_dict("records")
    if isinstance(rows, str | bytes | Mapping) or not isinstance(rows, Iterable):
        raise DataError(
            "these are no rows",
            got=f"{type(rows).__name__}: {rows!r:.60}",
            wanted="a list of mappings from field to value, or a DataFrame",
        )
    return [
        {str(key): _plain(value) for key, value in row.items()} if isinstance(row, Mapping) else row for row in rows
    ]


def rows_to_predict(rows: Any) -> list[str | Mapping[str, Any]]:
    """Rows to predict, from memory: texts and mappings; a single one is one row.

    Raises:
        DataError: something is neither.
    """
    records = [rows] if isinstance(rows, str) else records_of([rows] if isinstance(rows, Mapping) else rows)
    problems = [
        Problem(f"input:{number}", f"a row of type {type(row).__name__}", "wanted a text, or a mapping of fields")
        for number, row in enumerate(records, 1)
        if not isinstance(row, str | Mapping)
    ]
    if problems:
        raise DataError("rows cannot be predicted", problems=problems)
    return records


def _plain(value: Any) -> Any:
    """A value as JSON would hold it: numpy's and pandas' own types become Python's, missing ones None."""
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if hasattr(value, "tolist"):
        is_image = str(getattr(value, "dtype", "")) == "uint8" and value.ndim in (2, 3)
        return value if is_image else _plain(value.tolist())
    if isinstance(value, bytes | Media) or hasattr(value, "__array_interface__"):
        return value
    if str(value) in ("nan", "NaT", "<NA>") and not isinstance(value, str):
        return None
    return value.isoformat() if hasattr(value, "isoformat") else value


def _bytes_of(path: Path, problems: list[Problem]) -> bytes | None:
    try:
        status = path.stat()
        if stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode):
            problems.append(Problem(str(path), "a device, not a file"))
            return None
        size = status.st_size
        raw = path.read_bytes() if size <= _MAX_BYTES else b""
        if raw.startswith(_GZIP):
            with gzip.open(path) as file:
                raw = file.read(_MAX_BYTES + 1)
            size = len(raw)
        if size <= _MAX_BYTES:
            return raw
        what = f"{size / 2**30:.1f} GiB or more; at most {_MAX_BYTES / 2**30:.1f} are read"
        problems.append(Problem(str(path), what, "take a part of it"))
    except FileNotFoundError:
        missing = "no such file" if path.parent.is_dir() else f"no such folder: {path.parent}"
        problems.append(Problem(str(path), missing, "check the path"))
    except IsADirectoryError:
        problems.append(Problem(str(path), "a folder, not a file", "name a file in it"))
    except (OSError, EOFError, zlib.error) as error:
        problems.append(Problem(str(path), f"cannot be read: {getattr(error, 'strerror', None) or error}"))
    return None
