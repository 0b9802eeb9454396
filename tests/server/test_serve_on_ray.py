"""The example of a cluster: two nodes on this machine, gateway and engines on Ray Serve, a hash of the prompt.

It runs in the environment that `make ray` makes; elsewhere one line says that it is skipped.
"""

import importlib.util
import json
import socket
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ray.serve", reason="Ray Serve is not installed here; make ray runs this test")

from ray import serve

from overture.core.records.serving import Request, WorkerOptions
from overture.evaluate.host import Ask, Host
from overture.jobs.run.request import TuneConfig, resolved
from overture.jobs.tune.tune import tune
from overture.server.on_ray import APP, ENGINE, Cluster, serving, session_of
from overture.store.artifact import load_artifact
from overture.store.store import Store
from tiny_task import write_tiny_task

pytestmark = pytest.mark.slow
EXAMPLE = Path(__file__).parents[2] / "examples" / "serve_on_ray.py"


def asked(port: int, body: dict[str, Any], limit_s: float = 120.0) -> dict[str, Any]:
    """The server's answer; it is asked again while it says that it cannot answer now."""
    url, ends = f"http://127.0.0.1:{port}/v1/predict", time.monotonic() + limit_s
    http = urllib.request.Request(url, json.dumps(body).encode(), {"content-type": "application/json"})
    while True:
        try:
            with urllib.request.urlopen(http, timeout=limit_s) as reply:
                return dict(json.load(reply))
        except (urllib.error.URLError, ConnectionError) as error:
            if time.monotonic() > ends:
                raise AssertionError(getattr(error, "read", lambda: b"")()) from error
            time.sleep(1.0)


def test_two_nodes_answer_as_the_library_does_each_prompt_in_one_place(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("OVERTURE_CACHE", str(tmp_path / "cache"))
    spec = importlib.util.spec_from_file_location("serve_on_ray", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    config = resolved(TuneConfig, write_tiny_task(tmp_path), {"baselines": False})
    store = Store(tmp_path / "store")
    tune(config, store)
    manifest, tensors = load_artifact(store.get("mood"))
    names = [f"mood{number}" for number in range(12)]
    for name in names:
        store.add(manifest.model_copy(update={"name": name}), tensors)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    worker = WorkerOptions(store=str(store.root), backbone=config.task.backbone)
    cluster = Cluster(worker=worker, least_engines=2, most_engines=2, port=port, is_on_head=True)
    row = "a bright day, the 4th of them"
    with example.two_nodes(cpus=2), serving(cluster):
        reply = asked(port, {"prompt": "mood", "inputs": [row]})
        (answer,) = reply["results"][0]["answers"].values()
        host = Host(store=store, notify=lambda text: None)
        ask = Ask(host.open(store.get("mood")), row)
        (known,) = host.answer([ask])
        shown = ask.handle.task.spec.shown(ask.handle.task, known.result())
        assert answer["probabilities"] == pytest.approx(shown["probabilities"], abs=1e-3)
        engines = serve.get_deployment_handle(ENGINE, app_name=APP)
        places = {}
        for name in names:
            session = session_of(Request(id="a", prompts=(f"{name}@1",), row={}))
            told = {tuple(engines.options(session_id=session).place.remote().result()) for _ in range(3)}
            assert len(told) == 1
            places[name] = told.pop()
        # Both engines have prompts.
        assert len({replica for replica, _ in places.values()}) == 2
        assert all(asked(port, {"prompt": name, "inputs": [row]})["results"] for name in names[:4])
        wrong = {"prompt": "nobody", "inputs": [row]}
        http = urllib.request.Request(
            f"http://127.0.0.1:{port}/v1/predict", json.dumps(wrong).encode(), {"content-type": "application/json"}
        )
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(http, timeout=60)
        assert refused.value.code == 404
