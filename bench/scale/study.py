"""A study of 32 cells by one process, and by two workers of Ray of which one is killed on the way.

python bench/scale/study.py --data DIR [--out FILE] [--ray-python .venv-ray/bin/python]

Two ways on 16 rows, 16 seeds: the same rows, rates and steps in both. Processor seconds are those of all processes of a
study, Ray's own included; wall seconds are on the cores that the command is given (`taskset` keeps both to the same
ones). Both take about eight minutes of a core.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
from common import RESULTS, machine_facts, start_facts

_ROOT = Path(__file__).parents[2]
_WAYS = ("vectors-before", "prefix-after")
_SEEDS, _SIZE, _STEPS, _TEST_ROWS = 16, 16, 8, 32
_KILL_AFTER = 10
"""Finished cells after which a worker is killed."""
_LOOK_S = 0.2


def command(python: str, data: Path, folder: Path, more: list[str]) -> list[str]:
    """The comparison's command line."""
    task = _ROOT / "bench" / "tasks" / "movie.yaml"
    files = [f"--set=data.{name}={data / 'movie' / f'{name}.jsonl'}" for name in ("train", "validation", "test")]
    ways = [f"--way={way}" for way in _WAYS]
    sizes = [f"--size={_SIZE}", f"--seeds={_SEEDS}", f"--min-steps={_STEPS}", "--default-rates"]
    rest = ["--set=dtype=bfloat16", f"--set=data.test_rows={_TEST_ROWS}", "--output", str(folder), "--json"]
    return [python, "-m", "overture", "compare", str(task), *files, *ways, *sizes, *rest, *more]


class Meter(threading.Thread):
    """Processor seconds of all processes that have a mark in their environment, those that have ended included.

    What a parent waits for is not enough: Ray's processes outlive their parents, and are killed. What a process did
    between the last look and its end is lost.

    Args:
        mark: a variable of the environment, ``NAME=VALUE``.
    """

    def __init__(self, mark: str) -> None:
        super().__init__(daemon=True)
        self.mark, self.is_over = mark.encode(), threading.Event()
        self.ticks: dict[tuple[str, str], int] = {}
        self._others: set[tuple[str, str]] = set()

    def run(self) -> None:
        """Look at all processes until `is_over` is set."""
        while not self.is_over.wait(_LOOK_S):
            self.look()

    def look(self) -> None:
        """Note what each process has used."""
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                facts = (folder / "stat").read_text().rpartition(")")[2].split()
                # A number is given again, a number with a start is not.
                process = (folder.name, facts[19])
                if process in self._others:
                    continue
                if process not in self.ticks and self.mark not in (folder / "environ").read_bytes().split(b"\0"):
                    self._others.add(process)
                    continue
            except OSError:
                continue
            self.ticks[process] = int(facts[11]) + int(facts[12])

    def seconds(self) -> float:
        """The sum so far."""
        return sum(self.ticks.values()) / os.sysconf("SC_CLK_TCK")


def worker_pids(meter: Meter) -> list[int]:
    """Processes of a study's workers."""
    pids = []
    for pid, _ in list(meter.ticks):
        try:
            if Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"ray::Worker"):
                pids.append(int(pid))
        except OSError:
            continue
    return sorted(pids)


def kill_one(folder: Path, killed: list[dict[str, Any]], meter: Meter) -> None:
    """Kill a worker as soon as some cells are finished."""
    while not meter.is_over.wait(0.5):
        num = len(list((folder / "cells").glob("*.json")))
        if num >= _KILL_AFTER and (pids := worker_pids(meter)):
            os.kill(pids[0], signal.SIGKILL)
            killed.append({"after_cells": num, "pid": pids[0]})
            return


def ran(python: str, data: Path, folder: Path, more: list[str], killed: list[dict[str, Any]] | None) -> dict[str, Any]:
    """Run the study; seconds and the result."""
    mark, started = f"OVERTURE_STUDY={folder.name}", time.perf_counter()
    meter = Meter(mark)
    meter.start()
    watch = threading.Thread(target=kill_one, args=(folder, killed, meter)) if killed is not None else None
    if watch:
        watch.start()
    env = os.environ | dict([mark.split("=")])
    done = subprocess.run(command(python, data, folder, more), capture_output=True, text=True, check=False, env=env)
    seconds = time.perf_counter() - started
    meter.is_over.set()
    meter.join()
    if watch:
        watch.join()
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    result = json.loads(done.stdout.splitlines()[-1])
    scores = {score["way"]: score["value"] for score in result["scores"]}
    return {
        "seconds": round(seconds, 1),
        "cpu_seconds": round(meter.seconds(), 1),
        "processes": len(meter.ticks),
        "scores": scores,
        "lost": done.stderr.count("was lost"),
    }


def cells(folder: Path) -> dict[str, Any]:
    """What each cell predicted."""
    return {file.name: json.loads(file.read_text()).get("predicted") for file in (folder / "cells").glob("*.json")}


def main() -> None:
    """Both, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--ray-python", default=str(_ROOT / ".venv-ray" / "bin" / "python"))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, default=RESULTS / "scale" / "study.json")
    given = parser.parse_args()
    facts = {**start_facts(), **machine_facts(), "cores": sorted(os.sched_getaffinity(0))}
    work = Path(tempfile.mkdtemp(prefix="overture-study-"))
    try:
        data = given.data.absolute()
        local = ran(given.ray_python, data, work / "local", [], None)
        killed: list[dict[str, Any]] = []
        more = ["--on", "ray", "--workers", str(given.workers)]
        ray = ran(given.ray_python, data, work / "ray", more, killed)
        ours, theirs = cells(work / "local"), cells(work / "ray")
        same = sum(theirs.get(name) == predicted for name, predicted in ours.items())
        both = [max(run["scores"], key=run["scores"].get) for run in (local, ray)]
        result = {
            **facts,
            "ways": _WAYS,
            "num_cells": len(ours),
            "num_cells_on_ray": len(theirs),
            "cells_with_the_same_answers": same,
            "winners": both,
            "killed": killed,
            "local": local,
            "ray": ray,
            "ratio_of_seconds": round(ray["seconds"] / local["seconds"], 3),
            "ratio_of_cpu_seconds": round(ray["cpu_seconds"] / local["cpu_seconds"], 3),
        }
        given.out.parent.mkdir(parents=True, exist_ok=True)
        given.out.write_text(json.dumps(result, indent=1) + "\n")
        print(json.dumps(result, indent=1))
    finally:
        shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    main()
