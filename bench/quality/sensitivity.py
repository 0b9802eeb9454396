"""What rate, length and start of a prompt matter, one changed at a time: one JSON a cell, resumable.

python bench/quality/sensitivity.py --data DIR --way prefix-after --way vectors-after
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import torch

from overture.engine.cache import InputCache
from overture.engine.load import load_backbone

sys.path.insert(0, str(Path(__file__).parents[1]))

from quality import run_cell
from tasks import WORDINGS

RESULTS = Path(__file__).parents[1] / "results" / "sensitivity"
PLAIN: dict[str, Any] = {
    "lr": None,
    "length": 10,
    "init": "vocabulary",
    "options": {},
    "epochs": 5,
    "store": None,
    "validation_only": False,
}

# Rates are those around the way's own.
CHANGES: dict[str, list[dict[str, Any]]] = {
    "prefix-after": [
        *({"lr": rate} for rate in (0.01, 0.03, 0.3, 1.0)),
        *({"length": length} for length in (1, 3, 30, 100)),
        {"length": 100, "lr": 0.1},
        *({"init": init} for init in ("random", "labels", "null")),
    ],
    "vectors-after": [
        *({"init": init} for init in ("random", "labels")),
        *({"lr": rate} for rate in (0.01, 0.03, 0.3)),
        *({"length": length} for length in (3, 30)),
    ],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--task", choices=WORDINGS, default="trec")
    parser.add_argument("--way", action="append", choices=CHANGES, required=True)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--train-rows", type=int, default=256)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    backbone, cache = load_backbone("smollm2"), InputCache()
    for way in args.way:
        for change in [{}, *CHANGES[way]]:
            settings = {**vars(args), **PLAIN, **change, "cell_way": way, "cache": cache}
            name = "-".join([way, *(f"{key}-{value}" for key, value in change.items())])
            for seed in range(args.seeds):
                path = args.out / f"{name}-{args.task}-seed{seed}.json"
                if not path.exists():
                    run_cell(backbone, args.task, argparse.Namespace(**settings), seed, path)


if __name__ == "__main__":
    main()
