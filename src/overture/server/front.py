"""The first ASGI application: answers `/health` while the routes, their framework and their pages are imported."""

import asyncio
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, NamedTuple

from pydantic import Field
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from overture.core.records.base import Record
from overture.core.records.serving import EngineStats
from overture.server.engine import Engine
from overture.server.errors import Refused

if TYPE_CHECKING:
    from overture.server.service import Service


class Health(Record):
    """Whether the server works."""

    status: Literal["ok", "starting", "down"]
    restarts: int = Field(0, description="how often the model's process was started again")


def health_of(stats: EngineStats) -> Health:
    """How an engine stands."""
    status: Literal["ok", "starting", "down"] = "ok" if stats.is_ready else "starting"
    return Health(status=status if stats.is_alive else "down", restarts=stats.restarts)


class Application(NamedTuple):
    """All routes of the server.

    Args:
        routes: answers requests.
        refusal: the answer to a request that is not let through.
        service: answers for the routes.
    """

    routes: ASGIApp
    refusal: Callable[[Refused, Scope], Response]
    service: "Service"


class Front:
    """The ASGI application behind the guard: it hands requests to the routes once these are made.

    Args:
        engine: starts and stops with the server.
        make: makes the routes, in a thread of its own.
        on_start: called when requests can come.
        on_stop: called when none come any more.
    """

    def __init__(
        self,
        engine: Engine,
        make: Callable[[], Application],
        on_start: Callable[[], None] = lambda: None,
        on_stop: Callable[[], None] = lambda: None,
    ) -> None:
        self.engine, self._make, self._on_start, self._on_stop = engine, make, on_start, on_stop
        self._lock = threading.Lock()
        self._application: Application | None = None

    async def application(self) -> Application:
        """The routes; waits until they are made."""
        return await asyncio.to_thread(self._make_once) if self._application is None else self._application

    def _make_once(self) -> Application:
        with self._lock:
            if self._application is None:
                self._application = self._make()
            return self._application

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or start and stop with the server; meets ASGI."""
        if scope["type"] == "lifespan":
            await self._live(scope, receive, send)
        elif self._application is None and (scope["method"], scope["path"]) == ("GET", "/health"):
            await JSONResponse(health_of(self.engine.stats()).dump())(scope, receive, send)
        else:
            await (await self.application()).routes(scope, receive, send)

    async def refuse(self, error: Refused, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request that is not let through."""
        await (await self.application()).refusal(error, scope)(scope, receive, send)

    async def _live(self, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await self.engine.start()
        # Pages that follow something would keep a server that stops waiting; its connections set this.
        scope["state"]["stopping"] = asyncio.Event()
        self._on_start()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self.engine.stop()
        self._on_stop()
        await send({"type": "lifespan.shutdown.complete"})
