"""The engine of a cluster, on a stand-in for Ray Serve's handle: sessions, lost engines, cancelled requests, errors."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from pydantic import ValidationError

from fake_engine import FakeEngine
from overture.core.errors import ArtifactError, NotReady
from overture.core.records.serving import ErrorEvent, Event, Request, WorkerOptions
from overture.server.on_ray import Cluster, ClusterEngine, session_of


class FakeStream:
    """Events as they travel; cancelling is noted."""

    def __init__(self, engine: FakeEngine, request: str, most: int) -> None:
        self.is_cancelled = False
        self.texts = self.sent(engine.submit(Request.model_validate_json(request)), most)

    async def sent(self, events: AsyncIterator[Event], most: int) -> AsyncIterator[str]:
        if most < 0:
            await asyncio.sleep(60)
        yield ""
        number = 0
        async for event in events:
            if number == most:
                raise RuntimeError("The actor died\nbecause of a long story")
            number += 1
            yield event.model_dump_json()

    def __aiter__(self) -> "FakeStream":
        return self

    async def __anext__(self) -> str:
        return await anext(self.texts)

    def cancel(self) -> None:
        self.is_cancelled = True


class FakeHandle:
    """Meets what is used of Ray Serve's handles.

    Args:
        most: events after which an engine is lost; -1 where no engine takes the request.
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

    async def _tokenize(self, text: str) -> list[int]:
        raise RuntimeError("The actor died\nbecause of a long story")

    async def _stats(self) -> str:
        if self.most < 0:
            await asyncio.sleep(60)
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


def test_a_request_that_no_engine_takes_is_a_503_in_time() -> None:
    handle = FakeHandle(most=-1)
    (last,) = asyncio.run(events_of(ClusterEngine(handle, max_wait_s=0.05), request()))
    assert isinstance(last, ErrorEvent)
    assert (last.status, last.retry_after_s) == (503, 2.0)
    assert handle.streams[0].is_cancelled


def test_a_lost_engine_is_not_ready_for_what_is_no_request() -> None:
    with pytest.raises(NotReady) as lost:
        asyncio.run(ClusterEngine(FakeHandle()).tokenize("a text"))
    assert "a long story" not in str(lost.value)


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


def test_engines_that_do_not_reply_are_not_ready() -> None:
    async def seen() -> bool:
        handle = FakeHandle()
        engine = ClusterEngine(handle, max_wait_s=0.05)
        await engine.start()
        await asyncio.sleep(0.02)
        assert engine.stats().is_ready
        handle.most = -1
        await asyncio.sleep(1.2)
        after = engine.stats().is_ready
        await engine.stop()
        return after

    assert not asyncio.run(seen())


def test_a_cluster_of_no_engines_is_refused() -> None:
    with pytest.raises(ValidationError):
        Cluster(worker=WorkerOptions(store="s"), least_engines=0)
