"""The page and the picture of a run or an evaluation: scores, curves, mistakes, costs, the prompt and how to use it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

import altair as alt

from overture.core.files import write_atomic
from overture.core.records.events import EpochEvent, StepEvent
from overture.core.records.runs import Finding
from overture.core.records.scores import Interval, Paired, VerdictWords
from overture.core.records.tune import Evaluation, Measured, TuneResult
from overture.report.certainty import certainty_lines
from overture.report.charts import TRAINING, VALIDATION, WIDE, data, interval_chart, png_of, svgs
from overture.report.render import rendered
from overture.report.units import p_text

_MAX_POINTS, _MAX_LABELS = 120, 25
_SURE = 0.05


@dataclass(frozen=True, slots=True)
class PromptFacts:
    """A stored prompt, for people.

    Args:
        ref: name and version.
        method: how its values are parameterised.
        place: where it enters the model.
        length: its tokens.
        trainable: number of trained values.
        model: name of the frozen model.
        template: the task's template.
        labels: label -> its words.
        stored_bytes: size of its file.
        lr: its learning rate.
        seed: seed of its training.
        train_rows: number of training rows.
        created: when it was made.
    """

    ref: str
    method: str
    place: str
    length: int
    trainable: int
    model: str
    template: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    stored_bytes: int | None = None
    lr: float | None = None
    seed: int | None = None
    train_rows: int | None = None
    created: str = ""


@dataclass(frozen=True, slots=True)
class RunFacts:
    """Everything that a run's page shows.

    Args:
        title: of the page.
        result: scores and mistakes.
        prompt: the stored prompt; None while there is none.
        commands: what to type next.
        python: the same from Python.
        steps: optimiser steps of the run.
        epochs: epochs of the run.
        findings: what explains the result.
        notices: what the user should know.
    """

    title: str
    result: TuneResult | Evaluation
    prompt: PromptFacts | None = None
    commands: Sequence[str] = ()
    python: str = ""
    steps: Sequence[StepEvent] = ()
    epochs: Sequence[EpochEvent] = ()
    findings: Sequence[Finding] = ()
    notices: Sequence[str] = ()

    @property
    def split(self) -> str:
        """The rows that scores are of."""
        if isinstance(self.result, Evaluation):
            return self.result.split
        return "test" if "test" in self.result.metrics else "validation"

    @property
    def main(self) -> Interval:
        """The score that the task is judged by."""
        return self.result.metrics[self.split][self.result.metric]

    @property
    def columns(self) -> dict[str, Measured]:
        """The scores on the same rows, by name."""
        result = self.result
        columns: dict[str, Measured] = {"tuned prompt": result}
        if isinstance(result, TuneResult) and result.in_context:
            columns["in-context"] = result.in_context
        if result.no_prompt:
            columns[result.no_prompt.plain_name] = result.no_prompt
        return columns


def write_run_page(facts: RunFacts, page_path: Path) -> Path:
    """Write the page and, beside it, its picture; returns the page's path."""
    write_atomic(page_path, run_page(facts))
    write_atomic(page_path.with_suffix(".png"), png_of(_picture(facts)))
    return page_path


def run_page(facts: RunFacts) -> str:
    """The page as HTML: it needs no other file and runs no script."""
    rows = _score_rows(facts)
    metric = facts.result.metric.replace("_", " ")
    confusion = facts.result.confusion
    return rendered(
        "run.html",
        facts=facts,
        result=facts.result,
        split=facts.split,
        words=verdict_words(facts),
        mood=_mood((facts.result.compared or {}).get("no_prompt")),
        score_figure=svgs(lambda width: interval_chart(rows, metric, width), "scores with their 95% intervals"),
        loss_figure=svgs(
            lambda width: loss_chart(facts.steps, facts.epochs, width), "training and validation loss by epoch"
        ),
        curve_figure=svgs(lambda width: score_chart(facts.epochs, metric, width), "validation score by epoch"),
        metric_names=list(
            dict.fromkeys(name for column in facts.columns.values() for name in column.metrics[facts.split].scores)
        ),
        tokenizers={
            name: score.tokenizer for name, score in facts.result.metrics[facts.split].scores.items() if score.tokenizer
        },
        has_table=confusion is not None and len(confusion.labels) <= _MAX_LABELS,
        certainty=[] if isinstance(facts.result, TuneResult) else list(certainty_lines(facts.result)),
        spread=getattr(facts.result.seeds, facts.split, None) if isinstance(facts.result, TuneResult) else None,
    )


# -- words


def verdict_words(facts: RunFacts) -> VerdictWords:
    """The result, how sure it is, and what to do next."""
    result, main = facts.result, facts.main
    against = (result.compared or {}).get("no_prompt")
    metric = result.metric.replace("_", " ")
    first_fix = ""
    if facts.findings:
        finding = facts.findings[0]
        first_fix = f"{finding.what[:1].upper()}{finding.what[1:]}: {finding.fix}."
    use = f"Use it: {facts.commands[0]}" if facts.commands else "Use it on rows of your own."
    if against is None:
        what = f"The tuned prompt scores {main.value:.3f} ({metric})."
        why = f"Measured on {main.n} {facts.split} rows: 95% interval {main.low:.3f} to {main.high:.3f}."
        return VerdictWords(what=what, why=why, next=first_fix or use)
    gap, p = against.difference, p_text(against.p_value)
    figures = (
        f"On {gap.n} {facts.split} rows the difference is {100 * gap.value:+.1f} points, 95% interval "
        f"{100 * gap.low:+.1f} to {100 * gap.high:+.1f}, p {p if p.startswith('<') else f'= {p}'}."
    )
    scores = f"{metric} {against.a:.3f} against {against.b:.3f}"
    match _mood(against):
        case "sure":
            also = ". The doctor found something, too: see below." if facts.findings else ""
            return VerdictWords(
                what=f"The tuned prompt is better than no prompt: {scores}.", why=figures, next=use.rstrip(".") + also
            )
        case "worse":
            what = f"The tuned prompt is worse than no prompt: {scores}."
            return VerdictWords(what=what, why=figures, next=first_fix or "Use the model without a prompt.")
    what = f"No difference from no prompt could be shown: {scores}."
    return VerdictWords(what=what, why=figures, next=first_fix or "Score more rows: overture eval with a larger file.")


