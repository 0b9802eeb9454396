"""float32 beside bfloat16 on the same rows, seeds and test rows: two comparisons of a task, and their paired test.

Each precision is a comparison of its own (`overture compare`, resumable); this pairs their answers, over seeds and
test rows together, and writes one file for each task and way.

    python bench/quality/precision.py --task movie --way prefix-after --size 64 --seeds 3 --test-rows 300
"""

import argparse
import subprocess
import sys
from pathlib import Path
from statistics import fmean

from overture.core.files import write_json
from overture.core.versions import versions
from overture.jobs.verdict.files import CellFiles
from overture.jobs.verdict.scores import Scores, pairs_at

sys.path.insert(0, str(Path(__file__).parents[1]))

from common import machine_facts, script_parser

TASKS = Path(__file__).parents[1] / "tasks"
PRECISIONS = ("float32", "bfloat16")
MARGIN = 0.02


def compared(args: argparse.Namespace, task: str, precision: str) -> Path:
    """The folder of a finished comparison in one precision."""
    folder = args.work / f"{task}-{precision}"
    ways = [f"--way={way}" for way in args.way]
    settings = [f"--set=data.test_rows={args.test_rows}", f"--set=dtype={precision}"]
    if args.validation_rows:
        settings.append(f"--set=data.validation_rows={args.validation_rows}")
    sizes = [f"--size={args.size}", f"--seeds={args.seeds}", "--default-rates", f"--min-steps={args.min_steps}"]
    command = ["overture", "compare", str(TASKS / f"{task}.yaml"), *ways, *sizes, f"--output={folder}", *settings, "-q"]
    subprocess.run(command, check=True)
    return folder


def paired(args: argparse.Namespace, task: str, way: str, files: dict[str, CellFiles]) -> dict[str, object]:
    """The scores of a way in both precisions, seed by seed, their difference, and what training cost."""
    answers = files[PRECISIONS[0]].answers()
    assert answers is not None
    metric = next(iter(next(iter(files[PRECISIONS[0]].cells(way).values())).metrics["test"]))
    cells = {precision: [*files[precision].cells(way).values()] for precision in PRECISIONS}
    renamed = [cell.model_copy(update={"way": precision}) for precision in PRECISIONS for cell in cells[precision]]
    scores = Scores(PRECISIONS[::-1], [args.size], renamed, answers.gold, metric)
    (pair,) = pairs_at(scores, args.size, MARGIN)
    return {
        "task": task,
        "way": way,
        "metric": metric,
        "size": args.size,
        "num_test_rows": len(answers.gold),
        "scores": {precision: scores.score(precision, args.size).dump() for precision in PRECISIONS},
        "bfloat16_minus_float32": pair.dump(),
        "mean_cpu_seconds": {
            precision: {
                name: fmean(cell.ledger.account(name).cpu_seconds for cell in cells[precision])
                for name in ("reading", "training", "validation", "serving")
            }
            for precision in PRECISIONS
        },
        "versions": versions(),
        **machine_facts(),
    }


def main() -> None:
    parser = script_parser(__doc__, "precision", threads=1)
    parser.add_argument("--task", action="append", required=True, help="a task of bench/tasks; repeatable")
    parser.add_argument("--way", action="append", required=True, help="as for overture compare; repeatable")
    parser.add_argument("--size", type=int, default=64, help="training rows")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--min-steps", type=int, default=60)
    parser.add_argument("--test-rows", type=int, default=300)
    parser.add_argument("--validation-rows", type=int, default=64)
    parser.add_argument("--work", type=Path, default=Path("precision-work"), help="where the comparisons are kept")
    args = parser.parse_args()
    for task in args.task:
        files = {precision: CellFiles(compared(args, task, precision)) for precision in PRECISIONS}
        for way in args.way:
            cell = paired(args, task, way, files)
            write_json(args.out / f"{way}-{task}.json", cell)
            print(task, way, cell["bfloat16_minus_float32"], cell["mean_cpu_seconds"], flush=True)


if __name__ == "__main__":
    main()
