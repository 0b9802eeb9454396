"""Sections of docs/methods.md on what a method does beyond a score: sensitivity, starts, sharing, texts as memories."""

import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from beside import beside_text, way_of
from overture.core.records.scores import Paired
from overture.evaluate.intervals import across_seeds, paired_test
from overture.prompt.config import PromptConfig
from overture.prompt.registry import own_rate
from page_parts import points, table

Cells = Sequence[dict[str, Any]]
CHANGED = ("lr", "length", "init")
"""Settings whose changes are told, in the order of `_settings`."""
FLOAT32 = "float32"
_THIRD = 0.34
_PRUNED_TASK = "movie"
"""What the study of pruning is made on; its result bears the name of its prompt."""
NOT_YET = "Not measured yet: `{command}`."


def sensitivity_text(cells: Cells) -> str:
    """One table a way: each change beside the way as it comes, on the same test rows and seeds."""
    if not cells:
        return NOT_YET.format(command="python bench/quality/sensitivity.py --data DIR --way prefix-after")
    groups: dict[tuple[str, str, str], list[dict[str, Any]]] = defaultdict(list)
    for cell in cells:
        groups[cell["way"], cell["task"], cell.get("dtype", FLOAT32)].append(cell)
    head = (
        "One setting changed at a time, everything else as in the table above, on the same rows. Differences are "
        "paired over the test rows of the seeds that both have. A prompt of another length has the rate that is its "
        "own at that length, unless one is named."
    )
    return "\n\n".join([head, *(_way_text(*key, group) for key, group in sorted(groups.items()))])


def _way_text(way: str, task: str, dtype: str, cells: Cells) -> str:
    settings: dict[tuple[Any, ...], list[dict[str, Any]]] = defaultdict(list)
    for cell in cells:
        settings[_settings(cell)].append(cell)
    precision = "" if dtype == FLOAT32 else f"-{dtype}"
    plain_file = f"{way}-{task}{precision}-seed0"
    plain = next(settings[_settings(cell)] for cell in cells if cell["file"] == plain_file)
    rows = [
        _change_row(changed, plain) for _, changed in sorted(settings.items(), key=lambda item: _order(item[1], plain))
    ]
    head = ["changed", "test accuracy", "difference in points (95% interval)", "trained values", "CPU seconds", "seeds"]
    return f"#### {way} on {task}{precision and f', {dtype}'}\n\n{table(head, rows)}"


def _settings(cell: Mapping[str, Any]) -> tuple[Any, ...]:
    prompt = cell["config"]["prompt"]
    return cell["config"]["train"]["lr"], prompt["length"], prompt["init"]


def _changes(cell: Mapping[str, Any], plain: Mapping[str, Any]) -> dict[str, str]:
    """The settings that are not the plain way's, in words; a rate that follows from the length is a note beside it."""
    settings, usual = (dict(zip(CHANGED, _settings(settings_cell), strict=True)) for settings_cell in (cell, plain))
    changes = {name: f"{name} {value}" for name, value in settings.items() if value != usual[name]}
    if {"lr", "length"} <= set(changes) and math.isclose(settings["lr"], _own_rate(cell)):
        del changes["lr"]
        changes["length"] += f" (its own rate, {settings['lr']:.2g})"
    elif "length" in changes and "lr" not in changes and not math.isclose(settings["lr"], _own_rate(cell)):
        changes = {"lr": f"lr {settings['lr']}", **changes}
    return changes


def _own_rate(cell: Mapping[str, Any]) -> float:
    method, _, place = str(cell["way"]).rpartition("-")
    return own_rate(PromptConfig(method=method, place=place, length=cell["config"]["prompt"]["length"]))


def _order(cells: Cells, plain: Cells) -> tuple[Any, ...]:
    """The way as it comes, then its rates, lengths and starts."""
    changes = _changes(cells[0], plain[0])
    return [CHANGED.index(name) for name in changes], _settings(cells[0])


