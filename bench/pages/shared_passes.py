"""Sections of docs/benchmarks.md on what prompts share: cohorts, mixed batches, and what a step costs as it grows."""

import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import altair as alt

from overture.core.files import write_atomic
from overture.report.charts import colour, data, png_of, shape
from page_parts import ranged, table, threads

MISSING = "Not measured yet."
# The axes of `scaling.py` in the page's order, with what one number is.
AXES = {
    "input length": "ms a row, forward and backward",
    "prompt length": "ms a row, forward and backward",
    "entry layer": "ms a row, forward and backward",
    "cohort size": "ms a row and member, forward and backward",
    "prompts in a batch": "ms a row, forward",
}
Found = dict[str, Any]


def sections_of(results: Path, docs: Path) -> dict[str, str]:
    """Every section by its name; one without results says so.

    Args:
        results: folder with `cohort`, `mixed` and `scaling`.
        docs: where the picture goes.
    """
    by_name = {name: _results(results / name) for name in ("cohort", "mixed", "scaling")}
    picture = docs / "images" / "scaling.png"
    if chart := scaling_chart(by_name["scaling"]):
        write_atomic(picture, png_of(chart))
    return {
        "cohort": f"## Cohorts\n\n{cohort_text(by_name['cohort']) if by_name['cohort'] else MISSING}",
        "mixed": f"## Mixed batches\n\n{mixed_text(by_name['mixed']) if by_name['mixed'] else MISSING}",
        "scaling": f"## Scaling\n\n{scaling_text(by_name['scaling']) if by_name['scaling'] else MISSING}",
    }


def _results(folder: Path) -> list[Found]:
    return [json.loads(file.read_text(encoding="utf-8")) for file in sorted(folder.glob("*.json"))]


def made(results: Sequence[Found]) -> str:
    """Commands, machine, versions and dates of a section."""
    commands = "\n".join(sorted({result["command"] for result in results}))
    machines = sorted({f"{result['machine']['cpu']} with {result['machine']['num_cpus']} CPUs" for result in results})
    versions = sorted({", ".join(f"{k} {v}" for k, v in result["versions"].items()) for result in results})
    dates = sorted(result["started_at"][:10] for result in results)
    span = dates[0] if dates[0] == dates[-1] else f"{dates[0]} to {dates[-1]}"
    load = max(result["load_at_start"] for result in results)
    where = f"on {'; '.join(machines)}; {'; '.join(versions)}; {span}, load {load:.1f} at most when one began."
    return f"Made by\n\n```\n{commands}\n```\n\n{where}"


# -- cohorts


def cohort_text(results: Sequence[Found]) -> str:
    """Members trained together beside the same ones alone."""
    text = (
        "Members trained together over one cache, beside the same members trained one after another, each with a fresh "
        "cache. Seconds hold the inputs' one run, training and validation, not the loading of the model; each side "
        "runs in a process of its own, in turn. Memory is the peak of the process, beside one member alone. Cells are "
        "the median of the rounds with (lowest-highest); a ratio below 1 is a gain."
    )
    head = ["what", "members", "rows", "epochs", "together, s", "alone, s", "time", "memory", "rounds", "threads"]
    return "\n\n".join([text, table(head, [_cohort_row(result) for result in results]), made(results)])


def _cohort_row(result: Found) -> list[str]:
    config = result["config"]
    way = f"{config['method']} at {config['place']}, P = {config['length']}"
    return [
        f"{config['task']}, {way}, differ in {config['vary']}",
        str(config["num_members"]),
        str(config["num_rows"]),
        str(config["epochs"]),
        ranged(result["seconds"]["together"]),
        ranged(result["seconds"]["alone"]),
        ranged(result["time_ratio"], 2),
        ranged(result["memory_ratio"], 2),
        str(result["time_ratio"]["n"]),
        str(config["threads"]),
    ]


# -- mixed batches


def mixed_text(results: Sequence[Found]) -> str:
    """A prompt for each row beside none, and beside peft."""
    text = (
        "As many rows as prompts: ours in one batch with none, ours in one batch with a compiled prompt of its own for "
        "each row, and peft's prefix tuning, which sets each row's adapter and runs it alone. The ways take turns in "
        "one process after a warm-up; ratios are taken within a round, medians with (lowest-highest)."
    )
    head = ["work", "rows", "none, s", "mixed, s", "peft, s", "throughput of none", "times peft", "rounds", "threads"]
    rows = [_mixed_row(result, kind) for result in results for kind in ("answers", "scores")]
    return "\n\n".join([text, table(head, rows), made(results)])


def _mixed_row(result: Found, kind: str) -> list[str]:
    config, measured = result["config"], result[kind]
    what = f"answers of {config['new_tokens']} tokens" if kind == "answers" else "label scores"
    return [
        f"{config['task']}, {what}, P = {config['length']}",
        str(config["num_rows"]),
        *(ranged(measured["seconds"][way], 2) for way in ("none", "mixed", "peft")),
        ranged(measured["throughput_of_none"], 2),
        ranged(measured["times_peft"]),
        str(measured["times_peft"]["n"]),
        str(config["threads"]),
    ]


