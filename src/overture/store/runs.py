"""A run's folder: the request, its events, and the finished parts from which a stopped run goes on.

``run.json`` the request, ``status.json`` how the run stands, ``events.jsonl`` what happened, ``controls.json`` the
model without a tuned prompt, ``checkpoint.safetensors`` the training of all seeds, ``seed-N/result.json`` each seed,
``wrong.json`` the rows that the stored prompt answers wrongly, ``result.json`` the end,
``page.html`` the result for people.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, cast

from pydantic import BaseModel

from overture.core.config import validated
from overture.core.errors import DiskFull, Diverged, StoreError, StoreReadOnly, UserError
from overture.core.files import (
    append_line,
    exclusive,
    no_right_as_read_only,
    no_room_as_disk_full,
    sweep_temporaries,
    write_json,
)
from overture.core.records.base import Options, read_record
from overture.core.records.events import EVENTS, Event, Listener, NoticeEvent, ProgressEvent, StartEvent, ignore
from overture.core.records.runs import (
    RunKind,
    RunRequest,
    RunResult,
    RunState,
    RunStatus,
    SplitFacts,
    UnfinishedRun,
)
from overture.core.versions import versions
from overture.store.artifact import tensors_sha256
from overture.store.manifest import Manifest
from overture.store.store import Store

if TYPE_CHECKING:
    from torch import Tensor

REQUEST, STATUS, EVENT_LINES, RESULT = "run.json", "status.json", "events.jsonl", "result.json"
PAGE = "page.html"
WRONG_ROWS = "wrong.json"
_BEGINNING = {REQUEST, STATUS, EVENT_LINES, "notices.json", ".lock", "tensorboard", "trackers.json"}
"""Files of a run in which nothing was measured or trained yet."""
M = TypeVar("M", bound=BaseModel)
Result = TypeVar("Result", bound=RunResult)


class Run:
    """One run's folder.

    Args:
        folder: the folder; made by `create`.
        listener: called with every event.
    """

    def __init__(self, folder: Path, listener: Listener = ignore) -> None:
        self.folder, self.listener = Path(folder), listener

    @classmethod
    def create(
        cls,
        runs: Path,
        name: str,
        config: Options,
        listener: Listener,
        kind: RunKind = "tune",
        *,
        file: str = "TASK.yaml",
        rows: Mapping[str, SplitFacts] | None = None,
        model: Options | None = None,
    ) -> "Run":
        """Make a folder ``name-N`` with the request in it.

        Args:
            runs: the folder of all runs.
            name: of the task, or of the task and the command.
            config: the resolved request.
            listener: called with every event.
            kind: the command.
            file: the task file, for commands that use it again.
            rows: the rows that it begins with.
            model: fingerprints of the model that it begins with.

        Raises:
            DiskFull: no room for the folder.
            StoreReadOnly: the folder of all runs cannot be written.
        """
        number = 1 + max(
            (int(tail) for path in runs.glob(f"{name}-*") if (tail := path.name[len(name) + 1 :]).isdigit()), default=0
        )
        with no_room_as_disk_full(runs), no_right_as_read_only(runs):
            runs.mkdir(parents=True, exist_ok=True)
            while True:
                folder = runs / f"{name}-{number}"
                try:
                    folder.mkdir()
                    break
                except FileExistsError:
                    number += 1
        created_at = datetime.now(UTC).isoformat(timespec="seconds")
        request = RunRequest(
            kind=kind,
            config=config,
            file=file,
            rows=dict(rows or {}),
            model=model,
            versions=versions(),
            created=created_at,
        )
        write_json(folder / REQUEST, request.dump())
        return cls(folder, listener)

    @classmethod
    def open(cls, runs: Path, ref: str, listener: Listener = ignore) -> "Run":
        """A run by name or folder.

        Raises:
            StoreError: there is no such run.
        """
        for folder in (Path(ref), runs / ref):
            if (folder / REQUEST).is_file():
                if folder.is_symlink():
                    raise StoreError("the run's folder is a link", where=str(folder), fix="name the folder itself")
                return cls(folder, listener)
        run_names = sorted(path.parent.name for path in runs.glob(f"*/{REQUEST}"))
        raise StoreError(
            "no such run", where=str(runs), got=ref, wanted=", ".join(run_names[-10:]) or "there are no runs yet"
        )

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.folder.name

    def request(self) -> RunRequest:
        """The request of the run.

        Raises:
            StoreError: ``run.json`` is damaged.
        """
        try:
            request = read_record(RunRequest, self.folder / REQUEST)
        except StoreError as error:
            raise StoreError(
                error.what, where=error.where, got=error.got, problems=error.problems, fix="start a new run"
            ) from None
        assert request is not None, "a run is opened by its request"
        return request

    def config(self, model: type[M]) -> M:
        """The resolved request as its own class.

        Raises:
            StoreError: ``run.json`` is damaged.
            ConfigError: the request is of another version of Overture.
        """
        return validated(model, self.request().config, str(self.folder / REQUEST))

    def keep_config(self, config: Options) -> None:
        """Keep the request as it is now, where it has changed: its data files may have moved."""
        request = self.request()
        if request.config != config:
            self.write(REQUEST, request.model_copy(update={"config": config}))

    def read(self, name: str, model: type[M]) -> M | None:
        """A finished part, or None where there is none yet.

        Raises:
            StoreError: the file is damaged, or its keys are not the record's.
        """
        return read_record(model, self.folder / name)

    def write(self, name: str, value: BaseModel) -> None:
        """Keep a finished part."""
        write_json(self.folder / name, value.model_dump(mode="json"))

    def keep(self, store: Store, manifest: Manifest, tensors: "dict[str, Tensor]") -> Path:
        """Keep the run's prompt in the store, once: what the run has stored before it was stopped is found again.

        Args:
            store: where the prompt goes.
            manifest: of the prompt; its lineage names this run.
            tensors: the prompt's values.

        Returns:
            The prompt's folder.

        Raises:
            As `Store.add`.
        """
        digest = manifest.text.sha256 if manifest.text else tensors_sha256(tensors, manifest.name)
        since = datetime.fromisoformat(self.request().created)
        for entry in store.list():
            stored_manifest = entry.manifest
            if (
                stored_manifest
                and (stored_manifest.name, stored_manifest.lineage.run, stored_manifest.tensors_sha256)
                == (manifest.name, self.name, digest)
                # The best so far of a search that was stopped has no test scores yet.
                and stored_manifest.metrics == manifest.metrics
                # A run of the same name, whose folder was deleted, is another run.
                and datetime.fromisoformat(stored_manifest.created) >= since
            ):
                return entry.folder
        return store.add(manifest, tensors)

    @property
    def is_finished(self) -> bool:
        """Whether the run has its result."""
        return (self.folder / RESULT).exists()

    @contextmanager
    def working(self) -> Iterator[None]:
        """Hold the run, so that two processes never write one run; files that a killed one left half written go.

        Raises:
            StoreError: another process holds it.
        """
        with self._lock():
            sweep_temporaries(self.folder, is_deep=True)
            yield

    def _lock(self) -> AbstractContextManager[None]:
        return exclusive(self.folder / ".lock", f"to run {self.name}")

    @property
    def is_held(self) -> bool:
        """Whether a process works on the run now."""
        if (self.folder / ".lock").is_symlink():
            return False
        try:
            with self._lock():
                return False
        except (StoreReadOnly, OSError):
            # A store that cannot be written is worked on by nobody.
            return False
        except StoreError:
            return True

    def carried_out(self, work: Callable[[], Result], is_new: bool = False) -> Result:
        """Do the run's work as its only process, and keep how it stands and how it ended.

        Args:
            work: gives the run's result, with its ``status``.
            is_new: the run begins now: where the request is refused before anything was made, its folder goes again.

        Raises:
            StoreError: another process holds the run.
        """
        with self.working():
            self.status("running")
            try:
                self.event(StartEvent(run=self.name, folder=str(self.folder)))
                result = work()
            except BaseException as error:
                state: RunState = "diverged" if isinstance(error, Diverged) else "stopped"
                fix = (error.fix or error.wanted or "mend that") if isinstance(error, UserError | DiskFull) else None
                self.status(state, f"{type(error).__name__}: {error}", fix)
                if is_new and isinstance(error, UserError) and {p.name for p in self.folder.iterdir()} <= _BEGINNING:
                    shutil.rmtree(self.folder)
                raise
            self.status(cast(RunState, result.status))
            return result

    def event(self, event: Event) -> None:
        """Tell the listener, and keep everything but progress.

        Raises:
            DiskFull: the event could not be kept; what was there is intact.
        """
        self.listener(event)
        if isinstance(event, ProgressEvent):
            return
        timed_event = event.model_copy(update={"time": datetime.now(UTC).isoformat(timespec="milliseconds")})
        append_line(self.folder / EVENT_LINES, json.dumps(timed_event.dump(), allow_nan=False))

    def events(self) -> Iterator[Event]:
        """The events kept so far; a line that a kill cut off, and one of another version's, is left out."""
        path = self.folder / EVENT_LINES
        for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
            try:
                yield EVENTS.validate_json(line)
            except ValueError:
                continue

    def status(self, status: RunState, why: str | None = None, fix: str | None = None) -> None:
        """Keep how the run stands; a full disk does not hide the reason for which it ended."""
        try:
            self.write(STATUS, RunStatus(status=status, pid=os.getpid(), why=why, fix=fix))
        except DiskFull:
            self.listener(NoticeEvent(text=f"the disk is full: the status {status!r} could not be kept"))


