"""The interface between the gateway and an engine (worker process or cluster)."""

from collections.abc import AsyncIterator
from typing import Protocol

from overture.core.records.serving import (
    EngineStats,
    Event,
    Request,
)


class Engine(Protocol):
    """Answers requests. Failures are events, which the gateway turns into replies."""

    async def start(self) -> None:
        """Begin to work; requests wait until the engine is ready."""
        ...

    async def stop(self, grace_s: float = 10.0) -> None:
        """Let running requests end, for so many seconds, and stop."""
        ...

    def submit(self, request: Request) -> AsyncIterator[Event]:
        """The request's events; the last one is done or an error. Closing the iterator cancels the request."""
        ...

    async def cancel(self, request_id: str) -> None:
        """Forget a request; it gets no more events. Unknown ones are ignored."""
        ...

    async def load(self, prompt: str, request_id: str = "command") -> None:
        """Open a prompt now, so that its first request does not wait for it.

        Args:
            prompt: its name.
            request_id: names the request in the engine's log.

        Raises:
            UserError: it cannot be served, and why.
            OvertureError: the engine failed.
        """
        ...

    async def unload(self, prompt: str) -> None:
        """Close a prompt; requests that run under it are still answered."""
        ...

    async def tokenize(self, text: str) -> tuple[int, ...]:
        """The model's tokens of a text."""
        ...

    def stats(self) -> EngineStats:
        """The engine's current state and load."""
        ...
