"""Tables as text with a header: CSV, and TSV in which quotes are only text."""

import csv
import io
from functools import partial
from typing import Any

from overture.core.errors import Problem
from overture.data.formats.form import Container, Problems, Records, text_of


def _read(raw: bytes, file: str, problems: Problems, delimiter: str) -> tuple[Records, list[int]]:
    text = text_of(raw, file, problems)
    # The csv module refuses long texts by a limit that is global; it is put back.
    limit = csv.field_size_limit(max(len(text), 1))
    try:
        return _rows(text, file, problems, delimiter)
    finally:
        csv.field_size_limit(limit)


def _rows(text: str, file: str, problems: Problems, delimiter: str) -> tuple[Records, list[int]]:
    options: dict[str, Any] = {"quoting": csv.QUOTE_NONE} if delimiter == "\t" else {}
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True, **options)
    rows: Records = []
    lines: list[int] = []
    header: list[str] | None = None
    start = 1
    try:
        for record in reader:
            if record and header is None:
                header = record
                if not _is_header(header, f"{file}:{start}", problems, delimiter):
                    return [], []
            elif record and header is not None and len(record) != len(header):
                problems.append(Problem(f"{file}:{start}", f"{len(record)} columns", f"the header has {len(header)}"))
            elif record and header is not None:
                rows.append(dict(zip(header, record, strict=True)))
                lines.append(start)
            start = reader.line_num + 1
    except csv.Error as error:
        fix = "is a quote left open?" if delimiter == "," else ""
        problems.append(Problem(f"{file}:{start}", f"not {'CSV' if delimiter == ',' else 'TSV'}: {error}", fix))
    return rows, lines


def _is_header(header: list[str], where: str, problems: Problems, delimiter: str) -> bool:
    num_before = len(problems)
    if delimiter == "," and len(header) == 1 and any(mark in header[0] for mark in ";\t"):
        fix = "separate columns by commas" + (", or set data.format: tsv" if "\t" in header[0] else "")
        problems.append(Problem(where, f"one column: {header[0]!r:.60}", fix))
    if any(not name.strip() for name in header):
        problems.append(Problem(where, "a column has no name"))
    doubled = sorted({name for name in header if header.count(name) > 1})
    if doubled:
        problems.append(Problem(where, f"columns with the same name: {', '.join(doubled)}"))
    return len(problems) == num_before


CSV = Container("csv", (".csv",), partial(_read, delimiter=","))
TSV = Container("tsv", (".tsv",), partial(_read, delimiter="\t"))
