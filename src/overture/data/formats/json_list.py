"""A JSON file: a list of objects, a table as pandas writes it in any orientation, or several splits in one object.

Records are named by the line they start on; where several share a line, by their number.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

from overture.data.formats.encoding import text_of
from overture.data.formats.form import UNREADABLE, Container, Item, Record, Source
from overture.data.formats.header import USUAL_NAMES, named, with_names
from overture.data.formats.json_lines import items_of_text
from overture.data.formats.json_values import decoder, not_an_object, reason
from overture.data.formats.parquet_table import names_of_features
from overture.data.formats.split_names import split_named

_SPACE = re.compile(r"[ \t\r\n]*")
_COMMA = re.compile(r"[ \t\r\n]*,[ \t\r\n]*")
_LABELS = frozenset(("pos", "neg", "positive", "negative", "neutral", "spam", "ham", "yes", "no", "true", "false"))
_LISTS = ("data", "rows", "examples", "items", "records", "instances")
"""Keys under which the rows stand beside facts about them, as in SQuAD and the Hub's answers."""


def _read(source: Source) -> list[Item]:
    text = text_of(source)
    start = _after(_SPACE, text, 0)
    try:
        if text[start : start + 1] == "[":
            return _items(*_values(text, start + 1), source)
        value, end = decoder().raw_decode(text, start) if text[start:] else (None, 0)
    except (ValueError, RecursionError) as error:
        line = error.lineno if isinstance(error, json.JSONDecodeError) else 1
        source.problem(line, f"not JSON: {reason(error)}")
        return []
    if text[end:].strip():
        # Many files called .json hold JSON lines.
        return items_of_text(text, source)
    if isinstance(value, dict):
        return _of_object(value, source)
    if value is not None:
        source.problem(1, f"not a list of objects but {text.strip()!r:.40}")
    return []


def _values(text: str, position: int) -> tuple[list[Any], list[int]]:
    """The items of a list that opens before `position`, and their lines; their numbers where some share a line."""
    values: list[Any] = []
    lines: list[int] = []
    line, line_position = 1, 0
    decode = decoder().raw_decode
    position = _after(_SPACE, text, position)
    while text[position : position + 1] != "]":
        line, line_position = line + text.count("\n", line_position, position), position
        value, position = decode(text, position)
        values.append(value)
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
    if tail := text[position + 1 :].strip():
        raise json.JSONDecodeError(f"Extra data: {tail!r:.20}", text, position + 1)
    return values, lines if len(set(lines)) == len(lines) else list(range(1, len(values) + 1))


def _items(values: list[Any], lines: list[int], source: Source) -> list[Item]:
    """Objects as records; lists, as pandas' orient="values" writes them, as rows of cells."""
    if values and all(isinstance(value, list) for value in values):
        return named(list(zip(lines, values, strict=True)), source)
    items = []
    for value, line in zip(values, lines, strict=True):
        if isinstance(value, dict):
            items.append(Item(value, line))
        else:
            source.problem(line, *not_an_object(value))
            source.misfits[line] = {UNREADABLE: json.dumps(value, ensure_ascii=False)}
    return items


def _numbered(values: list[Any], source: Source) -> list[Item]:
    return _items(values, list(range(1, len(values) + 1)), source)


def _of_object(value: Record, source: Source) -> list[Item]:
    """The records of a file that is one object: splits, a table, or a list beside other facts."""
    splits = {name: split_named(name) for name in value}
    if value and all(splits.values()) and all(isinstance(part, list | dict) for part in value.values()):
        items = []
        source.notices.add("several splits in one file", source.name, done=", ".join(value))
        for name, part in value.items():
            rows = _numbered(part, source) if isinstance(part, list) else _of_object(part, source)
            items += [Item(item.fields, item.line, splits[name] or "") for item in rows]
        return items
    if isinstance(value.get("columns"), list) and isinstance(value.get("data"), list):
        return _of_split_orient(value, source)
    for key in _LISTS:
        records = value.get(key)
        if isinstance(records, list) and records and all(isinstance(record, dict) for record in records):
            # The Hub's own answers hold each row under its number.
            if all({"row_idx", "row"} <= set(record) for record in records):
                _tell_of_hub(value, records, source)
                records = [record["row"] for record in records]
            return _without_index(_numbered(records, source), value, source)
    if _are_by_label(value, source):
        source.notices.add("read as texts by label", source.name, setting="data.header: true reads the keys as columns")
        value = {"data": _of_labels(value)}
    parts = list(value.values())
    if len(parts) > 1 and all(isinstance(part, dict) and part for part in parts):
        return _of_nested(value, source)
    if _are_columns(value):
        setting = "data.header: false reads the keys as labels"
        source.notices.add("read as a table by columns of lists", source.name, setting=setting)
        return [Item(dict(zip(value, row, strict=True)), line) for line, row in enumerate(zip(*parts, strict=True), 1)]
    return _numbered(value["data"] if isinstance(value.get("data"), list) else [value], source)


