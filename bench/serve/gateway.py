"""The gateway on a fake engine: many prompts, alias moves and kills under load, clients that leave or say nothing.

python bench/serve/gateway.py [--out FILE] [PART ...]
"""

import argparse
import asyncio
import base64
import hashlib
import json
import multiprocessing
import os
import random
import re
import socket
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx2 as httpx
import psutil

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests"))
from gateway_start import filled_store
from made_requests import Makes

from gateway import BACKBONE, SHOWN, TASKS, Gateway, ReadyEngine, fake_answer, manifest_of, tensor_file
from overture.core.records.serving import WorkerOptions
from overture.server import link
from overture.server.link import WorkerEngine
from overture.server.listen import bound_socket, uvicorn_server
from overture.server.security import Access, Key

MOVIE = {"prompt": "movie", "inputs": ["x"]}
URL = "http://127.0.0.1:8000"
HEAD = b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\ncontent-type: application/json\r\n"


def percentile(values: list[float], share: float) -> float:
    return round(sorted(values)[min(len(values) - 1, int(share * len(values)))], 2)


def client_of(gateway: Gateway) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(gateway.app, raise_app_exceptions=False), base_url=URL)


def many_prompts(num: int = 10_000) -> dict[str, Any]:
    """A store of many prompts: opening it, looking for what is not served, a page of models, memory."""
    root = filled_store(Path(tempfile.mkdtemp()), num)
    before, started = psutil.Process().memory_info().rss, time.process_time()
    gateway = Gateway(root)
    gateway.registry.names()
    opened = time.process_time()
    refused = gateway.registry.refused()
    checked = time.process_time()

    async def pages() -> list[float]:
        times = []
        async with client_of(gateway) as client:
            for number in range(40):
                begin = time.process_time()
                reply = await client.get("/v1/models", params={"limit": 100, "after": f"p{250 * number:05d}@1"})
                times.append(1000 * (time.process_time() - begin))
                assert len(reply.json()["data"]) > 90
        return times

    return {
        "prompts": num,
        "open_cpu_s": round(opened - started, 2),
        "check_all_cpu_s": round(checked - opened, 2),
        "refused": len(refused),
        "page_of_100_cpu_ms_median": percentile(asyncio.run(pages()), 0.5),
        "rss_added_mb": round((psutil.Process().memory_info().rss - before) / 1e6, 1),
    }


def overhead(num: int = 1000) -> dict[str, Any]:
    """CPU time of one typed request, the client's share included."""
    gateway = Gateway(Path(tempfile.mkdtemp()))
    gateway.add("movie")

    async def ask() -> float:
        async with client_of(gateway) as client:
            begin = time.process_time()
            for _ in range(num):
                assert (await client.post("/v1/predict", json=MOVIE)).status_code == 200
            return 1000 * (time.process_time() - begin) / num

    return {"requests": num, "cpu_ms_each": round(asyncio.run(ask()), 2)}


def alias_moves(num: int = 4000) -> dict[str, Any]:
    """Requests by an alias that moves all the time: none fails, and each after a move is of the new version."""
    gateway = Gateway(Path(tempfile.mkdtemp()), ReadyEngine(answer=fake_answer, delay_s=0.001))
    gateway.add("movie", "movie")
    gateway.store.move_alias("movie@1", "prod")
    times, counts = [], {"failed": 0, "mixed": 0, "old_after_move": 0, "moves": 0, "requests": 0}

    async def ask(client: httpx.AsyncClient) -> str:
        counts["requests"] += 1
        body = {"prompt": ["movie@prod", "movie@prod"], "inputs": ["x", "y"]}
        reply = await client.post("/v1/predict", json=body)
        counts["failed"] += reply.status_code != 200
        refs = {ref for result in reply.json()["results"] for ref in result["answers"]}
        counts["mixed"] += len(refs) != 1
        return refs.pop()

    async def load(client: httpx.AsyncClient) -> None:
        while counts["requests"] < num:
            await ask(client)

    async def move(client: httpx.AsyncClient) -> None:
        while counts["requests"] < num:
            version, begin = counts["moves"] % 2 + 1, time.monotonic()
            await client.post("/v1/prompts/movie/alias", json={"alias": "prod", "version": version})
            counts["old_after_move"] += await ask(client) != f"movie@{version}"
            times.append(1000 * (time.monotonic() - begin))
            counts["moves"] += 1

    async def both() -> None:
        async with client_of(gateway) as client:
            await asyncio.gather(move(client), *(load(client) for _ in range(4)))

    asyncio.run(both())
    return {**counts, "move_to_new_answer_ms_median": percentile(times, 0.5), "p95": percentile(times, 0.95)}


