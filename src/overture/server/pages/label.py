"""Label and learn: rows one by one, a key for each label, and a prompt that learns meanwhile."""

import asyncio
import hashlib
import json
import re
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from fastapi import APIRouter
from markupsafe import Markup
from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from overture.core.errors import UserError
from overture.core.files import write_atomic
from overture.core.records.base import Record
from overture.core.records.label import CurvePoint, Learnt
from overture.data.read import SUFFIXES
from overture.jobs.label.session import KEEP, Session, new_session, session_names, task_of
from overture.server.errors import Refused
from overture.server.pages.live import Shown, followed, stamp_of
from overture.server.pages.site import Site, form_of, see
from overture.server.schema import Name, Text
from overture.server.security import Visit
from overture.store.store import Store

KEYS = "1234567890abcdefghijklmnopqrtuvwxy"
"""A key for each label; s skips, z takes back."""
_MOST_NAMES = 200


class SessionForm(Record):
    """A new session."""

    name: Name = Field(description="of the session")
    prompt: Name = Field(description="the stored prompt that begins")
    file: str = Field("", max_length=200, description="a file of the store's rows")
    pasted: Text = Field("", description="rows, instead of a file")
    file_name: str = Field("", max_length=200, description="what the pasted file is called")


class LabelForm(Record):
    """A label for a row."""

    row: int = Field(ge=0, description="the row")
    label: str | None = Field(None, description="its label")
    skip: bool = Field(False, description="go on without a label")


@dataclass(frozen=True, slots=True)
class Desk:
    """The state of a labelling session, for its page.

    Args:
        session: the session.
        row: the row's number; None where all have a label.
        fields: what is shown of it.
        buttons: each label with its key.
        num_labelled: rows that have a label.
        num_skipped: rows without one that were passed over.
        can_take_back: whether there is a last label.
        learnt: how far the learner has got.
        points: the curve.
        chart: the curve as a picture, where the panel is shown.
    """

    session: Session
    row: int | None
    fields: dict[str, str]
    buttons: list[tuple[str, str]]
    num_labelled: int
    num_skipped: int
    can_take_back: bool
    learnt: Learnt
    points: list[CurvePoint]
    chart: Markup | None


class Learners:
    """The processes that learn; one at a time, for each holds a model.

    Args:
        store: where sessions are.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self._running: tuple[str, subprocess.Popen[bytes]] | None = None
        self._lock = threading.Lock()

    def start(self, name: str) -> None:
        """Have a session's labels learnt; one that runs already goes on, that of another session ends."""
        with self._lock:
            if self._running and self._running[0] == name and self._running[1].poll() is None:
                return
            self.stop()
            command = [sys.executable, "-m", "overture.jobs.label.process", str(self.store.root), name]
            with (Session(self.store, name).folder / "learner.log").open("ab") as log:
                process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=log)
            self._running = name, process

    def stop(self) -> None:
        """End the one that runs: it sees that its input is closed, and what it wrote is whole."""
        if self._running:
            _, process = self._running
            if process.stdin:
                process.stdin.close()
            process.terminate()
            process.wait()
            self._running = None


def desk_of(session: Session, with_chart: bool = False) -> Desk:
    """The state of a session."""
    labels, row = session.labels(), session.next_row()
    fields = {} if row is None else {name: session.rows[row].fields.get(name) for name in session.task.columns}
    points = session.curve()
    return Desk(
        session=session,
        row=row,
        fields={name: value if isinstance(value, str) else json.dumps(value) for name, value in fields.items()},
        buttons=list(zip(session.task.words, KEYS, strict=False)),
        num_labelled=sum(label is not None for label in labels.values()),
        num_skipped=sum(label is None for label in labels.values()),
        can_take_back=bool(labels),
        learnt=session.learnt(),
        points=points,
        chart=_chart(tuple(point.model_dump_json() for point in points)) if points and with_chart else None,
    )


@lru_cache(maxsize=64)
def _chart(points: tuple[str, ...]) -> Markup | None:
    # Charts take a second to import.
    from overture.report.label_chart import curve

    return curve([CurvePoint.model_validate_json(point) for point in points])


def row_files(store: Store) -> list[str]:
    """The files of the store's folder of rows."""
    folder = store.root / "rows"
    return sorted(path.name for path in folder.glob("*") if path.is_file() and path.name.lower().endswith(SUFFIXES))


