"""Sections of docs/benchmarks.md on work that is done once: common beginnings, kept texts, start-up; on precision.

And on answers that are written.
"""

import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from overture.evaluate.intervals import across_seeds
from page_parts import ranged, table
from shared_passes import made

Found = dict[str, Any]


def sections_of(results: Path) -> dict[str, str]:
    """Every section that has results, by its name.

    Args:
        results: folder with `beginnings`, `second_run`, `startup`, `precision` and `written`.
    """
    writers: dict[str, Callable[[Sequence[Found]], str]] = {
        "beginnings": beginnings_text,
        "second_run": second_run_text,
        "startup": startup_text,
        "precision": precision_text,
        "written": written_text,
    }
    sections = {}
    for name, text_of in writers.items():
        files = sorted((results / name).glob("*.json"))
        if files:
            sections[name] = text_of([json.loads(file.read_text(encoding="utf-8")) for file in files])
    # The comparisons of docs/reports stand beside the results that this page is written from.
    reports = results.parents[1] / "docs" / "reports"
    cells = {
        task: file.read_text(encoding="utf-8") for task in _LOSSES if (file := reports / task / "cells.jsonl").exists()
    }
    if cells:
        sections["losses"] = losses_text(cells)
    return sections


_LOSSES = {
    "webnlg": "sentences from facts",
    "squad": "answers from a paragraph",
    "squad-minilm": "answers from a paragraph, encoder",
    "ner": "names in tweets",
    "ner-minilm": "names in tweets, encoder",
    "trec": "question types",
}
"""The reports whose losses are told, and what their tasks are."""


def losses_text(reports: Mapping[str, str]) -> str:
    """LoRA beside the prompt of each report: where training and validation loss end.

    Args:
        reports: the lines of a report's cells, by the report's name.
    """
    text = (
        "## Where a prompt is behind LoRA\n\n"
        "On decoders a prompt fits the training rows as well as LoRA does, except for names in tweets, with a "
        "twentieth of the values: it has room enough. Where answers are written or found, its validation loss stops "
        "falling earlier and then rises: it learns the rows by heart. Where rows have labels (question types, below), "
        "LoRA's is the higher one. Where an encoder finds answers, LoRA at its chosen rate fits the rows far better, "
        "and is far better on others.\n\n"
        "From the cells of [reports](reports/README.md), at their most training rows: mean over the seeds of the loss "
        "on the training rows in the last epoch, of the lowest validation loss with the training loss of that epoch, "
        "and of the validation loss in the last epoch. A loss is that of a row whose label or place is found, of a "
        "word that is tagged, or of a token that is written; CPU seconds are those of training alone."
    )
    head = ["task", "way", "test score", "training loss at the end", "lowest validation loss", "training loss there"]
    rows = [row for task, lines in reports.items() for row in _loss_rows(task, lines)]
    return "\n\n".join([text, table([*head, "validation loss at the end", "trained values", "CPU seconds"], rows)])


def _loss_rows(task: str, lines: str) -> list[list[str]]:
    cells = [cell for cell in map(json.loads, lines.splitlines()) if cell.get("history") and cell.get("metrics")]
    largest = max(cell["size"] for cell in cells)
    rows = []
    for way in ("lora", "prefix-after", "prefix-memory"):
        of_way = [cell for cell in cells if cell["way"] == way and cell["size"] == largest]
        if not of_way:
            continue
        lowest = [min(cell["history"], key=lambda epoch: epoch["validation_loss"]) for cell in of_way]
        last = [cell["history"][-1] for cell in of_way]
        losses = [
            fmean(epoch[name] for epoch in epochs)
            for epochs, name in (
                (last, "train_loss"),
                (lowest, "validation_loss"),
                (lowest, "train_loss"),
                (last, "validation_loss"),
            )
        ]
        score = fmean(next(iter(cell["metrics"]["test"].values()))["value"] for cell in of_way)
        seconds = fmean(cell["ledger"]["training"]["cpu_seconds"] for cell in of_way)
        about = f"{_LOSSES[task]} ({largest} rows, {len(of_way)} seeds)"
        shown = [f"{loss:.2f}" for loss in losses]
        rows.append([about, way, f"{score:.3f}", *shown, f"{of_way[0]['trainable']:,}", f"{seconds:.0f}"])
    return rows


