"""Accuracy of our ways on movie and trec over seeds: one JSON a cell, resumable.

A way is one of `overture compare`: `no-prompt`, `in-context` or METHOD-PLACE, such as prefix-after. Rows are drawn as
`peft_baseline.py` draws them, so that both train on the same.

    python bench/quality/quality.py --data DIR --task trec --task movie --seeds 5 --way prefix-after
"""

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from overture.core.files import store_dir, write_json
from overture.core.records.cells import NO_PROMPT
from overture.engine.load import load_backbone
from overture.jobs.compare.ways import WAYS, Resources, way_named
from overture.jobs.run.request import TuneConfig
from overture.prompt.methods import METHODS
from overture.store.store import Store

sys.path.insert(0, str(Path(__file__).parents[1]))

from common import add_data, machine_facts, script_parser
from tasks import WORDINGS, decoder_task, splits_of
from training import train_and_score


@dataclass(frozen=True)
class Cell:
    """What decides a cell's numbers, apart from the machine.

    Args:
        way: its name.
        task: its name.
        seed: of rows, start and order.
        train_rows: how many.
        lr: the way's own rate when None.
        length: prompt vectors or columns.
        init: what they start from.
        options: of the method.
        epochs: how many; the best on validation rows counts.
    """

    way: str
    task: str
    seed: int
    train_rows: int = 256
    lr: float | None = None
    length: int = 10
    init: str = "vocabulary"
    options: dict[str, Any] = field(default_factory=dict)
    epochs: int = 5

    @property
    def request(self) -> TuneConfig:
        method, _, place = self.way.rpartition("-")
        prompt = {"length": self.length, "init": self.init, "options": self.options}
        names = {"method": method, "place": place} if method in METHODS else {}
        train = {"epochs": self.epochs, "patience": self.epochs}
        task = decoder_task(self.task)
        return TuneConfig.model_validate({"task": task, "prompt": prompt | names, "train": train, "shots": 8})


def run_cell(cell: Cell, resources: Resources, data: Path, threads: int, path: Path) -> None:
    way = way_named(cell.way, cell.request, [f"train.lr={cell.lr!r}"] if cell.lr else [])
    result = train_and_score(way, resources, splits_of(cell.task, data, cell.train_rows, cell.seed), cell.seed)
    if train := result.pop("train", None):
        result = {"config": {"prompt": way.config.prompt.model_dump(), "train": train}, **result}
    facts = {"way": cell.way, "task": cell.task, "seed": cell.seed, "train_rows": cell.train_rows, "threads": threads}
    facts |= {"dtype": resources.backbone.info.dtype}
    machine = machine_facts()
    machine["versions"]["backbone"] = resources.backbone.info.weights_sha256
    write_json(path, {**facts, **result, **machine})
    print(path.name, {split: result[split]["accuracy"] for split in ("validation", "test")}, flush=True)


def main() -> None:
    parser = script_parser(__doc__, "quality")
    add_data(parser)
    parser.add_argument("--task", action="append", choices=WORDINGS, required=True)
    parser.add_argument("--way", action="append", choices=WAYS, required=True)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--length", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--lr", type=float)
    parser.add_argument("--init", default="vocabulary")
    parser.add_argument("--options", type=json.loads, default={}, help="the method's own options, as JSON")
    parser.add_argument("--store", type=Path, help="where stored prompts are that options name")
    parser.add_argument("--tag", default="", help="names a variant in the file names")
    parser.add_argument("--train-rows", type=int, default=256)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    resources = Resources(load_backbone("smollm2"), Store(args.store or store_dir()))
    settings = {key: getattr(args, key) for key in ("train_rows", "lr", "length", "init", "options", "epochs")}
    for task in args.task:
        for way in args.way:
            for seed in range(1 if way == NO_PROMPT else args.seeds):
                path = args.out / f"{'-'.join(filter(None, [way, args.tag, task]))}-seed{seed}.json"
                if not path.exists():
                    run_cell(Cell(way, task, seed, **settings), resources, args.data, args.threads, path)


if __name__ == "__main__":
    main()
