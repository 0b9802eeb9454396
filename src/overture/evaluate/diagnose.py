"""Why a run did not learn: findings from its folder alone, each with its figures and what to do.

Nothing is loaded but JSON, so it takes no time and works while a run goes on.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from statistics import fmean, median, variance
from typing import Any

from pydantic import BaseModel

from overture.core.records.events import DataEvent, DivergedEvent, EpochEvent, NormsEvent, SamplesEvent, StepEvent
from overture.core.records.runs import Finding, RunStatus
from overture.core.records.scores import SplitScores
from overture.core.records.tune import SeedResult, TuneResult
from overture.evaluate.history import overfitting
from overture.evaluate.metric import answer_text
from overture.store.runs import RESULT, STATUS, Run, state_of

# A loss that falls by less than this share of itself has not moved.
_FLAT = 0.02
_STILL_FALLING = 0.05
# The share of its own length that a prompt moves in a training that learns; measured runs move by a half and more.
_HARDLY_MOVED = 0.05
_RISEN = 1.1
_CLIPPED_SHARE, _CLIPPED_TIMES = 0.95, 10.0
_MAJORITY, _RATIO = 0.8, 10.0
_FAR = 10.0
_WIDE = 0.1
_SURE = 0.05
_FEW_STEPS = 4


class _TaskPart(BaseModel):
    labels: dict[str, Any] | None = None


class _TrainPart(BaseModel):
    lr: float | None = None
    clip: float


class _RequestPart(BaseModel):
    """The part of a request that the checks need."""

    task: _TaskPart
    train: _TrainPart


class _ScoredPart(BaseModel):
    """The part of any run's result that says how good it is."""

    metric: str
    metrics: dict[str, SplitScores]


@dataclass(slots=True)
class Training:
    """One training of a run, from its events.

    Args:
        name: its seed, or its name in a search.
        request: how it was asked for.
        steps: its optimiser steps.
        epochs: its epochs.
        samples: its latest answers to some rows; None before its first epoch has ended.
        diverged: where it diverged, if it did.
        norms: how far the prompt moved, if it ended.
        result: its scores, if it ended.
    """

    name: str
    request: _RequestPart
    steps: list[StepEvent] = field(default_factory=list)
    epochs: list[EpochEvent] = field(default_factory=list)
    samples: SamplesEvent | None = None
    diverged: DivergedEvent | None = None
    norms: NormsEvent | None = None
    result: SeedResult | None = None

    @property
    def rate(self) -> float | None:
        """The learning rate; None where the method's own was used and the training did not end."""
        return (self.result and self.result.lr) or (self.norms and self.norms.lr) or self.request.train.lr

    @property
    def rate_text(self) -> str:
        """The learning rate in words."""
        return f"lr {self.rate:.2g}" if self.rate else "the method's own lr"

    def rate_flag(self, factor: float) -> str:
        """The flag for a learning rate so many times the training's, with a comma; empty where it is not known."""
        return f"--set train.lr={self.rate * factor:.2g}, " if self.rate else ""


def diagnose(run: Run, is_running: bool = False, store_flag: str = "") -> list[Finding]:
    """Findings that explain a run's result, gravest first.

    Args:
        run: the run.
        is_running: whether a process works on it now.
        store_flag: names the store in commands, with a space before it; empty for the usual one.

    Raises:
        StoreError: a file of the run is damaged.
    """
    data, trainings = read(run)
    findings = [*_interrupted(run, trainings, is_running, store_flag), *_of_data(data)]
    if run.request().kind == "tune":
        for training in trainings:
            if not training.steps:
                continue
            seed = int(training.name) if training.name.isdigit() else None
            for check in _CHECKS:
                findings += [finding.model_copy(update={"seed": seed}) for finding in check(training)]
        result = run.read(RESULT, TuneResult)
        findings += [*_of_scores(result), *_of_result(result)] if result else []
    elif scored := run.read(RESULT, _ScoredPart):
        findings += _of_scores(scored)
    # The commands that a fix names are those of this run's task file.
    file = run.request().file
    return [finding.model_copy(update={"fix": finding.fix.replace("TASK.yaml", file)}) for finding in findings]


def read(run: Run) -> tuple[DataEvent, list[Training]]:
    """The rows of a run and its trainings, in the order in which they began."""
    data, request = DataEvent(), run.config(_RequestPart)
    trainings: dict[str, Training] = {}

    def training_of(name: str) -> Training:
        return trainings.setdefault(name, Training(name, request))

    for event in run.events():
        match event:
            case DataEvent():
                data = event
            case StepEvent():
                steps = training_of(event.who or str(event.seed)).steps
                # A resumed run does some steps again.
                while steps and steps[-1].step >= event.step:
                    steps.pop()
                steps.append(event)
            case EpochEvent():
                training_of(event.who or str(event.seed)).epochs.append(event)
            case SamplesEvent():
                training_of(event.who or str(event.seed)).samples = event
            case DivergedEvent():
                training_of(event.who or str(event.seed)).diverged = event
            case NormsEvent():
                training_of(str(event.seed)).norms = event
    for path in sorted(run.folder.glob("seed-*/result.json")):
        if result := run.read(str(path.relative_to(run.folder)), SeedResult):
            training_of(str(result.seed)).result = result
    return data, list(trainings.values())