def beginnings_text(results: Sequence[Found]) -> str:
    """Steps whose rows' common tokens run once a pass, beside those in which each row has them."""
    result = results[0]
    text = (
        "## What rows begin with\n\n"
        f"Question types in the model's chat template with a system message: {result['rows']} rows of "
        f"{result['mean_tokens']:.0f} tokens on average, the first {result['tokens_in_common']} the same in all. These "
        "run once a pass (of texts that are kept: once for all of one length), or with each row; both ways take turns "
        "in one process, ratios are taken within a round. Losses and gradients are equal but for rounding (a test). "
        "Processor seconds, median with (lowest-highest)."
    )
    ways = ("once a pass", "once a row")
    rows = [
        [name, *(ranged(runs[way], 2) for way in ways), ranged(runs["times as fast"], 2), str(runs[ways[0]]["n"])]
        for name, runs in result["cpu_seconds"].items()
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
            f"{result['case'].replace('-', ', ')} rows of each split",
            mode,
            ranged(runs["cpu_seconds"]),
            ranged(runs["seconds"]),
            ranged({key: value / 2**20 for key, value in runs["peak_bytes"].items()}, 0),
            f"{result['bytes_on_disk_after'][mode] / 2**20:.0f}",
            str(runs["seconds"]["n"]),
        ]
        for result in results
        for mode, runs in result["runs"].items()
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
    for result in results:
        for name, versions in result["cpu_seconds"].items():
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
    for result in results:
        pair = result["bfloat16_minus_float32"]
        gap, seconds = pair["difference"], result["mean_cpu_seconds"]
        rows.append(
            [
                f"{result['task']}, {result['way']}, {result['size']} rows",
                result["metric"],
                *(f"{result['scores'][name]['value']:.3f}" for name in ("float32", "bfloat16")),
                f"{100 * gap['value']:+.1f} ({100 * gap['low']:+.1f} to {100 * gap['high']:+.1f})",
                str(pair["n_seeds"]),
                str(result["num_test_rows"]),
                *(f"{seconds[name]['training']:.0f}" for name in ("float32", "bfloat16")),
                result["machine"]["cpu"],
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


def written_text(results: Sequence[Found]) -> str:
    """Ways that write sentences: their score, where their loss stays, and what they cost."""
    groups: dict[tuple[str, str], list[Found]] = defaultdict(list)
    for cell in results:
        groups[cell["way"], cell["tag"]].append(cell)
    first = results[0]
    text = (
        "## Sentences\n\n"
        f"Facts as sentences ({first['task']}), {first['size']} training rows, {first['steps']} steps, "
        f"{first['dtype']}; {first['rows']['validation']} validation rows choose the epoch by their loss, "
        f"{first['rows']['test']} test rows are scored by BLEU: mean over the seeds with its 95% t interval. Losses "
        "are those of an answer's token at the chosen epoch: on training rows, on validation rows, and of the latter "
        "the first token's and the others'. Words are those of an answer, on average: BLEU takes points from what is "
        "shorter than the references. CPU seconds are those of reading and training, the validation loss included, "
        "nothing written, on a machine with other work."
    )
    losses = ["training loss", "validation loss", "first token", "others"]
    head = ["way", "BLEU", "95% interval", "seeds", "words", *losses]
    rows = [_written_row(*key, cells) for key, cells in groups.items()]
    made_by = "Made by\n\n```\n" + "\n".join(sorted({_written_command(cell) for cell in results})) + "\n```"
    return "\n\n".join([text, table([*head, "trained values", "CPU seconds"], rows), made_by])


def _written_row(way: str, tag: str, cells: Sequence[Found]) -> list[str]:
    scores = across_seeds([cell["test"]["bleu"]["value"] for cell in cells], (0, 1))
    interval = "-" if scores.low is None or scores.high is None else f"{scores.low:.3f}-{scores.high:.3f}"

    def loss(split: str, part: str) -> str:
        return f"{fmean(cell['losses_at_best'][split][part] for cell in cells):.2f}"

    seconds = fmean(cell["cpu_seconds"]["reading"] + cell["cpu_seconds"]["training"] for cell in cells)
    losses = [loss("training", "all"), *(loss("validation", part) for part in ("all", "first", "others"))]
    name = f"{way}, {tag.replace('-', ' ')}" if tag else way
    values = f"{cells[0]['trainable']:,}"
    words = fmean(len(answer.split()) for cell in cells for answer in cell["predicted"])
    return [name, f"{scores.mean:.3f}", interval, str(len(cells)), f"{words:.1f}", *losses, values, f"{seconds:.0f}"]


def _written_command(cell: Found) -> str:
    given = " ".join(f'--set "{setting}"' for setting in cell.get("given", ()))
    tag = f" --tag {cell['tag']} {given}" if cell["tag"] else ""
    return f"python bench/quality/written.py --data DIR --way {cell['way']}{tag}"
