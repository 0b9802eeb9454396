"""How long a run takes until its first training step: without kept inputs, the first run that keeps them, the second.

Each run is a process of its own that stops after one step. Seconds count from the start of the process: imports, rows,
model, reading the inputs of all splits, one step. The cache is a folder of its own; the model's float32 copy is the
user's.

    python bench/speed/second_run.py --data DIR --cases movie-64 movie-256 bbc-32 --repeats 3 --threads 1
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from overture.core.files import cache_dir, write_json
from overture.engine.load import load_backbone

sys.path.insert(0, str(Path(__file__).parents[1]))

from common import add_data, machine_facts, script_parser, spread, start_facts
from tasks import splits_of, written_task

_RUN = """
import json, resource, sys, time
from pathlib import Path
from overture.engine.lean import import_transformers
import_transformers()
from overture.jobs.run.request import TuneConfig, resolved
from overture.jobs.tune.tune import tune
from overture.store.store import Store

def stop():
    if not facts:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        facts.update(seconds=time.time() - float(sys.argv[1]), cpu_seconds=time.process_time(), peak_bytes=peak)
    return True

facts = {}
prompt = {"method": "prefix", "place": "after", "length": 10}
settings = {"prompt": prompt, "baselines": False, "device": "cpu", **json.loads(sys.argv[2])}
tune(resolved(TuneConfig, Path("task.yaml"), settings), Store(Path("store")), is_stop_asked=stop)
print(json.dumps(facts))
"""
MODES: dict[str, dict[str, Any]] = {
    "nothing kept": {"cache_on_disk": False},
    "first run": {},
    "second run": {},
    "first run, bfloat16": {"cache_dtype": "bfloat16"},
    "second run, bfloat16": {"cache_dtype": "bfloat16"},
}


def run_facts(folder: Path, cache: Path, threads: int, settings: dict[str, Any]) -> dict[str, float]:
    """Seconds and peak memory of a run up to its first step."""
    environment = os.environ | {"OVERTURE_CACHE": str(cache), "OMP_NUM_THREADS": str(threads)}
    environment["OVERTURE_CACHE_LIMIT"] = "8"
    words = [sys.executable, "-c", _RUN, str(time.time()), json.dumps(settings)]
    done = subprocess.run(words, env=environment, cwd=folder, capture_output=True, text=True, check=True)
    facts: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return facts


def measured(case: str, data: Path, threads: int, num_repeats: int, modes: list[str]) -> dict[str, Any]:
    """A case, such as movie-64: as many rows of each split."""
    task, _, num = case.rpartition("-")
    splits = {name: rows[: int(num)] for name, rows in splits_of(task, data, int(num), 0).items()}
    runs: dict[str, list[dict[str, float]]] = {mode: [] for mode in modes}
    kept: dict[str, int] = {}
    for _ in range(num_repeats):
        with tempfile.TemporaryDirectory() as name:
            folder, cache = Path(name), Path(name) / "cache"
            cache.mkdir()
            (cache / "models").symlink_to(cache_dir() / "models")
            (cache / "digests.json").write_bytes((cache_dir() / "digests.json").read_bytes())
            write_json(folder / "task.yaml", written_task(task, splits, folder).dump())
            for mode in modes:
                runs[mode].append(run_facts(folder, cache, threads, MODES[mode]))
                kept[mode] = sum(file.stat().st_size for file in cache.glob("inputs/*"))
                print(case, mode, runs[mode][-1], flush=True)
    facts = ("seconds", "cpu_seconds", "peak_bytes")
    results = {
        mode: {fact: spread([run[fact] for run in mode_runs]) for fact in facts} for mode, mode_runs in runs.items()
    }
    return {"case": case, "rows_of_each_split": int(num), "runs": results, "bytes_on_disk_after": kept}


def main() -> None:
    parser = script_parser(__doc__, "second_run", 1)
    add_data(parser)
    parser.add_argument("--cases", nargs="+", default=["movie-64", "movie-256", "bbc-32"])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--modes",
        nargs="+",
        choices=MODES,
        default=list(MODES),
        help="in order, some perhaps again; all when not given",
    )
    given = parser.parse_args()
    facts = start_facts()
    # The model's converted copy and its digest are the user's: made here where this user has none yet.
    load_backbone()
    for case in given.cases:
        options = f"--cases {case} --repeats {given.repeats} --threads {given.threads}"
        if given.modes != [*MODES]:
            options += " --modes " + " ".join(f'"{mode}"' for mode in given.modes)
        result = measured(case, given.data, given.threads, given.repeats, given.modes)
        write_json(
            given.out / f"{case}.json",
            {"command": f"python bench/speed/second_run.py --data DIR {options}", **result, **facts, **machine_facts()},
        )


if __name__ == "__main__":
    main()
