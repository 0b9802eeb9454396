"""A run's folder: what was asked, what happened, what was found. A stopped run goes on from it.

``run.json`` the request, ``events.jsonl`` what happened, ``controls.json`` the model without a tuned prompt,
``checkpoint.safetensors`` the training of all seeds, ``seed-N/result.json`` each seed, ``result.json`` the end.
"""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from overture.core.errors import DiskFull, Diverged, StoreError
from overture.core.files import exclusive, no_room_as_disk_full, write_json
from overture.core.records.events import EVENTS, Event, Listener, NoticeEvent, ProgressEvent, StartEvent, ignore
from overture.core.versions import versions
from overture.store.manifest import Manifest
from overture.store.store import Store

T = TypeVar("T")


class Run:
    """One run's folder.

    Args:
        folder: the folder; made by `create`.
        listener: told of every event.
    """

    def __init__(self, folder: Path, listener: Listener = ignore) -> None:
        self.folder, self.listener = Path(folder), listener

    @classmethod
    def create(cls, runs: Path, name: str, config: dict[str, Any], listener: Listener, kind: str = "tune") -> "Run":
        """A new folder ``name-N`` with the request, and what kind of run it is of, in it."""
        runs.mkdir(parents=True, exist_ok=True)
        number = 1 + max(
            (int(tail) for path in runs.glob(f"{name}-*") if (tail := path.name[len(name) + 1 :]).isdigit()), default=0
        )
        while True:
            folder = runs / f"{name}-{number}"
            try:
                folder.mkdir()
                break
            except FileExistsError:
                number += 1
        created = datetime.now(UTC).isoformat(timespec="seconds")
        write_json(folder / "run.json", {"kind": kind, "config": config, "versions": versions(), "created": created})
        return cls(folder, listener)

    @classmethod
    def open(cls, runs: Path, ref: str, listener: Listener) -> "Run":
        """A run by name or folder.

        Raises:
            StoreError: there is no such run.
        """
        for folder in (Path(ref), runs / ref):
            if (folder / "run.json").is_file():
                return cls(folder, listener)
        known = sorted(path.parent.name for path in runs.glob("*/run.json"))
        raise StoreError(
            "no such run", where=str(runs), got=ref, wanted=", ".join(known[-10:]) or "there are no runs yet"
        )

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.folder.name

    @property
    def kind(self) -> str:
        """What the run does: tune, or search."""
        return str((self.read("run.json") or {}).get("kind", "tune"))

    def config(self) -> dict[str, Any]:
        """The request.

        Raises:
            StoreError: ``run.json`` is damaged.
        """
        found = self.read("run.json")
        if not found or "config" not in found:
            raise StoreError("the run's request is damaged", where=str(self.folder / "run.json"), fix="start a new run")
        return dict(found["config"])

    def read(self, name: str) -> dict[str, Any] | None:
        """A finished part, or None."""
        try:
            return dict(json.loads((self.folder / name).read_text()))
        except FileNotFoundError:
            return None
        except ValueError:
            raise StoreError("the file is damaged", where=str(self.folder / name), fix="delete it and resume") from None

    def write(self, name: str, value: dict[str, Any]) -> None:
        """Keep a finished part."""
        write_json(self.folder / name, value)

    @contextmanager
    def working(self) -> Iterator[None]:
        """Hold the run: two processes never write one run.

        Raises:
            StoreError: another process holds it.
        """
        with exclusive(self.folder / ".lock", f"to run {self.name}"):
            yield

    def carried_out(self, work: Callable[[], T]) -> T:
        """Do the run's work as its only process, and keep how it stands and how it ended.

        Args:
            work: gives the run's result, with its ``status``.

        Raises:
            StoreError: another process holds the run.
        """
        with self.working():
            self.status("running")
            try:
                self.event(StartEvent(run=self.name, folder=str(self.folder)))
                result = work()
            except BaseException as error:
                ended = "diverged" if isinstance(error, Diverged) else "stopped"
                self.status(ended, why=f"{type(error).__name__}: {error}")
                raise
            self.status(result["status"] if isinstance(result, dict) else result.status)  # type: ignore[attr-defined]
            return result

    def event(self, event: Event) -> None:
        """Tell the listener, and keep everything but progress.

        Raises:
            DiskFull: the event could not be kept; what was there is intact.
        """
        self.listener(event)
        if isinstance(event, ProgressEvent):
            return
        kept = event.model_copy(update={"time": datetime.now(UTC).isoformat(timespec="milliseconds")})
        line = json.dumps(kept.dump(), allow_nan=False)
        with no_room_as_disk_full(self.folder), open(self.folder / "events.jsonl", "a") as file:
            file.write(line + "\n")

    def events(self) -> Iterator[Event]:
        """The events kept so far; a line that a kill cut off, and one of another version's, is left out."""
        path = self.folder / "events.jsonl"
        for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
            try:
                yield EVENTS.validate_json(line)
            except ValueError:
                continue

    def status(self, status: str, **facts: Any) -> None:
        """Keep how the run stands; a full disk does not hide the reason for which it ended."""
        try:
            self.write("status.json", {"status": status, "pid": os.getpid(), **facts})
        except DiskFull:
            self.listener(NoticeEvent(text=f"the disk is full: the status {status!r} could not be kept"))


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
    if not name or Path(name).name != name or not (folder / "run.json").is_file():
        raise StoreError(
            "the run that made this prompt is not in this store",
            where=str(store.runs),
            got=name or "no run",
            fix=fix,
        )
    return Run(folder)
