"""The gateway's side of the worker process: starts it, sends it requests from the queue, restarts it when it dies."""

import asyncio
import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from itertools import count
from typing import Literal

from overture.core import errors
from overture.core.errors import NotReady, OvertureError
from overture.core.records.serving import (
    Command,
    EngineStats,
    ErrorEvent,
    Event,
    Outcome,
    Report,
    Request,
    WorkerOptions,
)
from overture.server.queue import Queue

_LINE_BYTES = 1 << 26
_MOST_PAUSE_S = 30.0
_NEVER_READY = EngineStats(is_alive=False, is_ready=False)


class WorkerEngine:
    """Meets `server.engine.Engine` with a process of its own.

    Requests that the worker has when it dies get a 503; those that wait are answered by the next one.

    Args:
        options: what the worker serves.
        max_wait_s: a request that would wait longer is refused with a 429.
        command: starts the worker; the socket and the options follow.
    """

    def __init__(
        self,
        options: WorkerOptions,
        max_wait_s: float = 30.0,
        command: tuple[str, ...] = (sys.executable, "-m", "overture.server.process"),
    ) -> None:
        self.options, self.command = options, command
        self._queue = Queue(time.monotonic, max_wait_s, slots=options.slots)
        self._inboxes: dict[str, asyncio.Queue[Event]] = {}
        self._outcomes: dict[str, asyncio.Future[Outcome]] = {}
        self._numbers = count(1)
        self._stats, self._restarts = _NEVER_READY, 0
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._task: asyncio.Task[None] | None = None

    # -- the process

    def spawn(self) -> None:
        """Begin to load the model, before there is an event loop: `start` goes on with this process."""
        ours, theirs = socket.socketpair()
        with theirs, contextlib.ExitStack() as on_failure:
            on_failure.callback(ours.close)
            words = [*self.command, str(theirs.fileno()), self.options.model_dump_json()]
            self._process = subprocess.Popen(words, pass_fds=[theirs.fileno()])
            on_failure.pop_all()
        self._socket = ours

    async def start(self) -> None:
        """Meets `Engine.start`; the model loads while requests already wait."""
        self._task = asyncio.create_task(self._keep_running())

    async def stop(self, grace_s: float = 10.0) -> None:
        """Meets `Engine.stop`."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace_s):
                while self._inboxes and self._stats.is_alive:
                    await asyncio.sleep(0.02)
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        self._fail_running("the server is stopping", None)

    async def _keep_running(self) -> None:
        pause_s = 0.1
        while True:
            started = time.monotonic()
            try:
                # No process can be started now, or it sent a line that is too long or no report: as if it had died.
                with contextlib.suppress(OSError, ValueError):
                    if self._socket is None:
                        self.spawn()
                    ours, self._socket = self._socket, None
                    reader, self._writer = await asyncio.open_connection(sock=ours, limit=_LINE_BYTES)
                    while line := await reader.readline():
                        self._receive(Report.model_validate_json(line))
            finally:
                await self._clear()
            if self._stats.failure:
                self._stats = self._stats.model_copy(update={"is_alive": False, "is_ready": False})
                for request_id in list(self._inboxes):
                    self._fail(request_id, self._stats.failure, None)
                return
            # A worker that lives is started again at once; one that dies early, less and less often.
            pause_s = 0.1 if time.monotonic() - started > _MOST_PAUSE_S else min(2 * pause_s, _MOST_PAUSE_S)
            self._stats, self._restarts = _NEVER_READY, self._restarts + 1
            self._fail_running("the worker has died and is started again", pause_s + 1.0)
            await asyncio.sleep(pause_s)

    async def _clear(self) -> None:
        """Close the connection, kill the process, and fail the commands that wait for it."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        if self._process is not None:
            self._process.kill()
            await asyncio.to_thread(self._process.wait)
        for future in self._outcomes.values():
            if not future.done():
                future.set_exception(NotReady("the worker has died and is started again"))
        self._outcomes = {}

    def _receive(self, report: Report) -> None:
        is_first = not self._stats.is_ready and report.stats.is_ready
        self._stats = report.stats
        if is_first:
            self._queue.set_rate(report.stats.tokens_per_s)
        for request_id in report.begun:
            self._queue.begin(request_id)
        for event in report.events:
            if event.kind in ("done", "error"):
                self._queue.end(event.id)
            if event.id in self._inboxes:
                self._inboxes[event.id].put_nowait(event)
        for outcome in report.outcomes:
            future = self._outcomes.pop(outcome.id, None)
            if future is not None and not future.done():
                future.set_result(outcome)
        self._feed()

    def _feed(self) -> None:
        """Send the worker as many requests as it has room for."""
        if self._stats.is_ready and self._writer is not None:
            for request in self._queue.take():
                self._send(Command(do="ask", id=request.id, request=request))

    def _send(self, command: Command) -> None:
        if self._writer is not None:
            self._writer.write(command.model_dump_json().encode() + b"\n")

    def _fail_running(self, message: str, retry_after_s: float | None) -> None:
        for request_id in self._queue.running:
            self._queue.end(request_id, is_done=False)
            self._fail(request_id, message, retry_after_s)

    def _fail(self, request_id: str, message: str, retry_after_s: float | None) -> None:
        if request_id in self._inboxes:
            self._inboxes[request_id].put_nowait(_unavailable(request_id, message, retry_after_s))

    # -- requests

    async def submit(self, request: Request) -> AsyncIterator[Event]:
        """Meets `Engine.submit`."""
        if self._stats.failure:
            yield _unavailable(request.id, self._stats.failure, None)
            return
        over_s = self._queue.put(request)
        if over_s is not None:
            yield ErrorEvent(
                id=request.id,
                error="Overloaded",
                message="more requests wait than can be answered in time",
                status=429,
                retry_after_s=over_s,
            )
            return
        inbox: asyncio.Queue[Event] = asyncio.Queue()
        self._inboxes[request.id] = inbox
        self._feed()
        clock = asyncio.get_running_loop().time
        deadline = None if request.deadline_s is None else clock() + request.deadline_s
        is_ended = False
        try:
            while not is_ended:
                event = await asyncio.wait_for(inbox.get(), None if deadline is None else deadline - clock())
                is_ended = event.kind in ("done", "error")
                yield event
        except TimeoutError:
            message = "the request was not answered within its deadline"
            yield ErrorEvent(id=request.id, error="DeadlineExceeded", message=message, status=504)
        finally:
            del self._inboxes[request.id]
            if not is_ended:
                await self.cancel(request.id)

    async def cancel(self, request_id: str) -> None:
        """Meets `Engine.cancel`."""
        if self._queue.end(request_id, is_done=False):
            self._send(Command(do="cancel", id=request_id))
            self._feed()

    # -- commands

    async def load(self, prompt: str, request_id: str = "command") -> None:
        """Meets `Engine.load`."""
        await self._outcome_of("load", prompt, request_id)

    async def unload(self, prompt: str) -> None:
        """Meets `Engine.unload`."""
        await self._outcome_of("unload", prompt)

    async def tokenize(self, text: str) -> tuple[int, ...]:
        """Meets `Engine.tokenize`."""
        return (await self._outcome_of("tokenize", text)).tokens

    async def _outcome_of(
        self, do: Literal["load", "unload", "tokenize"], text: str, request_id: str = "command"
    ) -> Outcome:
        if not self._stats.is_ready:
            raise NotReady("the model is not loaded", got=self._stats.failure or "it is loading")
        command = Command(do=do, id=f"{request_id}-{next(self._numbers)}", text=text)
        future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._outcomes[command.id] = future
        self._send(command)
        outcome = await future
        if outcome.error is not None:
            raise raised(outcome.error)
        return outcome

    def stats(self) -> EngineStats:
        """Meets `Engine.stats`."""
        counts = {"queued": self._queue.queued, "running": len(self._queue.running), "wait_s": self._queue.wait_s}
        is_alive = self._process is not None and self._process.poll() is None
        return self._stats.model_copy(update={**counts, "restarts": self._restarts, "is_alive": is_alive})


def raised(event: ErrorEvent) -> OvertureError:
    """The worker's error, of its own class where it is one of ours."""
    if event.status == 503:
        return NotReady(event.message)
    kind: type[OvertureError] = getattr(errors, event.error, OvertureError)
    return kind(event.message)


def _unavailable(request_id: str, message: str, retry_after_s: float | None) -> ErrorEvent:
    return ErrorEvent(id=request_id, error="Unavailable", message=message, status=503, retry_after_s=retry_after_s)
