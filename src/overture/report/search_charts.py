"""Charts of a search and of a learning-rate range test."""

from collections.abc import Sequence

import altair as alt

from overture.core.records.search import TrialResult
from overture.report.charts import WIDTH, colour_of, data


def pareto_chart(trials: Sequence[TrialResult], metric: str) -> alt.LayerChart:
    """Score against training tokens, every trial a point, the frontier a line."""
    rows = [
        {
            "setting": trial.title,
            "prompt": f"{trial.method}-{trial.place}" if trial.place else "no prompt",
            "score": trial.score,
            "tokens": trial.tokens,
            "serving": trial.serving,
            "is_frontier": trial.is_frontier,
        }
        for trial in trials
        if trial.score is not None
    ]
    prompts = list(dict.fromkeys(str(row["prompt"]) for row in rows))
    base = alt.Chart(data(rows)).encode(
        x=alt.X("tokens:Q", scale=alt.Scale(type="symlog", constant=1000), title="live tokens of training"),
        y=alt.Y("score:Q", scale=alt.Scale(zero=False), title=f"{metric}, validation rows"),
    )
    points = base.mark_circle(opacity=0.8).encode(
        color=colour_of("prompt", prompts, "method and place"),
        size=alt.Size("serving:Q", title="prompt tokens of a request"),
        tooltip=["setting:N", "score:Q", "tokens:Q", "serving:Q"],
    )
    line = base.transform_filter("datum.is_frontier").mark_line(color="gray", interpolate="step-after").encode()
    return alt.layer(line, points).properties(width=WIDTH, height=320)


def rate_chart(rates: Sequence[float], losses: Sequence[float], smooth: Sequence[float], rate: float) -> alt.LayerChart:
    """Loss against learning rate, with the suggestion as a rule."""
    rows = [{"lr": lr, "loss": loss, "smooth": mean} for lr, loss, mean in zip(rates, losses, smooth, strict=True)]
    x = alt.X("lr:Q", scale=alt.Scale(type="log"), title="learning rate")
    base = alt.Chart(data(rows)).encode(x=x)
    points = base.mark_circle(color="gray", opacity=0.5).encode(y=alt.Y("loss:Q", title="training loss"))
    line = base.mark_line().encode(y="smooth:Q")
    rule = alt.Chart(data([{"lr": rate}])).mark_rule(color="red", strokeDash=[4, 3]).encode(x=x)
    return alt.layer(points, line, rule).properties(width=WIDTH, height=320)


def frontier(points: Sequence[tuple[float, float]]) -> list[bool]:
    """Which points (cost, score) no other beats: none is at least as good on both and better on one."""
    return [
        not any((c <= cost and s >= score) and (c < cost or s > score) for c, s in points) for cost, score in points
    ]
