"""Cells of a table that hold lists, as pandas and Python write them: ``['a', 'b']``, ``["a"]``, ``[1, 2]``.

SQuAD's answers, ``{'text': ['Rome'], 'answer_start': [4]}``, are read too; other objects stay the texts that they are.
"""

import ast
import json
import re
from typing import Any

from overture.data.formats.form import Item, Source

_STRING = re.compile(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"")
_ARRAY = re.compile(r"\barray\((\[[^\[\]]*\])(?:, dtype=\w+)?\)")
_MAX_BRACKETS = 10_000


def with_lists(items: list[Item], source: Source) -> list[Item]:
    """The records with lists in place of the texts of lists, in columns that hold nothing else."""
    for name in items[0].fields if items else ():
        cells = [item.fields[name] for item in items]
        texts = [cell.strip() for cell in cells if isinstance(cell, str) and cell.strip()]
        are_answers = bool(texts) and all(
            text[0] == "{" and text[-1] == "}" and "answer_start" in text for text in texts
        )
        if not texts or not (are_answers or all(text[0] == "[" and text[-1] == "]" for text in texts)):
            continue
        parse = _object_of if are_answers else _list_of
        lists = [parse(cell) if isinstance(cell, str) and cell.strip() else None for cell in cells]
        if sum(value is not None for value in lists) < len(texts):
            continue
        for item, value in zip(items, lists, strict=True):
            item.fields[name] = value
        kind = "answers of SQuAD" if are_answers else "lists"
        source.notices.add(f"cells that spell {kind} are read as {kind}", name)
    return items


def _object_of(cell: str) -> dict[str, Any] | None:
    """The object that a cell spells; None if it spells none. numpy writes its lists as array([...])."""
    if cell.count("[") + cell.count("{") > _MAX_BRACKETS:
        return None
    try:
        value = ast.literal_eval(_ARRAY.sub(r"\1", cell.strip()))
    except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
        return None
    return value if isinstance(value, dict) else None


def _list_of(cell: str) -> list[Any] | None:
    """The list that a cell spells; None if it spells none. numpy leaves out the commas."""
    cell = cell.strip()
    if cell.count("[") > _MAX_BRACKETS:
        return None
    strings, skeleton = _STRING.findall(cell), _STRING.sub("s", cell)
    try:
        if strings and not skeleton[1:-1].strip("s, \n"):
            return [ast.literal_eval(string) for string in strings]
        if re.search(r"s\s*s", skeleton):
            return None
        value = json.loads(cell)
    except (ValueError, SyntaxError, RecursionError):
        try:
            value = ast.literal_eval(cell)
        except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
            return None
    return value if isinstance(value, list) else None
