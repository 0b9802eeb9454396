"""Why a run did not learn: findings from its folder alone, each with its figures and what to do.

Nothing is loaded but JSON, so it takes no time and works while a run goes on.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from statistics import fmean, median, variance
from typing import Any

from overture.core.config import Config
from overture.core.records.events import DataEvent, DivergedEvent, EpochEvent, NormsEvent, StepEvent
from overture.evaluate.history import overfitting
from overture.evaluate.metrics import as_answers
from overture.store.runs import Run

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


class Finding(Config):
    """One thing that is wrong, or explains the result."""

    name: str
    what: str
    evidence: str
    fix: str
    seed: int | None = None


@dataclass(slots=True)
class Told:
    """What a run's folder says.

    Args:
        kind: tune or search.
        config: the request.
        status: how the run stands.
        result: how it ended; None when it did not.
        data: rows, labels and words.
        steps: of each training, by who it was.
        epochs: likewise.
        diverged: likewise, where it happened.
        norms: of each seed.
        seeds: each seed's result.
    """

    kind: str
    config: dict[str, Any]
    status: dict[str, Any]
    result: dict[str, Any] | None
    data: DataEvent = field(default_factory=DataEvent)
    steps: dict[str, list[StepEvent]] = field(default_factory=lambda: defaultdict(list))
    epochs: dict[str, list[EpochEvent]] = field(default_factory=lambda: defaultdict(list))
    diverged: dict[str, DivergedEvent] = field(default_factory=dict)
    norms: dict[str, NormsEvent] = field(default_factory=dict)
    seeds: dict[str, dict[str, Any]] = field(default_factory=dict)


def diagnose(run: Run, is_running: bool = False) -> list[Finding]:
    """What explains a run's result, gravest first.

    Args:
        run: the run.
        is_running: somebody works on it now.

    Raises:
        StoreError: a file of the run is damaged.
    """
    told = read(run)
    found = [*_ended(told, run.name, is_running), *_of_data(told)]
    if told.kind == "tune":
        for who in told.steps:
            found += _of_training(told, who)
        found += _of_result(told)
    return found


def read(run: Run) -> Told:
    """A run's folder; a line of events that was cut by a kill is left out."""
    told = Told(run.kind, run.config(), run.read("status.json") or {}, run.read("result.json"))
    for event in run.events():
        match event:
            case DataEvent():
                told.data = event
            case StepEvent():
                steps = told.steps[event.who or str(event.seed)]
                # A resumed run does some steps again.
                while steps and steps[-1].step >= event.step:
                    steps.pop()
                steps.append(event)
            case EpochEvent():
                told.epochs[event.who or str(event.seed)].append(event)
            case DivergedEvent():
                told.diverged[event.who or str(event.seed)] = event
            case NormsEvent():
                told.norms[str(event.seed)] = event
    for path in sorted(run.folder.glob("seed-*/result.json")):
        found = run.read(str(path.relative_to(run.folder))) or {}
        told.seeds[str(found.get("seed", ""))] = found
    return told


# -- how it ended


def _ended(told: Told, name: str, is_running: bool) -> Iterator[Finding]:
    if told.result is not None or is_running:
        return
    status = told.status.get("status", "not started")
    if status == "diverged":
        return
    why = str(told.status.get("why", "")).partition("\n")[0] or "it was stopped or killed"
    num = sum(len(epochs) for epochs in told.epochs.values())
    yield Finding(
        name="interrupted",
        what="the run did not come to its end",
        evidence=f"status {status!r}: {why}; {num} epochs are done",
        fix=f"overture resume {name}",
    )


# -- rows and label words


