"""What the gateway lets through: hosts, origins, keys, scopes, sizes, rates; what it logs; how connections end."""

import asyncio
import json
import os
import socket
import stat
import subprocess
import sys
import time

import pytest
from starlette.websockets import WebSocketDisconnect

from gateway import Gateway, ReadyEngine, fake_answer, served
from overture.core.errors import ConfigError
from overture.server.listen import bound_socket
from overture.server.security import (
    LOCAL,
    MAX_BODY_BYTES,
    OPEN_PATHS,
    Access,
    Visit,
    add_key,
    check_bind,
    read_keys,
)

ASK = {"prompt": "movie", "inputs": ["x"]}


@pytest.fixture
def keys(tmp_path):
    path = tmp_path / "keys.json"
    secrets = {"app": add_key(path, "app", "predict"), "root": add_key(path, "root", "admin")}
    return path, secrets


@pytest.fixture
def gateway(tmp_path, keys):
    audit = tmp_path / "audit.jsonl"
    made = Gateway(tmp_path / "store", access=Access(keys=read_keys(keys[0]), burst=20, rate_per_s=0.5), audit=audit)
    made.add("movie", "spam")
    yield made
    # A client that is not entered starts and stops nothing.
    made.watch.close()


def bearer(secret):
    return {"authorization": f"Bearer {secret}"}


def test_other_machines_need_a_key(keys):
    for host in ("127.0.0.1", "localhost", "::1", "127.8.8.8"):
        check_bind(host, ())
    for host in ("0.0.0.0", "::", "192.168.1.2", "example.com", ""):
        with pytest.raises(ConfigError) as refused:
            check_bind(host, ())
        assert (refused.value.where, refused.value.got) == ("--host", host)
        check_bind(host, read_keys(keys[0]))


def test_the_key_file_holds_digests_for_its_owner_alone(keys, tmp_path):
    path, secrets = keys
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not any(secret in path.read_text() for secret in secrets.values())
    assert [(key.name, key.scope) for key in read_keys(path)] == [("app", "predict"), ("root", "admin")]
    old = secrets["app"]
    assert add_key(path, "app", "predict") != old
    assert len(read_keys(path)) == 2
    path.chmod(0o640)
    with pytest.raises(ConfigError) as refused:
        read_keys(path)
    assert refused.value.got == "mode 640"
    with pytest.raises(ConfigError):
        read_keys(tmp_path / "none.json")


def test_every_route_but_health_wants_a_key(gateway, keys):
    with gateway.client() as client:
        app = asyncio.run(client.app.app.application()).routes
        routers = [getattr(route, "original_router", None) for route in app.routes]
        routes = [*app.routes, *(route for router in routers if router for route in router.routes)]
        paths = {(method, route.path) for route in routes for method in getattr(route, "methods", ())}
        assert {("GET", "/"), ("POST", "/enter"), ("POST", "/v1/predict")} < paths
        for method, path in sorted(paths - {("GET", "/static/{name}")}):
            reply = client.request(method, path.replace("{ref}", "movie").replace("{name}", "movie"), json={})
            assert (reply.status_code == 401) == (path not in OPEN_PATHS), (method, path)
        assert client.get("/static/other.css").status_code == 401
        assert client.get("/nothing").status_code == 401
        for wrong in ("", "Bearer", "Bearer x", f"Basic {keys[1]['app']}", f"Bearer {keys[1]['app']}x", "Bearer \xff"):
            reply = client.get("/v1/models", headers={"authorization": wrong.encode("latin-1")})
            assert (reply.status_code, reply.headers["www-authenticate"]) == (401, "Bearer")
        assert client.get("/v1/models", headers=bearer(keys[1]["app"])).status_code == 200


def test_there_are_no_websockets(gateway):
    with gateway.client() as client, pytest.raises(WebSocketDisconnect), client.websocket_connect("/health"):
        pass


def test_only_an_admin_changes_prompts(gateway, keys):
    changes = [
        ("PUT", "/v1/prompts/movie", {"manifest": {}}),
        ("DELETE", "/v1/prompts/movie", None),
        ("POST", "/v1/prompts/movie/alias", {"alias": "prod"}),
        ("POST", "/v1/prompts/movie/warm", None),
    ]
    with gateway.client(**bearer(keys[1]["app"])) as client:
        for method, path, body in changes:
            reply = client.request(method, path, json=body)
            assert (reply.status_code, reply.json()["error"]["code"]) == (403, "scope_not_allowed")
    assert gateway.store.versions("movie") == (1,)
    assert gateway.store.aliases("movie") == {}


