"""Rows written to a table file, piece by piece; the file gets its name only when it is whole."""

import csv
import io
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, Protocol

from overture.core.errors import ConfigError
from overture.core.files import TEMPORARY, check_writable, fsync_dir, no_right_as_read_only, no_room_as_disk_full
from overture.core.packages import install

WRITTEN_SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet")
ColumnType = Literal["text", "number", "any"]
Fields = Mapping[str, Any]


def check_output(path: Path, is_forced: bool, reads: Sequence[Path] = ()) -> None:
    """Refuse an output file before any work is done for it.

    Args:
        path: the file to write.
        is_forced: whether an existing file may be replaced.
        reads: files that are read for it.

    Raises:
        ConfigError: its suffix is unknown, its folder is missing, it is read from, it exists, or pyarrow is missing.
        StoreReadOnly: its folder cannot be written.
        DiskFull: no room for any file.
    """
    suffix = path.suffix.lower()
    if suffix not in WRITTEN_SUFFIXES:
        raise ConfigError(
            "the suffix of the output file is not known",
            where=str(path),
            got=suffix or "none",
            wanted=", ".join(WRITTEN_SUFFIXES),
        )
    if not path.absolute().parent.is_dir():
        raise ConfigError("there is no such folder", where=str(path.absolute().parent), fix="make it, or check -o")
    check_replaced(path, is_forced, reads)
    if suffix == ".parquet":
        try:
            import pyarrow  # noqa: F401
        except ImportError:
            raise ConfigError(
                "Parquet files need pyarrow", where=str(path), fix=f"{install('parquet')}, or write .csv or .jsonl"
            ) from None


def check_replaced(path: Path, is_forced: bool, sources: Sequence[Path]) -> None:
    """Refuse to replace a file that is read from, and any other without `is_forced`; and a folder that takes no file.

    Raises:
        ConfigError: the file exists, or is read from.
        StoreReadOnly: nothing can be written where it would stand.
    """
    check_writable(path.parent)
    if path.exists() and any(source.exists() and path.samefile(source) for source in sources):
        raise ConfigError("a file cannot be read and replaced at once", where=str(path), fix="name another with -o")
    if path.exists() and (path.is_dir() or not is_forced):
        raise ConfigError("the file exists already", where=str(path), fix="name another with -o, or add --force")


def partial_path(path: Path) -> Path:
    """The name of a file that was not finished: ``out.partial.csv`` for ``out.csv``."""
    return path.with_name(f"{path.stem}.partial{path.suffix}")


class RowSink(Protocol):
    """Takes rows in order."""

    def write(self, rows: Sequence[Fields]) -> None:
        """Write rows; fields that are no columns are left out of tables."""
        ...

    def close(self) -> None:
        """Finish the file's content."""
        ...


class _Table:
    """Comma- or tab-separated values; lists and objects are written as JSON, what is missing as an empty cell."""

    def __init__(self, file: io.BufferedWriter, columns: Sequence[str], delimiter: str) -> None:
        self._columns = columns
        self._text = io.TextIOWrapper(file, encoding="utf-8", newline="", write_through=True)
        self._writer = csv.writer(self._text, delimiter=delimiter, lineterminator="\n")
        self._writer.writerow(columns)

    def write(self, rows: Sequence[Fields]) -> None:
        self._writer.writerows([[_cell(row.get(name)) for name in self._columns] for row in rows])

    def close(self) -> None:
        self._text.flush()
        self._text.detach()


class _JsonLines:
    """One object a line, with the fields that the row has."""

    def __init__(self, file: io.BufferedWriter) -> None:
        self._file = file

    def write(self, rows: Sequence[Fields]) -> None:
        for row in rows:
            self._file.write(json.dumps(row, ensure_ascii=False, default=str).encode(errors="replace") + b"\n")

    def close(self) -> None:
        pass


class _Parquet:
    """Columns with the types of their values; a column of mixed types is written as JSON."""

    def __init__(self, file: io.BufferedWriter, columns: Mapping[str, ColumnType], own_rows: Sequence[Fields]) -> None:
        import pyarrow as pa
        from pyarrow import parquet

        types = {"text": pa.string(), "number": pa.float64()}
        self._as_json: set[str] = set()
        fields = []
        for name, column_type in columns.items():
            arrow_type = types.get(column_type) or self._type_of(name, own_rows)
            fields.append(pa.field(name, arrow_type))
        self._schema = pa.schema(fields)
        self._writer = parquet.ParquetWriter(file, self._schema)

    def _type_of(self, name: str, rows: Sequence[Fields]) -> Any:
        import pyarrow as pa

        try:
            arrow_type = pa.array([row.get(name) for row in rows]).type
        except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OverflowError):
            arrow_type = None
        if arrow_type is None or pa.types.is_null(arrow_type):
            self._as_json.add(name)
            return pa.string()
        return arrow_type

    def write(self, rows: Sequence[Fields]) -> None:
        import pyarrow as pa

        table = {
            field.name: pa.array(
                [_cell(row.get(field.name)) if field.name in self._as_json else row.get(field.name) for row in rows],
                type=field.type,
            )
            for field in self._schema
        }
        self._writer.write_table(pa.table(table, schema=self._schema))

    def close(self) -> None:
        self._writer.close()


@contextmanager
def written_rows(path: Path, columns: Mapping[str, ColumnType], own_rows: Sequence[Fields] = ()) -> Iterator[RowSink]:
    """A file to write rows to: whole under its name at the end of the block.

    Ctrl-C within the block leaves what was written under `partial_path`; any other error leaves nothing.

    Args:
        path: the file; its suffix names the format.
        columns: the columns of a table, in order; JSON lines have each row's own fields.
        own_rows: all rows of columns of type ``any``, by which Parquet finds their types.

    Raises:
        DiskFull: no room; what was under the name before is intact.
        StoreReadOnly: the folder cannot be written.
    """
    temporary = path.with_name(f"{TEMPORARY}{os.getpid()}-{path.name}")
    suffix = path.suffix.lower()
    sink: RowSink
    try:
        with no_room_as_disk_full(path), _opened(temporary) as file:
            if suffix == ".jsonl":
                sink = _JsonLines(file)
            elif suffix == ".parquet":
                sink = _Parquet(file, columns, own_rows)
            else:
                sink = _Table(file, list(columns), "," if suffix == ".csv" else "\t")
            try:
                yield sink
            except KeyboardInterrupt:
                sink.close()
                file.flush()
                os.replace(temporary, partial_path(path))
                raise
            sink.close()
            file.flush()
            os.fsync(file.fileno())
        with no_right_as_read_only(path.parent):
            os.replace(temporary, path)
        fsync_dir(path.absolute().parent)
    finally:
        temporary.unlink(missing_ok=True)


def _opened(path: Path) -> io.BufferedWriter:
    with no_right_as_read_only(path.parent):
        return open(path, "wb")


def _cell(value: Any) -> Any:
    """A value as a cell of text: lists and objects as JSON, truth values in JSON's spelling."""
    if isinstance(value, list | dict | tuple | bool):
        return json.dumps(value, ensure_ascii=False, default=str)
    return value
