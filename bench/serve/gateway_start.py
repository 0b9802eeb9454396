"""Processor seconds of the gateway until it answers `/health` and a page of its prompts, of which it has few or many.

The model loads meanwhile in a process of its own, which is not counted, and is ended before it is ready.

    python bench/serve/gateway_start.py [--num 3 10000] [--repeats 5] [--source SRC] [--out FILE]
"""

import argparse
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests"))
sys.path.insert(0, str(ROOT / "bench"))

from common import machine_facts, spread, start_facts
from gateway import manifest_of, tensor_file
from overture.core.files import write_json


def filled_store(root: Path, num: int) -> Path:
    """A store with so many prompts."""
    tensors = tensor_file()
    for number in range(num):
        folder = root / "prompts" / f"p{number:05d}" / "v1"
        folder.mkdir(parents=True)
        manifest = manifest_of("movie").model_copy(update={"name": f"p{number:05d}", "version": 1})
        (folder / "prompt.json").write_text(manifest.model_dump_json())
        (folder / "prompt.safetensors").write_bytes(tensors)
    return root


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def gateway_start(store: Path, source: Path) -> dict[str, float]:
    """Seconds from the command to the first answers: the gateway's processor time, and by the clock."""
    url = f"http://127.0.0.1:{(port := free_port())}"
    words = ["serve", "--port", str(port), "--store", str(store), "--backbone", "smollm2"]
    environment = os.environ | {"PYTHONPATH": str(source), "PYTHONDONTWRITEBYTECODE": ""}
    started = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "overture", *words],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )

    def seconds() -> tuple[float, float]:
        times = psutil.Process(process.pid).cpu_times()
        return times.user + times.system, time.monotonic() - started

    try:
        while not answered(f"{url}/health"):
            assert process.poll() is None, "the server has ended"
            time.sleep(0.02)
        health_cpu, health_wall = seconds()
        assert answered(f"{url}/v1/models?limit=100")
        models_cpu, models_wall = seconds()
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return {
        "health_cpu": health_cpu,
        "health_wall": health_wall,
        "models_cpu": models_cpu,
        "models_wall": models_wall,
    }


def answered(url: str) -> bool:
    """Whether the server answers; False where nothing listens yet."""
    try:
        with urllib.request.urlopen(url, timeout=60) as reply:
            return reply.status == 200
    except (urllib.error.URLError, ConnectionError):
        return False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num", type=int, nargs="+", default=[3, 10_000], help="prompts in the store")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--source", type=Path, default=ROOT / "src", help="the version that is measured")
    parser.add_argument("--out", type=Path, default=ROOT / "bench" / "results" / "serve" / "start.json")
    given = parser.parse_args()
    facts, results = start_facts(), dict[str, Any]()
    for num in given.num:
        with tempfile.TemporaryDirectory() as name:
            store = filled_store(Path(name), num)
            runs = [gateway_start(store, given.source.resolve()) for _ in range(given.repeats + 1)]
        # The first writes what the store and Python keep.
        results[f"{num} prompts"] = {part: spread([run[part] for run in runs[1:]]) for part in runs[0]}
        results[f"{num} prompts"]["first"] = runs[0]
        print(num, {part: round(statistics.median(run[part] for run in runs[1:]), 3) for part in runs[0]}, runs[0])
    command = f"python bench/serve/gateway_start.py --num {' '.join(map(str, given.num))} --repeats {given.repeats}"
    write_json(given.out, {"command": command, "parts": results, **facts, **machine_facts()})


if __name__ == "__main__":
    main()
