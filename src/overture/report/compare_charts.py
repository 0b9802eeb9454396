"""Charts of a comparison: one Altair spec each, from the summary alone. A way has the same colour in all of them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import altair as alt

from overture.core.records.compare import Score, Summary
from overture.report.charts import NARROW, WIDE, colour_of, dash_of, data, interval_chart, shape_of

_MAX_INTERVALS = 4
"""Intervals of more ways at one size would hide each other."""
_ALIKE = 1.05
_MAX_EPOCHS = 30


def quality(result: Summary, width: int = WIDE) -> alt.LayerChart | None:
    """Scores at the largest size, best first, with intervals; each seed is a tick."""
    if not result.scores:
        return None
    scores = sorted(result.at_largest, key=lambda score: -score.value)
    seeds = [{"way": score.way, "value": value} for score in scores for value in score.each]
    return interval_chart([score.dump() for score in scores], _metric(result), width, seeds)


def curve(result: Summary, width: int = WIDE) -> alt.LayerChart | None:
    """Scores over training rows; what needs no rows is a line across."""
    if len(result.sizes) < 2:
        return None
    scores = [score for score in result.scores if score.size]
    constant = [score for score in result.scores if not score.size]
    sizes = list(result.sizes)
    # Ways stand side by side at a size.
    middle = (len(result.ways) - 1) / 2
    placed_scores = [
        {**score.dump(), "at": score.size * 1.02 ** (result.ways.index(score.way) - middle)} for score in scores
    ]
    rows = alt.X(
        "at:Q",
        title="training rows",
        scale=alt.Scale(type="log", base=2, domain=[sizes[0] * 0.85, sizes[-1] * 1.18], nice=False),
        axis=alt.Axis(values=sizes, format="d", grid=False),
    )
    axis = alt.Y("value:Q", title=_metric(result), scale=alt.Scale(zero=False))
    colour, shape = _marks(result, width)
    base = alt.Chart(data(placed_scores))
    lines = base.mark_line(strokeWidth=2).encode(x=rows, y=axis, color=colour, strokeDash=dash_of("way", result.ways))
    points = base.mark_point(filled=True, size=70, opacity=1).encode(x=rows, y=axis, color=colour, shape=shape)
    spans = base.mark_rule(strokeWidth=1.5, opacity=0.5).encode(
        x=rows, y=alt.Y("low:Q", title=_metric(result), scale=alt.Scale(zero=False)), y2="high:Q", color=colour
    )  # fmt: skip
    has_spans = len(result.ways) <= _MAX_INTERVALS
    across = _across(constant, _metric(result), colour, has_band=has_spans) if constant else ()
    return alt.layer(*across, *([spans] if has_spans else ()), lines, points).properties(width=width - 70, height=320)


def training(result: Summary, width: int = WIDE) -> alt.FacetChart | None:
    """Validation loss of every training, a panel for each way and a line for each seed; the kept epoch is a point."""
    if not result.curves:
        return None
    rows = [
        {"way": curve.way, "seed": curve.seed, "epoch": number + 1, "loss": loss, "is_best": number == curve.best_epoch}
        for curve in result.curves
        for number, loss in enumerate(curve.validation_losses)
        if number in _shown_epochs(len(curve.validation_losses), curve.best_epoch)
    ]
    losses = sorted(loss for curve in result.curves for loss in curve.validation_losses)
    # A training that leaves the rest behind is cut, so that the others can be seen.
    highest = min(losses[-1], 3 * losses[len(losses) // 2])
    scale = alt.Scale(zero=False, nice=False, domain=[losses[0], highest], clamp=True)
    colour = colour_of("way", result.ways, with_legend=False)
    columns = 2 if width == NARROW else 3
    base = alt.Chart(data(rows)).encode(
        x=alt.X("epoch:Q", title="epoch", axis=alt.Axis(tickCount=4, tickMinStep=1, format="d", grid=False)),
        y=alt.Y("loss:Q", title="validation loss", scale=scale, axis=alt.Axis(tickCount=4)),
        color=colour,
    )
    lines = base.mark_line(strokeWidth=1.5, opacity=0.75).encode(detail="seed:N")
    points = base.transform_filter("datum.is_best").mark_point(filled=True, size=45, opacity=1)
    ways = [way for way in result.ways if any(curve.way == way for curve in result.curves)]
    panel = alt.Facet("way:N", title=None, sort=ways, header=alt.Header(labelFontSize=12, labelFontWeight="bold"))
    panels = alt.layer(lines, points).properties(width=(width - 60 - 24 * (columns - 1)) // columns, height=110)
    return panels.facet(facet=panel, columns=columns, spacing=18).resolve_scale(x="independent")


def _shown_epochs(num_epochs: int, best: int) -> set[int]:
    """As many epochs as a small chart can show, the last and the best among them."""
    step = max(1, num_epochs // _MAX_EPOCHS)
    return {*range(0, num_epochs, step), num_epochs - 1, best}


def _across(scores: Sequence[Score], title: str, colour: alt.Color, has_band: bool) -> Iterator[alt.Chart]:
    """Scores that do not depend on the axis: a dashed line, in a band that is the interval where there is room."""
    base = alt.Chart(data([score.dump() for score in scores]))
    low, value = (alt.Y(f"{name}:Q", title=title, scale=alt.Scale(zero=False)) for name in ("low", "value"))
    if has_band:
        yield base.mark_rect(opacity=0.1).encode(y=low, y2="high:Q", color=colour)
    yield base.mark_rule(strokeDash=[5, 4], strokeWidth=1.5).encode(y=value, color=colour)


def costs(result: Summary, width: int = WIDE) -> alt.HConcatChart | alt.VConcatChart | None:
    """Scores at the largest size over what they cost: processor time, operations, bytes kept; logarithmic."""
    kinds = {"cpu_seconds": "processor seconds to train", "flops": "operations to train", "stored_bytes": "bytes kept"}
    scores = {score.way: score for score in result.at_largest}
    ledger = [cost for cost in result.costs_at_largest if cost.way in scores]
    panels: list[alt.LayerChart] = []
    for kind, title in kinds.items():
        trained_costs = [cost for cost in ledger if cost.trainable and getattr(cost, kind) > 0]
        points = [{**scores[cost.way].dump(), "cost": getattr(cost, kind)} for cost in trained_costs]
        free = [scores[cost.way] for cost in ledger if not cost.trainable]
        if not points:
            return None
        panels.append(_cost_panel(result, points, free, title, width, has_name=not panels or width == NARROW))
    return alt.vconcat(*panels) if width == NARROW else alt.hconcat(*panels, spacing=14)


def _cost_panel(
    result: Summary, points: Sequence[Mapping[str, Any]], free: Sequence[Score], title: str, width: int, has_name: bool
) -> alt.LayerChart:
    amounts = [point["cost"] for point in points]
    domain = [min(amounts) / 2, max(amounts) * 2]
    cost = alt.X("cost:Q", title=title, scale=alt.Scale(type="log", domain=domain, nice=False), axis=alt.Axis(
        tickCount=4, format="~s", grid=False, titleFontSize=12))  # fmt: skip
    name = _metric(result) if has_name else ""
    axis = alt.Y("value:Q", title=name or None, scale=alt.Scale(zero=False))
    colour, shape = _marks(result, width)
    base = alt.Chart(data(points))
    layers = [
        base.mark_rule(strokeWidth=1.5, opacity=0.4).encode(
            x=cost, y=alt.Y("low:Q", title=name or None, scale=alt.Scale(zero=False)), y2="high:Q", color=colour
        ),
        base.mark_point(filled=True, size=110, opacity=1).encode(x=cost, y=axis, color=colour, shape=shape),
    ]
    plot_width, height = (width - 70, 200) if width == NARROW else ((width - 120) // 3, 250)
    across = _across(free, name, colour, has_band=False) if free else ()
    return alt.layer(*across, *layers).properties(width=plot_width, height=height)


def serving(result: Summary, width: int = WIDE) -> alt.LayerChart | None:
    """Operations of one request, counted; None where all ways take about the same."""
    ledger = sorted(result.costs_at_largest, key=lambda cost: cost.serving_flops_per_row)
    amounts = [cost.serving_flops_per_row for cost in ledger]
    if not amounts or amounts[-1] <= _ALIKE * amounts[0]:
        return None
    rows = [{"way": cost.way, "operations": cost.serving_flops_per_row} for cost in ledger]
    order = alt.Y("way:N", sort=[cost.way for cost in ledger], title=None, axis=alt.Axis(domain=False, ticks=False))
    axis = alt.Axis(tickCount=5, format="~s")
    amount = alt.X("operations:Q", title="operations of one request", axis=axis, scale=alt.Scale(domainMin=0))
    colour = colour_of("way", result.ways, with_legend=False)
    bars = alt.Chart(data(rows)).mark_bar(height=16).encode(y=order, x=amount, color=colour)
    numbers = alt.Chart(data(rows)).mark_text(align="left", dx=4).encode(
        y=order, x=amount, text=alt.Text("operations:Q", format=".3s")
    )  # fmt: skip
    return alt.layer(bars, numbers).properties(width=width - 180, height=alt.Step(28))


def forgetting(result: Summary, width: int = WIDE) -> alt.LayerChart | None:
    """Perplexity on unrelated text under each way, as a multiple of the model's own."""
    times = {
        cost.way: cost.perplexity_after / cost.perplexity_before
        for cost in result.costs_at_largest
        if cost.perplexity_before is not None and cost.perplexity_after is not None
    }
    if not times:
        return None
    ways = sorted(times, key=lambda way: times[way])
    order = alt.Y("way:N", sort=ways, title=None, axis=alt.Axis(domain=False, ticks=False))
    # 1, the untouched model, is always in sight.
    domain = [min(0.8, min(times.values()) / 1.15), max(1.25, max(times.values()) * 1.15)]
    scale = alt.Scale(type="log", nice=False, domain=domain)
    amount = alt.X("times:Q", title="times the untouched model's perplexity", scale=scale)
    base = alt.Chart(data([{"way": way, "times": times[way]} for way in ways]))
    colour = colour_of("way", result.ways, with_legend=False)
    shape = shape_of("way", result.ways, with_legend=False)
    points = base.mark_point(filled=True, size=100, opacity=1).encode(y=order, x=amount, color=colour, shape=shape)
    numbers = base.mark_text(dy=-13).encode(y=order, x=amount, text=alt.Text("times:Q", format=".2f"))
    even = alt.Chart(data([{"times": 1}])).mark_rule(strokeDash=[5, 4], color="gray").encode(x=amount)
    return alt.layer(even, points, numbers).properties(width=width - 150, height=alt.Step(38))