def test_a_prompt_of_others_is_as_unknown_as_one_that_is_not(gateway, keys):
    limited = [key.model_copy(update={"prompts": ("mov*",)}) for key in read_keys(keys[0])]
    foreign = Gateway(gateway.store.root, access=Access(keys=tuple(limited)))
    with foreign.client(**bearer(keys[1]["app"])) as client:
        errors = [client.post("/v1/predict", json={**ASK, "prompt": name}).json()["error"] for name in ("spam", "spum")]
        assert errors[0]["code"] == errors[1]["code"] == "model_not_found"
        assert errors[0]["message"] == errors[1]["message"].replace("spum", "spam")
        assert [card["id"] for card in client.get("/v1/models").json()["data"]] == ["movie@1"]
        assert client.get("/metrics").status_code == 403


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"host": "evil.example"}, 403),
        ({"host": "evil.example:8000", "origin": "http://evil.example:8000"}, 403),
        ({"host": "127.0.0.1.evil.example"}, 403),
        ({"host": ""}, 403),
        ({"origin": "https://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "http://127.0.0.1:9"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-site"}, 403),
        ({"sec-fetch-site": "same-origin"}, 200),
        ({"origin": "http://127.0.0.1:8000", "sec-fetch-site": "same-origin"}, 200),
        ({"host": "[::1]:8000"}, 200),
        ({"host": "LOCALHOST"}, 200),
    ],
)
def test_other_names_and_other_sites_are_refused(tmp_path, headers, status):
    gateway = Gateway(tmp_path)
    gateway.add("movie")
    with gateway.client() as client:
        for reply in (client.post("/v1/predict", json=ASK, headers=headers), client.get("/health", headers=headers)):
            assert reply.status_code == status
            assert "access-control-allow-origin" not in reply.headers
            assert reply.headers["x-frame-options"] == "DENY"
            assert "default-src 'none'" in reply.headers["content-security-policy"]
            assert reply.headers["x-request-id"]


def test_a_body_has_a_size_a_type_and_a_list_an_end(tmp_path):
    gateway = Gateway(tmp_path)
    gateway.add("movie")
    with gateway.client() as client:
        large = json.dumps({**ASK, "inputs": ["x" * MAX_BODY_BYTES]})
        kind = {"content-type": "application/json"}
        refused = client.post("/v1/predict", content=large, headers=kind)
        assert (refused.status_code, refused.json()["error"]["code"]) == (413, "body_too_large")

        def pieces():
            yield from (b"x" * 65536 for _ in range(20))

        assert client.post("/v1/predict", content=pieces(), headers=kind).status_code == 413
        assert (
            client.post("/v1/predict", content=json.dumps(ASK), headers={"content-type": "text/plain"}).status_code
            == 400
        )
        assert client.post("/v1/predict", json={**ASK, "inputs": ["x"] * 257}).status_code == 400
        assert client.post("/v1/predict", json={**ASK, "prompt": ["movie"] * 65}).status_code == 400
        questions = {f"q{number}": {"type": "noul"} for number in range(65)}
        assert client.post("/v1/systemone", json={"state": "x", "questions": questions}).status_code == 400


def test_a_key_that_sends_too_much_waits(gateway, keys):
    with gateway.client(**bearer(keys[1]["app"])) as client:
        statuses = [client.get("/ready").status_code for _ in range(25)]
        assert statuses[:20] == [200] * 20
        assert statuses[-1] == 429
        assert client.get("/ready").headers["retry-after"] in ("1", "2", "3")
        assert client.get("/ready", headers=bearer(keys[1]["root"])).status_code == 200
        assert client.get("/health").status_code == 200


def test_the_audit_log_has_who_and_what_and_no_text(gateway, keys, tmp_path):
    with gateway.client(**bearer(keys[1]["app"])) as client:
        reply = client.post("/v1/predict", json={**ASK, "inputs": ["very private"]})
        client.get("/v1/models", headers=bearer("wrong"))
    text = (tmp_path / "audit.jsonl").read_text()
    first, second = map(json.loads, text.splitlines())
    assert (first["key"], first["prompts"], first["status"], first["input_tokens"]) == ("app", ["movie@1"], 200, 1)
    assert first["id"] == reply.headers["x-request-id"]
    assert second["status"] == 401
    assert "private" not in text
    assert not any(secret in text for secret in keys[1].values())


def test_metrics_name_at_most_a_hundred_prompts(tmp_path):
    gateway = Gateway(tmp_path)
    for number in range(150):
        gateway.watch.finished(Visit(LOCAL, "/v1/predict", prompts=(f"p{number}@1",), status=200))
    lines = [line for line in gateway.watch.text().decode().splitlines() if line.startswith("overture_requests_total")]
    assert len(lines) == 101
    assert any('prompt="other"' in line and line.endswith(" 50.0") for line in lines)


def test_a_request_that_takes_too_long_is_504_and_cancelled(tmp_path):
    engine = ReadyEngine(answer=fake_answer, delay_s=5.0)
    gateway = Gateway(tmp_path, engine, Access(max_request_s=0.1))
    gateway.add("movie")
    with gateway.client() as client:
        assert client.post("/v1/predict", json=ASK).status_code == 504
    assert not engine.running


# -- real connections


