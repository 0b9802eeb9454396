"""The pages of runs: which there are, and one of them while it goes on."""

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

from fastapi import APIRouter
from markupsafe import Markup
from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from overture.core.errors import OvertureError
from overture.core.records.base import Record
from overture.core.records.runs import Finding, RunRequest
from overture.core.records.scores import Interval, SplitScores, WrongRows
from overture.evaluate.diagnose import Training, diagnose, read
from overture.report.whole import whole_of
from overture.server.errors import Refused
from overture.server.launch import COMMAND, OUTPUT, Launch, tail
from overture.server.pages.lines import NUM_COLOURS, Line, line_chart
from overture.server.pages.live import Shown, followed, stamp_of
from overture.server.pages.site import REPORT_HEADERS, Site, query_of
from overture.server.security import Visit
from overture.store.runs import EVENT_LINES, PAGE, RESULT, WRONG_ROWS, Run, newest_runs, read_if_whole, state_of

PAGE_SIZE = 40
_LARGE_BYTES = 5_000_000
GOOD, BAD, WAITING = ("finished", "stopped early"), ("diverged", "killed"), ("stopped", "interrupted", "not started")


class RunsQuery(Record):
    """The query of the list."""

    page: int = Field(1, ge=1, le=10**6, description="which page of the runs, from 1")


class _ResultPart(BaseModel):
    """Fields of the results of all kinds of runs."""

    prompt: str | None = None
    metric: str = ""
    metrics: dict[str, SplitScores] = {}

    @property
    def split(self) -> str:
        return "test" if "test" in self.metrics else "validation"

    @property
    def score(self) -> Interval | None:
        """The score that the run is judged by."""
        scores = self.metrics.get(self.split)
        return scores.scores.get(self.metric) if scores else None


class _PromptPart(BaseModel):
    method: str = ""
    place: str = ""
    length: int | None = None


class _TaskPart(BaseModel):
    name: str = ""


class _ConfigPart(BaseModel):
    """Fields of the requests of all kinds of runs."""

    task: _TaskPart = _TaskPart()
    prompt: _PromptPart = _PromptPart()
    seeds: int = 1


@dataclass(frozen=True, slots=True)
class RunRow:
    """A run in the list.

    Args:
        name: of its folder.
        kind: the command that made it.
        state: how it stands.
        why: why it ended; empty where that is not known.
        created: when it began.
        config: what it was asked for.
        result: what it found; None before its end.
    """

    name: str
    kind: str
    state: str
    why: str
    created: str
    config: _ConfigPart
    result: _ResultPart | None

    @property
    def lamp(self) -> str:
        """The class of its state."""
        lamps = {**dict.fromkeys(GOOD, "good"), **dict.fromkeys(BAD, "bad"), **dict.fromkeys(WAITING, "warn")}
        return (lamps | {"running": "busy"}).get(self.state, "")


class SampleAnswer(NamedTuple):
    """The answer of one training to a row, after its last epoch.

    Args:
        title: of the training.
        colour: number of its colour in the style sheet.
        epoch: from 0.
        text: the answer.
        confidence: its probability; None where there is none.
        is_right: None where that is no yes or no.
    """

    title: str
    colour: int
    epoch: int
    text: str
    confidence: float | None
    is_right: bool | None


class SampleRow(NamedTuple):
    """A validation row, its right answer, and what each training answers it now."""

    text: str
    gold: str
    answers: list[SampleAnswer]


@dataclass(frozen=True, slots=True)
class RunFacts:
    """One run with what its events say.

    Args:
        row: as in the list.
        is_running: whether a process works on it.
        is_resuming: whether a process was started that will.
        title: the step of its plan.
        share: how much of it is done, from 0 to 1; None where that is not known.
        elapsed_s: seconds since it last began.
        left_s: seconds that it still takes, about; None where that is not known.
        trainings: its trainings.
        loss: chart of the losses.
        scores: chart of the validation scores.
        samples: some rows with their answers now.
        findings: what explains its result.
        problem: why its files cannot be read; None where they can.
        wrong: rows that the stored prompt answers wrongly; None before the end.
        output: the end of what its process wrote, if a page started it.
        words: the command that a page started.
        is_large: reading it takes long.
    """

    row: RunRow
    is_running: bool
    is_resuming: bool = False
    title: str = ""
    share: float | None = None
    elapsed_s: float = 0.0
    left_s: float | None = None
    trainings: Sequence[Training] = ()
    loss: Markup | None = None
    scores: Markup | None = None
    samples: Sequence[SampleRow] = ()
    findings: Sequence[Finding] = ()
    problem: OvertureError | None = None
    wrong: WrongRows | None = None
    output: str = ""
    words: Sequence[str] = ()
    is_large: bool = False

    @property
    def is_followed(self) -> bool:
        """Whether the page waits for more."""
        return self.is_running or self.is_resuming


