"""Rows, requests, scores and files of the studies that run through the jobs of the package (together, shared)."""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from common import add_data, script_parser
from overture.core.files import write_json
from overture.core.versions import versions
from overture.data.encode import Encoder
from overture.data.row import Row
from overture.engine.backbone import Backbone
from overture.engine.cache import InputCache
from overture.engine.load import load_backbone
from overture.engine.prompted import PromptedModel
from overture.evaluate.scoring import score
from overture.jobs.run.request import TuneConfig
from overture.store.store import Store
from tasks import decoder_task, splits_of, written_task
from training import SCORED, score_record

EPOCHS = 5


def study_parser(doc: str | None, name: str) -> argparse.ArgumentParser:
    """The options that every such study has."""
    parser = script_parser(doc, name, threads=1)
    add_data(parser)
    parser.add_argument("--work", type=Path, default=Path(f"{name}-work"), help="where rows, runs and prompts are kept")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--train-rows", type=int, default=256)
    parser.add_argument("--scored-rows", type=int, help="the first so many of a split alone, to try the script")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no run after so many")
    return parser


@dataclass(frozen=True)
class Lab:
    """The model and the options of a study, for all its cells.

    Args:
        args: of the command line.
        backbone: the model.
        cache: of inputs, for scoring.
    """

    args: argparse.Namespace
    backbone: Backbone
    cache: InputCache = field(default_factory=InputCache)

    @property
    def store(self) -> Store:
        return Store(self.args.work / "store")

    def file(self, way: str, task: str, seed: int) -> Path:
        """Where a cell is kept."""
        return Path(self.args.out) / f"{way}-{task}-seed{seed}.json"

    def rows(self, task: str, num_train: int, seed: int) -> dict[str, list[Row]]:
        """The rows that `quality.py` draws too."""
        splits = splits_of(task, self.args.data, num_train, seed)
        return {split: rows[: self.args.scored_rows] if split in SCORED else rows for split, rows in splits.items()}

    def request(
        self,
        task: str,
        num_train: int,
        seed: int,
        prompt: Mapping[str, Any],
        lr: float | None = None,
        **settings: Any,
    ) -> TuneConfig:
        """A run on these rows; as many epochs as everywhere else in the benchmark, the best one kept."""
        written = written_task(task, self.rows(task, num_train, seed), self.args.work / "rows" / f"{task}-seed{seed}")
        values = {"train": {"epochs": EPOCHS, "patience": EPOCHS, "lr": lr}, "seed": seed, "shots": 0, **settings}
        return TuneConfig.model_validate({"task": written, "prompt": prompt, **values})

    def scores(self, model: PromptedModel, task: str, num_train: int, seed: int) -> dict[str, Any]:
        """A finished prompt on the rows that chose its epoch and on the test rows."""
        bench_task, rows = decoder_task(task), self.rows(task, num_train, seed)
        encoder = Encoder(bench_task, self.backbone.text.tokenizer)
        scores = {split: score(model, encoder.encode(rows[split]), bench_task) for split in SCORED}
        return {split: score_record(scored, bench_task) for split, scored in scores.items()}

    def keep(self, way: str, task: str, seed: int, cell: Mapping[str, Any]) -> None:
        """Write a cell with the versions that decide its numbers."""
        found = {**versions(), "backbone": self.backbone.info.weights_sha256}
        facts = {"way": way, "task": task, "seed": seed, "threads": self.args.threads}
        path = self.file(way, task, seed)
        write_json(path, {**facts, **cell, "versions": found})
        shown = {split: cell[split]["accuracy"] for split in SCORED}
        print(path.name, shown, f"{cell['cpu_seconds']:.0f} CPU s", flush=True)


def opened(args: argparse.Namespace) -> Lab:
    """The model loaded, the folders there."""
    torch.set_num_threads(args.threads)
    args.work.mkdir(parents=True, exist_ok=True)
    return Lab(args, load_backbone("smollm2"))
