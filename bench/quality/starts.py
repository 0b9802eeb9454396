"""What a start is worth: SPoT's, Reptile's and first-order MAML's, and what pruning keeps. One JSON a study.

SPoT needs snippets of product reviews, which stand in the source archive of the package vaderSentiment:

    pip download vaderSentiment==3.3.2 --no-binary :all: --no-deps
    python bench/quality/starts.py --data DIR --snippets vaderSentiment-3.3.2.tar.gz
"""

import argparse
import io
import json
import random
import sys
import tarfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

import overture
from overture.core.config import read_yaml
from overture.core.files import write_json
from overture.core.records.base import Record
from overture.jobs.distil.options import PruneConfig
from overture.jobs.distil.prune import prune
from overture.jobs.run.request import TuneConfig, resolved
from overture.jobs.transfer.meta import meta
from overture.jobs.transfer.options import MetaConfig
from overture.store.store import Store

sys.path.insert(0, str(Path(__file__).parents[1]))

from common import add_data, script_parser

SNIPPETS = "amazonReviewSnippets_GroundTruth.txt"
BENCH = Path(__file__).parents[1]
USUAL = "prefix"


def snippets(archive: Path) -> Iterator[dict[str, str]]:
    """Product reviews whose mean rating is clear, as rows; the archive holds another."""
    with tarfile.open(archive) as outer:
        name = next(name for name in outer.getnames() if name.endswith(".tar.gz"))
        content = outer.extractfile(name)
        assert content is not None
        with tarfile.open(fileobj=io.BytesIO(content.read())) as inner:
            file = inner.extractfile(next(name for name in inner.getnames() if name.endswith(SNIPPETS)))
            assert file is not None
            lines = file.read().decode("utf-8").splitlines()
    for line in lines:
        _, rating, text = line.split("\t", 2)
        if abs(float(rating)) > 0.8:
            yield {"text": text, "label": "positive" if float(rating) > 0 else "negative"}


def product_task(archive: Path, folder: Path, train_rows: int, seed: int = 0) -> Path:
    """A task of few training rows: 100 for validation, 1,000 for the test, drawn once."""
    rows = [*snippets(archive)]
    random.Random(seed).shuffle(rows)
    cuts = {"train": (0, train_rows), "validation": (1000, 1100), "test": (1100, 2100)}
    for split, (start, end) in cuts.items():
        lines = [json.dumps(row) + "\n" for row in rows[start:end]]
        (folder / f"products-{split}.jsonl").write_text("".join(lines), encoding="utf-8")
    data = {split: f"products-{split}.jsonl" for split in cuts}
    return task_file(folder, "products", {**task_named("movie"), "data": data})


def task_named(name: str) -> dict[str, Any]:
    return read_yaml(BENCH / "tasks" / f"{name}.yaml")


def task_file(folder: Path, name: str, body: dict[str, Any]) -> Path:
    path = folder / f"{name}.yaml"
    path.write_text(json.dumps({**body, "name": name}), encoding="utf-8")
    return path


def shared_task(folder: Path, data: Path, name: str, rows: int = 256) -> Path:
    """A task of the benchmark's data, with so many of its training rows."""
    files = {split: str((data / name / f"{split}.jsonl").resolve()) for split in ("train", "validation", "test")}
    return task_file(folder, name, {**task_named(name), "data": {**files, "train_rows": rows}})


def prompt_of(args: argparse.Namespace) -> dict[str, Any]:
    return {"method": args.method, "place": "after", "length": 10}


def source_of(name: str, args: argparse.Namespace) -> str:
    return name if args.method == USUAL else f"{name}-{args.method}"


