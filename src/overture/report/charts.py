"""Colours, fonts, sizes and files of all charts.

A chart is an Altair spec; page, notebook and picture are made from it. A page holds each chart twice, for wide and for
narrow screens; its style sheet shows one of them and sets the colours of text and lines, so a chart fits a dark page.
"""

import colorsys
import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, cast

import altair as alt
from altair.utils import schemapi
from markupsafe import Markup, escape

from overture.core.files import write_atomic

WIDE, NARROW = 780, 330
"""Width of a whole chart, axes included, on wide and on narrow screens."""
_SCALE = 2.0
_CONFIG = {
    "font": "sans-serif",
    "background": "transparent",
    "aria": False,
    "padding": {"left": 8, "right": 8, "top": 4, "bottom": 4},
    "view": {"stroke": None},
    "axis": {
        "labelFontSize": 12,
        "titleFontSize": 13,
        "titleFontWeight": "normal",
        "labelLimit": 170,
        "labelSeparation": 5,
        "gridOpacity": 0.5,
        "titlePadding": 8,
    },
    "legend": {"labelFontSize": 12, "titleFontSize": 12, "titleFontWeight": "normal", "symbolOpacity": 1},
    "title": {"fontSize": 15, "anchor": "start", "fontWeight": 600, "offset": 12},
    "text": {"fontSize": 12},
}

# -- one colour a way, the same in every chart of every page; all can be read on white and on black

_COLOURS = {
    "no-prompt": "#8b949e",
    "tuned prompt": "#1f77d0",
    "text": "#a0714f",
    "in-context": "#bf8700",
    "linear": "#7d8f2c",
    "head": "#4f9d69",
    "bitfit": "#2a9d8f",
    "lora": "#d1495b",
    "full": "#8250df",
    "prefix": "#1f77d0",
    "gated": "#c2409b",
    "vectors": "#e07b39",
    "late": "#b8483a",
}
_OTHER_COLOURS = ("#6f7bd9", "#b5534a", "#5d9c59", "#a15fb3", "#3a8e9e", "#c98a1b", "#cf6a87", "#77838f")
_LIGHTER = {"memory": 0.12, "before": -0.06, "slots": -0.12, "around": 0.18}
_DEFAULTS = re.compile(
    r' (?:opacity="1"|stroke-width="1"|[xy]2="0"|transform="translate\(0,0\)"|font-family="sans-serif"|fill="#000"'
    r'|pointer-events="none"|aria-[a-z]+="[^"]*"|role="[^"]*")|<path class="(?:back|fore)ground"[^>]*/>'
)
"""Parts of an SVG without effect in a page, whose style sheet sets fonts and colours of text: half of its bytes."""
TRAINING, VALIDATION = "#8b949e", "#1f77d0"


_SHAPES = {
    **dict.fromkeys(("lora", "full", "bitfit"), "triangle-up"),
    **dict.fromkeys(("linear", "head"), "triangle-down"),
    **dict.fromkeys(("no-prompt", "text", "in-context"), "cross"),
    **{
        "after": "circle",
        "before": "square",
        "memory": "diamond",
        "slots": "triangle-right",
        "around": "triangle-left",
    },
}
"""Points of a way, by its place or its method: colours alone cannot be told apart by everybody."""
_DASHES = {
    "circle": [1, 0],
    "square": [7, 3],
    "diamond": [2, 2],
    "triangle-up": [12, 3],
    "triangle-down": [12, 3, 2, 3],
    "cross": [4, 4],
}


def _method_and_place(way: str) -> tuple[str, str]:
    name = way.partition(":")[0]
    method, _, place = name.rpartition("-")
    return (name, "") if way in _COLOURS or place not in (*_LIGHTER, "after") else (method, place)


def colour(way: str) -> str:
    """A way's colour: a hue for each method, lighter or darker by the place where the prompt enters."""
    method, place = _method_and_place(way)
    base = _COLOURS.get(method) or _OTHER_COLOURS[zlib.crc32(method.encode()) % len(_OTHER_COLOURS)]
    hue, lightness, saturation = colorsys.rgb_to_hls(*(int(base[i : i + 2], 16) / 255 for i in (1, 3, 5)))
    lightness = min(0.72, max(0.3, lightness + _LIGHTER.get(place, 0)))
    return "#" + "".join(f"{round(255 * part):02x}" for part in colorsys.hls_to_rgb(hue, lightness, saturation))


def shape(way: str) -> str:
    """A way's points, as Vega names them."""
    method, place = _method_and_place(way)
    return _SHAPES.get(place or method, "circle")


def colour_of(field: str, names: Sequence[str], with_legend: bool = True) -> alt.Color:
    """Each name in its own colour."""
    scale = alt.Scale(domain=list(names), range=[colour(name) for name in names])
    return alt.Color(f"{field}:N", scale=scale, title=None, legend=_legend() if with_legend else None)


def shape_of(field: str, names: Sequence[str], with_legend: bool = True) -> alt.Shape:
    """Each name with points of its own; the legend is that of the colours."""
    scale = alt.Scale(domain=list(names), range=[shape(name) for name in names])
    return alt.Shape(f"{field}:N", scale=scale, title=None, legend=_legend() if with_legend else None)


