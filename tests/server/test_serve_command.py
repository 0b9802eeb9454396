"""``overture serve``: what it refuses, keys, and a run from the first line to Ctrl-C on a worker of its own."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import HTTPCookieProcessor, Request, build_opener, urlopen

import pytest
from typer.testing import CliRunner

from gateway import Gateway
from overture.cli.app import app
from overture.server.listen import bound_socket
from overture.server.security import add_key, read_keys

WORKER = """
import json, socket, sys
from overture.core.records.serving import AnswersEvent, DoneEvent, EngineStats, Report
import gateway
link = socket.socket(fileno=int(sys.argv[1]))
file = link.makefile("rwb")
def tell(*events):
    stats = EngineStats(backbone=gateway.BACKBONE, tokens_per_s=100.0)
    file.write(Report(events=events, stats=stats).model_dump_json().encode() + b"\\n")
    file.flush()
assert json.loads(sys.argv[2])["dtype"] == "bfloat16"
tell()
for line in file:
    request = json.loads(line)["request"]
    answers = {prompt: gateway.SHOWN["movie"] for prompt in request["prompts"]}
    tell(AnswersEvent(id=request["id"], answers=answers), DoneEvent(id=request["id"]))
"""
"""A worker without a model."""


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return lambda *words: CliRunner().invoke(app, ["serve", *words])


def error_of(done):
    assert done.exit_code == 2, done.output
    return json.loads(done.stdout.splitlines()[-1])


def test_it_refuses_before_it_loads_a_model(run, tmp_path):
    assert error_of(run("--host", "0.0.0.0", "--json"))["where"] == "--host"
    taken = bound_socket("127.0.0.1", 0)
    port = str(taken.getsockname()[1])
    assert error_of(run("--port", port, "--json"))["where"] == f"127.0.0.1:{port}"
    taken.close()
    assert error_of(run("--new-key", "app", "--json"))["where"] == "--key-file"
    assert error_of(run("--key-file", "keys.json", "--new-key", "My App", "--json"))["error"] == "ConfigError"
    assert error_of(run("--key-file", "none.json", "--json"))["where"] == "none.json"
    assert error_of(run("--port", "0", "--backbone", "./nope", "--json"))["error"] == "BackboneError"


def test_a_new_key_is_printed_once(run):
    made = json.loads(run("--key-file", "keys.json", "--new-key", "app", "--key-scope", "admin", "--json").stdout)
    assert made["key"].startswith("ov-")
    assert made["key"] not in Path("keys.json").read_text()
    assert [(key.name, key.scope) for key in read_keys(Path("keys.json"))] == [("app", "admin")]


def test_it_serves_until_it_is_stopped(tmp_path):
    store = tmp_path / "store"
    Gateway(store).add("movie", "spam")
    Gateway(store).add(
        "spam",
        backbone={**json.loads((store / "prompts/spam/v1/prompt.json").read_text())["backbone"], "num_layers": 3},
    )
    (tmp_path / "worker.py").write_text(WORKER)
    (tmp_path / "model").mkdir()
    code = (
        "import sys, functools, overture.server.link as link; "
        f"command = (sys.executable, {str(tmp_path / 'worker.py')!r}); "
        "link.WorkerEngine = functools.partial(link.WorkerEngine, command=command); "
        "from overture.cli.app import app; app(sys.argv[1:])"
    )
    secret = add_key(tmp_path / "keys.json", "app", "predict")
    words = ["serve", "--store", str(store), "--port", "0", "--backbone", str(tmp_path / "model"), "--json"]
    words += ["--dtype", "bfloat16"]
    words += ["--key-file", str(tmp_path / "keys.json")]
    paths = os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])
    process = subprocess.Popen(
        [sys.executable, "-c", code, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": paths},
    )
    try:
        assert process.stdout is not None
        told = json.loads(process.stdout.readline())
        assert (told["prompts"], list(told["refused"])) == (2, ["spam@2"])
        body = json.dumps({"prompt": "movie", "inputs": ["x"]}).encode()
        headers = {"content-type": "application/json", "authorization": f"Bearer {secret}"}
        reply = json.load(urlopen(Request(f"{told['url']}/v1/predict", body, headers)))
        assert reply["results"][0]["answers"]["movie@1"]["choice"] == "positive"
        with pytest.raises(HTTPError) as refused:
            urlopen(Request(f"{told['url']}/v1/models/nothing", None, headers))
        refused.value.close()
        assert refused.value.code == 404
        opener = build_opener(HTTPCookieProcessor())
        assert "movie@1" in opener.open(told["page"]).read().decode()
        process.send_signal(signal.SIGINT)
        started = time.monotonic()
        assert process.wait(20) == 0, process.stderr.read()
        assert time.monotonic() - started < 15
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("has_screen", [True, False])
def test_ui_opens_the_first_page_where_there_is_a_screen(tmp_path, monkeypatch, has_screen):
    monkeypatch.chdir(tmp_path)
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    if has_screen:
        monkeypatch.setenv("DISPLAY", ":0")
    opened, started = [], []
    monkeypatch.setattr("webbrowser.open", lambda page: opened.append(page) or True)

    def run_server(options, is_json, show):
        started.append(options)
        show("http://127.0.0.1:1/enter?token=x")

    monkeypatch.setattr("overture.cli.ui.run_server", run_server)
    done = CliRunner().invoke(app, ["ui", "--port", "0", "--store", "here"])
    assert done.exit_code == 0
    assert opened == (["http://127.0.0.1:1/enter?token=x"] if has_screen else [])
    assert has_screen or "open this in a browser: http://127.0.0.1:1/enter" in done.output
    assert (started[0].host, started[0].serves_base, started[0].store) == ("127.0.0.1", True, Path("here"))
    CliRunner().invoke(app, ["ui", "--no-browser"])
    assert len(opened) == has_screen