def _mood(against: Paired | None) -> str:
    """The verdict's colour from the comparison with no prompt: sure, worse, or none."""
    if against is None or against.p_value >= _SURE or against.difference.value == 0:
        return ""
    return "sure" if against.difference.value > 0 else "worse"


# -- charts


def _score_rows(facts: RunFacts) -> list[dict[str, Any]]:
    scores = {name: column.metrics[facts.split][facts.result.metric] for name, column in facts.columns.items()}
    return [{"way": name, "value": s.value, "low": s.low, "high": s.high} for name, s in scores.items()]


def loss_chart(steps: Sequence[StepEvent], epochs: Sequence[EpochEvent], width: int) -> alt.LayerChart | None:
    """Training loss of the steps and validation loss of the epochs; a line for each seed."""
    if not epochs:
        return None
    training_points = [*_thinned(steps)] or [
        {"seed": e.title, "epoch": e.epoch + 1, "loss": e.train_loss, "rows": "training"} for e in epochs
    ]
    validation_points = [
        {"seed": e.title, "epoch": e.epoch + 1, "loss": e.validation_loss, "rows": "validation"} for e in epochs
    ]
    x = _epochs(epochs)
    y = alt.Y("loss:Q", title="loss", scale=alt.Scale(zero=False))
    legend = alt.Legend(orient="top", title=None)
    scale = alt.Scale(domain=["training", "validation"], range=[TRAINING, VALIDATION])
    colours = alt.Color("rows:N", scale=scale, legend=legend)
    lines = alt.Chart(data([*training_points, *validation_points])).mark_line(strokeWidth=2).encode(
        x=x, y=y, color=colours, detail="seed:N"
    )  # fmt: skip
    points = (
        alt.Chart(data(validation_points)).mark_point(filled=True, size=40, opacity=1).encode(x=x, y=y, color=colours)
    )
    return alt.layer(lines, points).properties(width=width - 70, height=230)


def _thinned(steps: Sequence[StepEvent]) -> Iterator[dict[str, Any]]:
    """Mean losses of equal stretches of each training, as many as a chart can show."""
    trainings: dict[str, list[StepEvent]] = {}
    for step in steps:
        trainings.setdefault(step.title, []).append(step)
    for title, seed_steps in trainings.items():
        stretch = max(1, len(seed_steps) // _MAX_POINTS, len(seed_steps) // 20 if len(seed_steps) >= 60 else 1)
        for start in range(0, len(seed_steps), stretch):
            part = seed_steps[start : start + stretch]
            epoch = fmean(step.step for step in part) / part[0].num_steps * part[0].num_epochs
            yield {"seed": title, "epoch": epoch, "loss": fmean(step.loss for step in part), "rows": "training"}


def _epochs(epochs: Sequence[EpochEvent]) -> alt.X:
    """An axis with a tick for each epoch, or for some of many."""
    last = max(epoch.epoch for epoch in epochs) + 1
    ticks = alt.Axis(values=list(range(0, last + 1, max(1, last // 8))), format="d")
    return alt.X("epoch:Q", title="epoch", scale=alt.Scale(domain=[0, last], nice=False), axis=ticks)


def score_chart(epochs: Sequence[EpochEvent], metric: str, width: int) -> alt.LayerChart | None:
    """Validation score of each epoch; the epochs that were best when they ended are filled."""
    if not epochs:
        return None
    rows = [{"seed": e.title, "epoch": e.epoch + 1, "score": e.validation_score, "best": e.is_best} for e in epochs]
    x = _epochs(epochs)
    low, high = (choose(e.validation_score for e in epochs) for choose in (min, max))
    # Equal scores have no extent of their own.
    scale = alt.Scale(zero=False) if low < high else alt.Scale(domain=[low - 0.05, high + 0.05])
    y = alt.Y("score:Q", title=f"{metric}, validation rows", scale=scale)
    base = alt.Chart(data(rows)).encode(x=x, y=y, detail="seed:N")
    line = base.mark_line(strokeWidth=2, color=VALIDATION)
    rings = base.mark_point(size=60, color=VALIDATION, opacity=1)
    best = base.transform_filter("datum.best").mark_point(size=60, filled=True, color=VALIDATION, opacity=1)
    return alt.layer(line, rings, best).properties(width=width - 70, height=200)


def _picture(facts: RunFacts) -> alt.TopLevelMixin:
    """Scores and curves under one another, with a title."""
    metric = facts.result.metric.replace("_", " ")
    charts = [
        interval_chart(_score_rows(facts), f"{metric}, {facts.main.n} {facts.split} rows, 95% intervals", WIDE),
        loss_chart(facts.steps, facts.epochs, WIDE),
    ]
    parts = [chart for chart in charts if chart is not None]
    return alt.vconcat(*parts, title=facts.title, spacing=24).resolve_scale(color="independent")
