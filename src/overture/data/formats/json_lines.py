"""JSON lines: one object on each line."""

import json

from overture.core.errors import Problem
from overture.data.formats.form import Container, Problems, Records, no_constant, reason, text_of


def rows_of_text(text: str, file: str, problems: Problems) -> tuple[Records, list[int]]:
    """Objects and their lines; every bad line is a problem."""
    rows: Records = []
    lines: list[int] = []
    # Not splitlines(): it also cuts at characters that JSON strings may hold as they are.
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line, parse_constant=no_constant)
        except (ValueError, RecursionError) as error:
            problems.append(Problem(f"{file}:{number}", f"not JSON: {reason(error)}"))
            continue
        if not isinstance(row, dict):
            problems.append(Problem(f"{file}:{number}", f"not a JSON object but {line.strip()!r:.40}"))
            continue
        rows.append(row)
        lines.append(number)
    return rows, lines


def _read(raw: bytes, file: str, problems: Problems) -> tuple[Records, list[int]]:
    return rows_of_text(text_of(raw, file, problems), file, problems)


JSONL = Container("jsonl", (".jsonl", ".ndjson"), _read)
