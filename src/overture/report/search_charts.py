"""Charts of a search and of a learning-rate range test."""

from collections.abc import Sequence

import altair as alt

from overture.core.records.search import TrialResult
from overture.report.charts import NARROW, WIDE, colour_of, data, shape_of

_HEADROOM = 1.3


def pareto_chart(trials: Sequence[TrialResult], metric: str, winner: str = "", width: int = WIDE) -> alt.LayerChart:
    """Score against training tokens: every trial a point, the frontier a line, the winner in a ring.

    Args:
        trials: all that were tried.
        metric: name of the axis.
        winner: key of the winner.
        width: of the whole chart.
    """
    rows = [
        {
            "setting": trial.title,
            "prompt": f"{trial.method}-{trial.place}" if trial.place else "no-prompt",
            "score": trial.score,
            "tokens": trial.tokens,
            "serving": trial.serving,
            "is_frontier": trial.is_frontier,
            "is_winner": trial.key == winner,
        }
        for trial in trials
        if trial.score is not None
    ]
    prompts = list(dict.fromkeys(str(row["prompt"]) for row in rows))
    base = alt.Chart(data(rows)).encode(
        x=alt.X("tokens:Q", scale=alt.Scale(type="symlog", constant=1000), title="live tokens of training",
                axis=alt.Axis(format="~s", tickCount=5)),
        y=alt.Y("score:Q", scale=alt.Scale(zero=False), title=f"{metric}, validation rows"),
    )  # fmt: skip
    colours, shapes = colour_of("prompt", prompts), shape_of("prompt", prompts)
    colours.legend.columns = shapes.legend.columns = 2 if width == NARROW else 4
    # Open points: one behind another still shows.
    points = base.mark_point(opacity=1, strokeWidth=2.5, size=90).encode(
        color=colours, shape=shapes, tooltip=["setting:N", "score:Q", "tokens:Q", "serving:Q"]
    )
    line = base.transform_filter("datum.is_frontier").mark_line(color="gray", interpolate="step-after").encode()
    ring = base.transform_filter("datum.is_winner").mark_point(size=380, strokeWidth=1.5, color="gray")
    name = base.transform_filter("datum.is_winner").mark_text(dy=-18, fontWeight=600).encode(text=alt.value("winner"))
    return alt.layer(line, points, ring, name).properties(width=width - 70, height=300)


def rate_chart(rates: Sequence[float], losses: Sequence[float], smooth: Sequence[float], rate: float) -> alt.LayerChart:
    """Loss against learning rate, with the suggestion as a rule; losses beyond the blow-up stand at the upper edge."""
    rows = [{"lr": lr, "loss": loss, "smooth": mean} for lr, loss, mean in zip(rates, losses, smooth, strict=True)]
    top = _HEADROOM * max(losses[: max(3, len(losses) // 4)])
    x = alt.X("lr:Q", scale=alt.Scale(type="log"), title="learning rate", axis=alt.Axis(format="~g", tickCount=6))
    scale = alt.Scale(domainMax=max(top, 1e-9), clamp=True, zero=False)
    base = alt.Chart(data(rows)).encode(x=x)
    points = base.mark_circle(color="gray", opacity=0.5).encode(y=alt.Y("loss:Q", title="training loss", scale=scale))
    line = base.mark_line().encode(y=alt.Y("smooth:Q", title="training loss", scale=scale))
    rule = alt.Chart(data([{"lr": rate}])).mark_rule(color="#d1495b", strokeDash=[4, 3]).encode(x=x)
    name = alt.Chart(data([{"lr": rate, "text": f"{rate:.2g}"}])).mark_text(align="left", dx=5, baseline="top").encode(
        x=x, y=alt.value(2), text="text:N"
    )  # fmt: skip
    title = "Training loss while the learning rate grows"
    return alt.layer(points, line, rule, name).properties(width=WIDE - 70, height=300, title=title)


def frontier(points: Sequence[tuple[float, float]]) -> list[bool]:
    """Which points (cost, score) no other beats: none is at least as good on both and better on one."""
    return [
        not any((c <= cost and s >= score) and (c < cost or s > score) for c, s in points) for cost, score in points
    ]
