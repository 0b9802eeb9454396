"""Prompts beside baselines on an encoder without a head (MiniLM): one JSON a cell, resumable.

Each way's learning rate is the best of a few on validation rows of seed 0; the cells of that search hold no test rows.
Ways are those of `overture compare`; every one but the linear head has label vectors.

    python bench/quality/encoder.py --model DIR --data DIR --task trec --task movie --seeds 3

DIR of the model is a folder with a BERT's body; sentence-transformers/all-MiniLM-L6-v2 was measured.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch

from overture.core.files import store_dir, write_json
from overture.engine.load import load_backbone
from overture.jobs.compare.ways import Resources, way_named
from overture.jobs.run.request import TuneConfig
from overture.store.store import Store

sys.path.insert(0, str(Path(__file__).parents[1]))

from common import add_data, script_parser
from tasks import WORDINGS, encoder_task, splits_of
from training import SCORED, train_and_score

# The learning rates that a way may choose from; the linear head's solver has none. vectors-before with label vectors
# is WARP.
RATES: dict[str, tuple[float, ...]] = {
    "linear": (),
    "prefix-memory": (3e-2, 1e-1),
    "full": (1e-4, 3e-4),
    "lora": (1e-3, 4e-3),
    "vectors-before": (1e-2, 3e-2),
    "bitfit": (3e-3, 1e-2),
}
OPTIONS = {"full": {"label_rate": 30.0}}


def configuration(name: str, task: str, seed: int, rate: float | None, args: argparse.Namespace) -> dict[str, Any]:
    """Everything that decides a cell's numbers, apart from the machine."""
    facts = {"way": name, "task": task, "seed": seed, "lr": rate, "options": OPTIONS.get(name, {})}
    return facts | {"length": args.length, "epochs": args.epochs, "train_rows": args.train_rows}


def measured(
    config: dict[str, Any], path: Path, splits: tuple[str, ...], resources: Resources, args: argparse.Namespace
) -> dict[str, Any]:
    """A cell's result, read where it was measured before with the same configuration."""
    if path.exists():
        result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if result["config"] != config:
            raise SystemExit(f"{path} was measured with another configuration\n  fix: remove it, or give another --out")
        return result
    train = {"epochs": config["epochs"], "patience": config["epochs"]}
    task, prompt = encoder_task(config["task"]), {"length": config["length"]}
    request = TuneConfig.model_validate({"task": task, "prompt": prompt, "train": train})
    assignments = [f"options.{key}={value}" for key, value in config["options"].items()]
    assignments += [f"train.lr={config['lr']!r}"] if config["lr"] else []
    way = way_named(config["way"], request, assignments)
    rows = splits_of(config["task"], args.data, config["train_rows"], config["seed"])
    cell = train_and_score(way, resources, rows, config["seed"], splits)
    cell["cpu_seconds_with_validation"] = cell.get("cpu_seconds_with_validation", 0.0) + cell["build_cpu_seconds"]
    versions = {"torch": torch.__version__, "backbone": resources.backbone.info.weights_sha256}
    result = {"config": config, "threads": args.threads, **cell, "versions": versions}
    write_json(path, result)
    print(path.name, config["lr"], {split: round(result[split]["accuracy"], 4) for split in splits}, flush=True)
    return result


def main() -> None:
    parser = script_parser(__doc__, "encoder", threads=1)
    add_data(parser)
    parser.add_argument("--model", required=True, help="folder of the encoder")
    parser.add_argument("--task", action="append", choices=WORDINGS, required=True)
    parser.add_argument("--way", action="append", choices=RATES, help="all when not given")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--length", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--train-rows", type=int, default=256)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    resources = Resources(load_backbone(args.model), Store(store_dir()))
    for task in args.task:
        for name in args.way or RATES:
            # The best rate by validation accuracy, then by loss.
            quality: dict[float | None, tuple[float, float]] = {}
            for rate in RATES[name]:
                path = args.out / f"{name}-{task}-lr{rate:g}.json"
                trial = measured(configuration(name, task, 0, rate, args), path, ("validation",), resources, args)
                quality[rate] = (trial["validation"]["accuracy"], -trial["validation"]["loss"])
            best = max(quality, key=quality.__getitem__, default=None)
            for seed in range(args.seeds):
                path = args.out / f"{name}-{task}-seed{seed}.json"
                measured(configuration(name, task, seed, best, args), path, SCORED, resources, args)


if __name__ == "__main__":
    main()