def disconnects(num: int = 10_000) -> dict[str, Any]:
    """Clients that leave a stream or a request at a random moment: no request goes on in the engine."""
    engine = ReadyEngine(answer=fake_answer, delay_s=0.001)
    gateway = Gateway(Path(tempfile.mkdtemp()), engine)
    gateway.add("movie", "summary")
    headers = [(b"host", b"localhost"), (b"content-type", b"application/json")]

    async def leave(number: int) -> None:
        is_stream = number % 2 == 0
        body = (
            {"model": "summary", "prompt": "a " * 40, "stream": True}
            if is_stream
            else {"prompt": "movie", "inputs": ["x"] * 8}
        )
        path = "/v1/completions" if is_stream else "/v1/predict"
        messages = [{"type": "http.request", "body": json.dumps(body).encode(), "more_body": False}]
        scope = {"type": "http", "method": "POST", "path": path, "raw_path": path.encode(), "query_string": b""}
        scope |= {"headers": headers, "http_version": "1.1", "asgi": {"version": "3.0", "spec_version": "2.3"}}

        async def receive() -> dict[str, Any]:
            if messages:
                return messages.pop()
            await asyncio.sleep(random.random() * 0.05)
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            del message

        await gateway.app(scope, receive, send)

    async def all_leave() -> None:
        for first in range(0, num, 50):
            await asyncio.gather(*(leave(number) for number in range(first, first + 50)))

    asyncio.run(all_leave())
    return {"disconnects": num, "cancelled_in_engine": len(engine.cancelled), "leaked": len(engine.running)}


def half_open(num: int = 500) -> dict[str, Any]:
    """Connections that begin a request and fall silent, beside one that asks on."""
    gateway = Gateway(Path(tempfile.mkdtemp()))
    gateway.add("movie")
    bound = bound_socket("127.0.0.1", 0)
    port, server = bound.getsockname()[1], uvicorn_server(gateway.app)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]}, daemon=True)
    thread.start()
    with httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:

        def asked(seconds: float) -> list[float]:
            times, end = [], time.monotonic() + seconds
            while time.monotonic() < end:
                begin = time.monotonic()
                assert client.post("/v1/predict", json=MOVIE).status_code == 200
                times.append(1000 * (time.monotonic() - begin))
            return times

        asked(1.0)
        alone, silent = asked(4.0), []
        begin = time.monotonic()
        for _ in range(num):
            connection = socket.create_connection(("127.0.0.1", port))
            connection.sendall(HEAD)
            silent.append(connection)
        opened = time.monotonic()
        beside = asked(4.0)
        for connection in silent:
            connection.settimeout(30)
            assert connection.recv(1) == b""
            connection.close()
        closed = time.monotonic()
    server.should_exit = True
    thread.join()
    return {
        "connections": num,
        "p99_ms_alone": percentile(alone, 0.99),
        "p99_ms_beside": percentile(beside, 0.99),
        "median_ms_alone": percentile(alone, 0.5),
        "median_ms_beside": percentile(beside, 0.5),
        "last_closed_s_after_first_opened": round(closed - begin, 1),
        "last_closed_s_after_last_opened": round(closed - opened, 1),
    }


def raw_requests(num: int = 10_000) -> dict[str, Any]:
    """Damaged requests over sockets: each is answered or closed in time, none with a 5xx; a good one still works."""
    gateway = Gateway(Path(tempfile.mkdtemp()))
    gateway.add("movie")
    bound = bound_socket("127.0.0.1", 0)
    port, server, draw = bound.getsockname()[1], uvicorn_server(gateway.app, 1.0), random.Random(0)
    counts = {"requests": num, "answered": 0, "server_errors": 0, "closed": 0, "hung": 0}
    body = json.dumps(MOVIE).encode()
    whole = HEAD + b"content-length: %d\r\n\r\n" % len(body) + body
    chunked = HEAD + b"transfer-encoding: chunked\r\n\r\n%x\r\n" % len(body) + body + b"\r\n0\r\n\r\n"

    def damaged() -> bytes:
        health = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
        raw = bytearray(draw.choice([whole, chunked, whole + whole, health]))
        for _ in range(draw.randrange(4)):
            first = draw.randrange(len(raw) + 1)
            noise = bytes(draw.randrange(256) for _ in range(draw.randrange(9)))
            part = draw.choice([b"", noise, raw[: draw.randrange(99)]])
            raw[first : first + draw.randrange(9)] = part
        return bytes(raw)

    async def send(raw: bytes) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(raw)
            if draw.random() < 0.3:
                writer.write_eof()
            reply = await asyncio.wait_for(reader.read(65536), 20)
            counts["answered" if reply else "closed"] += 1
            counts["server_errors"] += reply[9:10] == b"5"
        except ConnectionError:
            counts["closed"] += 1
        except TimeoutError:
            counts["hung"] += 1
        finally:
            writer.close()

    async def all_sent() -> None:
        serving = asyncio.create_task(server.serve([bound]))
        while not server.started:
            await asyncio.sleep(0.01)
        for _ in range(0, num, 100):
            await asyncio.gather(*(send(damaged()) for _ in range(100)))
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
            assert (await client.post("/v1/predict", json=MOVIE)).is_success
        server.should_exit = True
        await serving

    asyncio.run(all_sent())
    return {**counts, "leaked": len(gateway.engine.running)}


