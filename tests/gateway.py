"""A gateway on a fake engine, and stored prompts of every sort of answer, all without torch."""

import asyncio
import base64
import json
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from starlette.testclient import TestClient

from fake_engine import FakeEngine
from overture.core.records.serving import Command, Request
from overture.server.app import application
from overture.server.front import Front
from overture.server.listen import bound_socket, uvicorn_server
from overture.server.registry import Registry
from overture.server.security import Access, Guard
from overture.server.service import Service
from overture.server.sessions import Sessions
from overture.server.watch import Watch
from overture.store.manifest import BackboneRef, Manifest
from overture.store.store import Store

BACKBONE: dict[str, Any] = {
    "id": "tiny",
    "model_type": "llama",
    "hidden_size": 8,
    "num_layers": 2,
    "weights_sha256": "w" * 64,
    "tokenizer_sha256": "t" * 64,
    "dtype": "float32",
}
DATA = {"train": "rows.jsonl"}
WORDS = {"no": " no", "yes": " yes"}
TASKS: dict[str, dict[str, Any]] = {
    "movie": {"template": "{text}\nSentiment:", "labels": {"negative": " bad", "positive": " good"}},
    "spam": {"template": "{text}\nSpam:", "labels": WORDS},
    "topics": {"template": "{text}\nTopics:", "kind": "multilabel", "labels": {"a": " a", "b": " b"}},
    "names": {
        "template": "{text}\n",
        "kind": "tagging",
        "labels": {"PER": " person"},
        "options": {"text_field": "text"},
    },
    "stars": {"template": "{text}\n", "kind": "regression", "labels": {"1": " one", "5": " five"}},
    "pair": {"template": "{a} {b}\n", "labels": WORDS},
    "summary": {"template": "{text}\nSummary:", "answer_field": "summary"},
    "talk": {"template": "{messages}", "kind": "chat"},
}
SHOWN: dict[str, dict[str, Any]] = {
    "movie": {"label": "positive", "confidence": 0.75, "probabilities": {"negative": 0.25, "positive": 0.75}},
    "spam": {"label": "yes", "confidence": 0.9, "probabilities": {"no": 0.1, "yes": 0.9}},
    "topics": {"labels": ["b"], "probabilities": {"a": 0.2, "b": 0.8}},
    "names": {"answer": "PER: Ada", "spans": [{"label": "PER", "start": 0, "end": 3}]},
    "stars": {"value": 4.2},
    "pair": {"label": "no"},
    "summary": {"answer": "short"},
    "talk": {"answer": "hello"},
}


def tensor_file(value: float = 0.5) -> bytes:
    """A safetensors file of one small tensor."""
    raw = struct.pack("<2f", value, value)
    header = json.dumps({"values": {"dtype": "F32", "shape": [1, 2], "data_offsets": [0, 8]}}).encode()
    return struct.pack("<Q", len(header)) + header + raw


def manifest_of(name: str, **changes: Any) -> Manifest:
    """The manifest of a prompt for one of the tasks."""
    task = {"name": name, "data": DATA, **TASKS[name]}
    values: dict[str, Any] = {"name": name, "method": "vectors", "place": "after", "length": 1, "trainable": 2}
    return Manifest(**{**values, "backbone": BackboneRef(**BACKBONE), "task": task, **changes})


def fake_answer(prompt: str, request: Request) -> dict[str, Any]:
    """What a prompt of the tasks shows."""
    if request.want == "embed":
        return {"embedding": [1.0, -0.5]}
    if request.labels:
        return {"label": request.labels[0], "probabilities": dict.fromkeys(request.labels, 1 / len(request.labels))}
    return SHOWN[prompt.partition("@")[0]]


class ReadyEngine(FakeEngine):
    """A fake that knows its model."""

    def stats(self) -> Any:
        """Meets `Engine.stats`."""
        return super().stats().model_copy(update={"backbone": BackboneRef(**BACKBONE).model_dump(mode="json")})


class WorkerHere(FakeEngine):
    """Meets `Engine` with a worker in this process."""

    def __init__(self, worker: Any) -> None:
        super().__init__()
        self.worker, self.inboxes = worker, dict[str, list[Any]]()

    def stats(self) -> Any:
        """The worker's own."""
        return self.worker.report().stats

    async def submit(self, request: Request) -> Any:
        """The worker's events of one request, in order."""
        inbox = self.inboxes[request.id] = []
        self.worker.do(Command(do="ask", id=request.id, request=request))
        try:
            while True:
                self.worker.step()
                for event in self.worker.report().events:
                    self.inboxes[event.id].append(event)
                while inbox:
                    event = inbox.pop(0)
                    yield event
                    if event.kind in ("done", "error"):
                        return
                await asyncio.sleep(0)
        finally:
            del self.inboxes[request.id]


class Gateway:
    """An application with its parts, and a client."""

    def __init__(self, root: Any, engine: Any = None, access: Any = None, audit: Any = None, **options: Any) -> None:
        self.store = Store(root)
        self.engine = engine or ReadyEngine(answer=fake_answer)
        self.registry = Registry(self.store, self.engine, "tiny", **options)
        self.watch = Watch(self.engine, audit)
        self.access = access or Access()
        self.sessions = Sessions(self.access.port)
        service = Service(self.engine, self.registry)
        self.make = partial(application, service, self.access, self.watch, self.sessions)
        front = Front(self.engine, self.make, on_stop=self.watch.close)
        self.app = Guard(front, self.access, self.watch.finished, self.sessions, front.refuse)

    def add(self, *names: str, **changes: Any) -> None:
        """Keep a version of each prompt."""
        for name in names:
            self.store.add(manifest_of(name, **changes), tensor_file())

    def client(self, **headers: str) -> TestClient:
        """A client on the loopback interface; errors of the application are answers."""
        return TestClient(self.app, "http://127.0.0.1:8000", raise_server_exceptions=False, headers=headers)


@contextmanager
def served(app: Any, read_timeout_s: float = 0.5, bound: Any = None) -> Iterator[int]:
    """A server of an application on a port of its own; the port."""
    bound = bound or bound_socket("127.0.0.1", 0)
    server = uvicorn_server(app, read_timeout_s)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]}, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield bound.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(10)


def error_of(reply, status):
    """The error of a reply that was refused with this status."""
    assert reply.status_code == status, reply.text
    return reply.json()["error"]


def upload(name, raw, **changes):
    """The body that uploads a prompt's tensors under this manifest."""
    manifest = manifest_of(name, **changes).model_dump(mode="json")
    return {"manifest": manifest, "tensors": base64.b64encode(raw).decode()}
