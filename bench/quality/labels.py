"""How many labels a prompt needs where the rows that teach most are labelled first, against rows drawn by chance.

    python bench/quality/labels.py --data DATA --task movie --seeds 5

Each seed draws its own pool from the training rows and labels the same 16 random rows first; then each way labels more,
training the prompt anew after each batch. The test rows are the same for all. One JSON a task.
"""

import random
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from common import add_data, script_parser
from overture.core.files import write_json
from overture.core.versions import versions
from overture.data.read import read_table
from overture.data.row import Row
from overture.data.rows import gold_of
from overture.data.task import Task
from overture.engine.load import load_backbone
from overture.jobs.label.learner import Learner
from overture.prompt.config import PromptConfig
from tasks import decoder_task, rows_of

WAYS = ("random", "teaches", "unsure")


def tweets(data: Path, split: str) -> list[Row]:
    """Tweets, and whether they name anybody or anything."""
    path = data / "ner" / f"{split}.jsonl"
    return [
        Row(
            {"text": " ".join(fields["tokens"]), "label": "yes" if set(fields["tags"]) - {"O"} else "no"},
            line,
            str(path),
        )
        for line, fields in enumerate(read_table(path).rows, 1)
    ]


def task_and_rows(name: str, data: Path) -> tuple[Task, list[Row], list[Row]]:
    """A task with its training and test rows."""
    if name != "tweets":
        return decoder_task(name), rows_of(name, data, "train"), rows_of(name, data, "test")
    words = {"no": " no", "yes": " yes"}
    task = Task(
        name=name, labels=words, data={"train": "unused.jsonl"}, template="Tweet: {text}\nNames somebody or something:"
    )
    return task, tweets(data, "train"), tweets(data, "test")


def chosen(learner: Learner, way: str, model: Any, free: Sequence[int], count: int, seed: int) -> list[int]:
    """The rows that a way labels next."""
    if way == "random":
        return random.Random(1000 + seed + len(free)).sample(list(free), count)
    if way == "teaches":
        return learner.teaching(model, free, count, seed)
    said = learner.predictions(model, free)
    margins = []
    for index, prediction in zip(free, said, strict=True):
        first, second = sorted(prediction.shares or (1.0, 0.0), reverse=True)[:2]
        margins.append((first - second, index))
    return [index for _, index in sorted(margins)[:count]]


def accuracy(learner: Learner, model: Any, indices: Sequence[int], gold: Sequence[Any]) -> float:
    said = [prediction.said for prediction in learner.predictions(model, indices)]
    return statistics.fmean(a == b for a, b in zip(said, gold, strict=True))


def main() -> None:
    parser = script_parser(__doc__, "labels", threads=1)
    add_data(parser)
    parser.add_argument("--task", required=True, choices=["movie", "trec", "tweets"])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--pool", type=int, default=256)
    parser.add_argument("--test", type=int, default=200)
    parser.add_argument("--sizes", type=int, nargs="+", default=[16, 32, 48, 64])
    parser.add_argument("--way", action="append", choices=WAYS)
    args = parser.parse_args()
    task, train, test = task_and_rows(args.task, args.data)
    backbone = load_backbone("smollm2")
    runs, cpu = [], time.process_time()
    test = random.Random(0).sample(test, args.test)
    for seed in range(args.seeds):
        rows = random.Random(seed).sample(train, args.pool)
        learner = Learner(backbone, task, [*rows, *test], PromptConfig())
        learner.warm()
        gold, right = gold_of(task, rows), gold_of(task, test)
        tested = range(args.pool, args.pool + args.test)
        first = random.Random(seed).sample(range(args.pool), args.sizes[0])
        model: Any = None
        shared: Any = None
        for way in args.way or WAYS[:2]:
            labelled, curve = list(first), {}
            for size in args.sizes:
                if size > len(labelled):
                    free = [index for index in range(args.pool) if index not in set(labelled)]
                    labelled += chosen(learner, way, model, free, size - len(labelled), seed)
                if size == args.sizes[0] and shared is not None:
                    model, curve[size] = shared
                    continue
                model = learner.learnt({index: str(gold[index]) for index in labelled}, seed)
                curve[size] = accuracy(learner, model, tested, right)
                if size == args.sizes[0]:
                    shared = model, curve[size]
            runs.append({"seed": seed, "way": way, "accuracy": curve})
            print(runs[-1], f"{time.process_time() - cpu:.0f} CPU s", flush=True)
            write_json(
                args.out / f"{args.task}.json",
                {
                    "task": args.task,
                    "backbone": "smollm2",
                    "prompt": PromptConfig().model_dump(),
                    "pool": args.pool,
                    "test": args.test,
                    "cpu_seconds": time.process_time() - cpu,
                    "runs": runs,
                    "versions": versions(),
                },
            )


if __name__ == "__main__":
    main()
