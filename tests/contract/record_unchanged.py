"""Write unchanged.json anew: `python tests/contract/record_unchanged.py`. Only where figures are meant to change."""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("unchanged.json")


def main(path: Path = FILE) -> None:
    """Carry out all runs and write their figures, one group of figures on each line.

    Args:
        path: the file.
    """
    sys.path.insert(0, str(FILE.parents[1]))
    from unchanged_runs import RUNS, figures_of, processor

    recorded: dict[str, dict[str, Any]] = {"processor": processor()}
    for name, run in RUNS.items():
        with tempfile.TemporaryDirectory() as folder:
            recorded[name] = figures_of(run, Path(folder))
    path.write_text(_text(recorded), encoding="utf-8")


def _text(recorded: dict[str, dict[str, Any]]) -> str:
    """JSON whose lines are groups of figures; Python writes every float with all its digits."""
    runs = []
    for name, figures in recorded.items():
        lines = [f"    {json.dumps(key)}: {json.dumps(each, ensure_ascii=False)}" for key, each in figures.items()]
        runs.append(f"  {json.dumps(name)}: {{\n" + ",\n".join(lines) + "\n  }")
    return "{\n" + ",\n".join(runs) + "\n}\n"


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
