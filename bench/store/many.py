"""A store of very many prompts: opening it, a page of its list, adding one, filling the index anew.

python bench/store/many.py --like FOLDER_OF_A_PROMPT [--prompts 100000] [--out FILE]

The prompts are copies of one real prompt under other names; their tensors are hard links of a few files, so that the
disk has room. Times are wall seconds of one process.
"""

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
from common import RESULTS, machine_facts, start_facts
from overture.store.artifact import (
    CARD_FILE,
    MANIFEST_FILE,
    TENSORS_FILE,
    load_artifact,
    manifest_digest,
    read_manifest,
)
from overture.store.store import Store

_LINKS = 20_000
"""Copies that are links of one file: file systems limit them."""


def fill(root: Path, like: Path, num: int) -> int:
    """Make a store of copies; gives the bytes of a manifest."""
    manifest = read_manifest(like)
    size, first = 0, like
    for number in range(num):
        name = f"p{number:06d}"
        folder = root / "prompts" / name / "v1"
        folder.mkdir(parents=True)
        # As `save_artifact` writes it, so that reading it checks the digest too.
        values = manifest.model_copy(update={"name": name, "version": 1}).model_dump(mode="json")
        values["manifest_sha256"] = manifest_digest(values)
        text = json.dumps(values, indent=1, ensure_ascii=False) + "\n"
        size = len(text)
        (folder / MANIFEST_FILE).write_text(text)
        for file in (TENSORS_FILE, CARD_FILE):
            if number % _LINKS:
                os.link(first / file, folder / file)
            else:
                shutil.copyfile(like / file, folder / file)
        if not number % _LINKS:
            first = folder
    return size


def milliseconds(act: Callable[[int], Any], repeats: int) -> dict[str, float]:
    """The median and the longest of some repeats, in milliseconds."""
    times = []
    for number in range(repeats):
        started = time.perf_counter()
        act(number)
        times.append(1e3 * (time.perf_counter() - started))
    return {"median": round(statistics.median(times), 2), "max": round(max(times), 2), "n": repeats}


def measured(root: Path, like: Path, num: int) -> dict[str, Any]:
    manifest, tensors = load_artifact(like)
    store = Store(root)
    started = time.perf_counter()
    cpu = time.process_time()
    num_listed = len(store.list())
    rebuild_s, rebuild_cpu_s = time.perf_counter() - started, time.process_time() - cpu
    begins = [f"p{number * num // 40:06d}" for number in range(40)]
    figures = {
        "prompts": num_listed,
        "index_rebuilt_s": round(rebuild_s, 1),
        "index_rebuilt_cpu_s": round(rebuild_cpu_s, 1),
        "index_bytes": (root / "index.sqlite").stat().st_size,
        "open_ms": milliseconds(lambda _: Store(root), 20),
        "first_page_after_opening_ms": milliseconds(lambda _: Store(root).page(), 5),
        "page_ms": milliseconds(lambda number: store.page(begins[number]), 40),
        "page_of_matches_ms": milliseconds(lambda number: store.page(match=f"{number:03d}"), 20),
        "add_ms": milliseconds(
            lambda number: store.add(manifest.model_copy(update={"name": f"new{number}"}), tensors), 20
        ),
        "page_after_add_ms": milliseconds(lambda number: store.page(begins[number]), 1),
        "show_ms": milliseconds(lambda number: store.show(begins[number]), 40),
    }
    started = time.perf_counter()
    store.list()
    return {**figures, "whole_list_s": round(time.perf_counter() - started, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--like", type=Path, required=True, help="folder of a stored prompt")
    parser.add_argument("--prompts", type=int, default=100_000)
    parser.add_argument("--out", type=Path, default=RESULTS / "store" / "many.json")
    given = parser.parse_args()
    facts = start_facts()
    root = Path(tempfile.mkdtemp(dir=given.like.resolve().parent, prefix=".many-"))
    try:
        size = fill(root, given.like, given.prompts)
        figures = measured(root, given.like, given.prompts)
        result = {"command": f"python bench/store/many.py --prompts {given.prompts}", "manifest_bytes": size, **figures}
        given.out.parent.mkdir(parents=True, exist_ok=True)
        given.out.write_text(json.dumps({**result, **facts, **machine_facts()}, indent=1) + "\n")
        # Removing takes longer than all before it.
        print(json.dumps(figures, indent=1), flush=True)
    finally:
        shutil.rmtree(root)


if __name__ == "__main__":
    main()
