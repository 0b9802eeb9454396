"""The measured table of docs/methods.md: every method that fits a decoder, on both tasks. One JSON a cell, resumable.

A cell that is there is not run again, so the table fills over several sittings; `--minutes` ends one between two cells.

    python bench/quality/methods.py --data DIR
    python bench/pages/methods_page.py
"""

import argparse
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

import overture
from overture.engine.load import load_backbone
from overture.jobs.compare.ways import Resources
from overture.prompt.methods import METHODS
from overture.store.store import Store

sys.path.insert(0, str(Path(__file__).parents[1]))

from common import RESULTS, add_data, in_time, script_parser
from quality import Cell, run_cell
from starts import shared_task

TASKS = ("movie", "trec")
MOVING = 1
"""Seeds where the text's inputs cannot be kept, so that a run takes many times as long."""


@dataclass(frozen=True)
class Entry:
    """How a method is measured.

    Args:
        way: METHOD-PLACE.
        seeds: how many.
        length: prompt vectors or columns; by task where they differ.
        options: of the method.
        sources: other tasks, whose prompts of vectors it mixes.
        tag: names a variant; its cells are not the method's as it comes.
    """

    way: str
    seeds: int = 3
    length: int | Mapping[str, int] = 10
    options: Mapping[str, Any] = field(default_factory=dict)
    sources: bool = False
    tag: str = ""

    @property
    def method(self) -> str:
        return self.way.rsplit("-", 1)[0]

    def file(self, task: str, seed: int) -> str:
        return "-".join(filter(None, [self.way, self.tag, task, f"seed{seed}.json"]))

    def cell(self, task: str, seed: int) -> Cell:
        length = self.length if isinstance(self.length, int) else self.length[task]
        sources = {"sources": [source_named(other) for other in sources_for(task)]} if self.sources else {}
        return Cell(self.way, task, seed, length=length, options={**self.options, **sources})


PLAN = (
    Entry("vectors-after"),
    Entry("vectors-before", MOVING),
    Entry("prefix-after", seeds=5),
    Entry("prefix-memory", MOVING),
    Entry("deep-after"),
    Entry("p_tuning-after"),
    Entry("residual-after"),
    Entry("low_rank-after"),
    Entry("ulpt-after"),
    Entry("gated-after"),
    Entry("warp-after"),
    # The most examples whose vectors and a training row fit the tokens of a pass.
    Entry("cpt-before", MOVING, length={"movie": 124, "trec": 72}),
    Entry("dept-before", MOVING),
    # 4 D + 5 (65 + D) = 5,509 values of the 5,760 of ten vectors; the longest row has 65 tokens.
    Entry("dept-before", MOVING, length=4, options={"rank": 5, "max_tokens": 65}, tag="equal"),
    Entry("late-before", options={"layer": 15}),
    Entry("idpg-after"),
    Entry("lopa-after"),
    Entry("attempt-after", sources=True),
    Entry("mpt-after"),
    Entry("split-around", MOVING),
)
ELSEWHERE = {
    "pruned": "bench/quality/starts.py --study pruned",
    "cartridge": "bench/quality/cartridge.py",
    **dict.fromkeys(("coop", "kgcoop", "maple", "promptsrc"), "bench/vision/captions.py"),
}
"""Methods that begin with something else than a task's rows, or are for other models, and what measures them."""


def sources_for(task: str) -> list[str]:
    return [other for other in (*TASKS, "bbc") if other != task]


def source_named(task: str) -> str:
    return f"{task}-vectors"


def missing(plan: tuple[Entry, ...], folders: list[Path]) -> Iterator[tuple[Entry, str, int]]:
    """Cells that are in none of the folders: those of first seeds before those of second ones."""
    for seed in range(max(entry.seeds for entry in plan)):
        for entry in plan:
            for task in TASKS:
                name = entry.file(task, seed)
                if seed < entry.seeds and not any((folder / name).exists() for folder in folders):
                    yield entry, task, seed


def tune_sources(args: argparse.Namespace, task: str) -> None:
    """Prompts of vectors for the other tasks, in the store."""
    store = Store(args.work / "store")
    for other in sources_for(task):
        if not any(entry.name == source_named(other) for entry in store.list()):
            path = shared_task(args.work, args.data, other)
            prompt = {"method": "vectors", "place": "after", "length": 10}
            overture.tune(path, store=args.work / "store", prompt=prompt, shots=0, name=source_named(other))


def main() -> None:
    parser = script_parser(__doc__, "methods", threads=1)
    add_data(parser)
    parser.add_argument("--work", type=Path, default=Path("methods-work"), help="where prompts to mix are kept")
    parser.add_argument(
        "--method", action="append", choices=sorted({entry.method for entry in PLAN}), help="all if none is named"
    )
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no cell after so many")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.work.mkdir(parents=True, exist_ok=True)
    plan = tuple(entry for entry in PLAN if not args.method or entry.method in args.method)
    resources = Resources(load_backbone("smollm2"), Store(args.work / "store"))
    for entry, task, seed in in_time(missing(plan, [args.out, RESULTS / "quality", RESULTS / "methods"]), args.minutes):
        if entry.sources:
            tune_sources(args, task)
        run_cell(entry.cell(task, seed), resources, args.data, args.threads, args.out / entry.file(task, seed))


assert {entry.method for entry in PLAN} | set(ELSEWHERE) == set(METHODS)


if __name__ == "__main__":
    main()
