"""Accuracy of our methods on movie and trec over seeds: one JSON a cell, resumable.

A way is `none`, `in-context` or METHOD-PLACE, such as prefix-after.

    python bench/quality/quality.py --data DIR --task trec --task movie --seeds 5 --way prefix-after
"""

import argparse
import json
import resource
import sys
import time
from pathlib import Path

import torch

from overture.baseline.in_context import in_context_prompt
from overture.core.files import write_json
from overture.core.meter import Meter
from overture.core.rows import Encoded
from overture.data.encode import Encoder
from overture.data.rows import Row
from overture.data.task import Task
from overture.engine.backbone import Backbone
from overture.engine.cache import InputCache
from overture.engine.load import load_backbone
from overture.engine.prompted import PromptedModel
from overture.evaluate.scoring import Scored, score
from overture.evaluate.source import prompt_source
from overture.prompt.build import build_prompt
from overture.prompt.config import PromptConfig
from overture.prompt.methods import METHODS
from overture.prompt.registry import own_rate
from overture.store.store import Store
from overture.train.fit import Fit, Validation
from overture.train.options import TrainConfig

sys.path.insert(0, str(Path(__file__).parents[1]))

from common import machine_facts
from tasks import WORDINGS, decoder_task, splits_of

WAYS = ["none", "in-context", *(f"{name}-{place}" for name, method in METHODS.items() for place in method.places)]


def train_cell(
    backbone: Backbone,
    task: Task,
    splits: dict[str, list[Encoded]],
    encoder: Encoder,
    args: argparse.Namespace,
    seed: int,
) -> dict[str, object]:
    method, place = args.cell_way.rsplit("-", 1)
    prompt_config = PromptConfig(method=method, place=place, length=args.length, init=args.init, options=args.options)
    lr = args.lr or own_rate(prompt_config)
    config = TrainConfig(epochs=args.epochs, lr=lr, patience=args.epochs)
    prompt = build_prompt(prompt_config, prompt_source(backbone, encoder, splits["train"], args.store), seed)
    # What keeping the training rows' inputs costs, measured from nothing; the cells share one cache to save time.
    started = time.perf_counter()
    PromptedModel(backbone, prompt, InputCache()).warm(splits["train"])
    warm_seconds = time.perf_counter() - started
    model = PromptedModel(backbone, prompt, args.cache)
    for rows in splits.values():
        model.warm(rows)

    def validate() -> Validation:
        found = score(model, splits["validation"], task)
        return Validation(found.value(task), found.loss)

    meter = Meter()
    cpu = resource.getrusage(resource.RUSAGE_SELF).ru_utime
    result = Fit(model, splits["train"], validate, config, seed).run()
    return {
        "model": model,
        "config": {"prompt": prompt_config.model_dump(), "train": config.model_dump()},
        "trainable": sum(value.numel() for value in model.trainable().values()),
        "cache_seconds": warm_seconds,
        "train_seconds": result.progress.seconds,
        "cpu_seconds_with_validation": resource.getrusage(resource.RUSAGE_SELF).ru_utime - cpu,
        "peak_bytes": meter.peak_bytes,
        "best_epoch": result.progress.best_epoch,
        "history": [epoch.dump() for epoch in result.progress.history],
    }


def in_context_cell(
    backbone: Backbone,
    task: Task,
    rows: dict[str, list[Row]],
    splits: dict[str, list[Encoded]],
    seed: int,
) -> dict[str, object]:
    """Eight examples in front of every row; the splits are encoded anew, to follow them."""
    memory, encoder, count = in_context_prompt(backbone, task, rows["train"], rows["test"], 8, seed)
    splits |= {split: encoder.encode(rows[split], bos=False) for split in ("validation", "test")}
    return {"model": PromptedModel(backbone, memory), "shots": count}


def told_score(found: Scored, task: Task) -> dict[str, object]:
    """What a cell keeps of a split: with a digit for each row, so that ways can be paired."""
    right = "".join(str(int(g == p)) for g, p in zip(found.gold, found.predicted, strict=True))
    return {"accuracy": found.value(task), "n": len(found.gold), "loss": found.loss, "right": right}


def run_cell(backbone: Backbone, name: str, args: argparse.Namespace, seed: int, path: Path) -> None:
    task = decoder_task(name)
    encoder = Encoder(task, backbone.tokenizer)
    rows = splits_of(name, args.data, args.train_rows, seed)
    splits = {split: encoder.encode(found) for split, found in rows.items()}
    cell: dict[str, object] = {"model": PromptedModel(backbone, None, args.cache)}
    if args.cell_way == "in-context":
        cell = in_context_cell(backbone, task, rows, splits, seed)
    elif args.cell_way != "none":
        cell = train_cell(backbone, task, splits, encoder, args, seed)
    model = cell.pop("model")
    for split in ("validation",) if args.validation_only else ("validation", "test"):
        found = score(model, splits[split], task)
        cell[split] = told_score(found, task)
    facts = {"way": args.cell_way, "task": name, "seed": seed, "train_rows": args.train_rows, "threads": args.threads}
    made = machine_facts()
    made["versions"]["backbone"] = backbone.info.weights_sha256
    write_json(path, {**facts, **cell, **made})
    shown = {split: cell[split]["accuracy"] for split in ("validation", "test") if split in cell}
    print(path.name, shown, f"{cell.get('train_seconds', 0):.0f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--task", action="append", choices=WORDINGS, required=True)
    parser.add_argument("--way", action="append", choices=WAYS, required=True)
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "results/quality")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--length", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--lr", type=float)
    parser.add_argument("--init", default="vocabulary")
    parser.add_argument("--options", type=json.loads, default={}, help="the method's own options, as JSON")
    parser.add_argument("--store", type=Store, help="where stored prompts are that options name")
    parser.add_argument("--tag", default="", help="names a variant in the file names")
    parser.add_argument("--train-rows", type=int, default=256)
    parser.add_argument("--validation-only", action="store_true")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    backbone = load_backbone("smollm2")
    args.cache = InputCache()
    for name in args.task:
        for way in args.way:
            args.cell_way = way
            for seed in range(1 if way == "none" else args.seeds):
                path = args.out / f"{way}{'-' + args.tag if args.tag else ''}-{name}-seed{seed}.json"
                if not path.exists():
                    run_cell(backbone, name, args, seed, path)


if __name__ == "__main__":
    main()
