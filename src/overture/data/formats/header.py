"""The names of a table's columns: its first line, those of `data.header`, or column_1, column_2, ..."""

import re
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from overture.data.formats.form import Item, Source

_NUMBER = re.compile(r"[+-]?\d+(?:[.,]\d+)?")
_UNNAMED = re.compile(r"(?:Unnamed: \d+(?:_level_\d+)?|__index_level_\d+__)?")
_NUM_ROWS_READ = 500
USUAL_NAMES = frozenset((
    "text", "label", "labels", "class", "category", "sentiment", "intent", "target", "sentence", "question", "context",
    "answer", "answers", "premise", "hypothesis", "input", "output", "title", "id", "name", "review", "comment",
    "summary", "document", "tokens", "tags", "split",
))  # fmt: skip
_Lines = Sequence[tuple[int, Sequence[Any]]]


def named(records: _Lines, source: Source) -> list[Item]:
    """Rows of cells as records.

    Args:
        records: the line and the cells of each row, the header among them.
        source: its `data.header` decides; what is wrong and what is assumed is added to it.
    """
    if not records:
        return []
    titles = _titles(records) if source.options.header is None else []
    if titles:
        first = source.place(titles[0])
        source.notices.add("titles above the names of the columns", count=len(titles), first=first, done="left out")
    records = records[len(titles) :]
    names, rows = _names(records, source)
    header = list(records[0][1]) if len(rows) < len(records) else None
    repeats = [line for line, record in rows if list(record) == header]
    if repeats:
        done = "left out"
        source.notices.add("repeated header lines", count=len(repeats), first=source.place(repeats[0]), done=done)
    return with_names(names, [(line, record) for line, record in rows if list(record) != header], source)


def _titles(records: _Lines) -> list[int]:
    """The lines of a sheet that stand above usual names of columns and fill their first cell only."""
    lines: list[int] = []
    for line, record in records:
        cells = [str(cell).strip() for cell in record]
        if len(cells) < 2 or not cells[0] or any(cells[1:]):
            return lines if any(cell.lower() in USUAL_NAMES for cell in cells) else []
        lines.append(line)
    return []


def with_names(names: Sequence[str], rows: _Lines, source: Source) -> list[Item]:
    """Rows of cells as records of such names; rows of another width are problems."""
    repeats = sorted(name for name, count in Counter(names).items() if name and count > 1)
    if repeats:
        source.problem(1, f"columns with the same name: {', '.join(repeats)}", "rename one of them in its first line")
        return []
    width, count = Counter(len(record) for _, record in rows).most_common(1)[0] if rows else (len(names), 0)
    if width != len(names) and 2 <= count > len(rows) / 2 and not isinstance(source.options.header, list):
        what = f"{len(names)} column{'' if len(names) == 1 else 's'} here, {width} in {count:,} of the rows below"
        fix = "delete what stands above the names, add missing names, or quote texts that hold the separator"
        source.problem(1, what, fix)
        return []
    fitting = [(line, record) for line, record in rows if len(record) == len(names)]
    columns = _columns(names, fitting, source)
    for line, record in rows:
        if len(record) != len(names):
            what = f"{len(record)} column{'' if len(record) == 1 else 's'}"
            source.problem(line, what, f"the first line has {len(names)}; quote texts that hold the separator")
            named_fields = {name: record[i] for i, name in columns.items() if i < len(record)}
            surplus = {f"column_{i + 1}": record[i] for i in range(len(names), len(record))}
            # The first line's columns come first, and win where one of them is called like a surplus one.
            source.misfits[line] = named_fields | surplus | named_fields
    return [Item({name: record[i] for i, name in columns.items()}, line) for line, record in fitting]


def _names(records: _Lines, source: Source) -> tuple[list[str], _Lines]:
    """The columns' names, and the rows that hold values."""
    first, header = [str(cell).strip() for cell in records[0][1]], source.options.header
    if isinstance(header, list):
        # The names may stand in the file all the same, as in other files of the same source.
        return header, records[1:] if first == header else records
    if header is None and _is_data(first, [record for _, record in records[1 : _NUM_ROWS_READ + 1]]):
        header = False
        source.settings["header"] = False
        source.notices.add(
            "the first line holds values, not names",
            source.name,
            done=f"the columns are called column_1 to column_{len(first)}",
            setting="data.header names them, or is true if the first line holds names",
        )
    if header is False:
        return [f"column_{i}" for i in range(1, len(first) + 1)], records
    trimmed_names = [name for name, cell in zip(first, records[0][1], strict=True) if name != cell]
    if trimmed_names:
        done = f"read as {', '.join(map(repr, trimmed_names))}"
        source.notices.add("names of columns with white space around them", source.name, done=done)
    return first, records[1:]


def _is_data(first: Sequence[str], rows: Sequence[Sequence[Any]]) -> bool:
    """Whether the cells of a first line are values like those below them."""
    other_rows = [row for row in rows if len(row) == len(first) and [str(cell).strip() for cell in row] != list(first)]
    if not other_rows or not any(first):
        return False
    numbers = []
    for i, name in enumerate(first):
        column = [str(row[i]).strip() for row in other_rows]
        # A value that comes again in its column, which holds few values, is a label and not the column's name.
        if name and name in column and len(set(column)) <= (len(column) + 1) // 2:
            return True
        if _NUMBER.fullmatch(name) and all(_NUMBER.fullmatch(cell) for cell in column if cell):
            numbers.append(float(name.replace(",", ".")))
    is_named = any(name.lower() in USUAL_NAMES for name in first)
    # Columns may be called 0, 1, 2, ... or by years.
    steps = {after - before for before, after in pairwise(numbers)}
    return bool(numbers) and not is_named and not (len(numbers) > 2 and len(steps) == 1 and steps != {0.0})


def _columns(names: Sequence[str], rows: _Lines, source: Source) -> dict[int, str]:
    """The columns that are kept, by number; row numbers of pandas, whose column has no name, are left out."""
    columns: dict[int, str] = {}
    placeholder_names = []
    for i, name in enumerate(names):
        if not _UNNAMED.fullmatch(name):
            columns[i] = name
        elif i == 0 and len(names) > 1 and _are_row_numbers([str(record[i]) for _, record in rows]):
            source.notices.add("row numbers in a column without a name", source.name, done="left out")
        else:
            columns[i] = f"column_{i + 1}"
            placeholder_names.append(columns[i])
    if placeholder_names:
        source.notices.add("columns without a name", source.name, done=f"called {', '.join(placeholder_names)}")
    return columns


def _are_row_numbers(cells: Sequence[str]) -> bool:
    """Whether cells are different whole numbers, or all empty."""
    numbers = [cell for cell in cells if cell.strip()]
    return len(numbers) in (0, len(cells)) and len(set(numbers)) == len(numbers) and all(map(str.isdigit, numbers))