def _are_by_label(value: Record, source: Source) -> bool:
    """Whether an object holds the texts, or the rows, of each label under its name."""
    parts = list(value.values())
    if len(parts) < 2 or not all(isinstance(part, list) and part for part in parts):
        return False
    kinds = {type(entry) for part in parts for entry in part}
    if source.options.header is not None or kinds not in ({str}, {dict}):
        return source.options.header is False and kinds in ({str}, {dict})
    if any(name.lower() in USUAL_NAMES for name in value):
        return False
    if len({len(part) for part in parts}) > 1 or kinds == {dict}:
        return True
    # Columns are as long as each other too; sentence1 and sentence2, or en, de and fr, are columns.
    if not any(name.lower() in _LABELS or name.isdigit() for name in value):
        are_columns = any(re.fullmatch(r"\D+\d+", name) for name in value) or max(map(len, value)) <= 3
        if len(parts) < 3 or are_columns:
            return False
    # A column of labels repeats itself.
    return all(len(set(part)) > len(part) / 2 and any(" " in text for text in part) for part in parts)


def _of_labels(value: Record) -> list[Record]:
    pairs = [(entry, label) for label, part in value.items() for entry in part]
    return [
        {"label": label, **entry} if isinstance(entry, dict) else {"text": entry, "label": label}
        for entry, label in pairs
    ]


def _tell_of_hub(value: Record, records: list[Record], source: Source) -> None:
    """Take the names of numbered labels from the Hub's answer, and notice texts that it cut short."""
    features = value.get("features")
    if isinstance(features, list):
        named_types = [item for item in features if isinstance(item, dict) and isinstance(item.get("name"), str)]
        source.names |= names_of_features({item["name"]: item.get("type") for item in named_types})
    cut = [i for i, record in enumerate(records, 1) if record.get("truncated_cells")]
    if cut:
        first, done = source.place(cut[0]), "download the data set's files for the whole texts"
        source.notices.add("texts that the Hub has cut short", count=len(cut), first=first, done=done)


def _tell(source: Source, orient: str) -> None:
    source.notices.add(f"read as a table by {orient}", source.name)


def _of_split_orient(value: Record, source: Source) -> list[Item]:
    """pandas' orient="split": names, index and rows apart; an index that does not count the rows is a field."""
    _tell(source, "names and rows")
    columns, index = [str(name) for name in value["columns"]], value.get("index")
    rows = [row if isinstance(row, list) else [row] for row in value["data"]]
    if isinstance(index, list) and len(index) == len(rows) and index != list(range(len(rows))):
        columns, rows = ["index", *columns], [[number, *row] for number, row in zip(index, rows, strict=True)]
    header = source.options.header
    return with_names(header if isinstance(header, list) else columns, list(enumerate(rows, 1)), source)


def _of_nested(value: Record, source: Source) -> list[Item]:
    """pandas' orient="columns" (names first) and "index" (row numbers first).

    Row numbers are known by their digits, names as usual ones; else the fewer keys are the names.
    """
    inner = list(dict.fromkeys(key for part in value.values() for key in part))
    outer = list(value)
    are_named, are_rows = (not USUAL_NAMES.isdisjoint(map(str.lower, keys)) for keys in (outer, inner))
    if not _are_numbers(outer) and not are_rows and (are_named or _are_numbers(inner) or len(outer) < len(inner)):
        _tell(source, "columns")
        rows = {key: {name: value[name].get(key) for name in outer} for key in inner}
    elif _are_numbers(outer) or are_rows or len(inner) < len(outer):
        _tell(source, "row numbers")
        rows = value
    else:
        source.problem(1, "a table whose rows and columns cannot be told apart", 'save it with orient="records"')
        return []
    has_names = not _are_numbers(list(rows))
    return [
        Item({"index": key, **row} if has_names and "index" not in row else dict(row), line)
        for line, (key, row) in enumerate(rows.items(), 1)
    ]


def _are_numbers(keys: list[str]) -> bool:
    return all(key.isdigit() for key in keys)


def _are_columns(value: Mapping[str, Any]) -> bool:
    """Whether an object of lists is a table; one sentence of tokens and tags looks nearly like it."""
    parts = list(value.values())
    if len(parts) < 2 or not all(isinstance(part, list) and len(part) > 1 for part in parts):
        return False
    has_words = all(isinstance(word, str) for name in ("tokens", "words") for word in value.get(name, ()))
    is_sentence = has_words and ("tokens" in value or "words" in value)
    return len({len(part) for part in parts}) == 1 and not is_sentence


def _without_index(items: list[Item], value: Record, source: Source) -> list[Item]:
    """Records of pandas' orient="table" without the field that numbers them."""
    schema = value.get("schema")
    keys = schema.get("primaryKey") if isinstance(schema, dict) else None
    key = keys[0] if isinstance(keys, list) and len(keys) == 1 else None
    if key is None or [item.fields.get(key) for item in items] != list(range(len(items))):
        return items
    source.notices.add("row numbers", f"field {key!r}", done="left out")
    return [Item({k: v for k, v in item.fields.items() if k != key}, item.line) for item in items]


def _after(pattern: re.Pattern[str], text: str, position: int) -> int:
    match = pattern.match(text, position)
    return match.end() if match else position


JSON = Container("json", (".json",), _read, lambda text: text.lstrip().startswith("["))