def test_connections_bring_a_request_in_time_or_end(tmp_path):
    engine = ReadyEngine(answer=fake_answer, delay_s=0.3)
    gateway = Gateway(tmp_path, engine)
    gateway.add("movie", "summary")
    head = b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\ncontent-type: application/json\r\n"
    body = json.dumps(ASK).encode()
    whole = head + b"content-length: %d\r\n\r\n" % len(body) + body
    with served(gateway.app) as port:

        def answer_to(data, closes_writing=False):
            with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
                connection.sendall(data)
                if closes_writing:
                    connection.shutdown(socket.SHUT_WR)
                received, started = b"", time.monotonic()
                while part := connection.recv(65536):
                    received += part
                return received, time.monotonic() - started

        for part in (b"", b"GET /health HTTP/1.1\r\nHos", head + b"content-length: 100\r\n\r\nabc"):
            received, seconds = answer_to(part)
            assert received == b""
            assert 0.3 < seconds < 3
        lies = head + b"transfer-encoding: chunked\r\n\r\nZZZ\r\n"
        assert answer_to(lies)[0].startswith(b"HTTP/1.1 400")
        assert answer_to(b"\x16\x03\x01\x02\x00\x01\x00")[0].startswith(b"HTTP/1.1 400")
        last = whole.replace(b"Host: localhost", b"Host: localhost\r\nconnection: close")
        no_chunks = whole.replace(b"content-length", b"transfer-encoding: chunked\r\nx") + b"\r\n"
        assert answer_to(no_chunks)[0].count(b"HTTP/1.1") == 1
        pipelined, _ = answer_to(whole + last)
        assert pipelined.count(b"HTTP/1.1 200") == 2
        assert answer_to(last, closes_writing=True)[0].count(b"HTTP/1.1 200") in (0, 1)
        # A stream that lasts longer than a request may take to arrive is whole.
        question = json.dumps({"model": "summary", "prompt": "a b c d", "stream": True}).encode()
        stream = last.partition(b"content-length")[0].replace(b"predict", b"completions")
        received, seconds = answer_to(stream + b"content-length: %d\r\n\r\n" % len(question) + question)
        assert received.count(b"data: ") == 7 - 1
        assert seconds > 1
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(stream + b"content-length: %d\r\n\r\n" % len(question) + question)
            connection.recv(100)
        deadline = time.monotonic() + 3
        while engine.running and time.monotonic() < deadline:
            time.sleep(0.02)
        assert not engine.running


def test_a_taken_port_is_told_clearly():
    taken = bound_socket("127.0.0.1", 0)
    taken.listen()
    port = taken.getsockname()[1]
    with pytest.raises(ConfigError) as refused:
        bound_socket("127.0.0.1", port)
    assert refused.value.where == f"127.0.0.1:{port}"
    with pytest.raises(ConfigError):
        bound_socket("203.0.113.7", port)
    taken.close()


def test_the_gateway_loads_no_torch():
    heavy = "('torch', 'transformers', 'scipy')"
    code = f"import sys, overture.server.app, overture.server.listen; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ)
    assert done.stdout.strip() == "[]"


def test_the_openai_client_works_unchanged(tmp_path):
    openai = pytest.importorskip("openai")
    gateway = Gateway(tmp_path, serves_base=True)
    gateway.add("movie", "summary")
    with (
        served(gateway.app) as port,
        openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0) as client,
    ):
        assert [model.id for model in client.models.list()] == ["tiny", "movie@1", "summary@1"]
        assert client.models.retrieve("movie").id == "movie@1"
        messages = [{"role": "user", "content": "a b c"}]
        chat = client.chat.completions.create(model="summary", messages=messages, logprobs=True, top_logprobs=2)
        assert (chat.model, chat.choices[0].message.content, chat.usage.completion_tokens) == (
            "summary@1",
            "a b c",
            3,
        )
        stream = client.chat.completions.create(model="summary", messages=messages, stream=True)
        assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == "a b c"
        assert client.completions.create(model="movie", prompt="fine").choices[0].text == "positive"
        with pytest.raises(openai.NotFoundError) as unknown:
            client.chat.completions.create(model="sumary", messages=messages)
        assert "summary" in unknown.value.message
        with pytest.raises(openai.BadRequestError):
            client.chat.completions.create(model="summary", messages=messages, n=3)


def test_a_stream_that_is_left_early_is_cancelled(tmp_path):
    engine = ReadyEngine(answer=fake_answer, delay_s=0.01)
    gateway = Gateway(tmp_path, engine)
    gateway.add("summary")
    body = json.dumps({"model": "summary", "prompt": " ".join("a" * 500), "stream": True}).encode()
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/v1/completions",
        "raw_path": b"/v1/completions",
        "query_string": b"",
        "headers": [(b"host", b"localhost"), (b"content-type", b"application/json")],
        "http_version": "1.1",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
    }

    async def leave():
        sent, messages = [], [{"type": "http.request", "body": body, "more_body": False}]
        gone = asyncio.Event()

        async def receive():
            if messages:
                return messages.pop()
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(message):
            sent.append(message)
            if len(sent) > 3:
                gone.set()

        await asyncio.wait_for(gateway.app(scope, receive, send), 5)
        return sent

    assert len(asyncio.run(leave())) < 50
    assert not engine.running
