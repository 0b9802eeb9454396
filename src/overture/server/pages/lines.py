"""Charts of lines that are drawn while a run goes on: plain SVG, in a fraction of the time of a finished chart."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median_high

from markupsafe import Markup, escape

WIDE, NARROW = 560, 340
"""Widths for wide and for narrow screens; the style sheet shows one of them."""
_HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 240, 52, 14, 12, 40
_MAX_POINTS = 240
_CUT = 3.0
"""Values beyond so many times the median of every line stand at the upper edge, so that the rest can be seen."""
_STEPS = (1, 2, 2.5, 5, 10)
NUM_COLOURS = 6


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a chart.

    Args:
        title: for people.
        colour: number of its colour in the style sheet.
        points: (x, y), x rising.
        is_faint: it is drawn thin, behind the others.
        best: number of the point that is marked; None for none.
    """

    title: str
    colour: int
    points: Sequence[tuple[float, float]]
    is_faint: bool = False
    best: int | None = None


def line_chart(lines: Sequence[Line], x_title: str, y_title: str, label: str) -> Markup | None:
    """A chart for wide and one for narrow screens; None where no line has a point.

    Args:
        lines: the lines; those behind come first.
        x_title: of the horizontal axis.
        y_title: of the vertical axis.
        label: what the chart shows, for those who do not see it.
    """
    visible_lines = [line for line in lines if line.points]
    if not visible_lines:
        return None
    parts = [
        f'<div class="chart {name}">{_svg(visible_lines, width, x_title, y_title, label)}</div>'
        for name, width in (("wide-screen", WIDE), ("narrow-screen", NARROW))
    ]
    return Markup("".join(parts))


def _svg(lines: Sequence[Line], width: int, x_title: str, y_title: str, label: str) -> str:
    xs = [x for line in lines for x, _ in line.points]
    ys = sorted(y for line in lines for _, y in line.points)
    # By lines: training losses near 0 must not push the validation losses over the edge.
    medians = [median_high(y for _, y in line.points) for line in lines]
    high = min(ys[-1], max(_CUT * max(medians), ys[0])) if ys[0] >= 0 else ys[-1]
    y_ticks, x_ticks = ticks(ys[0], high, 4), ticks(0.0, max(xs), 6, least=1.0)
    low, high = min(y_ticks[0], ys[0]), max(y_ticks[-1], high)
    right_edge, bottom = width - _RIGHT, _HEIGHT - _BOTTOM

    def x_of(x: float) -> float:
        return _LEFT + (right_edge - _LEFT) * (x - x_ticks[0]) / ((max(xs) - x_ticks[0]) or 1.0)

    def y_of(y: float) -> float:
        return bottom - (bottom - _TOP) * (min(y, high) - low) / ((high - low) or 1.0)

    parts = [f'<svg width="{width}" viewBox="0 0 {width} {_HEIGHT}" role="img" aria-label="{escape(label)}">']
    for tick in y_ticks:
        y = y_of(tick)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{right_edge}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="tick" x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{tick:g}</text>')
    for tick in x_ticks:
        if tick <= max(xs):
            parts.append(
                f'<text class="tick" x="{x_of(tick):.1f}" y="{bottom + 18}" text-anchor="middle">{tick:g}</text>'
            )
    parts.append(f'<text class="title" x="{right_edge}" y="{bottom + 35}" text-anchor="end">{escape(x_title)}</text>')
    parts.append(f'<text class="title" x="{_LEFT}" y="{_HEIGHT - 5}">{escape(y_title)}</text>')
    for line in lines:
        points = [(x_of(x), y_of(y)) for x, y in thinned(line.points)]
        kind = f"s{line.colour % NUM_COLOURS}{' faint' if line.is_faint else ''}"
        parts.append(f'<polyline class="{kind}" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in points)}"/>')
        if not line.is_faint:
            parts += _marks(line, [(x_of(x), y_of(y)) for x, y in line.points], kind)
    return "".join([*parts, "</svg>"])


def _marks(line: Line, points: Sequence[tuple[float, float]], kind: str) -> Iterator[str]:
    for number, (x, y) in enumerate(points):
        if number == line.best or len(points) <= 40:
            radius, more = (5, " best") if number == line.best else (2.5, "")
            yield f'<circle class="{kind}{more}" cx="{x:.1f}" cy="{y:.1f}" r="{radius}"/>'


def thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most some hundreds of points: each is the mean of its neighbours."""
    size = math.ceil(len(points) / _MAX_POINTS)
    groups = [points[start : start + size] for start in range(0, len(points), size)]
    return [(group[-1][0], sum(y for _, y in group) / len(group)) for group in groups]


def ticks(low: float, high: float, count: int, least: float = 0.0) -> list[float]:
    """Round numbers between two values, about so many and no closer than the least distance."""
    if high <= low:
        return [low]
    rough = (high - low) / count
    size = 10 ** math.floor(math.log10(rough))
    step = max(least, size * next(step for step in _STEPS if step * size >= rough * 0.999))
    first = math.ceil(low / step - 1e-9)
    return [round(number * step, 12) + 0.0 for number in range(first, math.floor(high / step + 1e-9) + 1)] or [low]
