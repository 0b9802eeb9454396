"""What tests of ``overture compare`` ask for, and what they find."""

import json
from pathlib import Path
from typing import Any

WORDS = [
    "--way",
    "no-prompt",
    "--way",
    "prefix-after",
    "--size",
    "4",
    "--size",
    "8",
    "--seeds",
    "2",
    "--min-steps",
    "2",
]
SMALLEST = ["--way", "prefix-after", "--size", "4", "--seeds", "1", "--min-steps", "1", "-o", "out"]
FEW = ["--default-rates", "-o", "out"]
CELLS = {"no-prompt--0--0", "prefix-after--4--0", "prefix-after--8--0", "prefix-after--4--1", "prefix-after--8--1"}


def cells(folder: str = "out") -> dict[str, Any]:
    return {path.stem: json.loads(path.read_text()) for path in Path(folder, "cells").glob("*.json")}


def timeless(cell: dict[str, Any]) -> dict[str, Any]:
    """A cell without what no two runs share."""
    cell = json.loads(json.dumps(cell))
    history = [{name: value for name, value in entry.items() if name != "seconds"} for entry in cell.get("history", ())]
    return {name: value for name, value in cell.items() if name != "ledger"} | {"history": history}
