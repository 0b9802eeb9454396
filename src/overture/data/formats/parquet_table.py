"""Parquet, read with `pyarrow`; rows are named by their number."""

import io

from overture.core.errors import ConfigError, Problem
from overture.core.packages import install
from overture.data.formats.form import Container, Problems, Records


def _read(raw: bytes, file: str, problems: Problems) -> tuple[Records, list[int]]:
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError:
        raise ConfigError(
            "Parquet files need pyarrow", where=file, fix=f"{install('parquet')}, or use .jsonl"
        ) from None
    try:
        rows: Records = parquet.read_table(io.BytesIO(raw)).to_pylist()
    except (pa.ArrowException, OSError, ValueError) as error:
        problems.append(Problem(file, f"not Parquet: {str(error).splitlines()[0]:.120}"))
        return [], []
    return rows, list(range(1, len(rows) + 1))


PARQUET = Container("parquet", (".parquet",), _read)
