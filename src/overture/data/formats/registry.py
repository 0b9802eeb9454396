"""The formats by name, and their detection by file name and content."""

import re
from collections.abc import Sequence
from pathlib import Path, PurePath

from overture.data.formats.alpaca import ALPACA
from overture.data.formats.arrays import NPZ
from overture.data.formats.brat import BRAT, is_brat
from overture.data.formats.conll import CONLL
from overture.data.formats.doccano import DOCCANO
from overture.data.formats.fasttext import FASTTEXT
from overture.data.formats.form import Container, Item, Shape
from overture.data.formats.json_lines import JSONL
from overture.data.formats.json_list import JSON
from overture.data.formats.label_folders import LABEL_FOLDERS, are_label_folders
from overture.data.formats.label_studio import LABEL_STUDIO
from overture.data.formats.media_folders import MEDIA_FOLDERS, MEDIA_TABLE, are_media_folders, is_described
from overture.data.formats.messages import MESSAGES
from overture.data.formats.parquet_table import PARQUET
from overture.data.formats.prodigy import PRODIGY
from overture.data.formats.sharegpt import SHAREGPT
from overture.data.formats.spacy import SPACY
from overture.data.formats.squad import SQUAD
from overture.data.formats.tables import CSV, TSV
from overture.data.formats.token_tags import TOKEN_TAGS
from overture.data.formats.word_table import WORD_TABLE
from overture.data.formats.workbook import WORKBOOK

_MEDIA = (MEDIA_FOLDERS, MEDIA_TABLE, NPZ)
_CONTAINERS = (JSONL, JSON, CSV, TSV, PARQUET, CONLL, BRAT, FASTTEXT, LABEL_FOLDERS, *_MEDIA, WORKBOOK)
CONTAINERS = {form.name: form for form in _CONTAINERS}
_SHAPES = (ALPACA, SHAREGPT, MESSAGES, SQUAD, LABEL_STUDIO, PRODIGY, DOCCANO, SPACY, TOKEN_TAGS, WORD_TABLE)
SHAPES = {form.name: form for form in _SHAPES}
FORMATS = (*CONTAINERS, *SHAPES)
_NUM_RECORDS_READ = 20
_UNTELLING = (".txt", ".data", ".ft", ".train", ".valid", ".test", "")
"""Suffixes that do not say how rows lie in a file."""
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
    text = text if suffix in _UNTELLING else ""
    # Words with tags have tabs between them, too.
    return next((c for c in (FASTTEXT, CONLL, *CONTAINERS.values()) if text and c.is_like(text)), None)


def folder_container(folder: Path, format: str | None) -> Container | None:
    """The container of a folder, by `data.format` or by what is in it; None where it is none."""
    media = ((MEDIA_TABLE, is_described), (MEDIA_FOLDERS, are_media_folders))
    kinds = (*media, (BRAT, is_brat), (LABEL_FOLDERS, are_label_folders))
    return next((container for container, is_like in kinds if format == container.name or is_like(folder)), None)


def shape_of(items: Sequence[Item]) -> Shape | None:
    """The known shape that all of the first records have; None if there is none."""
    first = [item.fields for item in items[:_NUM_RECORDS_READ]]
    return next((shape for shape in SHAPES.values() if first and all(map(shape.is_like, first))), None)