# -- scaling


def scaling_text(results: Sequence[Found]) -> str:
    """One table for each axis, behind the picture."""
    text = (
        "![What a row costs as sizes grow](images/scaling.png)\n\n"
        "Milliseconds of one step for each row (and member): median of the repeats after a warm-up; * where the first "
        "run alone was timed, as it took long. Prompts have 10 tokens, inputs 64 (16 where many prompts are scored), "
        "batches 4 rows (each member's, in a cohort), unless the table says otherwise; `after` reads inputs that ran "
        "before, and a late prompt the texts' states at the layer where it enters, of 30. A prompt length of 0 is the "
        "model without any, forward alone. peft has no cohorts; its many prompts take turns by `set_adapter`."
    )
    by_axis: dict[str, list[Found]] = defaultdict(list)
    for result in results:
        by_axis[result["axis"]].append(result)
    parts = [_scaling_part(axis, by_axis[axis]) for axis in AXES if axis in by_axis]
    of = sorted({threads(result) for result in results})
    return "\n\n".join([text, *parts, f"{', '.join(of)}. {made(results)}"])


def _scaling_part(axis: str, results: Sequence[Found]) -> str:
    ways = list(dict.fromkeys(result["way"] for result in _in_order(results)))
    by_size: dict[int, dict[str, Found]] = defaultdict(dict)
    for result in results:
        by_size[result["size"]][result["way"]] = result
    rows = [
        [f"{size:,}", str(next(iter(by_way.values()))["rows"]), *(_scaling_cell(by_way.get(way)) for way in ways)]
        for size, by_way in sorted(by_size.items())
    ]
    return f"### {axis[0].upper()}{axis[1:]}: {AXES[axis]}\n\n{table([axis, 'rows', *ways], rows)}"


def _in_order(results: Sequence[Found]) -> list[Found]:
    """Ours first."""
    return sorted(results, key=lambda result: (result["way"].startswith("peft"), result["way"]))


def _scaling_cell(result: Found | None) -> str:
    if result is None:
        return "-"
    return f"{1000 * result['seconds_per_row']:,.0f}{'' if result['is_warm'] else '*'}"


def scaling_chart(results: Sequence[Found]) -> alt.ConcatChart | None:
    """A panel for each axis; both scales are logarithmic, so that a straight line of slope one is proportional.

    Axes with fewer than two sizes have none; without any panel there is no chart.
    """
    ways = list(dict.fromkeys(result["way"] for result in _in_order(results) if result["size"]))
    styles = [_style(way) for way in ways]
    scales = [alt.Scale(domain=ways, range=list(values)) for values in zip(*styles, strict=True)]
    legend = alt.Legend(orient="bottom", columns=4)
    panels = []
    for axis, unit in AXES.items():
        # No logarithm of a prompt length of 0.
        axis_results = [result for result in results if result["axis"] == axis and result["size"]]
        values = [{"size": f["size"], "way": f["way"], "ms": 1000 * f["seconds_per_row"]} for f in axis_results]
        sizes = sorted({result["size"] for result in axis_results})
        if len(sizes) < 2:
            continue
        base = alt.Chart(data(values)).encode(
            x=alt.X(
                "size:Q",
                title=axis,
                scale=alt.Scale(type="log", nice=False),
                axis=alt.Axis(values=sizes, labelOverlap=True),
            ),
            y=alt.Y("ms:Q", title=unit, scale=alt.Scale(type="log"), axis=alt.Axis(titleFontSize=11, tickCount=4)),
            color=alt.Color("way:N", title=None, scale=scales[0], legend=legend),
        )
        lines = base.mark_line(strokeWidth=2).encode(
            strokeDash=alt.StrokeDash("way:N", title=None, scale=scales[1], legend=None)
        )
        points = base.mark_point(filled=True, size=55, opacity=1).encode(
            shape=alt.Shape("way:N", title=None, scale=scales[2], legend=legend)
        )
        title = f"{axis[0].upper()}{axis[1:]}"
        panels.append(alt.layer(lines, points).properties(width=200, height=210, title=title))
    return alt.concat(*panels, columns=3, spacing=30, title="What a row costs as sizes grow") if panels else None


def _style(way: str) -> tuple[str, list[int], str]:
    """Colour, dashes and points of a way: our ways as in all charts, the same methods by peft lighter and dashed."""
    match way:
        case "peft prefix tuning" | "peft prefix tuning, switching":
            return "#6e7781", [2, 2], "diamond"
        case "peft prompt tuning":
            return "#a3a9b0", [2, 2], "square"
        case "compiled prompts, one batch":
            return colour("prefix-after"), [1, 0], "circle"
    name = way.replace("/", "-")
    return colour(name), [1, 0], shape(name)