# -- how it ended


def _interrupted(run: Run, trainings: Sequence[Training], is_running: bool, store_flag: str) -> Iterator[Finding]:
    status = run.read(STATUS, RunStatus)
    if run.is_finished or is_running or (status and status.status == "diverged"):
        return
    state, why = state_of(run)
    num_epochs = sum(len(training.epochs) for training in trainings)
    progress = "no epoch is done"
    if num_epochs:
        progress = f"{'one epoch is' if num_epochs == 1 else f'{num_epochs} epochs are'} done and kept"
    yield Finding(
        name="interrupted",
        what="the run was interrupted and has no result yet; resume it before you judge it",
        evidence=f"it was {state}{': ' if why else ''}{why}; {progress}",
        fix=(f"{status.fix}; then: " if status and status.fix else "") + f"overture resume {run.name}{store_flag}",
    )


# -- rows and label words


def _of_data(data: DataEvent) -> Iterator[Finding]:
    for split in ("validation", "test"):
        num_repeats, rows = data.repeats.get(split, 0), data.rows.get(split, 0)
        if num_repeats:
            yield Finding(
                name="leak",
                what=f"{split} rows are training rows too, so their score is too good",
                evidence=f"{num_repeats} of {rows} {split} rows show what a training row shows",
                fix=f"take them out of the {split} rows, or draw the splits anew from one file without repeats",
            )
    yield from _of_labels(data)
    if several := {word: count for word, count in (data.words or {}).items() if count > 1}:
        yield Finding(
            name="label_words",
            what="label words have several tokens",
            evidence=", ".join(f"{word!r} {count} tokens" for word, count in several.items()),
            fix="such words are scored exactly but learn slower; choose words that are one token, with their leading "
            "space, under labels",
        )


def _of_labels(data: DataEvent) -> Iterator[Finding]:
    counts = (data.labels or {}).get("train", {})
    total = sum(counts.values())
    if not total:
        return
    most, least = max(counts, key=counts.__getitem__), min(counts, key=counts.__getitem__)
    is_rare = counts[least] * _RATIO < counts[most]
    if counts[most] / total >= _MAJORITY or is_rare:
        yield Finding(
            name="imbalance",
            what="the training rows' labels are out of balance",
            evidence=f"{most!r} {counts[most]} of {total} rows ({counts[most] / total:.0%}), {least!r} {counts[least]}",
            fix="add rows of the rare labels, and judge by --set metric=macro_f1",
        )


# -- one training


