"""What rate, length and start of a prompt matter, one changed at a time: one JSON a cell, resumable.

python bench/quality/sensitivity.py --data DIR --way prefix-after --way vectors-after
"""

import sys
from pathlib import Path
from typing import Any

import torch

from overture.core.files import store_dir
from overture.engine.load import load_backbone
from overture.jobs.compare.ways import Resources
from overture.store.store import Store

sys.path.insert(0, str(Path(__file__).parents[1]))

from common import add_data, script_parser
from quality import Cell, run_cell
from tasks import WORDINGS

# Rates are those around the way's own.
CHANGES: dict[str, list[dict[str, Any]]] = {
    "prefix-after": [
        *({"lr": rate} for rate in (0.01, 0.03, 0.3, 1.0)),
        *({"length": length} for length in (1, 3, 16, 30, 100)),
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
    parser = script_parser(__doc__, "sensitivity")
    add_data(parser)
    parser.add_argument("--task", choices=WORDINGS, default="trec")
    parser.add_argument("--way", action="append", choices=CHANGES, required=True)
    parser.add_argument("--only", nargs="*", help="changes to run, such as length-100; all if none is named")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--train-rows", type=int, default=256)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    resources = Resources(load_backbone("smollm2", dtype=args.dtype), Store(store_dir()))
    precision = "" if args.dtype == "float32" else f"-{args.dtype}"
    for way in args.way:
        for change in [{}, *CHANGES[way]]:
            what = "-".join(f"{key}-{value}" for key, value in change.items())
            if change and args.only and what not in args.only:
                continue
            name = "-".join(filter(None, [way, what]))
            for seed in range(args.seeds):
                path = args.out / f"{name}-{args.task}{precision}-seed{seed}.json"
                if not path.exists():
                    cell = Cell(way, args.task, seed, args.train_rows, **change)
                    run_cell(cell, resources, args.data, args.threads, path)


if __name__ == "__main__":
    main()
