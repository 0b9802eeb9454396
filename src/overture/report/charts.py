"""Colours, width, data and files of all charts.

A chart is an Altair spec; page, notebook and picture are made from it.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import altair as alt

from overture.core.files import write_atomic

WIDTH = 520
_SCALE = 2.0
# Okabe and Ito's colours, which people with any colour vision can tell apart, and some more behind them.
_COLOURS = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#cc79a7",
    "#e69f00",
    "#56b4e9",
    "#000000",
    "#8c6d31",
    "#7f3c8d",
    "#666666",
)


def colour_of(field: str, names: Sequence[str], title: str | None = None, with_legend: bool = True) -> alt.Color:
    """A colour for each name; with more names than colours they repeat."""
    scale = alt.Scale(domain=list(names), range=[_COLOURS[number % len(_COLOURS)] for number in range(len(names))])
    return alt.Color(
        f"{field}:N", scale=scale, title=title, legend=alt.Legend(symbolOpacity=1) if with_legend else None
    )


def data(rows: Sequence[Mapping[str, Any]]) -> alt.Data:
    """Rows as a chart takes them."""
    return alt.Data(values=[dict(row) for row in rows])


def spec_of(chart: alt.TopLevelMixin) -> str:
    """The chart as Vega-Lite JSON."""
    return str(chart.to_json(indent=1))


def png_of(spec: str) -> bytes:
    """A spec as a picture."""
    import vl_convert

    return bytes(vl_convert.vegalite_to_png(spec, scale=_SCALE))


def save_chart(chart: alt.TopLevelMixin, stem: Path) -> list[str]:
    """Write ``STEM.json``, ``STEM.png`` and ``STEM.html``, a page that needs no network; their paths."""
    import vl_convert

    spec = spec_of(chart)
    files: dict[Path, str | bytes] = {
        stem.with_suffix(".json"): spec + "\n",
        stem.with_suffix(".png"): png_of(spec),
        stem.with_suffix(".html"): vl_convert.vegalite_to_html(spec, bundle=True),
    }
    for path, content in files.items():
        write_atomic(path, content)
    return [str(path) for path in files]
