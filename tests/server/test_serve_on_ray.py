"""A server on a cluster of two nodes on this machine: a hash of the prompt, a lost engine, engines that come and go.

It runs in the environment that `make ray` makes; elsewhere one line says that it is skipped.
"""

import importlib.util
import json
import os
import signal
import socket
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

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
NAMES = tuple(f"mood{number}" for number in range(12))
ROW = "a bright day, the 4th of them"
LIMIT_S = 120.0


class Place(NamedTuple):
    """Where an engine is."""

    replica: str
    node: str
    pid: int


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Store, str]]:
    """A store with a prompt under thirteen names, and its model; a cluster of two nodes is there meanwhile."""
    folder = tmp_path_factory.mktemp("ray")
    spec = importlib.util.spec_from_file_location("serve_on_ray", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OVERTURE_CACHE", str(folder / "cache"))
        patch.setenv("RAY_SERVE_HANDLE_AUTOSCALING_METRIC_PUSH_INTERVAL_S", "1")
        config = resolved(TuneConfig, write_tiny_task(folder), {"baselines": False})
        store = Store(folder / "store")
        tune(config, store)
        manifest, tensors = load_artifact(store.get("mood"))
        for name in NAMES:
            store.add(manifest.model_copy(update={"name": name}), tensors)
        with example.two_nodes(cpus=2):
            yield store, config.task.backbone


def a_cluster(prompts: tuple[Store, str], **changes: Any) -> Cluster:
    store, backbone = prompts
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    worker = WorkerOptions(store=str(store.root), backbone=backbone)
    return Cluster(worker=worker, port=port, is_on_head=True, serves_base=True, **changes)


def post(port: int, path: str, body: dict[str, Any]) -> Any:
    http = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/{path}", json.dumps(body).encode(), {"content-type": "application/json"}
    )
    return urllib.request.urlopen(http, timeout=LIMIT_S)


def predict(port: int, prompt: str) -> tuple[int, dict[str, Any]]:
    """The status and the body of a reply; 0 where there was none."""
    try:
        with post(port, "predict", {"prompt": prompt, "inputs": [ROW]}) as reply:
            return reply.status, json.load(reply)
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())
    except (urllib.error.URLError, ConnectionError) as error:
        return 0, {"error": str(error)}


def until(is_true: Callable[[], Any], limit_s: float = LIMIT_S) -> Any:
    ends = time.monotonic() + limit_s
    while not (value := is_true()):
        assert time.monotonic() < ends
        time.sleep(0.5)
    return value


def place_of(session: str) -> Place:
    engines = serve.get_deployment_handle(ENGINE, app_name=APP)
    return Place(*engines.options(session_id=session).place.remote().result(timeout_s=LIMIT_S))


def places() -> dict[str, Place]:
    return {name: place_of(session_of(Request(id="a", prompts=(f"{name}@1",), row={}))) for name in NAMES}


def num_engines() -> int:
    return len({place.replica for place in places().values()})


class Load:
    """Clients that ask on and on, until the block is left; `replies` counts statuses by prompt."""

    def __init__(self, port: int, clients: int) -> None:
        self.port, self.replies, self.bodies = port, Counter[tuple[str, int]](), list[dict[str, Any]]()
        self._is_over = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(number,)) for number in range(clients)]

    def _ask(self, number: int) -> None:
        while not self._is_over.is_set():
            name = NAMES[number % len(NAMES)]
            status, body = predict(self.port, name)
            self.replies[name, status] += 1
            if status != 200:
                self.bodies.append(body)
                time.sleep(0.2)
            number += 1

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        for thread in self._threads:
            thread.join(LIMIT_S)
        assert not any(thread.is_alive() for thread in self._threads)

    def statuses(self) -> Counter[int]:
        totals: Counter[int] = Counter()
        for (_, status), num in self.replies.items():
            totals[status] += num
        return totals


def children_of(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    others = [Path(task, "children").read_text() for task in Path(f"/proc/{pid}/task").iterdir()]
    return sorted({int(word) for word in " ".join([text, *others]).split()})


def test_prompts_have_places_and_a_lost_engine_loses_its_own_requests_alone(prompts) -> None:
    store, _ = prompts
    cluster = a_cluster(prompts, least_engines=2, most_engines=2)
    port = cluster.port
    with serving(cluster):
        _, reply = until(lambda: next((got for got in [predict(port, "mood")] if got[0] == 200), None))
        (answer,) = reply["results"][0]["answers"].values()
        host = Host(store=store, notify=lambda text: None)
        ask = Ask(host.open(store.get("mood")), ROW)
        (known,) = host.answer([ask])
        shown = ask.handle.task.spec.shown(ask.handle.task, known.result())
        assert answer["probabilities"] == pytest.approx(shown["probabilities"], abs=1e-3)
        before = places()
        assert before == places() == places()
        # Both engines have prompts.
        assert len({place.replica for place in before.values()}) == 2
        assert predict(port, "nobody")[0] == 404

        # The model alone writes in the engine that is lost.
        lost = place_of("-")
        workers = children_of(lost.pid)
        assert workers
        body = {"model": Path(cluster.worker.backbone).name, "prompt": ROW, "max_tokens": 10_000, "stream": True}
        with Load(port, clients=3) as load, post(port, "completions", body) as stream:
            assert stream.readline().startswith(b"data: ")
            until(lambda: load.statuses()[200] > 10)
            os.kill(lost.pid, signal.SIGKILL)
            rest = stream.read().decode()
            after = places()
            until(lambda: num_engines() == 2)
            time.sleep(1.0)
        assert '"error"' in rest
        assert "the engine was lost" in rest
        # The others' prompts stay where they are.
        assert lost.replica not in {place.replica for place in after.values()}
        kept = [name for name, place in before.items() if place.replica != lost.replica]
        assert kept
        assert {name: after[name] for name in kept} == {name: before[name] for name in kept}
        assert {status for name, status in load.replies if name in kept} == {200}
        assert set(load.statuses()) <= {200, 503}
        assert all(body["error"]["message"] for body in load.bodies)
        until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers), 20)
        assert all(predict(port, name)[0] == 200 for name in NAMES)


def test_engines_come_under_load_and_end_after_it(prompts) -> None:
    changes = {"upscale_delay_s": 1.0, "downscale_delay_s": 2.0, "target": 1.0}
    cluster = a_cluster(prompts, least_engines=1, most_engines=2, **changes)
    port = cluster.port
    with serving(cluster):
        until(lambda: predict(port, "mood")[0] == 200)
        alone = places()
        assert len(set(alone.values())) == 1
        with Load(port, clients=4) as load:
            until(lambda: num_engines() == 2)
            both = places()
            slow = load.statuses()[200]
            until(lambda: load.statuses()[200] > slow + 20)
        # Prompts that have moved are those of the new engine.
        assert set(alone.values()) < set(both.values())
        with Load(port, clients=1) as rest:
            until(lambda: num_engines() == 1)
        assert set(load.statuses()) == {200}
        assert set(rest.statuses()) == {200}
        assert predict(port, NAMES[0])[0] == 200