def _change_row(cells: Cells, plain: Cells) -> list[str]:
    changes = _changes(cells[0], plain[0])
    usual = zip(CHANGED, _settings(plain[0]), strict=True)
    what = ", ".join(changes.values()) or "nothing: " + ", ".join(f"{name} {value}" for name, value in usual)
    seconds = sum(cell["cpu_seconds_with_validation"] for cell in cells) / len(cells)
    score = across_seeds([cell["test"]["accuracy"] for cell in cells], bounds=(0.0, 1.0)).mean
    gap = _gap(cells, plain) if changes else "-"
    return [what, f"{score:.3f}", gap, f"{cells[0]['trainable']:,}", f"{seconds:.0f}", str(len(cells))]


def _gap(cells: Cells, plain: Cells) -> str:
    other = {cell["seed"]: cell["test"]["right"] for cell in plain}
    both = [cell for cell in cells if cell["seed"] in other]
    ours, theirs = "".join(cell["test"]["right"] for cell in both), "".join(other[cell["seed"]] for cell in both)
    return points(paired_test("1" * len(ours), ours, theirs))


# -- starts and pruning


def starts_text(folder: Path) -> str:
    """What SPoT's start and learnt ones give, and what pruning keeps."""
    parts = []
    for name, (title, text) in _STARTS.items():
        studies = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob(f"{name}*.json"))]
        command = f"python bench/quality/starts.py --data DIR --study {name}" + (
            " --snippets ARCHIVE" if name == "spot" else ""
        )
        bodies = [f"{text(study)}\n\nMade by `{command}{_asked(study)}`." for study in studies]
        bodies = bodies or [NOT_YET.format(command=command)]
        parts.append("\n\n".join([f"### {title}", *bodies]))
    return "\n\n".join(parts)


def _asked(study: Mapping[str, Any]) -> str:
    """The settings that the command must name to give these figures."""
    settings = study["settings"]
    rows = " ".join(map(str, settings["rows"]))
    kept = ("epochs", "seeds", "visits", "threads")
    method = settings.get("method", _USUAL)
    return (
        f" --rows {rows}"
        + ("" if method == _USUAL else f" --method {method}")
        + "".join(f" --{key} {settings[key]}" for key in kept)
    )


_USUAL = "prefix"


def _spot(study: Mapping[str, Any]) -> str:
    first = next(iter(study["found"].values()))
    score = first["no_prompt"]["metrics"]["test"]["accuracy"]
    lead = (
        f"Polarity of product reviews (1,000 test rows, 100 for validation), {_method(study)}, from the ordinary "
        "start, from a prompt tuned for film reviews (near) and from one for question types (far). Without any prompt "
        f"{score['value']:.3f} ({score['low']:.3f}-{score['high']:.3f}). The rows are the same for all seeds; 16 of "
        "them are one batch, so from a stored prompt seeds change nothing there."
    )
    return f"{lead}\n\n{_starts_table(study['found'])}"


def _starts_table(by_start: Mapping[str, Any]) -> str:
    rows = []
    for key, found in by_start.items():
        size, start = key.split(", ")
        seeds = found["seeds"]["test"]
        rows.append(
            [
                size,
                start,
                f"{seeds['mean']:.3f}",
                # Of two seeds the t interval may reach beyond what an accuracy can be.
                f"{max(seeds['low'], 0):.3f}-{min(seeds['high'], 1):.3f}" if seeds["low"] is not None else "-",
                " ".join(f"{seed_result['test']:.3f}" for seed_result in found["seeds"]["each"]),
            ]
        )
    return table(["training rows", "start", "test accuracy", "95% interval", "each seed"], rows)


def _method(study: Mapping[str, Any]) -> str:
    return f"`{study['settings'].get('method', _USUAL)}` at `after`"


def _learnt(study: Mapping[str, Any]) -> str:
    rows = []
    for few_steps in study["found"]["few_steps"]:
        pair = Paired.model_validate({key: value for key, value in few_steps["compared"].items() if key != "split"})
        sides = [few_steps[side][few_steps["metric"]] for side in ("ordinary", "learnt")]
        shown = [f"{side['value']:.3f}" for side in sides]
        rows.append([few_steps["task"], "no" if few_steps["is_unseen"] else "yes", *shown, points(pair)])
    head = ["task", "met in training", "ordinary start", "learnt start", "difference in points (95% interval)"]
    settings = study["settings"]
    lead = (
        f"After four optimiser steps on the task, on its validation rows; the start was learnt in {settings['visits']} "
        f"visits of four steps to films and news ({_method(study)}, one seed)."
    )
    few = "Question types tuned from few rows, 1,000 test rows, from the ordinary start and from the learnt one."
    return f"{lead}\n\n{table(head, rows)}\n\n{few}\n\n{_starts_table(study['found']['tuned'])}"


