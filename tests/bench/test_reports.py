"""The committed comparisons: their summaries can be made again from their cells."""

import runpy
from pathlib import Path
from typing import Any

import pytest

from overture.core.records.compare import Summary

SCRIPT = runpy.run_path(str(Path(__file__).parents[2] / "bench" / "reports.py"))
REPORTS: Path = SCRIPT["REPORTS"]
FILES = {"cells.jsonl", "report.html", "report.png", "result.json"}


def close(a: Any, b: Any) -> bool:
    """Equal but for rounding."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(close(value, b[name]) for name, value in a.items())
    if isinstance(a, list):
        return len(a) == len(b) and all(map(close, a, b))
    return a == pytest.approx(b, rel=1e-6, abs=1e-12) if isinstance(a, float) else a == b


@pytest.mark.parametrize("name", ["bbc", "ner"])
def test_the_summary_is_that_of_the_cells(name: str) -> None:
    kept = Summary.model_validate_json((REPORTS / name / "result.json").read_text())
    assert close(SCRIPT["summary_of"](REPORTS / name).dump(), kept.dump())


def test_the_page_of_reports_says_what_the_summaries_say() -> None:
    assert SCRIPT["verdicts"]() in (REPORTS / "README.md").read_text(encoding="utf-8")


def test_a_report_is_four_files() -> None:
    folders = [path for path in REPORTS.iterdir() if path.is_dir()]
    assert len(folders) >= 8
    for folder in folders:
        assert {path.name for path in folder.iterdir()} == FILES
