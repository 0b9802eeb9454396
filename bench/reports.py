"""Pack the comparisons of docs/reports and make their summaries, pages and verdicts again; nothing is measured here.

python bench/reports.py [--check] [FOLDER ...]
"""

import argparse
import sys
from pathlib import Path

from overture.core.records.base import read_record
from overture.core.records.cells import Plan
from overture.core.records.compare import Facts, Summary
from overture.jobs.verdict.files import CellFiles
from overture.jobs.verdict.summary import summary
from overture.report.compare_page import RESULT, write_report

REPORTS = Path(__file__).parents[1] / "docs" / "reports"
VERDICTS = ("<!-- reports: written by bench/reports.py -->\n", "<!-- end of reports -->\n")
COMMAND_LINES = ("<!-- commands: written by bench/reports.py -->\n", "<!-- end of commands -->\n")
TASKS = {
    "movie": "Sentiment of film snippets",
    "trec": "Types of questions",
    "trec-minilm": "Types of questions, by an encoder",
    "trec-gemma": "Types of questions, by another decoder",
    "bbc": "Topics of news articles, cut at 128 tokens",
    "squad": "Answers copied from a paragraph",
    "squad-minilm": "Answers copied from a paragraph, by an encoder",
    "webnlg": "Facts as sentences",
    "ner": "Names in tweets, written by a decoder",
    "ner-minilm": "Names in tweets, tagged by an encoder",
    "cifar10": "Pictures of animals and vehicles, seen by an encoder of images",
    "cifar10-2000": "The same pictures, 200 of each kind",
    "textile": "Defects in cloth, seen by an encoder of images",
    "textile-224": "Defects in cloth, seen at 224 pixels",
    "spoken-questions": "Spoken questions, written down",
    "textile-deep": "Defects in cloth, read in the best layer of an encoder of images",
}
COMMANDS = ("movie", "trec", "squad", "squad-minilm", "webnlg", "bbc", "ner", "ner-minilm")
"""Reports whose commands stand on the page; other pages have the others."""

RATE_COMMANDS = {
    task: f"overture compare bench/tasks/{task}.yaml --way full --way bitfit:norms --size 64 --seeds 1 "
    f"--set data.test_rows=300 --set data.validation_rows=128 -o docs/reports/{task}"
    for task in ("movie", "trec")
}
"""What chose the rates of full fine-tuning and BitFit in a report's folder, before its last command."""


def summary_of(folder: Path) -> Summary:
    """The summary of a folder's cells, for the request and on the machine that its ``result.json`` names."""
    kept = kept_summary(folder)
    files = CellFiles(folder)
    answers = files.answers()
    if answers is None:
        raise SystemExit(f"{folder} holds no answers\n  fix: run overture compare ... -o {folder}")
    plan = Plan(sizes=kept.sizes, seeds=len(kept.seeds), is_tuned=kept.request.is_rate_tuned, left_out=kept.left_out)
    facts = Facts(**{name: getattr(kept, name) for name in Facts.model_fields})
    keys = [cell.key for cell in files.cells().values() if cell.way in kept.ways and cell.size in (0, *kept.sizes)]
    rates = {way: choice for way in kept.ways if (choice := files.rate(way))}
    cells = [files.cell(key) for key in keys if not key.size or key.seed in kept.seeds]
    return summary(kept.request, plan, cells, answers, rates, facts, kept.failed, kept.command)


def kept_summary(folder: Path) -> Summary:
    kept = read_record(Summary, folder / RESULT)
    if kept is None:
        raise SystemExit(f"{folder} holds no comparison\n  fix: run overture compare ... -o {folder}")
    return kept


def verdicts() -> str:
    """The page's part that the summaries decide: each report's picture and its verdict in three parts."""
    parts = []
    for name, title in TASKS.items():
        result = kept_summary(REPORTS / name)
        metric = result.metric.replace("_", " ")
        sizes, seeds, n = ", ".join(map(str, result.sizes)), len(result.seeds), result.scores[0].n
        about = f"{result.backbone.id}, {sizes} training rows, {seeds} seeds, {n} test rows, {metric}"
        lines = [
            f"## [{title}]({name}/report.html)",
            f"{about}.",
            f"![{title}: scores of the ways]({name}/report.png)",
            f"**{result.advice.what}**",
            result.advice.why,
            result.advice.next,
        ]
        parts.append("\n\n".join(lines) + "\n")
    return "\n" + "\n".join(parts) + "\n"


def commands() -> str:
    """The commands that made the reports, from their results."""
    lines = []
    for name in COMMANDS:
        lines += [*filter(None, [RATE_COMMANDS.get(name)]), kept_summary(REPORTS / name).command]
    return "```sh\n" + "\n".join(lines) + "\n```\n"


def with_parts(page: str) -> str:
    """The page with its generated parts written again."""
    for (begin, end), text in ((VERDICTS, verdicts()), (COMMAND_LINES, commands())):
        before, _, rest = page.partition(begin)
        _, _, after = rest.partition(end)
        page = f"{before}{begin}{text}{end}{after}"
    return page


def main() -> None:
    parser = argparse.ArgumentParser(description="Pack comparisons and make their pages again from their cells.")
    parser.add_argument("folders", nargs="*", type=Path, help="of overture compare; docs/reports if none")
    parser.add_argument("--check", action="store_true", help="only compare README.md with the summaries")
    args = parser.parse_args()
    page_path = REPORTS / "README.md"
    page = page_path.read_text(encoding="utf-8")
    if args.check:
        if with_parts(page) != page:
            sys.exit(f"{page_path} does not say what the summaries say\n  fix: python bench/reports.py")
        return
    for folder in args.folders or sorted(path for path in REPORTS.iterdir() if path.is_dir()):
        if (folder / "cells").exists():
            CellFiles(folder).pack()
        print(write_report(summary_of(folder), folder))
    page_path.write_text(with_parts(page), encoding="utf-8")


if __name__ == "__main__":
    main()