def pruned_differences(folder: Path) -> dict[str, dict[str, Paired]]:
    """What the pruned prompt gains on the whole one, if a third of the values is left: by method and task."""
    path = folder / "pruned.json"
    if not path.exists():
        return {}
    pruned = json.loads(path.read_text(encoding="utf-8"))["found"]
    if pruned["trainable"] > _THIRD * pruned["whole"]["trainable"]:
        return {}
    return {"pruned": {_PRUNED_TASK: _beside_whole(pruned)}}


def _beside_whole(pruned: Mapping[str, Any]) -> Paired:
    compared = pruned["compared"]["whole"]
    return Paired.model_validate({key: value for key, value in compared.items() if key != "split"})


def _pruned(study: Mapping[str, Any]) -> str:
    pruned = study["found"]
    rows = []
    for name, result in (("whole", pruned["whole"]), ("pruned", pruned)):
        score = result["metrics"]["test"]["accuracy"]
        interval = f"{score['low']:.3f}-{score['high']:.3f}"
        rows.append([name, f"{result['length']}", f"{result['trainable']:,}", f"{score['value']:.3f}", interval])
    lead = (
        "Vectors at `after` on films, tokens and pieces of least importance taken away, what is left rewound and "
        f"trained again (one seed). On {pruned['compared']['whole']['split']} rows the pruned prompt is "
        f"{points(_beside_whole(pruned))} points beside "
        "the whole one."
    )
    return f"{lead}\n\n{table(['prompt', 'vectors', 'values', 'test accuracy', '95% interval'], rows)}"


_STARTS = {
    "spot": ("A prompt of another task as the start (SPoT)", _spot),
    "reptile": ("A start learnt over tasks (Reptile)", _learnt),
    "fomaml": ("A start learnt over tasks (first-order MAML)", _learnt),
    "pruned": ("Pruned prompts (XPrompt)", _pruned),
}


# -- ways side by side


def equal_text(cells: Cells) -> str:
    """DePT with as many values as ten vectors, beside those vectors and DePT as it comes."""
    ways = {
        "dept-before-equal": "DePT, 4 vectors",
        "dept-before": "DePT as it comes, 10 vectors",
        "vectors-before": "10 vectors",
    }
    named = [{**cell, "way": way_of(cell)} for cell in cells]
    way_cells = [cell for cell in named if cell["way"] in ways]
    command = "python bench/quality/methods.py --data DIR --method dept --method vectors"
    if not any(cell["way"] == "dept-before-equal" for cell in way_cells):
        return NOT_YET.format(command=command)
    lead = (
        "The paper's claim is as much accuracy in less time at equal values: 4 vectors and an offset of rank 5 on the "
        "first 65 tokens, the longest row's, are 4 D + 5 (65 + D) = 5,509 values beside the 5,760 of ten vectors. "
        "CPU seconds are those of training and validation on one thread."
    )
    body = beside_text(way_cells, ways, ("vectors-before",), "cpu_seconds_with_validation")
    return f"{lead}\n\n{body}\n\nMade by `{command}`."


def together_text(cells: Cells) -> str:
    """A prompt and LoRA in one model."""
    command = "python bench/quality/together.py --data DIR"
    both = [cell["config"] for cell in cells if {"prompt", "adapter"} <= set(cell["config"])]
    if not both:
        return NOT_YET.format(command=command)
    ways = {
        "prompt": "prompt alone",
        "lora": "LoRA alone",
        "joint": "both at once",
        "prompt-first": "prompt, then LoRA",
        "adapter-first": "LoRA, then prompt",
    }
    prompt, adapter = both[0]["prompt"], both[0]["adapter"]
    lead = (
        f"`{prompt['method']}` at `{prompt['place']}`, length {prompt['length']}, and LoRA of rank {adapter['rank']} "
        f"on all linear maps, {cells[0]['train_rows']} training rows, the same for all ways of a seed. Each keeps the "
        "rate that is its own alone, but on a finished LoRA the prompt has a tenth of it. CPU seconds are those of a "
        "whole cell: reading inputs, training, validation and the test rows."
    )
    body = beside_text(cells, ways, ("prompt", "lora"))
    return f"{lead}\n\n{body}\n\nMade by `{command}`."