def _source_of(store: Store, form: SessionForm) -> Path:
    """The file of a new session's rows; pasted rows become one.

    Raises:
        Refused: there are no rows, or no such file.
    """
    if not form.pasted.strip():
        if form.file not in row_files(store):
            expectation = f"a file of {store.root.name}/rows, or rows in the text field"
            raise Refused.invalid("no rows are named", where="file", got=form.file, wanted=expectation)
        return store.root / "rows" / form.file
    stem, _, suffix = form.file_name.rpartition(".")
    text, suffix = form.pasted.replace("\r\n", "\n"), f".{suffix.lower()}"
    if suffix not in SUFFIXES or suffix == ".parquet":
        stem, suffix = form.file_name or "pasted", ".jsonl"
        _, task = task_of(store, form.prompt)
        if not text.lstrip().startswith("{"):
            if len(task.columns) != 1:
                what = "lines of text fit only a prompt whose template has one field"
                raise Refused.invalid(what, where="pasted", wanted=", ".join(task.columns))
            lines = [line for line in text.split("\n") if line.strip()]
            text = "".join(json.dumps({task.columns[0]: line}, ensure_ascii=False) + "\n" for line in lines)
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    path = store.root / "rows" / f"{re.sub(r'[^a-z0-9_-]+', '-', stem.lower())[:40]}-{digest}{suffix}"
    write_atomic(path, text)
    return path


def _check(request: Request) -> None:
    """Refuse keys that may not read and write the store."""
    visit: Visit = request.state.visit
    if visit.key.scope != "admin" or "*" not in visit.key.prompts:
        what = "labelling needs a key of scope admin for all prompts"
        raise Refused(403, "scope_not_allowed", what, where="Authorization", wanted="a key of scope admin")


def routes(site: Site) -> APIRouter:
    """The routes of the page."""
    router = APIRouter()
    store = site.service.registry.store
    learners = Learners(store)

    def overview(request: Request, error: Refused | None = None, form: SessionForm | None = None) -> Response:
        sessions: Sequence[Session] = [Session(store, name) for name in session_names(store)]
        names = list(store.names())[:_MOST_NAMES]
        return site.page(
            request, "label.html", "", error.status if error else 200, sessions=sessions, names=names,
            files=row_files(store), error=error, form=form,
        )  # fmt: skip

    def after_change(request: Request, session: Session) -> Response:
        if request.headers.get("hx-request") != "true":
            return see(f"/label/{session.name}")
        return site.page(request, "labelling.html", "desk", desk=desk_of(session))

    @router.get("/label")
    def sessions(request: Request) -> Response:
        """All sessions, and a form for a new one."""
        _check(request)
        return overview(request)

    @router.post("/label")
    async def begin(request: Request) -> Response:
        """Begin a session."""
        _check(request)
        form = await form_of(request, SessionForm)
        try:
            source = await asyncio.to_thread(_source_of, store, form)
            await asyncio.to_thread(new_session, store, form.name, form.prompt, source)
        except (Refused, UserError) as error:
            return overview(request, error if isinstance(error, Refused) else Refused.of(error), form)
        return see(f"/label/{form.name}")

    @router.get("/label/{name}")
    def label(request: Request, name: str) -> Response:
        """The row to label next, and the curve."""
        _check(request)
        session = Session(store, name)
        learners.start(name)
        return site.page(request, "labelling.html", "desk", desk=desk_of(session, True))

    @router.get("/label/{name}/live")
    def live(request: Request, name: str) -> Response:
        """The learner's progress, sent whenever it changes; an open window alone does not keep a learner running."""
        _check(request)
        folder = Session(store, name).folder

        def shown() -> Shown:
            return Shown(site.part(request, "labelling.html", "panel", desk=desk_of(Session(store, name), True)))

        return followed(request, lambda: stamp_of(folder), shown)

    @router.post("/label/{name}")
    async def give(request: Request, name: str) -> Response:
        """Label a row; the next one is the answer."""
        _check(request)
        form = await form_of(request, LabelForm)
        if form.label is None and not form.skip:
            raise Refused.invalid("no label is given", where="label", wanted="a label, or skip")

        def given() -> Response:
            session = Session(store, name)
            session.give(form.row, None if form.skip else form.label)
            if session.learnt().state != "failed":
                learners.start(name)
            return after_change(request, session)

        return await asyncio.to_thread(given)

    @router.post("/label/{name}/back")
    def back(request: Request, name: str) -> Response:
        """Take the last label back."""
        _check(request)
        session = Session(store, name)
        session.take_back()
        return after_change(request, session)

    _add_results(router, store, learners)
    return router


def _add_results(router: APIRouter, store: Store, learners: Learners) -> None:
    """Routes for the results of a session: a stored prompt, a table."""

    @router.post("/label/{name}/keep")
    def keep(request: Request, name: str) -> Response:
        """Have the learner store its prompt."""
        _check(request)
        write_atomic(Session(store, name).folder / KEEP, "")
        learners.start(name)
        return see(f"/label/{name}")

    @router.get("/label/{name}/labels.csv")
    def download(request: Request, name: str) -> Response:
        """The labelled rows as a table."""
        _check(request)
        text = Session(store, name).as_csv()
        headers = {"content-disposition": f'attachment; filename="{name}-labels.csv"'}
        return Response(text, media_type="text/csv; charset=utf-8", headers=headers)