def kills(num: int = 200) -> dict[str, Any]:
    """A server that is killed at random moments while prompts are uploaded: what it acknowledged is there.

    Moments are drawn over about four uploads, as long as they take now, behind each server's first, which also imports.
    """
    root = Path(tempfile.mkdtemp())
    manifest = manifest_of("movie").model_dump(mode="json")
    kept: list[str] = []
    ready: list[float] = []
    upload_s: list[float] = []
    context = multiprocessing.get_context("fork")

    def served(bound: socket.socket) -> None:
        uvicorn_server(Gateway(root).app).run(sockets=[bound])

    for _ in range(num):
        bound = bound_socket("127.0.0.1", 0)
        port, begin = bound.getsockname()[1], time.monotonic()
        process = context.Process(target=served, args=(bound,))
        process.start()
        bound.close()
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120) as client:
            client.get("/ready")
            ready.append(time.monotonic() - begin)
            timer: threading.Timer | None = None
            try:
                for number in count():
                    if timer is None and number and len(upload_s) > 2:
                        timer = threading.Timer(random.uniform(0.0, 4 * statistics.median(upload_s)), process.kill)
                        timer.start()
                    begin = time.monotonic()
                    reply = client.put("/v1/prompts/movie", json={"manifest": manifest, "tensors": TENSORS})
                    kept.append(reply.json()["prompt"])
                    if number:
                        upload_s.append(time.monotonic() - begin)
            except httpx.HTTPError:
                process.join()
    gateway = Gateway(root)
    lost = [ref for ref in kept if int(ref.partition("@")[2]) not in gateway.store.versions("movie")]
    damaged = [entry for entry in gateway.store.list() if entry.problem]
    return {
        "kills": num,
        "acknowledged": len(kept),
        "lost": len(lost),
        "damaged": len(damaged),
        "given_twice": len(kept) - len(set(kept)),
        "ready_again_s_median": round(statistics.median(ready), 3),
        "ready_again_s_max": round(max(ready), 3),
    }


def worker_kills(num: int = 200) -> dict[str, Any]:
    """A worker without a model that is killed again and again under load: the gateway answers on, as does the next."""
    root, counts = Path(tempfile.mkdtemp()), Counter[str]()
    outages: list[float] = []
    command = (sys.executable, "-S", "-c", WORKER, json.dumps(BACKBONE), json.dumps(SHOWN["movie"]))
    engine = WorkerEngine(WorkerOptions(store=str(root)), command=command)
    gateway = Gateway(root, engine)
    gateway.add("movie")

    async def load(client: httpx.AsyncClient) -> None:
        while counts["kills"] < num:
            reply = await client.post("/v1/predict", json=MOVIE)
            counts[f"status {reply.status_code}"] += 1
            counts["health failed"] += (await client.get("/health")).status_code != 200
            await asyncio.sleep(0.002)

    async def killing() -> None:
        while counts["kills"] < num:
            while not engine.stats().is_ready:
                await asyncio.sleep(0.002)
            await asyncio.sleep(random.uniform(0.0, 0.05))
            # Pauses between early deaths would grow to half a minute.
            link._MOST_PAUSE_S, begin = 0.0, time.monotonic()
            engine._process.kill()
            counts["kills"] += 1
            while engine.stats().is_ready:
                await asyncio.sleep(0.002)
            while not engine.stats().is_ready:
                await asyncio.sleep(0.002)
            outages.append(time.monotonic() - begin)

    async def both() -> None:
        await engine.start()
        try:
            async with client_of(gateway) as client:
                await asyncio.gather(killing(), *(load(client) for _ in range(8)))
        finally:
            await engine.stop(0.1)

    asyncio.run(both())
    return {**counts, "ready_again_s_median": round(statistics.median(outages), 3), "ready_again_s_max": max(outages)}


