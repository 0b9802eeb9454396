"""Pack the comparisons of docs/reports and make their summaries and pages again; nothing is measured here.

python bench/reports.py [FOLDER ...]
"""

import argparse
from pathlib import Path

from overture.core.records.base import read_record
from overture.core.records.cells import Plan
from overture.core.records.compare import Facts, Summary
from overture.jobs.verdict.files import CellFiles
from overture.jobs.verdict.summary import summary
from overture.report.compare_page import write_report

REPORTS = Path(__file__).parents[1] / "docs" / "reports"


def summary_of(folder: Path) -> Summary:
    """The summary of a folder's cells, for the request and on the machine that its ``result.json`` names."""
    kept = read_record(Summary, folder / "result.json")
    files = CellFiles(folder)
    answers = files.answers()
    if kept is None or answers is None:
        raise SystemExit(f"{folder} holds no comparison\n  fix: run overture compare ... -o {folder}")
    plan = Plan(sizes=kept.sizes, seeds=len(kept.seeds), is_tuned=kept.request.is_rate_tuned, left_out=kept.left_out)
    facts = Facts(**{name: getattr(kept, name) for name in Facts.model_fields})
    keys = [cell.key for cell in files.cells().values() if cell.way in kept.ways and cell.size in (0, *kept.sizes)]
    rates = {way: choice for way in kept.ways if (choice := files.rate(way))}
    cells = [files.cell(key) for key in keys if not key.size or key.seed in kept.seeds]
    return summary(kept.request, plan, cells, answers.gold, rates, facts, kept.failed, kept.command)


def main() -> None:
    parser = argparse.ArgumentParser(description="Pack comparisons and make their pages again from their cells.")
    parser.add_argument("folders", nargs="*", type=Path, help="of overture compare; docs/reports if none")
    for folder in parser.parse_args().folders or sorted(path for path in REPORTS.iterdir() if path.is_dir()):
        if (folder / "cells").exists():
            CellFiles(folder).pack()
        print(write_report(summary_of(folder), folder))


if __name__ == "__main__":
    main()