def spot(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Product reviews from the ordinary start, from a prompt for film reviews, and from one for question types."""
    for name in ("movie", "trec"):
        path = shared_task(folder, args.data, name)
        overture.tune(path, store=folder / "store", prompt=prompt_of(args), shots=0, name=source_of(name, args))
    found: dict[str, Any] = {}
    for rows in args.rows:
        target = product_task(args.snippets, folder, rows)
        found |= tuned_from(args, folder, target, rows, ("ordinary", "movie", "trec"))
    return found


def tuned_from(
    args: argparse.Namespace, folder: Path, target: Path, rows: int, starts: Sequence[str]
) -> dict[str, Any]:
    """A task of few rows tuned from each start, by size and start."""
    found: dict[str, Any] = {}
    for start in starts:
        init = {"init": "prompt", "init_prompt": source_of(start, args)} if start != "ordinary" else {}
        told = overture.tune(
            target,
            store=folder / "store",
            prompt=prompt_of(args) | init,
            train={"epochs": args.epochs},
            seeds=args.seeds,
            shots=0,
            name=source_of(f"{target.stem}-{rows}-{start}", args),
        )
        kept = ("seeds", "no_prompt", "trainable")
        found[f"{rows} rows, {start}"] = {key: value for key, value in told.dump().items() if key in kept}
    return found


def learnt_start(args: argparse.Namespace, folder: Path, algorithm: str, name: str) -> dict[str, Any]:
    """A start learnt on films and news, tried on question types, which it never saw: few steps, and few rows."""
    config = MetaConfig.model_validate({"steps": args.visits, "inner": 4, "algorithm": algorithm})
    paths = [shared_task(folder, args.data, name) for name in ("movie", "bbc", "trec")]
    requests = [resolved(TuneConfig, path, {"prompt": prompt_of(args)}) for path in paths]
    learnt = source_of(name, args)
    told = portable(meta(requests[:2], Store(folder / "store"), learnt, config, unseen=requests[2:]))
    tuned: dict[str, Any] = {}
    for rows in args.rows:
        tuned |= tuned_from(args, folder, shared_task(folder, args.data, "trec", rows), rows, ("ordinary", name))
    return {**told, "tuned": tuned}


def pruned(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """How few values of a prompt of vectors keep its accuracy on films."""
    path = shared_task(folder, args.data, "movie")
    settings = {
        "prompt": {"method": "vectors", "place": "after", "length": 20},
        "train": {"epochs": args.epochs},
        "shots": 0,
    }
    whole = overture.tune(path, store=folder / "store", name="whole", **settings)
    return portable(prune(str(whole.prompt), Store(folder / "store"), PruneConfig(keep=(0.5, 0.33))))


def portable(result: Record) -> dict[str, Any]:
    """A result without the folder and the notices, which name files of this machine."""
    return {key: value for key, value in result.dump().items() if key not in ("folder", "notices")}


STUDIES = {
    "spot": spot,
    "reptile": partial(learnt_start, algorithm="reptile", name="start"),
    "fomaml": partial(learnt_start, algorithm="fomaml", name="start-fomaml"),
    "pruned": pruned,
}


def main() -> None:
    parser = script_parser(__doc__, "starts")
    add_data(parser)
    parser.add_argument("--snippets", type=Path, help="the source archive of vaderSentiment, for spot")
    parser.add_argument("--study", action="append", choices=STUDIES, help="all of them when none is named")
    parser.add_argument("--work", type=Path, default=Path("starts-work"), help="where prompts and task files are kept")
    parser.add_argument("--method", choices=[USUAL, "vectors"], default=USUAL, help="for all but pruned")
    parser.add_argument("--rows", type=int, nargs="+", default=[16, 64], help="training rows of the few-shot task")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--visits", type=int, default=16)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.work.mkdir(parents=True, exist_ok=True)
    settings = {key: getattr(args, key) for key in ("method", "rows", "epochs", "seeds", "visits", "threads")}
    for name in args.study or STUDIES:
        path = args.out / f"{source_of(name, args)}.json"
        if not path.exists():
            write_json(path, {"study": name, "settings": settings, "found": STUDIES[name](args, args.work)})
            print(path.name, flush=True)


if __name__ == "__main__":
    main()