def name_timing(num: int = 1000) -> dict[str, Any]:
    """A key that may use few prompts asks for names of others and for names of none: can it tell them by the time?"""
    root = Path(tempfile.mkdtemp())
    digest = hashlib.sha256(b"secret").hexdigest()
    key = Key(name="b", sha256=digest, prompts=("own*",))
    access = Access(keys=(key,), rate_per_s=1e6, burst=10**6)
    gateway = Gateway(root, access=access)
    gateway.add(*TASKS)
    times: dict[bool, list[float]] = {True: [], False: []}
    headers = {"authorization": "Bearer secret"}

    async def probes() -> None:
        async with client_of(gateway) as client:
            for number in range(num + 50):
                is_there = random.random() < 0.5
                name = random.choice([*TASKS] if is_there else ["movia", "spem", "topicz", "namez", "abc"])
                begin = time.process_time()
                reply = await client.post("/v1/predict", json={**MOVIE, "prompt": name}, headers=headers)
                if number >= 50:
                    times[is_there].append(time.process_time() - begin)
                assert reply.status_code == 404

    asyncio.run(probes())
    return {"probes": num, "auc": round(auc(times[True], times[False]), 3)}


def auc(positive: list[float], negative: list[float]) -> float:
    """How often one of the first is larger than one of the second, equal ones counted half."""
    pairs = [(a > b) + 0.5 * (a == b) for a in positive for b in negative]
    return sum(pairs) / len(pairs)


def random_requests(num: int = 100_000) -> dict[str, Any]:
    """Requests made by chance from the OpenAPI schema, most of them damaged somewhere: no 5xx, errors of one shape."""
    gateway = Gateway(Path(tempfile.mkdtemp()), serves_base=True)
    gateway.add(*TASKS)
    counts, shapeless = Counter[str](), 0
    rss: list[float] = []

    async def all_sent() -> None:
        nonlocal shapeless
        await gateway.engine.start()
        async with client_of(gateway) as client:
            schema = (await client.get("/openapi.json")).json()
            makes = Makes(schema["components"]["schemas"], random.Random(0))
            routes = [
                (method.upper(), path, about)
                for path, by_method in schema["paths"].items()
                for method, about in by_method.items()
                if method != "delete" and path.startswith(("/v1", "/tokenize", "/health", "/ready", "/metrics"))
            ]
            for number in range(num):
                method, path, about = makes.chance.choice(routes)
                path = re.sub(r"\{\w+\}", lambda _: quote(makes.name(), safe=""), path)
                content = about.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema")
                options: dict[str, Any] = {"headers": {"content-type": "application/json"}}
                if content is not None:
                    options["content"] = makes.body(content)
                if makes.chance.random() < 0.3:
                    options["params"] = {makes.chance.choice(["limit", "after", "name", "x"]): makes.text()}
                reply = await client.request(method, path, **options)
                counts[str(reply.status_code)] += 1
                if reply.status_code >= 400:
                    error = reply.json().get("error", {})
                    shapeless += not (error.get("message") and error.get("code") and error.get("type"))
                    shapeless += reply.status_code == 400 and not error.get("param")
                # The stand-in for the model keeps what it was asked, for tests; the server does not.
                gateway.engine.requests.clear()
                if number % (num // 10) == num // 20:
                    rss.append(round(psutil.Process().memory_info().rss / 1e6, 1))

    asyncio.run(all_sent())
    return {
        "requests": num,
        "by_status": dict(sorted(counts.items())),
        "server_errors": sum(count for status, count in counts.items() if status.startswith("5")),
        "errors_without_field_or_reason": shapeless,
        "rss_mb": rss,
        "leaked": len(gateway.engine.running),
    }


TENSORS = base64.b64encode(tensor_file()).decode()
WORKER = """
import json, os, socket, sys
link = socket.socket(fileno=int(sys.argv[3]))
file = link.makefile("rwb")
stats = {"backbone": json.loads(sys.argv[1]), "tokens_per_s": 1000.0}
def tell(*events):
    file.write(json.dumps({"events": events, "stats": stats}).encode() + b"\\n")
    file.flush()
tell()
for line in file:
    request = json.loads(line)["request"]
    answers = {prompt: json.loads(sys.argv[2]) for prompt in request["prompts"]}
    answered = {"kind": "answers", "id": request["id"], "answers": answers}
    tell(answered, {"kind": "done", "id": request["id"]})
"""
PARTS: dict[str, Callable[..., dict[str, Any]]] = {
    part.__name__: part
    for part in (
        many_prompts,
        overhead,
        alias_moves,
        disconnects,
        raw_requests,
        half_open,
        kills,
        worker_kills,
        name_timing,
        random_requests,
    )
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[[], *PARTS], default=[])
    parser.add_argument("--num", type=int, help="how often each part does what it does; its own number if left out")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    numbers = [] if arguments.num is None else [arguments.num]
    kept = json.loads(arguments.out.read_text()) if arguments.out and arguments.out.is_file() else {}
    result: dict[str, Any] = {**kept, "command": "python bench/serve/gateway.py PART ... [--num N]"}
    for name in arguments.parts or PARTS:
        result[name] = {**PARTS[name](*numbers), "load": round(os.getloadavg()[0], 1)}
        print(name, json.dumps(result[name]), flush=True)
    if arguments.out:
        arguments.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
