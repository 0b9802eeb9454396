"""A JSON file: a list of objects, or an object whose `data` is that list, as in SQuAD.

Records are named by the line they start on; where several share a line, by their number.
"""

import json
import re
from typing import Any

from overture.core.errors import Problem
from overture.data.formats.form import Container, Problems, Records, no_constant, reason, text_of
from overture.data.formats.json_lines import rows_of_text

_SPACE = re.compile(r"[ \t\r\n]*")
_COMMA = re.compile(r"[ \t\r\n]*,[ \t\r\n]*")
_DECODER = json.JSONDecoder(parse_constant=no_constant)


def _read(raw: bytes, file: str, problems: Problems) -> tuple[Records, list[int]]:
    text = text_of(raw, file, problems)
    start = _after(_SPACE, text, 0)
    try:
        if text[start : start + 1] == "[":
            return _objects(*_items(text, start + 1), file, problems)
        value, end = _DECODER.raw_decode(text, start) if text[start:] else (None, 0)
    except (ValueError, RecursionError) as error:
        line = error.lineno if isinstance(error, json.JSONDecodeError) else 1
        problems.append(Problem(f"{file}:{line}", f"not JSON: {reason(error)}"))
        return [], []
    if text[end:].strip():
        # Many files called .json hold JSON lines.
        return rows_of_text(text, file, problems)
    if isinstance(value, dict):
        inner = value.get("data")
        items = inner if isinstance(inner, list) else [value]
        return _objects(items, list(range(1, len(items) + 1)), file, problems)
    if value is not None:
        problems.append(Problem(f"{file}:1", f"not a list of objects but {text.strip()!r:.40}"))
    return [], []


def _items(text: str, position: int) -> tuple[list[Any], list[int]]:
    """The items of a list that opens before `position`, and their lines; their numbers where some share a line."""
    items: list[Any] = []
    lines: list[int] = []
    line, counted = 1, 0
    position = _after(_SPACE, text, position)
    while text[position : position + 1] != "]":
        line, counted = line + text.count("\n", counted, position), position
        item, position = _DECODER.raw_decode(text, position)
        items.append(item)
        lines.append(line)
        comma = _COMMA.match(text, position)
        if comma is None:
            position = _after(_SPACE, text, position)
            if text[position : position + 1] != "]":
                raise json.JSONDecodeError("Expecting ',' delimiter", text, position)
            break
        position = comma.end()
        if text[position : position + 1] == "]":
            raise json.JSONDecodeError("Illegal trailing comma before end of array", text, position)
    if rest := text[position + 1 :].strip():
        raise json.JSONDecodeError(f"Extra data: {rest!r:.20}", text, position + 1)
    return items, lines if len(set(lines)) == len(lines) else list(range(1, len(items) + 1))


def _objects(items: list[Any], lines: list[int], file: str, problems: Problems) -> tuple[Records, list[int]]:
    for item, line in zip(items, lines, strict=True):
        if not isinstance(item, dict):
            problems.append(Problem(f"{file}:{line}", f"not a JSON object but {json.dumps(item)!r:.40}"))
    kept = [(item, line) for item, line in zip(items, lines, strict=True) if isinstance(item, dict)]
    return [item for item, _ in kept], [line for _, line in kept]


def _after(pattern: re.Pattern[str], text: str, position: int) -> int:
    match = pattern.match(text, position)
    return match.end() if match else position


JSON = Container("json", (".json",), _read)
