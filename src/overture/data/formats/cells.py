"""Cells of a table that hold lists, as pandas and Python write them: ``['a', 'b']``, ``["a"]``, ``[1, 2]``."""

import ast
import json
import re
from typing import Any

from overture.data.formats.form import Item, Source

_STRING = re.compile(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"")
_MAX_BRACKETS = 10_000


def with_lists(items: list[Item], source: Source) -> list[Item]:
    """The records with lists in place of the texts of lists, in columns that hold nothing else."""
    for name in items[0].fields if items else ():
        cells = [item.fields[name] for item in items]
        texts = [cell.strip() for cell in cells if isinstance(cell, str) and cell.strip()]
        if not texts or not all(text[0] == "[" and text[-1] == "]" for text in texts):
            continue
        lists = [_list_of(cell) if isinstance(cell, str) and cell.strip() else None for cell in cells]
        if sum(value is not None for value in lists) < len(texts):
            continue
        for item, value in zip(items, lists, strict=True):
            item.fields[name] = value
        source.notices.add("cells that spell lists are read as lists", name)
    return items


def _list_of(cell: str) -> list[Any] | None:
    """The list that a cell spells; None if it spells none. numpy leaves out the commas."""
    cell = cell.strip()
    if cell.count("[") > _MAX_BRACKETS:
        return None
    strings, rest = _STRING.findall(cell), _STRING.sub("s", cell)
    try:
        if strings and not rest[1:-1].strip("s, \n"):
            return [ast.literal_eval(string) for string in strings]
        if re.search(r"s\s*s", rest):
            return None
        value = json.loads(cell)
    except (ValueError, SyntaxError, RecursionError):
        try:
            value = ast.literal_eval(cell)
        except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
            return None
    return value if isinstance(value, list) else None