def row_of(run: Run) -> RunRow:
    """A run for the list; what cannot be read is left empty."""
    request, (state, why) = read_if_whole(run, "run.json", RunRequest), state_of(run)
    config, result = _ConfigPart(), None
    if request:
        with suppress(ValueError):
            config = _ConfigPart.model_validate(request.config)
    with suppress(OvertureError, OSError, ValueError):
        result = run.read(RESULT, _ResultPart)
    created = request.created if request else ""
    return RunRow(run.name, request.kind if request else "", state, why, created, config, result)


def facts_of(run: Run, is_resuming: bool = False) -> RunFacts:
    """A run for its page."""
    row, now = row_of(run), time.time()
    is_running = row.state == "running"
    trainings, findings, problem = _examined(run, is_running)
    whole = whole_of(run.events(), now)
    left_s = whole.left if is_running else None
    launch = read_if_whole(run, COMMAND, Launch)
    events = run.folder / EVENT_LINES
    is_large = events.is_file() and events.stat().st_size > _LARGE_BYTES
    return RunFacts(
        row=row,
        is_running=is_running,
        is_resuming=is_resuming and not is_running and not run.is_finished,
        title=whole.title if is_running else "",
        share=None if left_s is None else whole.elapsed / max(whole.elapsed + left_s, 1e-9),
        elapsed_s=whole.elapsed,
        left_s=left_s,
        trainings=trainings,
        loss=_loss_chart(trainings),
        scores=_score_chart(trainings),
        samples=_samples(trainings),
        findings=findings,
        problem=problem,
        wrong=read_if_whole(run, WRONG_ROWS, WrongRows),
        output=tail(run.folder / OUTPUT),
        words=launch.words if launch else (),
        is_large=is_large,
    )


def _examined(run: Run, is_running: bool) -> tuple[Sequence[Training], list[Finding], OvertureError | None]:
    """The trainings of a run and what explains its result, each thing once; or why its files cannot be read."""
    try:
        trainings, findings = read(run)[1], diagnose(run, is_running)
    except OvertureError as error:
        return (), [], error
    by_what: dict[tuple[str, str], Finding] = {}
    for finding in findings:
        # What may still come is not missed before the end.
        if not (is_running and finding.name == "stopped_too_soon"):
            first_finding = by_what.setdefault((finding.what, finding.fix), finding)
            if first_finding is not finding:
                by_what[finding.what, finding.fix] = first_finding.model_copy(update={"seed": None})
    return trainings, list(by_what.values()), None


def _loss_chart(trainings: Sequence[Training]) -> Markup | None:
    lines = []
    for number, training in enumerate(trainings):
        steps = training.steps
        per_epoch = steps[-1].num_steps / steps[-1].num_epochs if steps else 1.0
        points = [(step.step / per_epoch, step.loss) for step in steps]
        lines.append(Line(f"{_title(training)}, training", number, points, is_faint=True))
    for number, training in enumerate(trainings):
        points = [(epoch.epoch + 1.0, epoch.validation_loss) for epoch in training.epochs]
        lines.append(Line(f"{_title(training)}, validation", number, points, best=_best(training)))
    return line_chart(lines, "epoch", "loss", "training loss, thin, and validation loss by epoch, a line for each seed")


def _score_chart(trainings: Sequence[Training]) -> Markup | None:
    lines = [
        Line(
            _title(training),
            number,
            [(epoch.epoch + 1.0, epoch.validation_score) for epoch in training.epochs],
            best=_best(training),
        )
        for number, training in enumerate(trainings)
    ]
    return line_chart(lines, "epoch", "validation score", "validation score by epoch, a line for each seed")