def _ends(steps: Sequence[StepEvent]) -> tuple[float, float, float]:
    """Mean loss of the first and of the last eighth of the steps, and twice the standard error of their difference."""
    count = max(_FEW_STEPS, len(steps) // 8)
    first, last = ([step.loss for step in part] for part in (steps[:count], steps[-count:]))
    return fmean(first), fmean(last), 2 * math.sqrt((variance(first) + variance(last)) / count)


def _check_diverged(training: Training) -> Iterator[Finding]:
    if training.diverged:
        yield Finding(
            name="diverged",
            what="the loss became NaN or infinite",
            evidence=f"at step {training.diverged.step + 1}, {training.rate_text}",
            fix=f"{training.rate_flag(0.1)}or overture lr TASK.yaml finds one",
        )


def _validation_fell(epochs: Sequence[EpochEvent]) -> bool:
    """Whether the validation loss of an epoch is clearly below that of the first."""
    losses = [epoch.validation_loss for epoch in epochs]
    return len(losses) > 1 and losses[0] - min(losses) > _STILL_FALLING * losses[0] > 0


def _check_loss(training: Training) -> Iterator[Finding]:
    """Flat, rising, or still falling at the end."""
    steps, epochs = training.steps, training.epochs
    if len(steps) < 2 * _FEW_STEPS or training.diverged:
        return
    first, last, noise = _ends(steps)
    figures = f"training loss {first:.3f} in the first steps, {last:.3f} in the last, {training.rate_text}"
    share_moved = training.norms.moved if training.norms else None
    movement = "" if share_moved is None else f", the prompt moved by {share_moved:.1%} of its norm"
    if last - first > max((_RISEN - 1) * first, noise):
        yield Finding(
            name="rate_too_high",
            what="the loss rose: the learning rate is too high",
            evidence=figures + movement,
            fix=f"{training.rate_flag(0.1)}or overture lr TASK.yaml finds one",
        )
    # Noise of the batches may hide what the validation rows show.
    elif first - last < max(_FLAT * first, noise) and not _validation_fell(epochs):
        is_flat = first - last < _FLAT * first
        is_still = share_moved is not None and share_moved < _HARDLY_MOVED
        cause = ": the learning rate is too low" if is_still else ""
        higher_rate = f"{training.rate_flag(10)}or overture lr TASK.yaml finds one"
        other_settings = (
            "try overture lr TASK.yaml, other label words or a wording that states the question, or another method"
        )
        yield Finding(
            name="rate_too_low" if is_still else "loss_flat",
            what=f"the loss did not {'' if is_flat else 'clearly '}fall{cause}",
            evidence=f"{figures}{'' if is_flat else f', batches alone differ by up to {noise:.3f}'}{movement}",
            fix=higher_rate if is_still else other_settings,
        )
    elif (training.norms or training.result) and len(epochs) > 1 and epochs[-1].is_best:
        # A training that was interrupted is to be resumed, not to be made longer.
        before, after = epochs[-2].validation_loss, epochs[-1].validation_loss
        if before - after > _STILL_FALLING * before:
            yield Finding(
                name="stopped_too_soon",
                what="the last epoch was the best and the validation loss still fell",
                evidence=f"validation loss {before:.3f}, then {after:.3f}, in {len(epochs)} epochs",
                fix=f"--set train.epochs={2 * len(epochs)}, or a higher rate",
            )


def _check_clipping(training: Training) -> Iterator[Finding]:
    clip = training.request.train.clip
    norms = [step.grad_norm for step in training.steps]
    if len(norms) < 2 * _FEW_STEPS:
        return
    share = fmean(norm > clip for norm in norms)
    if share >= _CLIPPED_SHARE and median(norms) > _CLIPPED_TIMES * clip:
        yield Finding(
            name="clipped",
            what="the gradient was cut in nearly every step",
            evidence=f"{share:.0%} of {len(norms)} steps over the clip of {clip:g}, median length {median(norms):.3g}",
            fix=f"--set train.clip={median(norms):.2g}; it hurts most where a few rows decide the direction",
        )


def _check_overfitting(training: Training) -> Iterator[Finding]:
    if figures := overfitting(training.epochs):
        yield Finding(
            name="overfitting",
            what="validation got worse while training got better",
            evidence=figures,
            fix="the best epoch was kept; more training rows, a shorter prompt, fewer epochs or "
            "--set train.weight_decay",
        )


def _check_norms(training: Training) -> Iterator[Finding]:
    norms = training.norms
    for name, length in norms.lengths.items() if norms else ():
        # Vectors stand among token vectors; keys and values have only their start to be compared with.
        usual = norms.embedding if norms and name == "vectors" else length.start
        if not usual or not length.end:
            continue
        times = length.end / usual
        if max(times, 1 / times) > _FAR:
            reference = "the vocabulary's" if name == "vectors" else "where they began"
            yield Finding(
                name="norm",
                what=f"the prompt's {name} are far from {reference} in length",
                evidence=f"mean length {length.end:.3g} against {usual:.3g}, {times:.2g} times",
                fix=f"{training.rate_flag(0.1)}--set train.weight_decay=0.01, or --set prompt.init=vocabulary",
            )


def _check_majority(training: Training) -> Iterator[Finding]:
    labels, result = training.request.task.labels or {}, training.result
    for split, predicted in ((result and result.predicted) or {}).items():
        if len(labels) > 1 and len(predicted) > 1 and len(set(predicted)) == 1:
            yield Finding(
                name="one_label",
                what=f"the tuned prompt gives the same answer to all {split} rows",
                evidence=f"'{answer_text(predicted[0]):.80}' for each of {len(predicted)} rows",
                fix="another learning rate (overture lr TASK.yaml), more epochs, or balanced training rows",
            )
            return


_CHECKS: tuple[Callable[[Training], Iterator[Finding]], ...] = (
    _check_diverged,
    _check_loss,
    _check_clipping,
    _check_overfitting,
    _check_norms,
    _check_majority,
)


# -- the result


def _of_scores(result: TuneResult | _ScoredPart) -> Iterator[Finding]:
    split = "test" if "test" in result.metrics else "validation"
    score = result.metrics[split][result.metric]
    width = (score.high - score.low) / 2
    if width > _WIDE / 2:
        num_rows = math.ceil(score.n * (width / (_WIDE / 2)) ** 2)
        yield Finding(
            name="few_rows",
            what=f"there are too few {split} rows to tell settings apart",
            evidence=f"{score.n} rows: {result.metric} {score.value:.3f}, "
            f"95% interval {score.low:.3f} to {score.high:.3f}",
            fix=f"with about {num_rows} {split} rows the interval is 5 points to each side of the score",
        )


def _of_result(result: TuneResult) -> Iterator[Finding]:
    names = {"no_prompt": "the model without a prompt", "in_context": "examples in front of the row"}
    for control, comparison in result.compared.items():
        if comparison.p_value >= _SURE or comparison.difference.value <= 0:
            yield Finding(
                name=f"no_better_than_{control}",
                what=f"the tuned prompt was not shown to be better than {names.get(control, control)}",
                evidence=f"{100 * comparison.difference.value:+.1f} points on {comparison.difference.n} "
                f"{comparison.split} rows, p = {comparison.p_value:.2g}",
                fix=f"use {names.get(control, control)}, or let overture search TASK.yaml look for a better setting",
            )
