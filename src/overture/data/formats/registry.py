"""The formats by name, and their detection by file name and content."""

from collections.abc import Sequence
from pathlib import PurePath
from typing import Literal

from overture.data.formats.alpaca import ALPACA
from overture.data.formats.conll import CONLL
from overture.data.formats.form import Container, Record, Shape
from overture.data.formats.json_lines import JSONL
from overture.data.formats.json_list import JSON
from overture.data.formats.messages import MESSAGES
from overture.data.formats.parquet_table import PARQUET
from overture.data.formats.sharegpt import SHAREGPT
from overture.data.formats.squad import SQUAD
from overture.data.formats.tables import CSV, TSV

FormatName = Literal[
    "jsonl", "json", "csv", "tsv", "parquet", "conll", "alpaca", "sharegpt", "messages", "squad"
]  # as FORMATS has them; a test compares
CONTAINERS = {form.name: form for form in (JSONL, JSON, CSV, TSV, PARQUET, CONLL)}
SHAPES = {form.name: form for form in (ALPACA, SHAREGPT, MESSAGES, SQUAD)}
FORMATS = (*CONTAINERS, *SHAPES)
_NUM_RECORDS_READ = 20


def container_of(path: PurePath, head: bytes) -> Container | None:
    """The container of a file, by its suffix or, where that says nothing, its first bytes; None if unknown."""
    suffix = path.suffix.lower()
    for container in CONTAINERS.values():
        if suffix in container.suffixes:
            return container
    text = head.decode("utf-8", errors="ignore") if suffix in (".txt", ".data", "") else ""
    return next((container for container in CONTAINERS.values() if container.is_like(text)), None)


def shape_of(records: Sequence[Record]) -> Shape | None:
    """The known shape that all of the first records have; None if there is none."""
    first = records[:_NUM_RECORDS_READ]
    return next((shape for shape in SHAPES.values() if first and all(map(shape.is_like, first))), None)