def _samples(trainings: Sequence[Training]) -> list[SampleRow]:
    rows: dict[int, SampleRow] = {}
    for colour, training in enumerate(trainings):
        if (event := training.samples) is None:
            continue
        for number, sample in enumerate(event.samples):
            answer = SampleAnswer(
                _title(training),
                colour % NUM_COLOURS,
                event.epoch,
                sample.predicted,
                sample.confidence,
                sample.is_right,
            )
            rows.setdefault(number, SampleRow(sample.text, sample.gold, [])).answers.append(answer)
    return list(rows.values())


def _best(training: Training) -> int | None:
    return max((number for number, epoch in enumerate(training.epochs) if epoch.is_best), default=None)


def _title(training: Training) -> str:
    return f"seed {training.name}" if training.name.isdigit() else training.name


# -- routes


def check_reader(visit: Visit) -> None:
    """Refuse a key that may not see all prompts: runs show rows and scores of any.

    Raises:
        Refused: the key is for some prompts only.
    """
    if "*" not in visit.key.prompts:
        what = "runs and comparisons name prompts that this key may not use"
        raise Refused(403, "scope_not_allowed", what, where="Authorization", wanted="a key for all prompts")


def check_admin(visit: Visit) -> None:
    """Refuse a key that may not change anything.

    Raises:
        Refused: the key may only ask.
    """
    if visit.key.scope != "admin":
        what = "this key may not start or stop runs"
        raise Refused(403, "scope_not_allowed", what, where="Authorization", wanted="a key of scope admin")


def open_run(site: Site, request: Request, name: str) -> Run:
    """A run of the store, for a key that may see it.

    Raises:
        Refused: it may not.
        StoreError: there is no such run.
    """
    check_reader(request.state.visit)
    runs = site.service.registry.store.runs
    if name not in newest_runs(runs):
        raise Refused(404, "not_found", "no such run", where="run", got=name, fix="GET /runs lists what is there")
    return Run(runs / name)


def routes(site: Site) -> APIRouter:
    """The routes of the pages."""
    router, store = APIRouter(), site.service.registry.store

    @router.get("/runs")
    def runs(request: Request) -> Response:
        """All runs, the newest first."""
        check_reader(request.state.visit)
        query, names = query_of(request, RunsQuery), newest_runs(store.runs)
        last_page = max(1, -(-len(names) // PAGE_SIZE))
        page = min(query.page, last_page)
        rows = [row_of(Run(store.runs / name)) for name in names[(page - 1) * PAGE_SIZE : page * PAGE_SIZE]]
        values: dict[str, Any] = {"rows": rows, "num_runs": len(names), "page": page, "last_page": last_page}
        return site.page(request, "runs.html", "rows", **values)

    @router.get("/runs/{name}")
    def one_run(request: Request, name: str) -> Response:
        """One run; asked for again and again while it goes on."""
        run = open_run(site, request, name)
        return site.page(request, "run.html", "live", run=facts_of(run, site.launcher.is_resuming(run)))

    @router.get("/runs/{name}/live")
    def live(request: Request, name: str) -> Response:
        """The live part of a run's page, sent whenever it changes, until the run ends."""
        run = open_run(site, request, name)
        is_large = facts_of(run).is_large

        def shown() -> Shown:
            facts = facts_of(run, site.launcher.is_resuming(run))
            return Shown(site.part(request, "run.html", "live", run=facts), is_over=not facts.is_followed)

        least_s = 10.0 if is_large else 0.0
        return followed(request, lambda: (run.is_held, stamp_of(run.folder)), shown, least_s)

    @router.get("/runs/{name}/report")
    def report(request: Request, name: str) -> Response:
        """The finished report of a run."""
        run = open_run(site, request, name)
        path = run.folder / PAGE
        if not path.is_file():
            # Charts load what a server that shows none does not need.
            from overture.jobs.run.pages import write_page

            path = write_page(run)
        return HTMLResponse(path.read_text(encoding="utf-8"), headers=REPORT_HEADERS)

    return router
