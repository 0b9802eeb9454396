"""Where a way's loss stays when it writes sentences: at training's end, on validation rows, at the first token.

Rows, seeds and steps are those of `overture compare` (docs/reports/webnlg), but the validation loss chooses the epoch,
so that nothing is written before the test rows. One JSON a cell, resumable; at the end the first way less each other.

    python bench/quality/written.py --data DIR --way prefix-memory --way prefix-after --seeds 3
    python bench/quality/written.py --data DIR --way lora:after --tag small --set options.rank=2 \\
        --set "options.targets=[q_proj,k_proj,v_proj,o_proj]"
"""

import argparse
import json
import sys
from collections.abc import Hashable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from overture.core.contracts import Scorer, Trainee
from overture.core.files import store_dir, write_json
from overture.core.rows import Answer, Encoded
from overture.data.rows import gold_of
from overture.engine.load import load_backbone
from overture.evaluate.over_seeds import difference_over_seeds, resampled
from overture.evaluate.scoring import score
from overture.jobs.compare.cells import CellContext
from overture.jobs.compare.ways import WAYS, Resources, Way, way_named
from overture.jobs.run.early import splits_of
from overture.jobs.run.request import TuneConfig, resolved
from overture.store.store import Store
from overture.train.fit import Fit, Validation

sys.path.insert(0, str(Path(__file__).parents[1]))

from common import add_data, in_time, machine_facts, script_parser, start_facts, timed

TASKS = Path(__file__).parents[1] / "tasks"
MIN_STEPS = 30
"""Optimiser steps of each training at least, as in that comparison."""


@torch.no_grad()
def mean_losses(model: Trainee, rows: list[Encoded]) -> dict[str, float]:
    """Loss of a token of the answers: of all, of the first, and of the others."""
    sums = {"all": 0.0, "first": 0.0}
    for start in range(0, len(rows), 8):
        some = rows[start : start + 8]
        sums["all"] += float(model.loss(some))
        sums["first"] += float(model.loss([_first_alone(row) for row in some]))
    num_tokens = sum(row.target.num_tokens for row in rows)
    return {
        "all": sums["all"] / num_tokens,
        "first": sums["first"] / len(rows),
        "others": (sums["all"] - sums["first"]) / (num_tokens - len(rows)),
    }


def _first_alone(row: Encoded) -> Encoded:
    assert isinstance(row.target, Answer)
    return replace(row, target=replace(row.target, ids=row.target.ids[:1]))


def run_cell(context: CellContext, way: Way, size: int, seed: int) -> dict[str, Any]:
    """One way, trained on a seed's rows and scored on the test rows."""
    rows = context.rows(size, seed)
    made, building = timed(lambda: way.make(context.resources, rows, seed))
    trainee = made.trainee
    assert trainee is not None, "a way that is trained"
    train, validation = list(made.rows["train"]), list(made.rows["validation"])

    def read() -> None:
        made.warm(train)
        made.warm(validation)

    _, reading = timed(read)
    config = way.config.train.with_steps(len(train), MIN_STEPS)
    config = config.model_copy(update={"lr": way.rates[0], "patience": config.num_epochs})

    def validate() -> Validation:
        loss = mean_losses(trainee, validation)["all"]
        return Validation(-loss, loss)

    fitted, training = timed(lambda: Fit(trainee, train, validate, config, seed).run())
    losses = {"training": mean_losses(trainee, train), "validation": mean_losses(trainee, validation)}
    scorer: Scorer = made.served()
    scored, scoring = timed(lambda: score(scorer, made.rows["test"], context.task, gold_of(context.task, rows["test"])))
    return {
        "lr": way.rates[0],
        "settings": way.settings,
        "trainable": made.num_trainable,
        "stored_bytes": made.stored_bytes(),
        "losses_at_best": losses,
        "history": [epoch.dump() for epoch in fitted.progress.history],
        "best_epoch": fitted.progress.best_epoch,
        "steps": fitted.progress.step,
        "cpu_seconds": {
            "building": building["cpu_seconds"],
            "reading": reading["cpu_seconds"],
            "training": training["cpu_seconds"],
            "scoring": scoring["cpu_seconds"],
        },
        "test": {name: value.model_dump() for name, value in scored.metrics(context.task).items()},
        "predicted": [str(answer) for answer in scored.predicted],
    }


def main() -> None:
    parser = script_parser(__doc__, "written", threads=1)
    add_data(parser)
    parser.add_argument("--way", action="append", choices=WAYS, required=True)
    parser.add_argument("--set", action="append", default=[], help="of every way that is named, such as options.rank=2")
    parser.add_argument("--tag", default="", help="names a variant in the file names")
    parser.add_argument("--task", default="webnlg", help="a task of bench/tasks whose answers are written")
    parser.add_argument("--size", type=int, default=64, help="training rows")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--dtype", default="bfloat16", choices=("float32", "bfloat16"))
    parser.add_argument("--validation-rows", type=int, default=32)
    parser.add_argument("--test-rows", type=int, default=100)
    parser.add_argument("--minutes", type=float, default=600.0, help="begin no cell after so many")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    splits = ("train", "validation", "test")
    data = {f"data.{split}": str((args.data / args.task / f"{split}.jsonl").resolve()) for split in splits}
    data |= {"data.validation_rows": args.validation_rows, "data.test_rows": args.test_rows}
    request = resolved(TuneConfig, TASKS / f"{args.task}.yaml", data)
    resources = Resources(load_backbone(request.task.backbone, dtype=args.dtype), Store(store_dir()))
    context = CellContext(resources, request.task, splits_of(request.task), MIN_STEPS, ())
    plan = [(seed, name) for seed in range(args.seeds) for name in args.way]
    for seed, name in in_time(plan, args.minutes):
        tag = "-".join(filter(None, [name.replace(":", "-"), args.tag, args.task, str(args.size), f"seed{seed}"]))
        path = args.out / f"{tag}.json"
        if path.exists():
            continue
        facts = {"way": name, "tag": args.tag, "task": args.task, "size": args.size, "seed": seed, "dtype": args.dtype}
        facts["given"] = args.set
        facts |= {"rows": {"validation": args.validation_rows, "test": args.test_rows}, **start_facts()}
        cell = run_cell(context, way_named(name, request, args.set), args.size, seed)
        write_json(path, {**facts, **cell, **machine_facts()})
        best = cell["history"][cell["best_epoch"]]
        print(
            path.name, f"validation loss {best['validation_loss']:.3f}", cell["test"][request.task.metric], flush=True
        )
    print_differences(args, request.task.metric, gold_of(request.task, context.splits.test))


def print_differences(args: argparse.Namespace, metric: str, gold: Sequence[Hashable]) -> None:
    """The first way less each other, over the seeds and test rows that both have."""
    answers: dict[str, dict[int, list[str]]] = {way: {} for way in args.way}
    for path in args.out.glob(f"*{args.task}-{args.size}-seed*.json"):
        cell = json.loads(path.read_text(encoding="utf-8"))
        if cell["way"] in answers and cell["tag"] == args.tag and cell["rows"]["test"] == len(gold):
            answers[cell["way"]][cell["seed"]] = cell["predicted"]
    first, *others = args.way
    for other in others:
        seeds = sorted(answers[first].keys() & answers[other].keys())
        if len(seeds) > 1:
            both = [resampled(metric, gold, [answers[way][seed] for seed in seeds]) for way in (first, other)]
            print(f"{first} less {other}, {len(seeds)} seeds:", difference_over_seeds(*both).difference)


if __name__ == "__main__":
    main()
