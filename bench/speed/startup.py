"""CPU seconds of whole commands from a cold start: `overture predict` on one text and `overture eval` on a few rows.

Each command is a process of its own, in turn with that of another version's source tree where one is given, since the
load of a machine changes within minutes.

    python bench/speed/startup.py --data DIR --repeats 7 --old OTHER/src
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from overture.core.files import write_json

sys.path.insert(0, str(Path(__file__).parents[1]))

from common import add_data, machine_facts, script_parser, spread, start_facts
from tasks import splits_of, written_task

ROWS = 16
EPOCH = ("--method", "prefix", "--place", "after", "--epochs", "1", "--no-baselines")


def command_seconds(source: Path, folder: Path, *words: str) -> float:
    """User and system seconds of a command that runs the code of a source tree."""
    environment = os.environ | {
        "PYTHONPATH": str(source),
        "OVERTURE_HOME": str(folder / "store"),
        "OMP_NUM_THREADS": "1",
        "PYTHONDONTWRITEBYTECODE": "",
    }
    before = os.times()
    subprocess.run(
        [sys.executable, "-m", "overture", *words], env=environment, cwd=folder, stdout=subprocess.DEVNULL, check=True
    )
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def main() -> None:
    parser = script_parser(__doc__, "startup", 1)
    add_data(parser)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--old", type=Path, help="source tree of the version to compare with")
    given = parser.parse_args()
    sources = {"now": Path(__file__).parents[2] / "src"} | ({"before": given.old.resolve()} if given.old else {})
    facts = start_facts()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        splits = splits_of("movie", given.data, ROWS, 0)
        task = written_task("movie", {split: rows[:ROWS] for split, rows in splits.items()}, folder)
        # An older version knows fewer keys.
        write_json(folder / "task.yaml", task.model_dump(mode="json", exclude_defaults=True))
        # A newer version reads what an older one wrote.
        command_seconds(sources.get("before", sources["now"]), folder, "tune", "task.yaml", *EPOCH, "-q")
        commands = {"predict": ("predict", "movie", "a fine film", "-q"), "eval": ("eval", "movie", "-q")}
        seconds: dict[str, dict[str, list[float]]] = {name: {version: [] for version in sources} for name in commands}
        for repeat in range(given.repeats + 1):
            for command, words in commands.items():
                for version, source in sources.items():
                    taken = command_seconds(source, folder, *words)
                    # The first of each writes caches of its own.
                    if repeat:
                        seconds[command][version].append(taken)
    results = {
        name: {version: spread(runs) for version, runs in versions.items()} for name, versions in seconds.items()
    }
    for name, versions in results.items():
        print(name, {version: round(runs["median"], 2) for version, runs in versions.items()})
    command = f"python bench/speed/startup.py --data DIR --repeats {given.repeats}" + (
        " --old SRC" if given.old else ""
    )
    write_json(given.out / "startup.json", {"command": command, "cpu_seconds": results, **facts, **machine_facts()})


if __name__ == "__main__":
    main()
