"""Rows from JSON lines, CSV and Parquet, with every bad line found in one pass."""

import csv
import io
import json
from pathlib import Path
from typing import Any, NoReturn

from overture.core.errors import ConfigError, DataError, Problem

Rows = list[dict[str, Any]]
SUFFIXES = (".jsonl", ".csv", ".parquet")
_TEXT_FIX = "save it as UTF-8"


def read_rows(path: str | Path) -> tuple[Rows, list[int]]:
    """The rows of a file and the line each one starts on (for Parquet: the row's number), from 1.

    Raises:
        DataError: every bad line, or that the file is missing, empty, or not what its suffix says.
        ConfigError: Parquet without `pyarrow`.
    """
    problems: list[Problem] = []
    rows, lines = scan_rows(Path(path), problems)
    if problems:
        raise DataError("the data cannot be read", where=str(path), problems=problems)
    return rows, lines


def scan_rows(path: Path, problems: list[Problem]) -> tuple[Rows, list[int]]:
    """As `read_rows`, but what is wrong is added to `problems`, so that several files make one report."""
    before = len(problems)
    reader = {".jsonl": _from_jsonl, ".csv": _from_csv, ".parquet": _from_parquet}.get(path.suffix.lower())
    if reader is None:
        problems.append(Problem(str(path), f"unknown suffix {path.suffix!r}", f"known: {', '.join(SUFFIXES)}"))
        return [], []
    raw = _bytes_of(path, problems)
    if raw is None:
        return [], []
    rows, lines = reader(raw, str(path), problems)
    if not rows and len(problems) == before:
        problems.append(Problem(str(path), "no rows in the file"))
    return rows, lines


def _bytes_of(path: Path, problems: list[Problem]) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        missing = "no such file" if path.parent.is_dir() else f"no such folder: {path.parent}"
        problems.append(Problem(str(path), missing, "check the path"))
    except IsADirectoryError:
        problems.append(Problem(str(path), "a folder, not a file", "name a file in it"))
    except OSError as error:
        problems.append(Problem(str(path), f"cannot be read: {error.strerror}"))
    return None


def _text_of(raw: bytes, file: str, problems: list[Problem]) -> str:
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        problems.append(Problem(f"{file}:{line}", f"not UTF-8 text (byte 0x{raw[error.start]:02x})", _TEXT_FIX))
        return ""
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        problems.append(Problem(f"{file}:{line}", "not text: it holds a zero byte", _TEXT_FIX))
        return ""
    return text


def _from_jsonl(raw: bytes, file: str, problems: list[Problem]) -> tuple[Rows, list[int]]:
    rows: Rows = []
    lines: list[int] = []
    # Not splitlines(): it also cuts at characters that JSON strings may hold as they are.
    for number, line in enumerate(_text_of(raw, file, problems).split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line, parse_constant=_no_constant)
        except (ValueError, RecursionError) as error:
            problems.append(Problem(f"{file}:{number}", f"not JSON: {_reason(error)}"))
            continue
        if not isinstance(row, dict):
            problems.append(Problem(f"{file}:{number}", f"not a JSON object but {line.strip()!r:.40}"))
            continue
        rows.append(row)
        lines.append(number)
    return rows, lines


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON value")


def _reason(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at character {error.colno}"
    return "nested too deeply" if isinstance(error, RecursionError) else str(error)


def _from_csv(raw: bytes, file: str, problems: list[Problem]) -> tuple[Rows, list[int]]:
    text = _text_of(raw, file, problems)
    # The csv module refuses long texts by a limit that is global; it is put back.
    limit = csv.field_size_limit(max(len(text), 1))
    try:
        return _csv_rows(text, file, problems)
    finally:
        csv.field_size_limit(limit)


def _csv_rows(text: str, file: str, problems: list[Problem]) -> tuple[Rows, list[int]]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    rows: Rows = []
    lines: list[int] = []
    header: list[str] | None = None
    start = 1
    try:
        for record in reader:
            if record and header is None:
                header = record
                if not _is_header(header, f"{file}:{start}", problems):
                    return [], []
            elif record and header is not None and len(record) != len(header):
                problems.append(Problem(f"{file}:{start}", f"{len(record)} columns", f"the header has {len(header)}"))
            elif record and header is not None:
                rows.append(dict(zip(header, record, strict=True)))
                lines.append(start)
            start = reader.line_num + 1
    except csv.Error as error:
        problems.append(Problem(f"{file}:{start}", f"not CSV: {error}", "is a quote left open?"))
    return rows, lines


def _is_header(header: list[str], where: str, problems: list[Problem]) -> bool:
    found = len(problems)
    if len(header) == 1 and any(mark in header[0] for mark in ";\t"):
        problems.append(Problem(where, f"one column: {header[0]!r:.60}", "separate columns by commas"))
    if any(not name.strip() for name in header):
        problems.append(Problem(where, "a column has no name"))
    doubled = sorted({name for name in header if header.count(name) > 1})
    if doubled:
        problems.append(Problem(where, f"columns with the same name: {', '.join(doubled)}"))
    return len(problems) == found


def _from_parquet(raw: bytes, file: str, problems: list[Problem]) -> tuple[Rows, list[int]]:
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError:
        raise ConfigError(
            "Parquet files need pyarrow", where=file, fix="pip install overture[parquet], or use .jsonl"
        ) from None
    try:
        rows: Rows = parquet.read_table(io.BytesIO(raw)).to_pylist()
    except (pa.ArrowException, OSError, ValueError) as error:
        problems.append(Problem(file, f"not Parquet: {str(error).splitlines()[0]:.120}"))
        return [], []
    return rows, list(range(1, len(rows) + 1))
