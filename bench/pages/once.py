"""Sections of docs/benchmarks.md on work that is done once: common beginnings, kept texts, start-up; on precision."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from page_parts import ranged, table
from shared_passes import made

Found = dict[str, Any]


def sections_of(results: Path) -> dict[str, str]:
    """Every section that has results, by its name.

    Args:
        results: folder with `beginnings`, `second_run`, `startup` and `precision`.
    """
    writers: dict[str, Callable[[Sequence[Found]], str]] = {
        "beginnings": beginnings_text,
        "second_run": second_run_text,
        "startup": startup_text,
        "precision": precision_text,
    }
    sections = {}
    for name, text_of in writers.items():
        files = sorted((results / name).glob("*.json"))
        if files:
            sections[name] = text_of([json.loads(file.read_text(encoding="utf-8")) for file in files])
    return sections


def beginnings_text(results: Sequence[Found]) -> str:
    """Steps whose rows' common tokens run once a pass, beside those in which each row has them."""
    found = results[0]
    text = (
        "## What rows begin with\n\n"
        f"Question types in the model's chat template with a system message: {found['rows']} rows of "
        f"{found['mean_tokens']:.0f} tokens on average, the first {found['tokens_in_common']} the same in all. These "
        "run once a pass (of texts that are kept: once for all of one length), or with each row; both ways take turns "
        "in one process, ratios are taken within a round. Losses and gradients are equal but for rounding (a test). "
        "Processor seconds, median with (lowest-highest)."
    )
    ways = ("once a pass", "once a row")
    rows = [
        [name, *(ranged(runs[way], 2) for way in ways), ranged(runs["times as fast"], 2), str(runs[ways[0]]["n"])]
        for name, runs in found["cpu_seconds"].items()
    ]
    return "\n\n".join([text, table(["work", *ways, "times as fast", "rounds"], rows), made(results)])


def second_run_text(results: Sequence[Found]) -> str:
    """Seconds and memory until a run's first step."""
    text = (
        "## A second run on the same texts\n\n"
        "From the start of the process to the end of the first training step of `prefix` at `after`: imports, rows, "
        "model, inputs of all splits. A first run keeps what it reads on disk, a second one reads it from there. Wall "
        "seconds are those of a machine with other work; median with (lowest-highest)."
    )
    rows = [
        [
            f"{found['case'].replace('-', ', ')} rows of each split",
            mode,
            ranged(runs["cpu_seconds"]),
            ranged(runs["seconds"]),
            ranged({key: value / 2**20 for key, value in runs["peak_bytes"].items()}, 0),
            f"{found['bytes_on_disk_after'][mode] / 2**20:.0f}",
            str(runs["seconds"]["n"]),
        ]
        for found in results
        for mode, runs in found["runs"].items()
    ]
    head = ["texts", "run", "processor s", "wall s", "peak memory, MiB", "on disk, MiB", "runs"]
    return "\n\n".join([text, table(head, rows), made(results)])


def startup_text(results: Sequence[Found]) -> str:
    """Processor seconds of whole commands, now and in an older version."""
    text = (
        "## Start-up\n\n"
        "Processor seconds of whole commands from a cold start on SmolLM2: `overture predict` on one text, "
        "`overture eval` on 16 rows. Before is the version that imported transformers as a whole; the versions take "
        "turns. Median with (lowest-highest)."
    )
    rows = []
    for found in results:
        for name, versions in found["cpu_seconds"].items():
            before, now = versions["before"], versions["now"]
            share = f"{now['median'] / before['median']:.0%}"
            rows.append([f"`overture {name}`", ranged(before, 2), ranged(now, 2), share, str(now["n"])])
    return "\n\n".join([text, table(["command", "before", "now", "now of before", "runs"], rows), made(results)])


def precision_text(results: Sequence[Found]) -> str:
    """bfloat16 less float32 on the same rows, seeds and test rows."""
    text = (
        "## Quality in bfloat16\n\n"
        "The same rows, seeds, settings and test rows in both precisions; the interval of the difference is over "
        "seeds and test rows together. Seconds are the processor's of a run's training, without reading the texts."
    )
    rows = []
    for found in results:
        pair = found["bfloat16_minus_float32"]
        gap, seconds = pair["difference"], found["mean_cpu_seconds"]
        rows.append(
            [
                f"{found['task']}, {found['way']}, {found['size']} rows",
                found["metric"],
                *(f"{found['scores'][name]['value']:.3f}" for name in ("float32", "bfloat16")),
                f"{100 * gap['value']:+.1f} ({100 * gap['low']:+.1f} to {100 * gap['high']:+.1f})",
                str(pair["n_seeds"]),
                str(found["num_test_rows"]),
                *(f"{seconds[name]['training']:.0f}" for name in ("float32", "bfloat16")),
                found["machine"]["cpu"],
            ]
        )
    head = [
        "task",
        "metric",
        "float32",
        "bfloat16",
        "difference, points",
        "seeds",
        "test rows",
        "float32, s",
        "bfloat16, s",
        "processor",
    ]
    return "\n\n".join([text, table(head, rows)])
