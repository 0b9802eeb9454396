"""How many labels a prompt needs where the rows that teach most are labelled first, against rows drawn by chance.

    python bench/quality/labels.py --data DATA --task movie --seeds 5 --dtype bfloat16 --minutes 20
    python bench/quality/labels.py --data DATA --task movie --seeds 20 --head

Each seed draws its own pool from the training rows and labels the same random rows first; then each way labels more,
training anew after each batch. The test rows are the same for all. With --head a linear head on the model's frozen
features learns instead of a prompt: seconds for all seeds instead of minutes for each. One JSON a task, written again
after each seed; after --minutes no further seed begins.
"""

import argparse
import math
import random
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from scipy.stats import t as student

sys.path.insert(0, str(Path(__file__).parents[1]))

from common import add_data, in_time, machine_facts, script_parser, start_facts
from overture.baseline.features import features_of
from overture.core.files import write_json
from overture.data.encode import Encoder
from overture.data.read import read_table
from overture.data.row import Row
from overture.data.rows import gold_of
from overture.data.task import Task
from overture.engine.backbone import Backbone
from overture.engine.load import load_backbone
from overture.jobs.label.choose import diverse
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


class Head:
    """Logistic regression on features that were read once.

    Args:
        features: of all rows, [N, D].
        gold: their labels.
    """

    def __init__(self, features: Any, gold: Sequence[str]) -> None:
        self.features = (features - features.mean(0)) / (features.std(0) + 1e-6)
        self.gold, self.labels = gold, sorted(set(gold))

    def learnt(self, indices: Sequence[int]) -> Any:
        """The head that has learnt from rows."""
        from sklearn.linear_model import LogisticRegression

        return LogisticRegression(C=0.01, max_iter=300).fit(self.features[indices], [self.gold[n] for n in indices])

    def shares(self, head: Any, indices: Sequence[int]) -> Any:
        """Probabilities of all labels; 0 for those without a row."""
        shares = torch.zeros(len(indices), len(self.labels))
        columns = [self.labels.index(label) for label in head.classes_]
        shares[:, columns] = torch.tensor(head.predict_proba(self.features[indices]), dtype=torch.float32)
        return shares

    def chosen(self, way: str, head: Any, free: Sequence[int], count: int, seed: int) -> list[int]:
        """The rows that a way labels next."""
        if way == "random":
            return random.Random(1000 + seed + len(free)).sample(list(free), count)
        shares = self.shares(head, free)
        if way == "teaches":
            return [free[n] for n in diverse(shares, torch.tensor(self.features[free]), count, seed)]
        first, second = shares.topk(2, dim=1).values.T
        return [free[n] for n in (first - second).argsort()[:count].tolist()]


def head_runs(backbone: Backbone, task: Task, train: list[Row], test: list[Row], args: argparse.Namespace) -> Any:
    """The curve of each way and seed, by a head."""
    encoder = Encoder(task, backbone.text.tokenizer)
    train = random.Random(0).sample(train, min(args.read, len(train)))
    features = features_of(backbone, encoder.encode([*train, *test], with_answer=False)).numpy()
    head = Head(features, [str(label) for label in gold_of(task, [*train, *test])])
    tested, runs = range(len(train), len(train) + len(test)), []
    for seed in range(args.seeds):
        pool = random.Random(seed).sample(range(len(train)), min(args.pool, len(train)))
        for way in args.way or WAYS:
            labelled = pool[: args.sizes[0]]
            if len({head.gold[n] for n in labelled}) < 2:
                continue
            curve, fitted = {}, None
            for size in args.sizes:
                known = set(labelled)
                free = [n for n in pool if n not in known]
                if size > len(labelled):
                    labelled = [*labelled, *head.chosen(way, fitted, free, size - len(labelled), seed)]
                fitted = head.learnt(labelled)
                curve[size] = float((fitted.predict(head.features[tested]) == [head.gold[n] for n in tested]).mean())
            runs.append({"seed": seed, "way": way, "accuracy": curve})
    return runs


