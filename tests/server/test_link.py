"""The gateway outlives its worker: restarts, 503, deadlines, cancels; by a worker without a model."""

import asyncio
import subprocess
import sys

import pytest

from overture.core.errors import BackboneError, StoreError
from overture.core.records.serving import Request, WorkerOptions
from overture.server import link
from overture.server.link import WorkerEngine

# Answers rows by their text: "die" ends the process, "long" sends no line's end, "hang" nothing, all else
# is echoed.
WORKER = """
import os, socket, sys
from overture.core.records.serving import *
connection = socket.socket(fileno=int(sys.argv[1]))
def send(events=(), outcomes=()):
    stats = EngineStats(tokens_per_s=1000.0, backbone={"id": "fake"})
    report = Report(events=events, outcomes=outcomes, stats=stats)
    connection.sendall(report.model_dump_json().encode() + b"\\n")
if "broken" in sys.argv[2]:
    failed = Report(stats=EngineStats(is_ready=False, failure="there is no such model"))
    connection.sendall(failed.model_dump_json().encode() + b"\\n")
    sys.exit()
send()
for line in connection.makefile():
    command = Command.model_validate_json(line)
    if command.do == "ask":
        text = command.request.row["text"]
        if text == "die":
            os._exit(9)
        if text == "long":
            connection.sendall(b"x" * 2000)
        if text != "hang":
            send([TokenEvent(id=command.id, text=text), DoneEvent(id=command.id)])
    elif command.do == "load":
        error = ErrorEvent(id=command.id, error="StoreError", message="no such prompt", status=404)
        send(outcomes=[Outcome(id=command.id, error=error if command.text == "none@1" else None)])
    elif command.do == "tokenize":
        send(outcomes=[Outcome(id=command.id, tokens=tuple(command.text.encode()))])
    elif command.do == "cancel":
        send([TokenEvent(id=command.id, text="too late")])
"""


def run(test, **options):
    """Run a test with an engine that is started and stopped."""

    async def whole():
        command = (sys.executable, "-c", WORKER)
        engine = WorkerEngine(WorkerOptions(store="store", **options), command=command)
        await engine.start()
        try:
            async with asyncio.timeout(20):
                return await test(engine)
        finally:
            await engine.stop(grace_s=0.1)

    return asyncio.run(whole())


def ask(number, text, **others) -> Request:
    return Request(id=str(number), prompts=("p@1",), row={"text": text}, want="write", **others)


def test_a_process_that_is_there_before_the_loop_is_used():
    engine = WorkerEngine(WorkerOptions(store="store"), command=(sys.executable, "-c", WORKER))
    engine.spawn()
    process = engine._process

    async def test():
        await engine.start()
        async with asyncio.timeout(20):
            answer = await events_of(engine, ask(0, "hello"))
        assert engine._process is process
        await engine.stop(grace_s=0.1)
        return [event.kind for event in answer]

    assert asyncio.run(test()) == ["token", "done"]
    assert process.poll() is not None


async def events_of(engine, request):
    return [event async for event in engine.submit(request)]


async def ready(engine):
    while not engine.stats().is_ready:
        await asyncio.sleep(0.01)


def test_requests_are_answered_and_stats_are_the_workers():
    async def test(engine):
        # They wait while the model is loaded.
        answers = await asyncio.gather(*(events_of(engine, ask(n, f"text {n}")) for n in range(50)))
        assert [events[0].text for events in answers] == [f"text {n}" for n in range(50)]
        stats = engine.stats()
        assert (stats.is_ready, stats.is_alive, stats.backbone) == (True, True, {"id": "fake"})
        assert (stats.queued, stats.running, stats.restarts) == (0, 0, 0)
        assert await engine.tokenize("ab") == (97, 98)
        await engine.load("some@1")
        with pytest.raises(StoreError):
            await engine.load("none@1")

    run(test)


def test_a_worker_that_dies_is_started_again_and_those_that_wait_are_answered():
    async def test(engine):
        await ready(engine)
        lost = [asyncio.create_task(events_of(engine, ask(0, "hang")))]
        await asyncio.sleep(0.05)
        lost.append(asyncio.create_task(events_of(engine, ask(1, "die"))))
        for task in lost:
            (error,) = await task
            assert (error.status, error.retry_after_s is not None) == (503, True)
        assert engine.stats().running == 0
        assert [event.kind for event in await events_of(engine, ask(2, "again"))] == ["token", "done"]
        assert engine.stats().restarts == 1

    run(test)


def test_a_worker_that_sends_too_long_a_line_or_cannot_be_started_is_tried_again(monkeypatch):
    monkeypatch.setattr(link, "_LINE_BYTES", 1000)

    async def test(engine):
        await ready(engine)
        start, failures = subprocess.Popen, [OSError("no process")]

        def started(*args, **options):
            if failures:
                raise failures.pop()
            return start(*args, **options)

        monkeypatch.setattr(subprocess, "Popen", started)
        assert (await events_of(engine, ask(0, "long")))[0].status == 503
        assert [event.kind for event in await events_of(engine, ask(1, "again"))] == ["token", "done"]
        assert (failures, engine.stats().restarts) == ([], 2)

    run(test)


def test_deadlines_and_cancels_leave_nothing_behind():
    async def test(engine):
        await ready(engine)
        (error,) = await events_of(engine, ask(0, "hang", deadline_s=0.2))
        assert error.status == 504
        events = engine.submit(ask(1, "hang"))
        waiting = asyncio.create_task(anext(events))
        await asyncio.sleep(0.05)
        assert engine.stats().running == 1
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert (engine.stats().running, engine._inboxes) == (0, {})

    run(test)


def test_too_many_requests_are_refused_with_the_time_to_wait():
    async def test(engine):
        await ready(engine)
        tasks = [asyncio.create_task(events_of(engine, ask(n, "hang", max_new_tokens=1000))) for n in range(64)]
        await asyncio.sleep(0.05)
        (error,) = await events_of(engine, ask("late", "hang"))
        assert (error.status, error.retry_after_s > 0) == (429, True)
        for task in tasks:
            task.cancel()

    run(test)


def test_a_model_that_cannot_be_loaded_is_said_and_not_tried_again():
    async def test(engine):
        (error,) = await events_of(engine, ask(0, "text"))
        assert (error.status, error.message) == (503, "there is no such model")
        assert (await events_of(engine, ask(1, "text")))[0].status == 503
        assert (engine.stats().restarts, engine.stats().is_alive) == (0, False)
        with pytest.raises(BackboneError):
            await engine.load("some@1")

    run(test, backbone="broken")
