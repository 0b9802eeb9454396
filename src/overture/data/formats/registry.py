"""The formats by name, and their detection by file name and content."""

import re
from collections.abc import Sequence
from pathlib import PurePath

from overture.data.formats.alpaca import ALPACA
from overture.data.formats.brat import BRAT
from overture.data.formats.conll import CONLL
from overture.data.formats.doccano import DOCCANO
from overture.data.formats.form import Container, Item, Shape
from overture.data.formats.json_lines import JSONL
from overture.data.formats.json_list import JSON
from overture.data.formats.label_studio import LABEL_STUDIO
from overture.data.formats.messages import MESSAGES
from overture.data.formats.parquet_table import PARQUET
from overture.data.formats.prodigy import PRODIGY
from overture.data.formats.sharegpt import SHAREGPT
from overture.data.formats.spacy import SPACY
from overture.data.formats.squad import SQUAD
from overture.data.formats.tables import CSV, TSV
from overture.data.formats.token_tags import TOKEN_TAGS
from overture.data.formats.word_table import WORD_TABLE

CONTAINERS = {form.name: form for form in (JSONL, JSON, CSV, TSV, PARQUET, CONLL, BRAT)}
_SHAPES = (ALPACA, SHAREGPT, MESSAGES, SQUAD, LABEL_STUDIO, PRODIGY, DOCCANO, SPACY, TOKEN_TAGS, WORD_TABLE)
SHAPES = {form.name: form for form in _SHAPES}
FORMATS = (*CONTAINERS, *SHAPES)
_NUM_RECORDS_READ = 20
_JSON_OBJECT = re.compile(r'\s*\{"[^"]*": ?\S.*\}[ \t]*\r?\n')


def container_of(path: PurePath, head: bytes) -> Container | None:
    """The container of a file, by its suffix or, where that says nothing, its first bytes; None if unknown."""
    suffix = path.suffix.lower()
    text = head.decode("utf-8-sig", errors="ignore")
    if suffix in TSV.suffixes and CONLL.is_like(text):
        return CONLL
    if suffix in (*CSV.suffixes, *TSV.suffixes) and _JSON_OBJECT.match(text):
        return JSONL
    for container in CONTAINERS.values():
        if suffix in container.suffixes:
            return container
    text = text if suffix in (".txt", ".data", "") else ""
    # Words with tags have tabs between them, too.
    return next((container for container in (CONLL, *CONTAINERS.values()) if container.is_like(text)), None)


def shape_of(items: Sequence[Item]) -> Shape | None:
    """The known shape that all of the first records have; None if there is none."""
    first = [item.fields for item in items[:_NUM_RECORDS_READ]]
    return next((shape for shape in SHAPES.values() if first and all(map(shape.is_like, first))), None)
