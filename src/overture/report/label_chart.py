"""The curve of a labelling session: accuracy against labels."""

from collections.abc import Sequence

import altair as alt
from markupsafe import Markup

from overture.core.records.label import CurvePoint
from overture.report.charts import data, svgs


def curve(points: Sequence[CurvePoint]) -> Markup | None:
    """Accuracy of each training on the rows that are kept apart, with its interval; None without any."""
    rows = [
        {"labels": point.num_labels, "value": point.score.value, "low": point.score.low, "high": point.score.high}
        for point in points
    ]

    def chart(width: int) -> alt.LayerChart | None:
        if not rows:
            return None
        base = alt.Chart(data(rows))
        labels = alt.X("labels:Q", title="labels learnt from", axis=alt.Axis(tickMinStep=1, tickCount=6))
        accuracy = alt.Y("value:Q", title="accuracy", scale=alt.Scale(domain=[0, 1]), axis=alt.Axis(tickCount=5))
        spans = base.mark_rule(strokeWidth=5, opacity=0.35, color="#4c78a8").encode(x=labels, y="low:Q", y2="high:Q")
        line = base.mark_line(strokeWidth=2).encode(x=labels, y=accuracy)
        dots = base.mark_point(filled=True, size=45, opacity=1).encode(x=labels, y=accuracy)
        return alt.layer(spans, line, dots).properties(width=min(width, 420) - 60, height=180)

    return svgs(chart, "Accuracy against the number of labels")