def _of_data(told: Told) -> Iterator[Finding]:
    data = told.data
    for split in ("validation", "test"):
        repeated, rows = data.repeats.get(split, 0), data.rows.get(split, 0)
        if repeated:
            yield Finding(
                name="leak",
                what=f"{split} rows are training rows too, so their score is too good",
                evidence=f"{repeated} of {rows} {split} rows show what a training row shows",
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


def _of_training(told: Told, who: str) -> Iterator[Finding]:
    seed = int(who) if who.isdigit() else None
    for check in _CHECKS:
        for found in check(told, who):
            yield found.model_copy(update={"seed": seed})


def _rate(told: Told, who: str) -> float | None:
    norms = told.norms.get(who)
    rate = told.seeds.get(who, {}).get("lr") or (norms and norms.lr) or told.config["train"].get("lr")
    return float(rate) if rate else None


def _rate_text(told: Told, who: str) -> str:
    rate = _rate(told, who)
    return f"lr {rate:.2g}" if rate else "the method's own lr"


def _times(told: Told, who: str, factor: float) -> str:
    rate = _rate(told, who)
    return f"--set train.lr={rate * factor:.2g}, " if rate else ""


def _ends(steps: Sequence[StepEvent]) -> tuple[float, float, float]:
    """Mean loss of the first and of the last eighth of the steps, and twice the standard error of their difference."""
    count = max(_FEW_STEPS, len(steps) // 8)
    first, last = ([step.loss for step in part] for part in (steps[:count], steps[-count:]))
    return fmean(first), fmean(last), 2 * math.sqrt((variance(first) + variance(last)) / count)


def _check_diverged(told: Told, who: str) -> Iterator[Finding]:
    if who in told.diverged:
        yield Finding(
            name="diverged",
            what="the loss became NaN or infinite",
            evidence=f"at step {told.diverged[who].step + 1}, {_rate_text(told, who)}",
            fix=f"{_times(told, who, 0.1)}or overture lr TASK.yaml finds one",
        )


def _check_loss(told: Told, who: str) -> Iterator[Finding]:
    """Flat, rising, or still falling at the end."""
    steps, epochs = told.steps[who], told.epochs[who]
    if len(steps) < 2 * _FEW_STEPS or who in told.diverged:
        return
    first, last, noise = _ends(steps)
    figures = f"training loss {first:.3f} in the first steps, {last:.3f} in the last, {_rate_text(told, who)}"
    moved = told.norms[who].moved if who in told.norms else None
    walked = "" if moved is None else f", the prompt moved by {moved:.1%} of its length"
    if last - first > max((_RISEN - 1) * first, noise):
        yield Finding(
            name="rate_too_high",
            what="the loss rose: the learning rate is too high",
            evidence=figures + walked,
            fix=f"{_times(told, who, 0.1)}or overture lr TASK.yaml finds one",
        )
    elif first - last < max(_FLAT * first, noise):
        is_still = moved is not None and moved < _HARDLY_MOVED
        cause = ": the learning rate is too low" if is_still else ""
        raised = f"{_times(told, who, 10)}or overture lr TASK.yaml finds one"
        other = "try overture lr TASK.yaml, other label words or a wording that states the question, or another method"
        yield Finding(
            name="rate_too_low" if is_still else "loss_flat",
            what=f"the loss did not fall{cause}",
            evidence=figures + walked,
            fix=raised if is_still else other,
        )
    elif len(epochs) > 1 and epochs[-1].is_best:
        before, after = epochs[-2].validation_loss, epochs[-1].validation_loss
        if before - after > _STILL_FALLING * before:
            yield Finding(
                name="stopped_too_soon",
                what="the last epoch was the best and the validation loss still fell",
                evidence=f"validation loss {before:.3f}, then {after:.3f}, in {len(epochs)} epochs",
                fix=f"--set train.epochs={2 * len(epochs)}, or a higher rate",
            )


def _check_clipping(told: Told, who: str) -> Iterator[Finding]:
    clip = float(told.config["train"]["clip"])
    norms = [step.grad_norm for step in told.steps[who]]
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


def _check_overfitting(told: Told, who: str) -> Iterator[Finding]:
    if figures := overfitting(told.epochs[who]):
        yield Finding(
            name="overfitting",
            what="validation got worse while training got better",
            evidence=figures,
            fix="the best epoch was kept; more training rows, a shorter prompt, fewer epochs or "
            "--set train.weight_decay",
        )


def _check_norms(told: Told, who: str) -> Iterator[Finding]:
    norms = told.norms.get(who)
    for name, length in norms.lengths.items() if norms else ():
        # Vectors stand among token vectors; keys and values have only their start to be compared with.
        usual = norms.embedding if norms and name == "vectors" else length.start
        if not usual or not length.end:
            continue
        times = length.end / usual
        if max(times, 1 / times) > _FAR:
            what = "the vocabulary's" if name == "vectors" else "where they began"
            yield Finding(
                name="norm",
                what=f"the prompt's {name} are far from {what} in length",
                evidence=f"mean length {length.end:.3g} against {usual:.3g}, {times:.2g} times",
                fix=f"{_times(told, who, 0.1)}--set train.weight_decay=0.01, or --set prompt.init=vocabulary",
            )


def _check_majority(told: Told, who: str) -> Iterator[Finding]:
    labels = told.config["task"].get("labels") or {}
    for split, said in told.seeds.get(who, {}).get("predicted", {}).items():
        predicted = as_answers(said)
        if len(labels) > 1 and len(predicted) > 1 and len(set(predicted)) == 1:
            yield Finding(
                name="one_label",
                what=f"the tuned prompt gives the same answer to all {split} rows",
                evidence=f"{predicted[0]!r} for each of {len(predicted)} rows",
                fix="another learning rate (overture lr TASK.yaml), more epochs, or balanced training rows",
            )
            return


_CHECKS: tuple[Callable[[Told, str], Iterator[Finding]], ...] = (
    _check_diverged,
    _check_loss,
    _check_clipping,
    _check_overfitting,
    _check_norms,
    _check_majority,
)


# -- what the result can tell


def _of_result(told: Told) -> Iterator[Finding]:
    result = told.result
    if not result or not result.get("metrics"):
        return
    split = "test" if "test" in result["metrics"] else "validation"
    score = result["metrics"][split][result["metric"]]
    width = (score["high"] - score["low"]) / 2
    if width > _WIDE / 2:
        wanted = math.ceil(score["n"] * (width / (_WIDE / 2)) ** 2)
        yield Finding(
            name="few_rows",
            what=f"there are too few {split} rows to tell settings apart",
            evidence=f"{score['n']} rows: {result['metric']} {score['value']:.3f}, 95% interval {score['low']:.3f} to "
            f"{score['high']:.3f}",
            fix=f"about {wanted} {split} rows give 5 points to each side",
        )
    names = {"no_prompt": "the model without a prompt", "in_context": "examples in front of the row"}
    for control, compared in result.get("compared", {}).items():
        if compared["p_value"] >= _SURE or compared["difference"]["value"] <= 0:
            yield Finding(
                name=f"no_better_than_{control}",
                what=f"the tuned prompt was not shown to be better than {names.get(control, control)}",
                evidence=f"{100 * compared['difference']['value']:+.1f} points on {compared['difference']['n']} "
                f"{compared['split']} rows, p = {compared['p_value']:.2g}",
                fix="use that, or let overture search TASK.yaml look for a better setting",
            )
