"""Rows of two moods, for tests of commands."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

WORDS = {"good": ("fine", "great", "glad"), "bad": ("poor", "dull", "grim")}


def rows_of(count: int, start: int = 0) -> list[dict[str, str]]:
    """Rows whose first word tells their label."""
    found = []
    for number in range(start, start + count):
        label = ("good", "bad")[number % 2]
        found.append({"text": f"{WORDS[label][number % 3]} {number}", "label": label})
    return found


def write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    """The file, with a row on each line."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
