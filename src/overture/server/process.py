"""The process with the model: a worker at one end of a socket, the gateway at the other.

python -m overture.server.process SOCKET OPTIONS
"""

import contextlib
import select
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from overture.core.errors import OvertureError
from overture.core.records.serving import Command, EngineStats, Report, WorkerOptions
from overture.engine.backbone import Backbone
from overture.engine.cache import default_budget_bytes
from overture.engine.load import load_backbone
from overture.engine.packed import is_worth_packing, packed_bytes
from overture.engine.unread import is_unread
from overture.evaluate.host import Host
from overture.server.worker import Worker
from overture.store.store import Store

if TYPE_CHECKING:
    from _typeshed import HasFileno


@torch.no_grad()
def tokens_per_second(backbone: Backbone) -> float:
    """Tokens a second that the model reads: the best of three runs of 64 tokens."""
    live = backbone.embed([0] * 64)

    def seconds() -> float:
        started = time.perf_counter()
        backbone.memory_of(live)
        return time.perf_counter() - started

    return 64 / max(min(seconds() for _ in range(3)), 1e-6)


def for_serving(backbone: Backbone) -> Backbone:
    """The model with packed matrices, where they are faster and memory for them is free."""
    is_whole = backbone.encoder is None and backbone.has_head and not is_unread(backbone.model)
    if is_whole and is_worth_packing(backbone.layers[0]) and packed_bytes(backbone.layers) < default_budget_bytes():
        return backbone.with_packed_matrices()
    return backbone


def serve(connection: socket.socket, make: Callable[[], Worker]) -> None:
    """Answer commands with reports, each a line of JSON, until the gateway closes the connection.

    Args:
        connection: to the gateway.
        make: loads the model; a failure is the only report.
    """

    def send(report: Report) -> None:
        connection.sendall(report.model_dump_json().encode() + b"\n")

    try:
        worker = make()
    except OvertureError as error:
        send(Report(stats=EngineStats(is_ready=False, failure=str(error))))
        return
    send(worker.report())
    pending = b""
    while True:
        is_waiting = worker.is_idle and not worker.has_news
        watched: list[HasFileno] = [connection, *([worker.remote] if worker.remote else [])]
        readable, _, _ = select.select(watched, [], [], None if is_waiting else 0)
        if connection in readable:
            received = connection.recv(1 << 20)
            if not received:
                return
            *lines, pending = (pending + received).split(b"\n")
            for line in lines:
                worker.do(Command.model_validate_json(line))
        worker.hear()
        if not worker.is_idle:
            worker.step()
        if worker.has_news:
            send(worker.report())


def _worker_of(options: WorkerOptions) -> Worker:
    def notify(message: str) -> None:
        print(message, file=sys.stderr, flush=True)

    backbone = for_serving(
        load_backbone(
            options.backbone,
            revision=options.revision,
            device=options.device,
            dtype=options.dtype,
            # All that is asked may be for vLLM.
            is_read_late=options.vllm is not None,
            notify=notify,
        )
    )
    store = Store(Path(options.store), notify)
    host = Host(backbone, store, allow_drift=options.allow_drift, notify=notify, cache_bytes=options.text_bytes)
    remote = None
    if options.vllm:
        # Only this road needs a client of HTTP, and prompts as vLLM reads them.
        from overture.server.remote import Remote

        remote = Remote(options.vllm, host)
        if is_unread(backbone.model):
            return Worker(host, options, remote.tokens_per_second(), remote=remote)
    return Worker(host, options, tokens_per_second(backbone), remote)


if __name__ == "__main__":
    # The gateway decides what Ctrl-C means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with socket.socket(fileno=int(sys.argv[1])) as gateway, contextlib.suppress(BrokenPipeError, ConnectionResetError):
        serve(gateway, lambda: _worker_of(WorkerOptions.model_validate_json(sys.argv[2])))