def unfinished_runs(runs: Path) -> list[UnfinishedRun]:
    """Runs without a result, oldest first; a file that cannot be read leaves its facts empty."""
    records = []
    for run in (Run(path.parent) for path in runs.glob(f"*/{REQUEST}")):
        if run.folder.is_symlink() or run.is_finished:
            continue
        request, (state, why) = read_if_whole(run, REQUEST, RunRequest), state_of(run)
        records.append(UnfinishedRun(run=run.name, state=state, started=request.created if request else "", why=why))
    return sorted(records, key=lambda run: (run.started, run.run))


def state_of(run: Run) -> tuple[str, str]:
    """How a run stands: running, killed, not started or how it ended; and why it ended, in one line, or nothing."""
    status = read_if_whole(run, STATUS, RunStatus)
    state: str = status.status if status else "not started"
    if run.is_finished and (status is None or state == "running"):
        state = "finished"
    elif not run.is_finished and run.is_held:
        state = "running"
    elif state == "running":
        state = "killed"
    return state, ((status and status.why) or "").partition("\n")[0]


def newest_runs(runs: Path) -> list[str]:
    """The names of all runs, those that began last first; no file of them is read."""
    requests = [path for path in runs.glob(f"*/{REQUEST}") if not path.parent.is_symlink()]
    return [path.parent.name for path in sorted(requests, key=lambda path: (-path.stat().st_ctime_ns, path))]


def read_if_whole(run: Run, name: str, model: type[M]) -> M | None:
    """A finished part; None where there is none, or it cannot be read."""
    try:
        return run.read(name, model)
    except (StoreError, OSError):
        return None


def run_of(store: Store, manifest: Manifest, fix: str) -> Run:
    """The run that made a prompt.

    Args:
        store: where the run is.
        manifest: names the run.
        fix: what to do when it is not there.

    Raises:
        StoreError: the run is not in this store.
    """
    name = manifest.lineage.run or ""
    folder = store.runs / name
    if not name or Path(name).name != name or not (folder / REQUEST).is_file():
        raise StoreError(
            "the run that made this prompt is not in this store",
            where=str(store.runs),
            got=name or "no run",
            fix=fix,
        )
    return Run(folder)
