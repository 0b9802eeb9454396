"""The page of an explanation: one HTML file with pictures first, without scripts or other files."""

from pathlib import Path

import altair as alt

from overture.core.files import write_atomic
from overture.core.records.explain import Explanation, TextHeat
from overture.report.charts import data, spec_of
from overture.report.render import rendered

_GAIN, _LOSS = "#0072b2", "#d55e00"
_MOST_PARTS = 40
_CHART_WIDTH = 440


def write_page(explanation: Explanation, path: Path) -> None:
    """Write the page.

    Args:
        explanation: of a prompt.
        path: of the file; one that exists is replaced.
    """
    import vl_convert

    svgs = {name: vl_convert.vegalite_to_svg(spec_of(chart)) for name, chart in charts(explanation).items()}
    write_atomic(path, page(explanation, svgs))


def page(explanation: Explanation, svgs: dict[str, str]) -> str:
    """The page as HTML.

    Args:
        explanation: of a prompt.
        svgs: chart's name -> SVG.
    """
    return rendered(
        "explain.html",
        result=explanation,
        charts=svgs,
        heats=[_coloured(text) for text in explanation.texts],
        most_parts=_MOST_PARTS,
    )


def charts(explanation: Explanation) -> dict[str, alt.LayerChart]:
    """The pictures: the parts' importance, and the labels' probabilities."""
    found = {}
    if explanation.parts:
        found["parts"] = _parts_chart(explanation)
    return found | {"labels": _labels_chart(explanation)}


def _parts_chart(explanation: Explanation) -> alt.LayerChart:
    parts = explanation.parts
    if len(parts) > _MOST_PARTS:
        parts = sorted(parts, key=lambda part: -abs(part.drop.value))[:_MOST_PARTS]
    rows = [
        {
            "part": f"{number:02} {part.name:.40}" if part.kind != "column" else f"{part.kind} {int(part.name):02}",
            "drop": part.drop.value,
            "low": part.drop.low,
            "high": part.drop.high,
            "sign": "helps" if part.drop.value >= 0 else "harms",
        }
        for number, part in enumerate(parts, 1)
    ]
    y = alt.Y("part:N", title=None, sort=None)
    colour = alt.Color("sign:N", scale=alt.Scale(domain=["helps", "harms"], range=[_GAIN, _LOSS]), title=None)
    base = alt.Chart(data(rows), width=_CHART_WIDTH)
    title = "log-likelihood lost without it, nats a row"
    bars = base.mark_bar().encode(y=y, x=alt.X("drop:Q", title=title), color=colour)
    return bars + base.mark_rule(strokeWidth=1.5).encode(y=y, x="low:Q", x2="high:Q")


def _labels_chart(explanation: Explanation) -> alt.LayerChart:
    rows = [
        {"rows": shift.label, "prompt": name, "probability": shares[shift.label]}
        for shift in explanation.labels
        for name, shares in (("without the prompt", shift.without), ("with the prompt", shift.with_prompt))
    ]
    names = ["without the prompt", "with the prompt"]
    base = alt.Chart(data(rows), width=_CHART_WIDTH)
    y = alt.Y("rows:N", title="rows whose right label is", sort=None)
    bars = base.mark_bar().encode(
        y=y,
        yOffset=alt.YOffset("prompt:N", sort=names),
        x=alt.X("probability:Q", title="mean probability of the right label", scale=alt.Scale(domain=[0, 1])),
        color=alt.Color("prompt:N", scale=alt.Scale(domain=names, range=["#999999", _GAIN]), title=None),
    )
    text = base.mark_text(align="left", dx=3, fontSize=10).encode(
        y=y,
        yOffset=alt.YOffset("prompt:N", sort=names),
        x="probability:Q",
        text=alt.Text("probability:Q", format=".2f"),
    )
    return bars + text


def _coloured(text: TextHeat) -> dict[str, object]:
    """A text with a shade for each word and reading: blue and + where it speaks for the right label."""
    readings = {"no prompt": "without", "with the prompt": "with_prompt"}
    values = {name: [getattr(word, field) for word in text.words] for name, field in readings.items()}
    pairs = zip(values["with the prompt"], values["no prompt"], strict=True)
    values["what the prompt changed"] = [after - before for after, before in pairs]
    largest = max((abs(value) for some in values.values() for value in some), default=1.0) or 1.0
    lines = {
        name: [
            (
                word.word,
                "+" if value >= 0 else "-",
                _GAIN if value >= 0 else _LOSS,
                round(abs(value) / largest, 3),
                value,
            )
            for word, value in zip(text.words, some, strict=True)
        ]
        for name, some in values.items()
    }
    return {"text": text, "lines": lines}
