"""A study of 32 cells by one process, and by two workers of Ray of which one is killed on the way.

python bench/scale/study.py --data DIR [--out FILE] [--ray-python .venv-ray/bin/python]

Two ways on 16 rows, 16 seeds: the same rows, rates and steps in both. Times are of all processes together: processor
seconds, and wall seconds on the cores that the command is given (`taskset` keeps both to the same ones).
"""

import argparse
import json
import os
import resource
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
_SEEDS, _SIZE, _STEPS, _TEST_ROWS = 16, 16, 20, 64
_KILL_AFTER = 10
"""Finished cells after which a worker is killed."""


def command(python: str, data: Path, folder: Path, more: list[str]) -> list[str]:
    """The comparison's command line."""
    task = _ROOT / "bench" / "tasks" / "movie.yaml"
    files = [f"--set=data.{name}={data / 'movie' / f'{name}.jsonl'}" for name in ("train", "validation", "test")]
    ways = [f"--way={way}" for way in _WAYS]
    sizes = [f"--size={_SIZE}", f"--seeds={_SEEDS}", f"--min-steps={_STEPS}", "--default-rates"]
    rest = ["--set=dtype=bfloat16", f"--set=data.test_rows={_TEST_ROWS}", "--output", str(folder), "--json"]
    return [python, "-m", "overture", "compare", str(task), *files, *ways, *sizes, *rest, *more]


def worker_pids() -> list[int]:
    """Processes of Ray's workers on this machine."""
    pids = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if entry.read_bytes().startswith(b"ray::Worker"):
                pids.append(int(entry.parent.name))
        except OSError:
            continue
    return sorted(pids)


def kill_one(folder: Path, killed: list[dict[str, Any]], is_over: threading.Event) -> None:
    """Kill a worker as soon as some cells are finished."""
    while not is_over.wait(0.5):
        num = len(list((folder / "cells").glob("*.json")))
        if num >= _KILL_AFTER and (pids := worker_pids()):
            os.kill(pids[0], signal.SIGKILL)
            killed.append({"after_cells": num, "pid": pids[0]})
            return


def ran(python: str, data: Path, folder: Path, more: list[str], killed: list[dict[str, Any]] | None) -> dict[str, Any]:
    """Run the study; seconds and the result."""
    before, started, is_over = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter(), threading.Event()
    watch = threading.Thread(target=kill_one, args=(folder, killed, is_over)) if killed is not None else None
    if watch:
        watch.start()
    done = subprocess.run(command(python, data, folder, more), capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - started
    is_over.set()
    if watch:
        watch.join()
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    result = json.loads(done.stdout.splitlines()[-1])
    scores = {score["way"]: score["value"] for score in result["scores"]}
    return {"seconds": seconds, "cpu_seconds": cpu, "scores": scores, "lost": done.stderr.count("was lost")}


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
            "ratio_of_seconds": ray["seconds"] / local["seconds"],
        }
        given.out.parent.mkdir(parents=True, exist_ok=True)
        given.out.write_text(json.dumps(result, indent=1) + "\n")
        print(json.dumps(result, indent=1))
    finally:
        shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    main()
