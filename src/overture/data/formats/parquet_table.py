"""Parquet, read with `pyarrow`; rows are named by their number. Names of numbered labels come with the file."""

import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

from overture.core.errors import ConfigError
from overture.core.packages import install
from overture.data.formats.form import Container, Item, Records, Source

_MAX_ROWS = 2_000_000
_MAX_BYTES = 2 << 30
_BATCH_ROWS = 4096


def _read(source: Source) -> list[Item]:
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError:
        raise ConfigError(
            "Parquet files need pyarrow", where=source.file, fix=f"{install('parquet')}, or use .jsonl"
        ) from None
    rows: Records = []
    num_bytes = 0
    try:
        file = parquet.ParquetFile(io.BytesIO(source.raw))
        if file.metadata.num_rows > _MAX_ROWS:
            return _too_much(f"{file.metadata.num_rows:,} rows; at most {_MAX_ROWS:,} are read", source)
        for batch in file.iter_batches(_BATCH_ROWS):
            num_bytes += batch.nbytes
            if num_bytes > _MAX_BYTES:
                return _too_much(f"more than {_MAX_BYTES >> 30} GiB in memory", source)
            rows += _plain(batch).to_pylist()
        metadata = file.schema_arrow.metadata or {}
        source.names |= _label_names(metadata.get(b"huggingface"))
    except (pa.ArrowException, OSError, ValueError, OverflowError, KeyError) as error:
        source.problem(0, f"not Parquet: {str(error).splitlines()[0] if str(error) else type(error).__name__:.120}")
        return []
    return [Item(fields, line) for line, fields in enumerate(_without_index(rows, source), 1)]


def _too_much(what: str, source: Source) -> list[Item]:
    source.problem(0, what, "take a part of it")
    return []


def _plain(batch: Any) -> Any:
    """A batch with dates, times and decimals as text: Python's own types do not reach as far as Arrow's."""
    import pyarrow as pa

    columns = []
    for column in batch.columns:
        is_time = pa.types.is_temporal(column.type) or pa.types.is_decimal(column.type)
        columns.append(_as_texts(column) if is_time else column)
    return pa.RecordBatch.from_arrays(columns, names=batch.schema.names)


def _as_texts(column: Any) -> Any:
    import pyarrow as pa

    if pa.types.is_timestamp(column.type) and column.type.tz:
        # The moment in UTC; a zone that this machine does not know needs no rule then.
        column = column.cast(pa.timestamp(column.type.unit))
    if pa.types.is_duration(column.type) or pa.types.is_interval(column.type):
        column = column.cast(pa.int64())
    return column.cast(pa.string())


def _without_index(rows: Records, source: Source) -> Records:
    """The rows without the column in which pandas keeps its row numbers."""
    name = "__index_level_0__"
    if rows and name in rows[0]:
        source.notices.add("row numbers in a column without a name", source.name, done="left out")
        for row in rows:
            row.pop(name, None)
    return rows


def _label_names(metadata: bytes | None) -> dict[str, Sequence[str]]:
    """Names of numbered labels by field, as the package `datasets` keeps them beside the columns."""
    try:
        features = json.loads(metadata or b"{}")["info"]["features"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return {}
    return names_of_features(features) if isinstance(features, dict) else {}


def names_of_features(features: Mapping[str, Any]) -> dict[str, Sequence[str]]:
    """Names of the labels of each field that is a ClassLabel, or a list of them; features as JSON holds them."""
    names: dict[str, Sequence[str]] = {}
    for field, feature in features.items():
        inner = feature
        while isinstance(inner, dict | list) and not (isinstance(inner, dict) and "names" in inner):
            inner = inner[0] if isinstance(inner, list) and inner else inner.get("feature") if inner else None
        if isinstance(inner, dict) and isinstance(inner["names"], list):
            names[field] = [str(name) for name in inner["names"]]
    return names


PARQUET = Container("parquet", (".parquet", ".pq"), _read)