def shared_text(cells: Cells) -> str:
    """MPT and ATTEMPT over several tasks."""
    command = "python bench/quality/shared.py --data DIR"
    if not cells:
        return NOT_YET.format(command=command)
    ways = {
        "alone": "vectors, each task alone",
        "mpt": "MPT together",
        "mpt-taught": "MPT together, taught by the prompts alone",
        "attempt": "ATTEMPT together, mixing the prompts alone",
        "mpt-new": "MPT, ordinary start",
        "mpt-started": "MPT, begun at the shared prompt",
    }
    lead = (
        "Prompts of 10 vectors at `after`. `movie` and `trec` are trained together; `bbc`, which has "
        f"{_num_rows(cells, 'bbc')} training rows, begins at what `mpt-taught` shared. ATTEMPT mixes the prompts that "
        "`movie`, `trec` and `bbc` were tuned to alone, so a task's own is among them. Trained values are those behind "
        "one task, shared ones included. CPU seconds are those of a run with its scoring; where tasks are trained "
        "together it is one run for all, and the prompts alone, which teach or are mixed, come on top."
    )
    body = beside_text(cells, ways, ("alone", "mpt-new"))
    return f"{lead}\n\n{body}\n\nMade by `{command}`."


def _num_rows(cells: Cells, task: str) -> str:
    row_counts = sorted({cell["train_rows"] for cell in cells if cell["task"] == task})
    return " or ".join(map(str, row_counts)) or "few"


# -- texts as memories


def cartridge_differences(folder: Path) -> dict[str, dict[str, Paired]]:
    """What a cartridge gains on as many columns of the text's beginning: answer tokens that the model puts first."""
    articles = _articles(folder)
    if not articles:
        return {}
    ours, theirs = [
        "".join(article["questions"][way]["right"] for article in articles) for way in ("cartridge", "beginning")
    ]
    return {"cartridge": {"tokens of SQuAD's answers": paired_test("1" * len(ours), ours, theirs)}}


def cartridge_text(folder: Path) -> str:
    """One line for each article and what the model has of it."""
    articles = _articles(folder)
    if not articles:
        return NOT_YET.format(command="python bench/quality/cartridge.py --data DIR --article Normans")
    rows = [_known_row(article, way, answers) for article in articles for way, answers in article["questions"].items()]
    head = [
        "article",
        "what the model has",
        "columns",
        "held-out talk, perplexity",
        "divergence",
        "questions, perplexity",
        "tokens right",
        "SQuAD's F1",
    ]
    settings = articles[0]["settings"]
    lead = (
        f"An article becomes a memory of {settings['length']} columns by {settings['conversations']} conversations of "
        "the model with itself (`overture cartridge`). Held-out conversations measure what it was trained for; SQuAD's "
        "questions on the article what that is worth: perplexity of their answers, the share of answer tokens that "
        "the model puts first, and F1 of what it writes by itself."
    )
    names = " ".join(f"--article {article['article']}" for article in articles)
    flags = " ".join(f"--{key} {settings[key]}" for key in ("length", "conversations", "threads"))
    made = f"Made by `python bench/quality/cartridge.py --data DIR {names} {flags}`."
    return f"{lead}\n\n{table(head, rows)}\n\n{made}"


def _articles(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]


def _known_row(article: Mapping[str, Any], way: str, answers: Mapping[str, Any]) -> list[str]:
    talk, right, f1 = article["ways"][way], answers["right"], answers["squad_f1"]
    return [
        f"{article['article'].replace('_', ' ')} ({article['text_tokens']:,} tokens)",
        way,
        f"{talk['columns']:,}",
        f"{talk['perplexity']:.2f}",
        f"{talk['divergence']:.3f}",
        f"{answers['perplexity']:.1f}",
        f"{right.count('1') / len(right):.3f} (n = {len(right)})",
        f"{f1['value']:.3f} ({f1['low']:.3f}-{f1['high']:.3f}, n = {f1['n']})",
    ]
