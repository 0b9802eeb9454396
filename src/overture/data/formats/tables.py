"""Tables as text: CSV and TSV. Separator, quotes and header are found by content where the task file does not say."""

import csv
import io
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from overture.data.formats.cells import with_lists
from overture.data.formats.encoding import text_of
from overture.data.formats.form import Container, Item, Source
from overture.data.formats.header import named
from overture.data.formats.options import SEPARATORS

_HEAD_CHARACTERS = 1 << 16
_QUOTED = re.compile(r'"(?:[^"]|"")*"', re.DOTALL)
_NUMBER = re.compile(r"-?\d+(?:[.,]\d+)?")


def _read(source: Source, default: str) -> list[Item]:
    text, first_line = text_of(source), 1
    # Excel's own first line names the separator.
    if hint := re.match(r"sep=[;,|\t]\r?\n", text):
        text, first_line = text[hint.end() :], 2
    # The csv module refuses long texts by a limit that is global; it is put back.
    limit = csv.field_size_limit(max(len(text), 1))
    try:
        separator = SEPARATORS[source.options.separator] if source.options.separator else _separator(text, default)
        if separator != default and not source.options.separator:
            name = next(name for name, sign in SEPARATORS.items() if sign == separator)
            source.notices.add(f"columns are separated by {name}s", source.name, setting="or set data.separator")
            source.settings["separator"] = name
        records = _records(text, separator, _has_quotes(text, separator, source), source, first_line)
    finally:
        csv.field_size_limit(limit)
    return items_of_cells(records, source)


def items_of_cells(records: Sequence[tuple[int, list[str]]], source: Source) -> list[Item]:
    """Records of rows of cells with their lines; blank rows and columns are left out, lists in cells are read."""
    return with_lists(named(_filled(records, source), source), source)


def _separator(text: str, default: str) -> str:
    """The separator by which all first rows have the same number of columns, more than one; else the default."""
    num_columns = {}
    for separator in (default, *(sign for sign in SEPARATORS.values() if sign != default)):
        records = list(csv.reader(io.StringIO(text[:_HEAD_CHARACTERS], newline=""), delimiter=separator))
        if len(text) > _HEAD_CHARACTERS:
            records.pop()
        widths = {len(record) for record in records if any(cell.strip() for cell in record)}
        num_columns[separator] = widths.pop() if len(widths) == 1 else 0
    best = max(num_columns.values())
    if num_columns[default] > 1 or best < 2:
        return default
    return next(separator for separator, count in num_columns.items() if count == best)


def _has_quotes(text: str, separator: str, source: Source) -> bool:
    """Whether quotes enclose cells. With tabs they often are part of the text, as in tables that are typed by hand."""
    if source.options.quotes is not None:
        return source.options.quotes
    if separator != "\t" or '"' not in text:
        return True
    raw = [cell for line in text.split("\n") for cell in line.rstrip("\r").split("\t")]
    quotes = [cell for cell in raw if cell.startswith('"')]
    # Programs quote a cell that holds a tab, a line's end or a quote, or all cells that are no numbers.
    is_needed = any(not _QUOTED.fullmatch(cell) or '""' in cell[1:-1] for cell in quotes)
    are_all = all(_QUOTED.fullmatch(cell) or _NUMBER.fullmatch(cell) for cell in raw if cell)
    try:
        records = list(csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True))
        is_quoted = len({len(record) for record in records if record}) == 1 and bool(quotes) and (is_needed or are_all)
    except csv.Error:
        is_quoted = False
    kind = "quotes enclose cells" if is_quoted else "quotes are part of the text"
    source.notices.add(kind, source.name, setting="or set data.quotes")
    return is_quoted


def _records(
    text: str, separator: str, has_quotes: bool, source: Source, first_line: int
) -> list[tuple[int, list[str]]]:
    """The rows with the lines on which they start, by the first way of writing quotes that gives rows of one width."""
    dialects: dict[str, dict[str, Any]] = {"": {} if has_quotes else {"quoting": csv.QUOTE_NONE}}
    if has_quotes and f'{separator} "' in text:
        dialects["white space stands before quotes"] = {"skipinitialspace": True}
    if has_quotes and '\\"' in text:
        dialects["a backslash stands before quotes in the text"] = {"escapechar": "\\", "doublequote": False}
    readings = {}
    for name, options in dialects.items():
        records, problem = _parsed(text, separator, options, first_line)
        readings[name] = records, problem
        if problem is None and len({len(record) for _, record in records}) < 2:
            if name:
                source.notices.add(name, source.name)
            return records
    records, problem = readings[""]
    if problem is not None:
        line, what = problem
        source.problem(line, f"not a table: {what}", "is a quote left open?" if has_quotes else "")
    return records


def _parsed(
    text: str, separator: str, options: Mapping[str, Any], first_line: int
) -> tuple[list[tuple[int, list[str]]], tuple[int, str] | None]:
    """The rows that are no empty lines, and what is wrong, with its line."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True, **options)
    records = []
    start = 0
    try:
        for record in reader:
            if record:
                records.append((first_line + start, record))
            start = reader.line_num
    except csv.Error as error:
        return records, (first_line + start, str(error))
    return records, None


def _filled(records: Sequence[tuple[int, list[str]]], source: Source) -> list[tuple[int, list[str]]]:
    """The rows that hold anything, without empty columns at the right, as spreadsheets leave both."""
    filled_rows = [(line, record) for line, record in records if any(cell.strip() for cell in record)]
    blank = [line for line, record in records if not any(cell.strip() for cell in record)]
    if blank:
        source.notices.add("blank rows", count=len(blank), first=source.place(blank[0]), done="left out")
    if not filled_rows:
        return []
    width = Counter(len(record) for _, record in filled_rows).most_common(1)[0][0]
    too_long = [line for line, record in filled_rows if len(record) > width and not "".join(record[width:]).strip()]
    if too_long:
        kind, first = "empty cells at the end of rows", source.place(too_long[0])
        source.notices.add(kind, count=len(too_long), first=first, done="left out")
    rows = [record if "".join(record[width:]).strip() else record[:width] for _, record in filled_rows]
    last = max(max((i for i, cell in enumerate(record) if cell.strip()), default=0) for record in rows) + 1
    if last < width and all(len(record) == width for record in rows):
        done, unit = "left out", "column"
        source.notices.add("empty columns", source.name, count=width - last, unit=unit, done=done)
        rows = [record[:last] for record in rows]
    return [(line, record) for (line, _), record in zip(filled_rows, rows, strict=True)]


def _has_tabs(text: str) -> bool:
    """Whether all lines have the same number of tabs; the last one may be cut off."""
    lines = text.splitlines()[:-1] if not text.endswith("\n") else text.splitlines()
    return len(lines) > 2 and len({line.count("\t") for line in lines}) == 1 and "\t" in lines[0]


CSV = Container("csv", (".csv",), partial(_read, default=","))
TSV = Container("tsv", (".tsv", ".tab"), partial(_read, default="\t"), _has_tabs)
