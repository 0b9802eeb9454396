"""Servers as processes of their own: until they answer, what they take, and how they end."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import httpx2 as httpx
import psutil

from overture.server.listen import bound_socket

OVERTURE = (sys.executable, "-c", "from overture.cli.app import app; import sys; app(sys.argv[1:])")


def free_port() -> int:
    """A port of this machine where nobody listens."""
    listening = bound_socket("127.0.0.1", 0)
    port = int(listening.getsockname()[1])
    listening.close()
    return port


class Server:
    """A server that runs.

    Args:
        process: that was started.
        url: where it listens.
    """

    def __init__(self, process: "subprocess.Popen[Any]", url: str) -> None:
        self.process, self.url = psutil.Process(process.pid), url

    @property
    def family(self) -> list[psutil.Process]:
        """Its process and those that it started."""
        return [self.process, *self.process.children(recursive=True)]

    @property
    def cpu_seconds(self) -> float:
        """Processor seconds of all its processes that live."""
        return sum(member.cpu_times().user + member.cpu_times().system for member in self.family)

    @property
    def rss_mb(self) -> float:
        """Megabytes of all its processes."""
        return round(sum(member.memory_info().rss for member in self.family) / 1e6, 1)


@contextmanager
def started(
    command: Sequence[str], port: int, threads: int, ready: str = "/health", env: Mapping[str, str] | None = None
) -> Iterator[Server]:
    """A server, from the moment it is ready; it is ended at the end.

    Args:
        command: starts it.
        port: where it will listen, on this machine.
        threads: of its products of matrices.
        ready: a path that answers with 200 once the model is there.
        env: more variables.

    Raises:
        RuntimeError: it ended before it was ready.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads), **(env or {})}
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=sys.stderr, env=environment)
    url = f"http://127.0.0.1:{port}"
    try:
        while not _answers(url + ready):
            if process.poll() is not None:
                raise RuntimeError(f"{' '.join(command[:4])} ... ended with {process.returncode} before it was ready")
            time.sleep(0.5)
        yield Server(process, url)
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            for member in [*psutil.Process(process.pid).children(recursive=True), process]:
                member.kill()
            process.wait()


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=2).status_code == 200
    except httpx.TransportError:
        return False