def picture(result: Summary) -> alt.TopLevelMixin | None:
    """The curve where there are several sizes, else the scores, with a title."""
    num_seeds, num_rows = len(result.seeds), result.scores[0].n if result.scores else 0
    seeds = f"{num_seeds} {'seed' if num_seeds == 1 else 'seeds'}"
    chart = curve(result) or quality(result)
    title = f"{result.task}: {_metric(result)}, {seeds}, {num_rows} test rows"
    return None if chart is None else chart.properties(title=title)


CHARTS: dict[str, tuple[Callable[[Summary, int], Any], str]] = {
    "quality": (quality, "scores of each way with 95% intervals"),
    "curve": (curve, "scores by number of training rows"),
    "training": (training, "validation loss by epoch, a panel for each way"),
    "costs": (costs, "scores by cost of training"),
    "serving": (serving, "operations of one request"),
    "forgetting": (forgetting, "perplexity on unrelated texts"),
}
"""Charts of the page, each with what it shows."""


def _marks(result: Summary, width: int) -> tuple[alt.Color, alt.Shape]:
    """Colours and points of the ways, with one legend."""
    colour, shape = colour_of("way", result.ways), shape_of("way", result.ways)
    colour.legend.columns = shape.legend.columns = 2 if width == NARROW else 5
    return colour, shape


def _metric(result: Summary) -> str:
    return result.metric.replace("_", " ")
