"""Live parts of pages: server-sent events with HTML, which htmx puts into the page."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Hashable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from starlette.requests import Request
from starlette.responses import StreamingResponse

from overture.server.pages.site import PAGE_HEADERS

_LOOK_S = 0.3
"""Seconds between two looks at what is shown."""
_AT_LEAST_S = 5.0
"""A part whose files are the same may show the time."""
_ALIVE_S = 15.0
END = "event: end\ndata: end\n\n"
"""The event for which `hx-sse:close` of a page waits."""


class Shown(NamedTuple):
    """A part as it stands now.

    Args:
        html: the part.
        is_over: nothing will change any more.
    """

    html: str
    is_over: bool = False


def followed(
    request: Request, stamp: Callable[[], Hashable], render: Callable[[], Shown], least_s: float = 0.0
) -> StreamingResponse:
    """A stream that sends a part of a page whenever it changes, until the part is over or the server stops.

    Args:
        request: the browser's.
        stamp: changes with what is shown, and is cheap.
        render: makes the part, in another thread.
        least_s: seconds between two renderings, where one is dear.
    """
    return StreamingResponse(
        _changes(request, stamp, render, least_s), media_type="text/event-stream", headers=PAGE_HEADERS
    )


def stamp_of(folder: Path) -> tuple[Hashable, ...]:
    """Changes with the files of a folder."""
    stats = []
    for path in folder.iterdir():
        # A temporary file may have got its name meanwhile.
        with suppress(FileNotFoundError):
            stats.append(path.stat())
    return tuple(sorted((stat.st_ino, stat.st_size, stat.st_mtime_ns) for stat in stats))


def event_of(html: str) -> bytes:
    """One server-sent event."""
    lines = html.strip("\n").split("\n")
    return ("".join(f"data: {line}\n" for line in lines) + "\n").encode()


async def _changes(
    request: Request, stamp: Callable[[], Hashable], render: Callable[[], Shown], least_s: float
) -> AsyncIterator[bytes]:
    last_stamp: Hashable = None
    html, rendered_at, sent_at = None, -_ALIVE_S, time.monotonic()
    while not is_stopping(request):
        now, new_stamp = time.monotonic(), await asyncio.to_thread(stamp)
        if now - rendered_at >= least_s and (
            html is None or new_stamp != last_stamp or now - rendered_at > _AT_LEAST_S
        ):
            part = await asyncio.to_thread(render)
            last_stamp, rendered_at = new_stamp, now
            if part.html != html:
                html, sent_at = part.html, now
                yield event_of(html)
            if part.is_over:
                yield END.encode()
                return
        if now - sent_at > _ALIVE_S:
            sent_at = now
            # A browser that is gone is noticed.
            yield b": here\n\n"
        await asyncio.sleep(_LOOK_S)


def is_stopping(request: Request) -> bool:
    """Whether the server is about to end, and waits for nothing but open streams."""
    stopping: asyncio.Event | None = getattr(request.state, "stopping", None)
    return stopping is not None and stopping.is_set()
