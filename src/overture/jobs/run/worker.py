"""A process that runs jobs for another one: jobs and replies are JSON, and nothing else.

It does not know how it was started; `on_ray` starts it on a Ray cluster. Its `JobRunner` is opened once, from a
`Setup`, so that a model is loaded once for all jobs.
"""

import threading
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Protocol

from pydantic import Field, TypeAdapter

from overture.core import errors
from overture.core.errors import DeviceFull, OvertureError
from overture.core.records.base import Record
from overture.core.records.events import Event, Listener

_RANGE = "overture.jobs."
"""Only modules of this room are opened by name."""


class Setup(Record):
    """The module, request and store that a worker opens before its first job."""

    module: str = Field(description="of this package: its `opened(request, store)` gives a `JobRunner`")
    request: str = Field(description="the resolved request, as JSON")
    store: str = Field(description="folder of the store, as the worker sees it")
    threads: int = Field(description="threads of one worker's computations")
    plugins: tuple[str, ...] = Field((), description="files of methods that users bring")


class Failure(Record):
    """An error that was raised on purpose, as it travels."""

    kind: str
    what: str
    where: str = ""
    got: str = ""
    wanted: str = ""
    fix: str = ""

    @classmethod
    def of(cls, error: OvertureError) -> "Failure":
        """The error without its frames; several mistakes become one text."""
        got = "; ".join(filter(None, [error.got, *map(str, error.problems)]))
        return cls(
            kind=type(error).__name__, what=error.what, where=error.where, got=got, wanted=error.wanted, fix=error.fix
        )

    def error(self) -> OvertureError:
        """The error again; of the general class where this version knows none of the name."""
        kind = getattr(errors, self.kind, OvertureError)
        kind = kind if isinstance(kind, type) and issubclass(kind, OvertureError) else OvertureError
        return kind(self.what, where=self.where, got=self.got, wanted=self.wanted, fix=self.fix)


class Reply(Record):
    """The outcome of a job: its result, or its failure."""

    seconds: float
    result: str | None = Field(None, description="the result as JSON; none where the job failed")
    failure: Failure | None = None


class JobRunner(Protocol):
    """Runs a worker's jobs, on rows and a model that were opened once."""

    @property
    def facts(self) -> dict[str, str]:
        """Fingerprints of rows and model, which must be those of the process that gives the jobs."""
        ...

    def run(self, kind: str, job: str, listener: Listener) -> str:
        """The result of a job, both as JSON.

        Args:
            kind: which of the module's jobs it is.
            job: the job.
            listener: called with its events.
        """
        ...


_EVENTS: TypeAdapter[list[Event]] = TypeAdapter(list[Event])


class Worker:
    """Runs one job at a time; another thread may fetch its events meanwhile.

    Args:
        setup: a `Setup` as JSON.
    """

    def __init__(self, setup: str) -> None:
        self._setup = Setup.model_validate_json(setup)
        self._lock = threading.Lock()
        self._events: list[Event] = []
        self._runner: JobRunner | None = None

    def facts(self) -> str:
        """Open the runner; its facts as JSON, or the failure to open it."""
        try:
            return TypeAdapter(dict[str, str]).dump_json(self._opened().facts).decode()
        except OvertureError as error:
            return Reply(seconds=0.0, failure=Failure.of(error)).model_dump_json()

    def run(self, kind: str, job: str) -> str:
        """A `Reply` to a job."""
        import time

        from torch import OutOfMemoryError

        start = time.monotonic()
        try:
            result = self._opened().run(kind, job, self._listen)
        except OvertureError as error:
            return Reply(seconds=time.monotonic() - start, failure=Failure.of(error)).model_dump_json()
        except OutOfMemoryError as error:
            full = DeviceFull("the memory is full", got=str(error)[:200])
            return Reply(seconds=time.monotonic() - start, failure=Failure.of(full)).model_dump_json()
        return Reply(seconds=time.monotonic() - start, result=result).model_dump_json()

    def events(self) -> str:
        """The events since the last call, as a JSON list."""
        with self._lock:
            events, self._events = self._events, []
        return _EVENTS.dump_json(events).decode()

    def pid(self) -> int:
        """The process."""
        import os

        return os.getpid()

    def _listen(self, event: Event) -> None:
        with self._lock:
            self._events.append(event)

    def _opened(self) -> JobRunner:
        if self._runner is None:
            import torch

            from overture.prompt.registry import load_plugin

            assert self._setup.module.startswith(_RANGE), "a worker opens modules of this room alone"
            torch.set_num_threads(self._setup.threads)
            for plugin in self._setup.plugins:
                load_plugin(Path(plugin))
            make_runner: Callable[[str, Path], JobRunner] = import_module(self._setup.module).opened
            self._runner = make_runner(self._setup.request, Path(self._setup.store))
        return self._runner


def events_of(text: str) -> list[Event]:
    """The events that a worker has sent."""
    return _EVENTS.validate_json(text)
