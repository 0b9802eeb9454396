"""The pages of comparisons: which there are, and which way of one is better, by how much and how surely."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

from fastapi import APIRouter
from markupsafe import Markup
from pydantic import Field
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from overture.core.errors import StoreError
from overture.core.records.base import Record, read_record
from overture.core.records.compare import Cost, DisputedRow, Score, Summary, WayAnswer, WayMistakes, cost_of
from overture.server.errors import Refused
from overture.server.pages.runs import check_reader
from overture.server.pages.site import REPORT_HEADERS, Site, query_of

RESULT, REPORT = "result.json", "report.html"
_CHARTS = ("curve", "training", "costs")
_MAX_SHOWN = 200
_MAX_CONFUSED = 12


class CompareQuery(Record):
    """Which disputed rows are shown."""

    wrong: str = Field("", max_length=200, description="only rows that this way has wrong")
    right: str = Field("", max_length=200, description="only rows that this way has right")


@dataclass(frozen=True, slots=True)
class ComparisonRow:
    """A comparison in the list.

    Args:
        name: of its folder.
        summary: what came out; None while it goes on, or where it cannot be read.
        num_cells: cells that are measured so far.
        problem: why it cannot be read; empty where it can.
    """

    name: str
    summary: Summary | None
    num_cells: int = 0
    problem: str = ""

    @property
    def best(self) -> Score | None:
        """The score of the best way at the largest size."""
        return max(self.summary.at_largest, key=lambda score: score.value, default=None) if self.summary else None


@dataclass(frozen=True, slots=True)
class ComparisonPage:
    """One comparison.

    Args:
        name: of its folder.
        summary: what came out.
        scores: at the largest size, the best first.
        costs: way -> its cost.
        figures: charts, by name.
        disputed: the disputed rows that are shown, each with the answers of all ways in order.
        num_left_out: disputed rows that fit the filter and are not shown.
        mistakes: the ways whose answers by label are shown.
        query: the filter.
    """

    name: str
    summary: Summary
    scores: Sequence[Score]
    costs: dict[str, Cost]
    figures: dict[str, Markup]
    disputed: Sequence[tuple[DisputedRow, dict[str, WayAnswer]]]
    num_left_out: int
    mistakes: Sequence[WayMistakes]
    query: CompareQuery


def folders_of(root: Path) -> dict[str, Path]:
    """The folders of comparisons by name: those in the working folder, and those in the store."""
    working_folders = [path.parent for name in (RESULT, "cells") for path in Path.cwd().glob(f"compare-*/{name}")]
    stored_folders = [path.parent for name in (RESULT, "cells") for path in (root / "comparisons").glob(f"*/{name}")]
    folders: dict[str, Path] = {}
    for folder in sorted({*working_folders, *stored_folders}, key=lambda path: -path.stat().st_mtime_ns):
        if not folder.is_symlink() and re.fullmatch(r"[\w.-]+", folder.name):
            folders.setdefault(folder.name, folder)
    return folders


def summary_of(folder: Path) -> Summary | None:
    """The summary of a comparison; None while there is none.

    Raises:
        StoreError: it is damaged, or of another version.
    """
    path = folder / RESULT
    return _summary(path, path.stat().st_mtime_ns) if path.is_file() else None


@lru_cache(maxsize=32)
def _summary(path: Path, stamp: int) -> Summary | None:
    del stamp
    return read_record(Summary, path)


def row_of(name: str, folder: Path) -> ComparisonRow:
    """A comparison for the list."""
    num_cells = sum(1 for _ in folder.glob("cells/*.json"))
    try:
        return ComparisonRow(name, summary_of(folder), num_cells)
    except StoreError as error:
        return ComparisonRow(name, None, num_cells, error.what)


def page_of(name: str, folder: Path, summary: Summary, query: CompareQuery) -> ComparisonPage:
    """A comparison for its page."""
    scores = sorted(summary.at_largest, key=lambda score: -score.value)
    fitting = list(_fitting(summary, query))
    path = folder / RESULT
    return ComparisonPage(
        name=name,
        summary=summary,
        scores=scores,
        costs={score.way: cost_of(summary.ledger, score.way, score.size) for score in scores},
        figures=_figures(path, path.stat().st_mtime_ns),
        disputed=fitting[:_MAX_SHOWN],
        num_left_out=len(fitting[_MAX_SHOWN:]),
        mistakes=[
            mistakes
            for mistakes in summary.mistakes
            if mistakes.confusion and len(mistakes.confusion.labels) <= _MAX_CONFUSED
        ],
        query=query,
    )


def _fitting(summary: Summary, query: CompareQuery) -> Sequence[tuple[DisputedRow, dict[str, WayAnswer]]]:
    rows = summary.disagreement.rows if summary.disagreement else ()
    with_answers = [(row, {answer.way: answer for answer in row.answers}) for row in rows]
    return [
        (row, answers)
        for row, answers in with_answers
        if (not query.wrong or (query.wrong in answers and not answers[query.wrong].is_right))
        and (not query.right or (query.right in answers and answers[query.right].is_right))
    ]


@lru_cache(maxsize=16)
def _figures(path: Path, stamp: int) -> dict[str, Markup]:
    """The charts of a summary, drawn once."""
    # Charts load what a server that shows none does not need.
    from overture.report.charts import svgs
    from overture.report.compare_charts import CHARTS

    summary = _summary(path, stamp)
    assert summary is not None
    figures = {name: svgs(partial(CHARTS[name][0], summary), CHARTS[name][1]) for name in ("quality", *_CHARTS)}
    return {name: figure for name, figure in figures.items() if figure is not None}


def routes(site: Site) -> APIRouter:
    """The routes of the pages."""
    router, root = APIRouter(), site.service.registry.store.root

    def opened(request: Request, name: str) -> tuple[Path, Summary]:
        check_reader(request.state.visit)
        folder = folders_of(root).get(name)
        summary = summary_of(folder) if folder else None
        if folder is None or summary is None:
            what = "no such comparison" if folder is None else "the comparison is not finished yet"
            raise Refused(404, "not_found", what, where="name", got=name, fix="GET /compare lists what is there")
        return folder, summary

    @router.get("/compare")
    def comparisons(request: Request) -> Response:
        """All comparisons, the newest first."""
        check_reader(request.state.visit)
        rows = [row_of(name, folder) for name, folder in list(folders_of(root).items())[:_MAX_SHOWN]]
        return site.page(request, "comparisons.html", rows=rows)

    @router.get("/compare/{name}")
    def comparison(request: Request, name: str) -> Response:
        """One comparison."""
        folder, summary = opened(request, name)
        query = query_of(request, CompareQuery)
        return site.page(request, "compare.html", "disputed", shown=page_of(name, folder, summary, query))

    @router.get("/compare/{name}/report")
    def report(request: Request, name: str) -> Response:
        """The whole report."""
        from overture.report.compare_page import page

        folder, summary = opened(request, name)
        path = folder / REPORT
        html = path.read_text(encoding="utf-8") if path.is_file() else page(summary)
        return HTMLResponse(html, headers=REPORT_HEADERS)

    return router
