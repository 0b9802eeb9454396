"""Processor seconds of our ways in two versions of the source, which take turns: does a change cost speed?

Each version runs in a process of its own, with its own benchmark scripts. Every round is an epoch of training and a
scoring of each way, in both versions; ratios are taken within a round, and the version that begins changes.

    git worktree add ../before COMMIT
    python bench/speed/two_trees.py --data DIR --task movie --before ../before --rounds 8
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with TASK/train.jsonl")
    parser.add_argument("--task", choices=("movie", "bbc"), default="movie")
    parser.add_argument("--before", type=Path, required=True, help="root of the other version")
    parser.add_argument("--rounds", type=int, default=8, help="measured rounds after the warm-up")
    parser.add_argument("--of", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.of:
        answer_rounds(arguments.of, arguments.task, arguments.data)
        return
    versions = [started(root.resolve(), arguments) for root in (arguments.before, ROOT)]
    rounds = []
    for number in range(arguments.rounds + 1):
        order = (0, 1) if number % 2 == 0 else (1, 0)
        rounds.append({index: seconds_of_round(versions[index], number) for index in order})
    for name in rounds[0][0]:
        pairs = [(measured[0][name], measured[1][name]) for measured in rounds[1:]]
        before, now = (statistics.median(column) for column in zip(*pairs, strict=True))
        ratios = sorted(second / first for first, second in pairs)
        print(
            f"{name}: before {before:.3f} s, now {now:.3f} s, ratio {statistics.median(ratios):.3f} "
            f"({ratios[0]:.3f} to {ratios[-1]:.3f}), n = {len(ratios)}"
        )


def started(root: Path, arguments: argparse.Namespace) -> "subprocess.Popen[str]":
    """A process that measures a version's rounds, once it has loaded the model."""
    command = [sys.executable, __file__, "--of", str(root), "--before", str(root), "--task", arguments.task]
    environment = os.environ | {"PYTHONPATH": str(root / "src"), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [*command, "--data", str(arguments.data.resolve())],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    assert process.stdout is not None
    if process.stdout.readline() != "ready\n":
        raise SystemExit(f"{root} could not be measured: its message is above")
    return process


def seconds_of_round(process: "subprocess.Popen[str]", number: int) -> dict[str, float]:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(f"{number}\n")
    process.stdin.flush()
    return json.loads(process.stdout.readline())


def answer_rounds(root: Path, task: str, data: Path) -> None:
    """Measure a round for each line of standard input, in the version at `root`."""
    sys.path[:0] = [str(root / folder) for folder in ("bench/speed", "bench", "src")]
    import speed  # of the measured version: its name for the ways differs

    ways_module: Any = sys.modules.get("speed_ways", speed)
    config = ways_module.Config(task, ways_module.NUM_ROWS[task], num_repeats=1, threads=1)
    bench = speed.make_bench(config, data)
    ways = {name: bench.way(name) for name in ways_module.OURS}

    def scored(model: Any) -> None:
        with speed.torch.no_grad():
            for start in range(0, len(bench.rows), config.batch_size):
                model.loss(bench.rows[start : start + config.batch_size])

    print("ready", flush=True)
    for number in map(int, sys.stdin):
        cache, record = speed.timed(lambda: ways_module.built_cache(bench.backbone, bench.rows))
        seconds = {"input cache": record["cpu_seconds"]}
        for name, way in ways.items():
            if ways_module.is_cached(name):
                getattr(way.model, "answerer", way.model).cache = cache
            for part, work in (
                ("training", lambda way=way, number=number: way.epoch(number)),
                ("scoring", lambda way=way: scored(way.model)),
            ):
                seconds[f"{name} {part}"] = speed.timed(work)[1]["cpu_seconds"]
        print(json.dumps(seconds), flush=True)


if __name__ == "__main__":
    main()
