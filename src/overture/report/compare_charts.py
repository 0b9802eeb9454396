"""Charts of a comparison: one Altair spec each, from the summary alone.

A spec is the chart: page, notebook and picture are made from it. Ways keep their colour from chart to chart.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import altair as alt

from overture.core.records.compare import Score, Summary
from overture.report.charts import WIDTH, colour_of, data


def charts(result: Summary) -> dict[str, alt.TopLevelMixin]:
    """All charts that the result has data for, by name."""
    made = {name: make(result) for name, make in _CHARTS.items()}
    return {name: chart for name, chart in made.items() if chart is not None}


def _colour(result: Summary, with_legend: bool = True) -> alt.Color:
    return colour_of("way", result.ways, with_legend=with_legend)


def quality(result: Summary) -> alt.LayerChart | None:
    """Scores at the largest size, best first, with intervals; each seed is a tick."""
    scores = sorted(result.at_largest, key=lambda score: -score.value)
    seeds = [{"way": score.way, "value": value} for score in scores for value in score.each]
    order = alt.Y("way:N", sort=[score.way for score in scores], title=None)
    ticked = alt.Axis(tickCount=8)
    axis = alt.X("value:Q", title=_metric(result), scale=alt.Scale(zero=False), axis=ticked)
    colour = _colour(result, with_legend=False)
    low = alt.X("low:Q", title=_metric(result), scale=alt.Scale(zero=False), axis=ticked)
    base = alt.Chart(data([score.dump() for score in scores]))
    spans = base.mark_rule(strokeWidth=2).encode(y=order, x=low, x2="high:Q", color=colour)
    ticks = alt.Chart(data(seeds)).mark_tick(thickness=1, opacity=0.6, size=12).encode(y=order, x=axis, color=colour)
    points = base.mark_point(filled=True, size=80, opacity=1).encode(y=order, x=axis, color=colour)
    numbers = base.mark_text(dy=-13, fontSize=11).encode(y=order, x=axis, text=alt.Text("value:Q", format=".3f"))
    return alt.layer(spans, ticks, points, numbers).properties(width=WIDTH, height=alt.Step(44))


def curve(result: Summary) -> alt.LayerChart | None:
    """Scores over training rows; what needs no rows is a line across."""
    if len(result.sizes) < 2:
        return None
    scores = [score for score in result.scores if score.size]
    constant = [score for score in result.scores if not score.size]
    sizes = list(result.sizes)
    # Intervals of several ways at one size would hide each other, so they stand side by side.
    middle = (len(result.ways) - 1) / 2
    shifted = [{**score.dump(), "at": score.size * 1.02 ** (result.ways.index(score.way) - middle)} for score in scores]
    rows = alt.X(
        "at:Q",
        title="training rows",
        scale=alt.Scale(type="log", base=2, domain=[sizes[0] * 0.85, sizes[-1] * 1.18], nice=False),
        axis=alt.Axis(values=sizes, format="d", grid=False),
    )
    axis = alt.Y("value:Q", title=_metric(result), scale=alt.Scale(zero=False))
    colour = _colour(result)
    base = alt.Chart(data(shifted))
    lines = base.mark_line(strokeWidth=2).encode(x=rows, y=axis, color=colour)
    points = base.mark_point(filled=True, size=50, opacity=1).encode(x=rows, y=axis, color=colour)
    spans = base.mark_rule(strokeWidth=1.5, opacity=0.7).encode(
        x=rows, y=alt.Y("low:Q", title=_metric(result), scale=alt.Scale(zero=False)), y2="high:Q", color=colour
    )  # fmt: skip
    layers = [*(_across(constant, _metric(result), colour) if constant else ()), spans, lines, points]
    return alt.layer(*layers).properties(width=WIDTH, height=320)


def _across(scores: Sequence[Score], title: str | None, colour: alt.Color) -> Iterator[alt.Chart]:
    """Scores that do not depend on the axis: a dashed line in a band that is the interval."""
    base = alt.Chart(data([score.dump() for score in scores]))
    low, value = (alt.Y(f"{name}:Q", title=title, scale=alt.Scale(zero=False)) for name in ("low", "value"))
    yield base.mark_rect(opacity=0.1).encode(y=low, y2="high:Q", color=colour)
    yield base.mark_rule(strokeDash=[5, 4], strokeWidth=1.5).encode(y=value, color=colour)


def costs(result: Summary) -> alt.HConcatChart | None:
    """Scores at the largest size over what they cost: processor time, operations, bytes kept; logarithmic."""
    kinds = {"cpu_seconds": "processor seconds to train", "flops": "operations to train", "stored_bytes": "bytes kept"}
    scores = {score.way: score for score in result.at_largest}
    ledger = [cost for cost in result.costs_at_largest if cost.way in scores]
    panels: list[alt.LayerChart] = []
    for kind, title in kinds.items():
        trained = [cost for cost in ledger if cost.trainable and getattr(cost, kind) > 0]
        points = [{**scores[cost.way].dump(), "cost": getattr(cost, kind)} for cost in trained]
        free = [scores[cost.way] for cost in ledger if not cost.trainable]
        if not points:
            return None
        panels.append(_cost_panel(result, points, free, title, is_first=not panels))
    return alt.hconcat(*panels)


def _cost_panel(
    result: Summary, points: Sequence[Mapping[str, Any]], free: Sequence[Score], title: str, is_first: bool
) -> alt.LayerChart:
    amounts = [point["cost"] for point in points]
    domain = [min(amounts) / 2, max(amounts) * 2]
    cost = alt.X("cost:Q", title=title, scale=alt.Scale(type="log", domain=domain, nice=False), axis=alt.Axis(
        tickCount=4, format="~s", grid=False))  # fmt: skip
    name = _metric(result) if is_first else None
    axis = alt.Y("value:Q", title=name, scale=alt.Scale(zero=False))
    colour = _colour(result)
    base = alt.Chart(data(points))
    layers = [
        base.mark_rule(strokeWidth=1.5, opacity=0.7).encode(
            x=cost, y=alt.Y("low:Q", title=name, scale=alt.Scale(zero=False)), y2="high:Q", color=colour
        ),
        base.mark_point(filled=True, size=80, opacity=1).encode(x=cost, y=axis, color=colour),
    ]
    return alt.layer(*(_across(free, name, colour) if free else ()), *layers).properties(width=190, height=260)


def serving(result: Summary) -> alt.LayerChart | None:
    """Seconds that 1,000 requests take."""
    ledger = sorted(result.costs_at_largest, key=lambda cost: cost.serving_seconds_per_1000)
    rows = []
    for cost in ledger:
        seconds = cost.serving_seconds_per_1000
        text = f"{seconds:,.0f}" if seconds >= 100 else f"{seconds:.3g}"
        rows.append({"way": cost.way, "seconds": seconds, "text": text})
    order = alt.Y("way:N", sort=[cost.way for cost in ledger], title=None)
    amount = alt.X("seconds:Q", title="seconds for 1,000 requests", axis=alt.Axis(tickCount=6))
    base = alt.Chart(data(rows))
    bars = base.mark_bar(height=16).encode(y=order, x=amount, color=_colour(result, False))
    numbers = base.mark_text(align="left", dx=4).encode(y=order, x=amount, text="text:N")
    return alt.layer(bars, numbers).properties(width=WIDTH - 60, height=alt.Step(28))


def forgetting(result: Summary) -> alt.LayerChart | None:
    """Perplexity on unrelated text under each way, as a multiple of the model's own."""
    times = {
        cost.way: cost.perplexity_after / cost.perplexity_before
        for cost in result.ledger
        if cost.size == result.largest and cost.perplexity_before is not None and cost.perplexity_after is not None
    }
    if not times:
        return None
    ways = sorted(times, key=lambda way: times[way])
    order = alt.Y("way:N", sort=ways, title=None)
    title = "perplexity on unrelated text, as a multiple of the untouched model's"
    # 1, the untouched model, is always in sight.
    domain = [min(0.8, min(times.values()) / 1.15), max(1.25, max(times.values()) * 1.15)]
    amount = alt.X("times:Q", title=title, scale=alt.Scale(type="log", nice=False, domain=domain))
    base = alt.Chart(data([{"way": way, "times": times[way]} for way in ways]))
    points = base.mark_point(filled=True, size=80, opacity=1).encode(y=order, x=amount, color=_colour(result, False))
    numbers = base.mark_text(dy=-11).encode(y=order, x=amount, text=alt.Text("times:Q", format=".2f"))
    even = alt.Chart(data([{"times": 1}])).mark_rule(strokeDash=[5, 4], color="gray").encode(x=amount)
    return alt.layer(even, points, numbers).properties(width=WIDTH - 60, height=alt.Step(36))


_CHARTS: dict[str, Callable[[Summary], Any]] = {
    "quality": quality,
    "curve": curve,
    "costs": costs,
    "serving": serving,
    "forgetting": forgetting,
}


def _metric(result: Summary) -> str:
    return result.metric.replace("_", " ")