def dash_of(field: str, names: Sequence[str]) -> alt.StrokeDash:
    """Each name with lines of its own."""
    scale = alt.Scale(domain=list(names), range=[_DASHES.get(shape(name), [1, 0]) for name in names])
    return alt.StrokeDash(f"{field}:N", scale=scale, title=None, legend=None)


def _legend() -> alt.Legend:
    return alt.Legend(symbolOpacity=1, orient="bottom", columns=3, columnPadding=16)


def unchecked() -> AbstractContextManager[None]:
    """Make charts without checking each part against Altair's schema, which takes longer than the chart."""
    return cast(AbstractContextManager[None], schemapi.debug_mode(False))


def data(rows: Sequence[Mapping[str, Any]]) -> alt.Data:
    """Rows as a chart takes them; Altair copies lists at each step of a chart, but not tuples."""
    return alt.Data(values=tuple(dict(row) for row in rows))


# -- charts that several pages have


def interval_chart(
    rows: Sequence[Mapping[str, Any]], metric: str, width: int, seeds: Sequence[Mapping[str, Any]] = ()
) -> alt.LayerChart:
    """Scores as points with their intervals, one a line, in the order given.

    Args:
        rows: ``way``, ``value``, ``low`` and ``high`` of each.
        metric: name of the axis.
        width: of the whole chart.
        seeds: ``way`` and ``value`` of single seeds, shown as ticks.
    """
    names = [row["way"] for row in rows]
    order = alt.Y("way:N", sort=names, title=None, axis=alt.Axis(domain=False, ticks=False))
    colours = colour_of("way", names, with_legend=False)

    ticks = 4 if width == NARROW else 6

    def axis(field: str) -> alt.X:
        return alt.X(f"{field}:Q", title=metric, scale=alt.Scale(zero=False), axis=alt.Axis(tickCount=ticks))

    base = alt.Chart(data(rows))
    spans = base.mark_rule(strokeWidth=3, opacity=0.45).encode(y=order, x=axis("low"), x2="high:Q", color=colours)
    points = base.mark_point(filled=True, size=110, opacity=1).encode(
        y=order, x=axis("value"), color=colours, shape=shape_of("way", names, with_legend=False)
    )
    numbers = base.mark_text(dy=-14, fontWeight=600).encode(
        y=order, x=axis("value"), text=alt.Text("value:Q", format=".3f")
    )
    ticks = alt.Chart(data(seeds)).mark_tick(thickness=1.5, opacity=0.7, size=12).encode(
        y=order, x=axis("value"), color=colours
    )  # fmt: skip
    layers = [spans, *([ticks] if seeds else ()), points, numbers]
    names_width = min(170, round(6.8 * max(map(len, names), default=0)))
    return alt.layer(*layers).properties(width=max(150, width - 30 - names_width), height=alt.Step(46))


# -- files and pages


def spec_of(chart: alt.TopLevelMixin) -> str:
    """The chart as Vega-Lite JSON, with the fonts that all charts share."""
    with unchecked():
        return str(chart.configure(**_CONFIG).to_json(indent=1, validate=False))


def svg_of(chart: alt.TopLevelMixin) -> str:
    """The chart as SVG, with clear ground."""
    import vl_convert

    svg = str(vl_convert.vegalite_to_svg(spec_of(chart)))
    # A hundredth of a pixel is seen by nobody; numbers between tags are text and stay.
    return re.sub("<[^>]+>", lambda tag: _DEFAULTS.sub("", re.sub(r"(\d\.\d)\d+", r"\1", tag[0])), svg)


def svgs(make: Callable[[int], alt.TopLevelMixin | None], title: str) -> Markup | None:
    """A chart for a page, once for wide and once for narrow screens; None where it has no data.

    Args:
        make: the chart of a width.
        title: what it shows, for those who do not see it.
    """
    with unchecked():
        charts = [(name, make(width)) for name, width in (("wide-screen", WIDE), ("narrow-screen", NARROW))]
    if any(chart is None for _, chart in charts):
        return None
    parts = [
        f'<div class="chart {name}" role="img" aria-label="{escape(title)}">{svg_of(chart)}</div>'
        for name, chart in charts
        if chart is not None
    ]
    return Markup("\n".join(parts))


def png_of(chart: alt.TopLevelMixin) -> bytes:
    """The chart as a picture on white."""
    import vl_convert

    return bytes(vl_convert.vegalite_to_png(spec_of(chart.properties(background="white")), scale=_SCALE))


def save_chart(chart: alt.TopLevelMixin, stem: Path) -> list[str]:
    """Write ``STEM.json``, ``STEM.png`` and ``STEM.html``, a page that needs no network; their paths."""
    import vl_convert

    spec = spec_of(chart)
    files: dict[Path, str | bytes] = {
        stem.with_suffix(".json"): spec + "\n",
        stem.with_suffix(".png"): png_of(chart),
        stem.with_suffix(".html"): vl_convert.vegalite_to_html(spec, bundle=True),
    }
    for path, content in files.items():
        write_atomic(path, content)
    return [str(path) for path in files]
