"""The seam's records travel as JSON, and the fake keeps the contract that gateways are tested against."""

import asyncio

from fake_engine import FakeEngine
from overture.core.records.serving import EVENTS, DoneEvent, ErrorEvent, Request


async def events_of(engine, request):
    return [event async for event in engine.submit(request)]


def test_a_request_and_its_events_survive_json():
    request = Request(id="r1", prompts=("movie@2",), row={"text": "a b c"}, want="write", max_new_tokens=2)
    assert Request.model_validate_json(request.model_dump_json()) == request
    events = asyncio.run(events_of(FakeEngine(), request))
    assert [EVENTS.validate_json(event.model_dump_json()) for event in events] == events
    assert "".join(event.text for event in events[:-1]) == "a b"
    assert events[-1].finish == "length"


def test_closing_the_iterator_cancels():
    engine = FakeEngine()

    async def leave():
        events = engine.submit(Request(id="r1", prompts=("movie@2",), row={"text": "a b"}, want="write"))
        await anext(events)
        await events.aclose()

    asyncio.run(leave())
    assert engine.cancelled == ["r1"]
    assert not engine.running


def test_failures_are_events():
    failure = ErrorEvent(id="", error="Overloaded", message="wait", status=429, retry_after_s=2.0)
    request = Request(id="r1", prompts=("movie@2",), row={"text": "a"})
    (event,) = asyncio.run(events_of(FakeEngine(failure=failure), request))
    assert (event.id, event.status, event.retry_after_s) == ("r1", 429, 2.0)
    assert isinstance(asyncio.run(events_of(FakeEngine(), request))[-1], DoneEvent)
