"""What the measuring scripts share: the command line, clocks, processes of their own, and facts of a result file."""

import argparse
import gc
import multiprocessing
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from importlib.metadata import version
from itertools import takewhile
from pathlib import Path
from typing import Any, TypeVar

RESULTS = Path(__file__).parent / "results"
T = TypeVar("T")


def script_parser(doc: str | None, results: str, threads: int = 2) -> argparse.ArgumentParser:
    """A parser with the options that every script has.

    Args:
        doc: the script's docstring.
        results: folder of its results, in `bench/results`.
        threads: used when none are given.
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=RESULTS / results, help="folder of the results")
    parser.add_argument("--threads", type=int, default=threads)
    return parser


def add_data(parser: argparse.ArgumentParser) -> None:
    """The option for the rows, which are not in the repository (bench/README.md)."""
    parser.add_argument("--data", type=Path, required=True, help="folder with TASK/{train,validation,test}.jsonl")


def in_time(work: Iterable[T], minutes: float) -> Iterator[T]:
    """The pieces of work that begin before so many minutes are over."""
    started = time.monotonic()
    return takewhile(lambda _: time.monotonic() - started <= 60 * minutes, work)


def timed(work: Callable[[], T]) -> tuple[T, dict[str, float]]:
    """The result of a piece of work, and its wall and processor seconds."""
    gc.collect()
    wall, cpu = time.perf_counter(), time.process_time()
    result = work()
    return result, {"seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - cpu}


def in_own_process(function: Callable[..., T], *args: Any) -> T:
    """The result of a function that runs in a fresh process, so that its peak memory is its own."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *args).result()


def spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values), "n": len(values)}


def start_facts() -> dict[str, Any]:
    """Time and load, to be read when a measurement begins."""
    return {"started_at": datetime.now(UTC).isoformat(timespec="seconds"), "load_at_start": os.getloadavg()[0]}


def machine_facts() -> dict[str, Any]:
    """Versions and machine of a measurement."""
    packages = ("torch", "transformers", "peft", "overture")
    return {
        "versions": {"python": platform.python_version()} | {name: version(name) for name in packages},
        "machine": {"cpu": cpu_name(), "num_cpus": os.cpu_count(), "arch": platform.machine()},
    }


def cpu_name() -> str:
    table = Path("/proc/cpuinfo")
    lines = table.read_text().splitlines() if table.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())
