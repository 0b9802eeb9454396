"""The page of an explanation: one HTML file with pictures first, without scripts or other files."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import altair as alt

from overture.core.files import write_atomic
from overture.core.records.explain import Explanation, TextHeat
from overture.report.charts import data, svgs
from overture.report.render import rendered

_HELPS, _HARMS, _UNCLEAR, _PLAIN = "#1f77d0", "#e07b39", "#b8bec6", "#8b949e"
_MOST_PARTS = 40
_LABEL_WIDTH, _LETTER_WIDTH = 150, 7


def write_page(explanation: Explanation, path: Path) -> None:
    """Write the page.

    Args:
        explanation: of a prompt.
        path: of the file; one that exists is replaced.
    """
    write_atomic(path, page(explanation))


def page(explanation: Explanation) -> str:
    """The page as HTML."""
    return rendered(
        "explain.html",
        result=explanation,
        parts_chart=svgs(
            partial(_parts_chart, explanation), "How much answers change when a part of the prompt is left out"
        ),
        attention_chart=svgs(partial(_attention_chart, explanation), "Attention to the prompt, by layer and head"),
        lens=_lens_table(explanation),
        labels_chart=svgs(partial(_labels_chart, explanation), "Probability of the right label, by label"),
        heats=[_coloured(text) for text in explanation.texts],
        most_parts=_MOST_PARTS,
    )


def _parts_chart(explanation: Explanation, width: int) -> alt.LayerChart | None:
    parts = list(enumerate(explanation.parts, 1))
    if not parts:
        return None
    if len(parts) > _MOST_PARTS:
        largest = sorted(parts, key=lambda item: -item[1].change.value)[:_MOST_PARTS]
        parts = sorted(largest, key=lambda item: item[0])
    # Equal words at two places are two bars.
    names = {
        "column": "column {name}",
        "word": "{number}. {name}",
        "section": "{number}. line: {name}",
        "example": "{number}. example: {name}",
    }
    rows = [
        {
            "part": names[part.kind].format(number=number, name=part.name)[:60],
            "change": part.change.value,
            "low": max(0.0, part.change.low),
            "high": part.change.high,
            "effect": part.effect,
        }
        for number, part in parts
    ]
    y = alt.Y("part:N", title=None, sort=None, axis=alt.Axis(labelLimit=_LABEL_WIDTH))
    scale = alt.Scale(domain=["helps", "harms", "unclear"], range=[_HELPS, _HARMS, _UNCLEAR])
    colour = alt.Color("effect:N", scale=scale, title=None, legend=alt.Legend(orient="bottom"))
    base = alt.Chart(data(rows))
    bars = base.mark_bar().encode(
        y=y,
        x=alt.X("change:Q", title="nats by which answers change without it", axis=alt.Axis(tickCount=5)),
        color=colour,
    )
    spans = base.mark_rule(strokeWidth=1.5, color=_PLAIN).encode(y=y, x="low:Q", x2="high:Q")
    chart: alt.LayerChart = alt.layer(bars, spans).properties(
        width=_plot_width(width, [row["part"] for row in rows]), height=alt.Step(20)
    )
    return chart


def _attention_chart(explanation: Explanation, width: int) -> alt.Chart | None:
    if explanation.attention is None:
        return None
    rows = [
        {"layer": layer, "head": head, "share": share}
        for layer, shares in enumerate(explanation.attention.heads, 1)
        for head, share in enumerate(shares, 1)
    ]
    # Pale to strong of one hue, so that it can be read in grey; the page's ground shows where there is nothing.
    colour = alt.Color(
        "share:Q",
        title="share of attention",
        scale=alt.Scale(domainMin=0, range=["#1f77d011", _HELPS]),
        legend=alt.Legend(orient="bottom", format=".0%", gradientLength=160),
    )
    axis = alt.Axis(labelAngle=0, labelOverlap=True)
    chart: alt.Chart = (
        alt.Chart(data(rows))
        .mark_rect()
        .encode(x=alt.X("layer:O", axis=axis), y=alt.Y("head:O", axis=axis), color=colour)
        .properties(width=width - 70, height=alt.Step(14))
    )
    return chart


def _lens_table(explanation: Explanation) -> list[list[str]]:
    """A line for each vector, with its tokens at each layer; the first line names the layers."""
    layers = sorted({reading.layer for reading in explanation.lens})
    tokens = {(reading.column, reading.layer): reading.tokens for reading in explanation.lens}
    columns = sorted({reading.column for reading in explanation.lens})
    lines = [[str(column), *(" ".join(map(repr, tokens[column, n])) for n in layers)] for column in columns]
    return [["vector", *(f"layer {layer}" for layer in layers)], *lines] if lines else []


def _labels_chart(explanation: Explanation, width: int) -> alt.LayerChart | None:
    names = ["without the prompt", "with the prompt"]
    rows = [
        {"label": shift.label, "prompt": name, "probability": shares[shift.label]}
        for shift in explanation.labels
        for name, shares in zip(names, (shift.without, shift.with_prompt), strict=True)
    ]
    if not rows:
        return None
    base = alt.Chart(data(rows))
    y = alt.Y("label:N", title=None, sort=None, axis=alt.Axis(labelLimit=_LABEL_WIDTH))
    offset = alt.YOffset("prompt:N", sort=names)
    x = alt.X(
        "probability:Q",
        title="mean probability of the right label",
        scale=alt.Scale(domain=[0, 1]),
        axis=alt.Axis(tickCount=5),
    )
    scale = alt.Scale(domain=names, range=[_PLAIN, _HELPS])
    legend = alt.Legend(orient="bottom", columns=1)
    colour = alt.Color("prompt:N", scale=scale, title=None, legend=legend)
    bars = base.mark_bar().encode(y=y, yOffset=offset, x=x, color=colour)
    text = base.mark_text(align="left", dx=4).encode(
        y=y, yOffset=offset, x=x, text=alt.Text("probability:Q", format=".2f")
    )
    chart: alt.LayerChart = alt.layer(bars, text).properties(
        width=_plot_width(width, [row["label"] for row in rows]) - 30, height=alt.Step(18)
    )
    return chart


def _plot_width(width: int, names: Sequence[object]) -> int:
    """Width that is left for the plot beside the names of its lines."""
    return max(120, width - 40 - min(_LABEL_WIDTH, _LETTER_WIDTH * max(len(str(name)) for name in names)))


def _coloured(text: TextHeat) -> dict[str, object]:
    """A text with a shade for each word and reading: blue and + where it speaks for the right label."""
    readings = {
        "no prompt": [word.without for word in text.words],
        "with the prompt": [word.with_prompt for word in text.words],
        "what the prompt changed": [word.with_prompt - word.without for word in text.words],
    }
    largest = max((abs(value) for values in readings.values() for value in values), default=0.0) or 1.0
    lines = {
        name: [
            {
                "word": word.word,
                "value": value,
                "sign": "+" if value >= 0 else "-",
                "colour": _HELPS if value >= 0 else _HARMS,
                "percent": round(70 * abs(value) / largest),
            }
            for word, value in zip(text.words, values, strict=True)
        ]
        for name, values in readings.items()
    }
    return {"text": text, "lines": lines}
