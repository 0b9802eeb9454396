"""Prompts beside baselines on an encoder without a head (MiniLM): one JSON a cell, resumable.

Each way's learning rate is the best of a few on validation rows of seed 0; the cells of that search hold no test rows.
A way is METHOD-PLACE, such as prefix-memory, or a baseline's name. Every way but the linear head has label vectors.

    python bench/quality/encoder.py --model DIR --data DIR --task trec --task movie --seeds 3

DIR of the model is a folder with a BERT's body; sentence-transformers/all-MiniLM-L6-v2 was measured.
"""

import argparse
import json
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from overture.baseline.base import Built, Request, num_values, stored_bytes
from overture.baseline.registry import BASELINES, build_baseline
from overture.core.contracts import Scorer
from overture.core.files import write_json
from overture.core.meter import Meter
from overture.core.rows import Encoded
from overture.data.encode import Encoder
from overture.engine.backbone import Backbone
from overture.engine.load import load_backbone
from overture.engine.prompted import PromptedModel
from overture.evaluate.scoring import score
from overture.evaluate.source import prompt_source
from overture.prompt.build import build_prompt
from overture.prompt.config import PromptConfig
from overture.train.fit import Fit, Validation
from overture.train.options import TrainConfig

sys.path.insert(0, str(Path(__file__).parents[1]))

from tasks import WORDINGS, encoder_task, splits_of

RESULTS = Path(__file__).parents[1] / "results" / "encoder"


@dataclass(frozen=True)
class Way:
    """How a way is built, and the learning rates that it may choose from.

    Args:
        rates: none where the loop trains nothing.
        options: the method's label rate, or the baseline's own options.
    """

    rates: tuple[float, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)


WAYS = {
    "linear": Way(),
    "prefix-memory": Way((3e-2, 1e-1)),
    "full": Way((1e-4, 3e-4), {"label_rate": 30.0}),
    "lora": Way((1e-3, 4e-3)),
    # With label vectors this is WARP.
    "vectors-before": Way((1e-2, 3e-2)),
    "bitfit": Way((3e-3, 1e-2)),
}


@dataclass(frozen=True)
class Config:
    """Everything that decides a cell's numbers, apart from the machine."""

    way: str
    task: str
    seed: int
    lr: float | None
    options: Mapping[str, Any]
    length: int
    epochs: int
    train_rows: int

    @property
    def train(self) -> TrainConfig:
        return TrainConfig(epochs=self.epochs, lr=self.lr, patience=self.epochs)


def built(backbone: Backbone, config: Config, request: Request) -> Built:
    if config.way in BASELINES:
        return build_baseline(config.way, config.options, request)
    name, _, place = config.way.partition("-")
    prompt_config = PromptConfig(method=name, place=place, length=config.length, **config.options)
    source = prompt_source(backbone, request.encoder, request.rows["train"])
    model = PromptedModel(backbone, build_prompt(prompt_config, source, config.seed))
    values = model.trainable()
    return Built(model, request.rows, model, num_values(values), stored_bytes(values))


def run_cell(backbone: Backbone, config: Config, data: Path, with_test: bool) -> dict[str, Any]:
    task = encoder_task(config.task)
    splits = splits_of(config.task, data, config.train_rows, config.seed)
    encoder = Encoder(task, backbone.tokenizer, reserve=config.length)
    rows = {name: encoder.encode(split) for name, split in splits.items()}
    meter, cpu = Meter(), time.process_time()
    started = time.perf_counter()
    found = built(backbone, config, Request({}, backbone, encoder, splits, rows, config.seed))
    cell: dict[str, Any] = {"build_seconds": time.perf_counter() - started, "trainable": found.num_trainable}
    if found.trainee is not None:

        def validate() -> Validation:
            scored = score(found.model, found.rows["validation"], task)
            return Validation(scored.value(task), scored.loss)

        result = Fit(found.trainee, rows["train"], validate, config.train, config.seed).run()
        cell |= {
            "train_seconds": result.progress.seconds,
            "history": [epoch.dump() for epoch in result.progress.history],
        }
        cell |= {"best_epoch": result.progress.best_epoch, "status": result.status}
    cell |= {
        "cpu_seconds_with_validation": time.process_time() - cpu,
        "stored_bytes": found.stored_bytes,
        "peak_bytes": meter.peak_bytes,
        "facts": found.facts,
    }
    for split in ("validation", "test") if with_test else ("validation",):
        cell[split] = _accuracy(found.model, found.rows[split], task)
    return cell


def _accuracy(model: Scorer, rows: Any, task: Any) -> dict[str, Any]:
    encoded: list[Encoded] = list(rows)
    scored = score(model, encoded, task)
    right = "".join(str(int(gold == said)) for gold, said in zip(scored.gold, scored.predicted, strict=True))
    return {"accuracy": scored.value(task), "n": len(scored.gold), "loss": scored.loss, "right": right}


def cell_of(
    backbone: Backbone, config: Config, args: argparse.Namespace, path: Path, with_test: bool
) -> dict[str, Any]:
    """A cell's result: read where it was measured before, with the same configuration."""
    wanted = json.loads(json.dumps(vars(config)))
    if path.exists():
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if found["config"] != wanted:
            raise SystemExit(f"{path} was measured with another configuration\n  fix: remove it, or give another --out")
        return found
    cell = run_cell(backbone, config, args.data, with_test)
    versions = {"torch": torch.__version__, "backbone": backbone.info.weights_sha256}
    found = {"config": wanted, "threads": args.threads, **cell, "versions": versions}
    write_json(path, found)
    shown = {split: round(found[split]["accuracy"], 4) for split in ("validation", "test") if split in found}
    print(path.name, config.lr, shown, f"{found.get('train_seconds', found['build_seconds']):.0f} s", flush=True)
    return found


def best_rate(backbone: Backbone, name: str, task: str, args: argparse.Namespace) -> float | None:
    """The rate with the best validation accuracy of seed 0, then the least loss."""
    way = WAYS[name]
    quality: dict[float, tuple[float, float]] = {}
    for rate in way.rates:
        path = args.out / f"{name}-{task}-lr{rate:g}.json"
        found = cell_of(backbone, config_of(name, task, 0, rate, args), args, path, with_test=False)
        quality[rate] = (found["validation"]["accuracy"], -found["validation"]["loss"])
    return max(quality, key=quality.__getitem__) if quality else None


def config_of(name: str, task: str, seed: int, rate: float | None, args: argparse.Namespace) -> Config:
    return Config(name, task, seed, rate, dict(WAYS[name].options), args.length, args.epochs, args.train_rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="folder of the encoder")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--task", action="append", choices=WORDINGS, required=True)
    parser.add_argument("--way", action="append", choices=WAYS, help="all when not given")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--length", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--train-rows", type=int, default=256)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    backbone = load_backbone(args.model)
    for task in args.task:
        for name in args.way or WAYS:
            rate = best_rate(backbone, name, task, args)
            for seed in range(args.seeds):
                path = args.out / f"{name}-{task}-seed{seed}.json"
                cell_of(backbone, config_of(name, task, seed, rate, args), args, path, with_test=True)


if __name__ == "__main__":
    main()