def needed(runs: Sequence[Any], sizes: Sequence[int]) -> dict[str, Any]:
    """Labels at which each way's mean curve reaches the accuracy of as many random ones as the last size, and the gain.

    Between two sizes the curve is read along a straight line; None where the curve does not get there.
    """
    ways = list(dict.fromkeys(run["way"] for run in runs))
    curves = {way: {run["seed"]: run["accuracy"] for run in runs if run["way"] == way} for way in ways}
    means = {
        way: [statistics.fmean(accuracies[size] for accuracies in curves[way].values()) for size in sizes]
        for way in ways
    }
    target = sizes[-1]
    wanted = means["random"][-1]
    result = {}
    for way in ways:
        reached = None
        pairs = list(zip(sizes, means[way], strict=True))
        for (size, mean), (next_size, next_mean) in pairwise(pairs):
            if mean >= wanted:
                reached = float(size)
                break
            if next_mean >= wanted:
                reached = size + (next_size - size) * (wanted - mean) / (next_mean - mean)
                break
        gains = [curves[way][seed][target] - curves["random"][seed][target] for seed in curves[way]]
        spread = statistics.stdev(gains) / math.sqrt(len(gains)) if len(gains) > 1 else 0.0
        result[way] = {
            "labels": reached,
            "mean": dict(pairs),
            "gain": statistics.fmean(gains),
            "half_interval": float(student.ppf(0.975, max(1, len(gains) - 1))) * spread,
            "seeds": len(gains),
        }
    return result


def prompt_runs(
    backbone: Backbone, task: Task, train: list[Row], test: list[Row], args: argparse.Namespace
) -> Iterator[list[Any]]:
    """The curves of each way by prompts, seed by seed."""
    for seed in in_time(range(args.seeds), args.minutes):
        runs: list[Any] = []
        rows = random.Random(seed).sample(train, args.pool)
        learner = Learner(backbone, task, [*rows, *test], PromptConfig())
        learner.warm()
        gold, right = gold_of(task, rows), gold_of(task, test)
        tested = range(args.pool, args.pool + len(test))
        first = random.Random(seed).sample(range(args.pool), args.sizes[0])
        shared: Any = None
        for way in args.way or WAYS[:2]:
            labelled, curve = list(first), {}
            model: Any = None
            for size in args.sizes:
                if size == args.sizes[0] and shared is not None:
                    model, curve[size] = shared
                    continue
                known = set(labelled)
                free = [index for index in range(args.pool) if index not in known]
                if size > len(labelled):
                    labelled += chosen(learner, way, model, free, size - len(labelled), seed)
                model = learner.learnt({index: str(gold[index]) for index in labelled}, seed)
                curve[size] = accuracy(learner, model, tested, right)
                if size == args.sizes[0]:
                    shared = model, curve[size]
            runs.append({"seed": seed, "way": way, "accuracy": curve})
            print(runs[-1], f"{time.process_time():.0f} CPU s", flush=True)
        yield runs


def main() -> None:
    parser = script_parser(__doc__, "labels", threads=1)
    add_data(parser)
    parser.add_argument("--task", required=True, choices=["movie", "trec", "tweets"])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--pool", type=int, default=256)
    parser.add_argument("--read", type=int, default=600, help="training rows that pools are drawn from, with --head")
    parser.add_argument("--test", type=int, default=200)
    parser.add_argument("--sizes", type=int, nargs="+", default=[16, 32, 48, 64])
    parser.add_argument("--way", action="append", choices=WAYS)
    parser.add_argument("--head", action="store_true")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--minutes", type=float, default=60)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    words = f"--task {args.task} --seeds {args.seeds} --pool {args.pool} --test {args.test} --dtype {args.dtype}"
    sizes = " ".join(map(str, args.sizes))
    command = f"python bench/quality/labels.py --data DATA {words} --sizes {sizes}{' --head' if args.head else ''}"
    started = start_facts()
    task, train, test = task_and_rows(args.task, args.data)
    test = random.Random(0).sample(test, args.test)
    backbone = load_backbone("smollm2", device="cpu", dtype=args.dtype)
    runs: list[Any] = []
    for more in (
        [head_runs(backbone, task, train, test, args)] if args.head else prompt_runs(backbone, task, train, test, args)
    ):
        runs += more
        facts = {
            "command": command,
            "task": args.task,
            "backbone": "smollm2",
            "dtype": args.dtype,
            "learner": "linear head" if args.head else PromptConfig().model_dump(),
            "pool": args.pool,
            "test": args.test,
            "cpu_seconds": time.process_time(),
            "needed": needed(runs, args.sizes),
            "runs": runs,
        }
        write_json(
            args.out / f"{args.task}{'-head' if args.head else ''}.json", {**facts, **started, **machine_facts()}
        )
    for way, figures in needed(runs, args.sizes).items():
        print(way, figures)


if __name__ == "__main__":
    main()
