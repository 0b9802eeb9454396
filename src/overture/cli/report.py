"""A result for people: the table, what it means in plain words, what to do next."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

from overture.cli.out import console, seconds_text, size_text
from overture.core.records.prompt import OpenGates

if TYPE_CHECKING:
    from rich.table import Table

    from overture.core.records.scores import Interval

_SURE = 0.05
_MAX_TABLE_LABELS = 12
_OTHERS = "(others)"


def show_result(result: Mapping[str, Any], store_flag: str = "", with_next: bool = True) -> None:
    """Print a finished run: table, comparison, spread over seeds, notices, next commands if wanted."""
    out = console()
    split = "test" if "test" in result["metrics"] else "validation"
    out.print()
    out.print(result_table(result, split))
    if "gates" in result:
        out.print(f"Gates: {gates_line(OpenGates.model_validate(result['gates']))}.")
    for line in (*sentences(result), *spread_lines(result, split), *wrong_lines(result)):
        out.print(line)
    for notice in result.get("notices", ()):
        out.print(f"note: {notice}")
    if result["status"] == "diverged":
        out.print("The loss became NaN or infinite; the last good prompt was kept. A smaller learning rate may help.")
    if result.get("prompt") and with_next:
        show_next(
            f"Kept as {result['prompt']}. Next:",
            [
                asking(result, store_flag),
                f"overture eval {result['prompt']}{store_flag}",
                f"overture show {result['prompt']}{store_flag}",
            ],
        )


def gates_line(gates: "OpenGates") -> str:
    """The gates that a prompt leaves open, in words."""
    layers, columns = gates.layers, gates.columns
    counts = f"{layers.open} of {layers.of} layers, {columns.open} of {columns.of} columns"
    return f"{counts} are open (above {gates.above:g})"


def asking(found: Mapping[str, Any], store_flag: str = "") -> str:
    """The command that asks a prompt which was just kept; `found` has its name and its folder."""
    from overture.store.artifact import read_manifest
    from overture.store.usage import predict_command

    return predict_command(found["prompt"], read_manifest(Path(found["folder"])).task, store_flag)


def show_next(title: str, commands: Sequence[str]) -> None:
    """Print commands to try."""
    out = console()
    out.print(f"\n{title}")
    for command in commands:
        out.print(f"  {command}", soft_wrap=True)


def tune_from(
    prompt: str, method: str, place: str, length: int | None, options: Mapping[str, Any], store_flag: str
) -> str:
    """The command that tunes another task from a stored prompt; no length where the method takes the prompt's own."""
    way = f"--method {method} --place {place}" + (f" --length {length}" if length else "")
    asked = [f"prompt.options.{key}={json.dumps(value)}" for key, value in options.items()]
    asked += ["prompt.init=prompt", f"prompt.init_prompt={prompt}"]
    return f"overture tune TASK.yaml {way} {' '.join(f'--set {quote(one)}' for one in asked)}{store_flag}"


def result_table(result: Mapping[str, Any], split: str) -> "Table":
    """The model without a prompt, with examples, with the tuned prompt, side by side."""
    from rich.table import Table

    columns = dict(_columns(result))
    metric = result["metric"]
    scores = {title: found["metrics"][split][metric] for title, found in columns.items()}
    table = Table(title=f"{result.get('task') or result.get('prompt', '')}, {split} rows", title_justify="left")
    table.add_column("")
    for title in columns:
        table.add_column(title, justify="right")
    table.add_row(metric, *(f"{score['value']:.3f}" for score in scores.values()))
    table.add_row("95% interval", *map(interval_text, scores.values()))
    for name in _other_metrics(columns, split, metric):
        each = [found["metrics"][split].get(name) for found in columns.values()]
        table.add_row(name, *("" if one is None else f"{one['value']:.3f}" for one in each))
    table.add_row("rows", *(str(score["n"]) for score in scores.values()))
    table.add_row("trained values", *(f"{found.get('trainable', result['trainable']):,}" for found in columns.values()))
    is_run = "history" in result
    table.add_row(
        "seconds",
        *(
            f"{found['seconds']:.1f} {'training' if is_run and found is result else 'scoring'}"
            for found in columns.values()
        ),
    )
    table.add_row("peak memory", *(size_text(found["peak_bytes"]) for found in columns.values()))
    return table


def _other_metrics(columns: Mapping[str, Mapping[str, Any]], split: str, metric: str) -> list[str]:
    """What else was measured, beside the metric that a run is judged by."""
    found = [found["metrics"][split] for found in columns.values()]
    names = dict.fromkeys(name for metrics in found for name, score in metrics.items() if isinstance(score, dict))
    return [name for name in names if name != metric]


def wrong_lines(result: Mapping[str, Any], most: int = 3) -> Iterator[str]:
    """The worst answers of the tuned prompt."""
    wrong = result.get("wrong", ())
    if wrong:
        yield f"Worst answers, of up to {len(wrong)} in the result (--json):"
    for row in wrong[:most]:
        parts = [f"{what} {'; '.join(row[key])}" for key, what in _PARTS.items() if row.get(key)]
        said = " | ".join(parts) if parts else f"{row['predicted']!r:.70} for {row['gold']!r:.70}"
        yield f"  {row['where']}: {said:.160}"


