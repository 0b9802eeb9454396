"""The engine of a cluster, on a stand-in for Ray Serve's handle: sessions, lost engines, cancelled requests, errors."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from pydantic import ValidationError

from overture.core.errors import ArtifactError
from overture.core.records.serving import ErrorEvent, Event, Request, WorkerOptions
from overture.server.engine import FakeEngine
from overture.server.on_ray import Cluster, ClusterEngine, session_of


class FakeStream:
    """Events as they travel; cancelling is noted."""

    def __init__(self, engine: FakeEngine, request: str, most: int) -> None:
        self.events, self.most, self.is_cancelled = engine.submit(Request.model_validate_json(request)), most, False

    async def __aiter__(self) -> AsyncIterator[str]:
        number = 0
        async for event in self.events:
            if number == self.most:
                raise RuntimeError("The actor died\nbecause of a long story")
            number += 1
            yield event.model_dump_json()

    def cancel(self) -> None:
        self.is_cancelled = True


class FakeHandle:
    """Meets what is used of Ray Serve's handles.

    Args:
        most: events after which an engine is lost.
    """

    def __init__(self, most: int = 1000) -> None:
        self.engine, self.most = FakeEngine(refused=("bad@1",)), most
        self.sessions: list[str] = []
        self.streams: list[FakeStream] = []
        self.method = ""

    def options(self, *, session_id: str, stream: bool = False) -> "FakeHandle":
        self.sessions.append(session_id)
        return self

    def __getattr__(self, name: str) -> "FakeHandle":
        self.method = name
        return self

    def remote(self, *words: str) -> Any:
        if self.method == "events":
            self.streams.append(FakeStream(self.engine, words[0], self.most))
            return self.streams[-1]
        return getattr(self, f"_{self.method}")(*words)

    async def _load(self, prompt: str, request_id: str) -> str:
        if prompt not in self.engine.refused:
            return ""
        error = ErrorEvent(id=request_id, error="ArtifactError", message="not for this model", status=409)
        return error.model_dump_json()

    async def _stats(self) -> str:
        return self.engine.stats().model_dump_json()


def request(**changes: Any) -> Request:
    values = {"id": "a", "prompts": ("movie@2",), "row": {"text": "one two three"}, "want": "write"}
    return Request(**{**values, **changes})


async def events_of(engine: Any, asked: Request) -> list[Event]:
    return [event async for event in engine.submit(asked)]


def test_events_come_through_and_a_prompt_is_a_session() -> None:
    handle = FakeHandle()
    engine = ClusterEngine(handle)
    events = asyncio.run(events_of(engine, request()))
    assert events == asyncio.run(events_of(FakeEngine(), request()))
    assert handle.sessions == ["movie@2"]
    assert not handle.streams[0].is_cancelled
    assert session_of(request(prompts=("a@1", "b@2"))) == "a@1 b@2"
    # The model alone: whose texts it may know.
    assert session_of(request(prompts=("",), tenant="t")) == "t"


def test_a_lost_engine_is_a_503_of_its_requests() -> None:
    handle = FakeHandle(most=2)
    *told, last = asyncio.run(events_of(ClusterEngine(handle), request()))
    assert [event.kind for event in told] == ["token", "token"]
    assert isinstance(last, ErrorEvent)
    assert (last.status, last.retry_after_s) == (503, 2.0)
    assert "a long story" not in last.message


def test_leaving_a_request_cancels_it() -> None:
    handle = FakeHandle()

    async def leave() -> None:
        events = ClusterEngine(handle).submit(request())
        await anext(events)
        await events.aclose()  # type: ignore[attr-defined]

    asyncio.run(leave())
    assert handle.streams[0].is_cancelled


def test_a_prompt_is_opened_where_it_is_asked_and_an_error_keeps_its_class() -> None:
    handle = FakeHandle()
    asyncio.run(ClusterEngine(handle).load("movie@2"))
    with pytest.raises(ArtifactError, match="not for this model"):
        asyncio.run(ClusterEngine(handle).load("bad@1"))
    assert handle.sessions == ["movie@2", "bad@1"]


def test_stats_are_those_of_a_moment_ago() -> None:
    async def seen() -> tuple[bool, bool]:
        handle = FakeHandle()
        engine = ClusterEngine(handle)
        before = engine.stats().is_ready
        await engine.start()
        await asyncio.sleep(0.05)
        after = engine.stats().is_ready
        await engine.stop()
        return before, after

    assert asyncio.run(seen()) == (False, True)


def test_a_cluster_of_no_engines_is_refused() -> None:
    with pytest.raises(ValidationError):
        Cluster(worker=WorkerOptions(store="s"), least_engines=0)