_PARTS = {"missed": "missed", "made_up": "made up"}


def _columns(result: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    if "no_prompt" in result:
        yield "no prompt", result["no_prompt"]
    if "in_context" in result:
        yield f"in-context ({result['in_context']['shots']})", result["in_context"]
    yield "tuned prompt", result
    if found := result.get("calibration"):
        yield ("calibrated", found["with"]) if found["stored"] == "without" else ("not calibrated", found["without"])


def calibration_lines(result: Mapping[str, Any], split: str) -> Iterator[str]:
    """What calibration does to the tuned prompt."""
    found = result.get("calibration")
    if not found:
        return
    without, with_it = (found[way]["metrics"][split]["ece"]["value"] for way in ("without", "with"))
    yield f"Expected calibration error: {without:.3f} without calibration, {with_it:.3f} with it."
    yield sentence("the same without calibration", found["compared"], "calibrated prompt")


def sentences(result: Mapping[str, Any]) -> Iterator[str]:
    """What the paired tests say."""
    names = {"no_prompt": "no prompt", "in_context": f"{result.get('in_context', {}).get('shots', 0)} examples"}
    for control, compared in result.get("compared", {}).items():
        yield sentence(names.get(control, control), compared)


def interval_text(score: "Interval | Mapping[str, Any]") -> str:
    """A score's interval."""
    low, high = (score["low"], score["high"]) if isinstance(score, Mapping) else (score.low, score.high)
    return f"{low:.3f} to {high:.3f}"


def sentence(other: str, compared: Mapping[str, Any], who: str = "tuned prompt") -> str:
    """One paired test in plain words."""
    difference = compared["difference"]
    value, low, high = (100 * difference[key] for key in ("value", "low", "high"))
    chance = "p < 0.001" if compared["p_value"] < 0.001 else f"p = {compared['p_value']:.2g}"
    if compared["p_value"] >= _SURE or value == 0:
        return (
            f"{who.capitalize()} against {other}: no difference could be shown "
            f"({value:+.1f} points, 95% interval {low:.1f} to {high:.1f}, {chance})."
        )
    if value < 0:
        low, high = -high, -low
    better = "better" if value > 0 else "worse"
    return (
        f"The {who} is {better} than {other} by {abs(value):.1f} points, "
        f"95% interval {low:.1f} to {high:.1f}, {chance}."
    )


def spread_lines(result: Mapping[str, Any], split: str) -> Iterator[str]:
    """How the score varies from seed to seed, for more than one."""
    spread = result.get("seeds", {}).get(split)
    if not spread or spread["n_seeds"] < 2:
        return
    yield (
        f"Over {spread['n_seeds']} seeds: mean {spread['mean']:.3f}, standard deviation {spread['sd']:.3f}, "
        f"95% interval of the mean {spread['low']:.3f} to {spread['high']:.3f}; seed {result['seed']} was kept."
    )


def show_confusion(found: Mapping[str, Any]) -> None:
    """Print which labels are taken for which."""
    from rich.table import Table

    out = console()
    labels, table_rows = _most_confused(found)
    columns = labels
    out.print("right label (rows) against predicted label (columns):")
    if len(labels) < len(found["labels"]):
        out.print(f"the {len(labels) - 1} of {len(found['labels'])} labels with most errors, all others as one")
        # Names of so many columns would be cut.
        columns = [str(number) for number in range(1, len(labels) + 1)]
        labels = [f"{number} {label}" for number, label in enumerate(labels, 1)]
    table = Table()
    for label in ("", *columns):
        table.add_column(label, justify="right" if label else "left", no_wrap=not label)
    for label, counts in zip(labels, table_rows, strict=True):
        table.add_row(label, *map(str, counts))
    out.print(table)
    if found["errors"]:
        out.print("most frequent errors:")
    for error in found["errors"][:5]:
        rows = ", ".join(str(row + 1) for row in error["rows"])
        out.print(
            f"  {error['gold']} taken for {error['predicted']}: {error['count']} times, "
            f"{error['share']:.0%} of {error['gold']}; rows {rows}"
        )


def _most_confused(found: Mapping[str, Any]) -> tuple[list[str], list[list[int]]]:
    """Labels and counts of a table that can be read: of many labels those with most errors, the others added up."""
    labels, counts = list(found["labels"]), found["counts"]
    if len(labels) <= _MAX_TABLE_LABELS:
        return labels, [list(row) for row in counts]
    each = range(len(labels))
    wrong = {at: sum(counts[at]) + sum(row[at] for row in counts) - 2 * counts[at][at] for at in each}
    worst = sorted((at for at in each if wrong[at]), key=lambda at: -wrong[at])
    kept = sorted(worst[: _MAX_TABLE_LABELS - 1])
    groups = [[at] for at in kept] + [[at for at in each if at not in kept]]
    folded = [[sum(counts[row][column] for row in own for column in other) for other in groups] for own in groups]
    return [*(labels[at] for at in kept), _OTHERS], folded


def total_line(result: Mapping[str, Any], seconds: float) -> str:
    """How long everything took."""
    return f"{result['run']}: {result['status']} after {seconds_text(seconds)}"
