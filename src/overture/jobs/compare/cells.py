"""One cell of a comparison: a way, a number of training rows and a seed; trained, scored, and measured.

All ways at a size and seed get the same rows. Rows are nested: those of a smaller size are among those of a larger one.
A cell has as many validation rows as training rows (up to a limit): with 8 rows nobody has 500 to choose epochs by.

Source of the last: Perez, Kiela and Cho, "True few-shot learning with language models", 2021.
"""

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from pydantic import Field
from torch import get_num_threads

from overture.core.contracts import Losses, Question, Scorer, T
from overture.core.errors import ConfigError, DataError, OvertureError, Problem, Stopped
from overture.core.records.base import Record
from overture.core.records.cells import (
    MAX_VALIDATION,
    BuiltCell,
    Cell,
    DivergedCell,
    Key,
    ModelState,
    RowCounts,
    TrainedCell,
    Trial,
)
from overture.core.records.events import EpochEvent, Event, Listener, ProgressEvent, as_notices, ignore
from overture.core.rows import Answer, Encoded
from overture.core.seeds import named_random
from overture.core.versions import versions
from overture.data.kind import no_group
from overture.data.row import Row
from overture.data.rows import gold_of
from overture.data.splits import Splits
from overture.data.task import Task
from overture.engine.backbone import Backbone
from overture.engine.info import weights_digest
from overture.engine.load import load_backbone
from overture.engine.prompted import PromptedModel
from overture.evaluate.scoring import Scored, mean_loss, predict, score
from overture.jobs.compare.ledger import CostMeter
from overture.jobs.compare.options import CompareConfig
from overture.jobs.compare.ways import BuiltWay, Resources, Way
from overture.jobs.run.early import splits_of
from overture.jobs.run.work import averaging_of
from overture.store.store import Store
from overture.train.fit import Fit, FitResult, Validation

_PASSAGE_TOKENS = 160


class CellJob(Record):
    """A job for an executor: a cell, or a trial of its learning rate."""

    key: Key = Field(description="the cell")
    lr: float | None = Field(description="the learning rate; none if nothing is trained")


@dataclass(slots=True)
class CellContext:
    """Everything that all cells of a comparison share.

    Args:
        resources: model and store.
        task: the task.
        splits: all rows.
        min_steps: optimiser steps that every training takes at least.
        passages: unrelated texts.
        listener: called with every event.
        is_stop_asked: looked at after each step.
        max_validation: validation rows of a cell at most.
    """

    resources: Resources
    task: Task
    splits: Splits
    min_steps: int
    passages: Sequence[str]
    listener: Listener = ignore
    is_stop_asked: Callable[[], bool] = lambda: False
    max_validation: int = MAX_VALIDATION
    digest: str = ""
    _before: dict[bool, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.digest = weights_digest(self.resources.backbone.model)

    def rows(self, size: int, seed: int) -> dict[str, list[Row]]:
        """A cell's rows by split; without training rows the first ones stand in, unused."""
        splits = self.splits
        order = {name: ordered(self.task, getattr(splits, name), seed, name) for name in ("train", "validation")}
        num_validation = min(size or self.max_validation, self.max_validation)
        return {
            "train": order["train"][: size or 1],
            "validation": order["validation"][:num_validation],
            "test": splits.test,
        }

    def without_folders(self, text: str) -> str:
        """A notice that names files without their folders: cells go into reports, which other people read."""
        splits = self.splits
        for file in {row.file for name in ("train", "validation", "test") for row in getattr(splits, name)}:
            text = text.replace(file, Path(file).name) if Path(file).is_absolute() else text
        return text

    def perplexity(self, scorer: Scorer, with_bos: bool) -> float:
        """Perplexity of the unrelated texts: three quarters of each, given its first quarter."""
        rows = unrelated_rows(self.resources.backbone, self.passages, with_bos)
        return math.exp(min(mean_loss(scorer, rows), 700.0))

    def perplexity_before(self, with_bos: bool) -> float:
        """Perplexity of the unrelated texts by the model alone."""
        if with_bos not in self._before:
            self._before[with_bos] = self.perplexity(PromptedModel(self.resources.backbone), with_bos)
        return self._before[with_bos]


def context_of(
    config: CompareConfig,
    store: Store,
    listener: Listener,
    is_stop_asked: Callable[[], bool],
    backbone: Backbone | None,
) -> CellContext:
    """Rows and model of a comparison.

    Args:
        config: the request.
        store: where prompts are.
        listener: called with every event.
        is_stop_asked: looked at after each step.
        backbone: a loaded model; loaded by the task's name when None.

    Raises:
        DataError: rows are wrong or too few.
        BackboneError: the model cannot be loaded.
    """
    tune = config.tune
    splits = splits_of(tune.task)
    problems = []
    for name in ("validation", "test"):
        if not getattr(splits, name):
            problems.append(Problem(f"data.{name}", "no rows", f"set data.{name}_share: 0.2"))
    if config.sizes[-1] > len(splits.train):
        problems.append(Problem("--size", f"{config.sizes[-1]}, but there are {len(splits.train)} training rows"))
    if problems:
        raise DataError("these rows cannot be compared on", problems=problems)
    passages = passages_of(config.unrelated)
    notify = as_notices(listener)
    for text in splits.notices:
        notify(text)
    backbone = backbone or load_backbone(
        tune.task.backbone,
        revision=tune.revision,
        device=tune.device,
        dtype=tune.dtype,
        compile_layers=tune.compile_layers,
        notify=notify,
    )
    cache_bytes = None if tune.cache_gb is None else int(tune.cache_gb * 1e9)
    resources = Resources(backbone, store, cache_bytes, notify)
    return CellContext(resources, tune.task, splits, config.min_steps, passages, listener, is_stop_asked)


def ordered(task: Task, rows: Sequence[Row], seed: int, split: str) -> list[Row]:
    """Rows in an order of which every beginning is a sample.

    Rows with a label: one of each label first, then labels by their shares. All others are shuffled, so an answer that
    many rows have comes as often as chance has it.

    Args:
        task: gives a row's answer, and whether it is a label.
        rows: a split.
        seed: seed of the comparison.
        split: name of the split; each split has its own order.
    """
    random = named_random(seed, "compare", split)
    has_labels = task.spec.group is not no_group
    groups: dict[str, list[Row]] = {}
    for row, answer in zip(rows, gold_of(task, rows), strict=True):
        groups.setdefault(str(answer), []).append(row)
    placements: list[tuple[float, float, Row]] = []
    for _, members in sorted(groups.items()):
        random.shuffle(members)
        shift = random.random()
        for number, row in enumerate(members):
            # Evenly spread over the whole order, but for one of each label, which come before all others.
            is_spread = has_labels and (number or len(groups) == 1)
            place = (number + shift) / len(members) if is_spread else -1.0
            placements.append((place, random.random(), row))
    return [row for *_, row in sorted(placements, key=lambda entry: entry[:2])]


def passages_of(path: Path | None) -> list[str]:
    """Texts that are unrelated to the task.

    Raises:
        ConfigError: the file cannot be read, or holds no text.
    """
    try:
        text = (path or files("overture.data") / "unrelated.txt").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError("the unrelated text cannot be read", where="--unrelated", got=str(error)) from error
    passages = [" ".join(part.split()) for part in text.split("\n\n") if part.strip()]
    if not passages:
        raise ConfigError("the unrelated text is empty", where=str(path), wanted="passages separated by empty lines")
    return passages


def unrelated_rows(backbone: Backbone, passages: Sequence[str], with_bos: bool) -> list[Encoded]:
    """Texts as rows whose answer is their continuation, so that a prompt stands where it does in use.

    Raises:
        ConfigError: a text is too short to be cut in two.
    """
    rows: list[Encoded] = []
    for text in passages:
        ids = tuple(backbone.text.tokenizer.encode_plain(text)[:_PASSAGE_TOKENS])
        cut = len(ids) // 4
        if cut < 1 or cut + 1 >= len(ids):
            raise ConfigError("an unrelated text is too short", where="--unrelated", got=f"{text!r:.60}")
        start = backbone.text.tokenizer.bos_ids if with_bos else ()
        rows.append(Encoded.of_ids(len(rows), (*start, *ids[:cut]), ids[cut : cut + 1], Answer(ids[cut + 1 :])))
    return rows


def trial(context: CellContext, way: Way, key: Key, rate: float | None) -> Trial:
    """Train with one learning rate and score validation rows alone."""
    assert rate is not None
    meter = CostMeter(context.resources.backbone.device.type)
    _, fit = _trained(context, way, key, rate, meter, f"{key.title}, lr {rate:g}")
    assert fit is not None
    best = fit.progress.history[fit.progress.best_epoch] if fit.best else None
    return Trial(
        lr=rate,
        score=best.validation_score if best else None,
        loss=best.validation_loss if best else None,
        status=fit.status,
        ledger=meter.ledger(),
    )


def measured(context: CellContext, way: Way, key: Key, rate: float | None) -> Cell:
    """Train a way on a cell's rows, score it, and measure what it costs.

    Raises:
        Stopped: the user asked to stop; a cell that is not done is not kept.
        UserError: the way does not fit the model or the task.
    """
    meter = CostMeter(context.resources.backbone.device.type)
    built_way, fit = _trained(context, way, key, rate, meter, key.title)
    num_rows = {name: len(rows) for name, rows in context.rows(key.size, key.seed).items()}
    facts: dict[str, Any] = {
        **dict(key),
        "status": fit.status if fit else "finished",
        "lr": rate,
        "rows": RowCounts(**num_rows | {"train": key.size}),
        "trainable": built_way.num_trainable,
        "facts": built_way.facts,
        "versions": versions(),
        "threads": get_num_threads(),
    }
    if fit:
        progress = fit.progress
        facts |= {"steps": progress.step, "best_epoch": progress.best_epoch, "history": tuple(progress.history)}
    if fit and not fit.best:
        return DivergedCell(**facts, ledger=meter.ledger())

    model = built_way.served()
    with meter.counting(built_way.backbone):
        scored = _scored(context, model, built_way, meter, key.title)
    kind = TrainedCell if fit else BuiltCell
    return kind(
        **facts,
        metrics={"test": scored.metrics(context.task)},
        predicted=scored.predicted,
        confidences=tuple(round(value, 4) for value in scored.confidence) or None,
        stored_bytes=built_way.stored_bytes(),
        notices=tuple(context.without_folders(text) for text in dict.fromkeys(built_way.notices)),
        ledger=meter.ledger(),
        base=_model_state(context, built_way, model),
    )


def _trained(
    context: CellContext, way: Way, key: Key, rate: float | None, meter: CostMeter, who: str
) -> tuple[BuiltWay, FitResult | None]:
    rows = context.rows(key.size, key.seed)
    with meter.on("building"), meter.counting(context.resources.backbone):
        built_way = way.make(context.resources, rows, key.seed)
    if built_way.trainee is None:
        return built_way, None
    with meter.counting(built_way.backbone):
        with meter.on("reading"):
            built_way.warm(built_way.rows["train"])
            built_way.warm(built_way.rows["validation"])
        config = way.config.train.with_steps(len(rows["train"]), context.min_steps).model_copy(update={"lr": rate})
        answers = gold_of(context.task, rows["validation"])

        def validated() -> Validation:
            with meter.on("validation"):
                scored = score(built_way.model, built_way.rows["validation"], context.task, answers, config.max_tokens)
                return Validation(scored.value(context.task), scored.loss)

        def listen(event: Event) -> None:
            # Dozens of short epochs a cell: their lines would bury everything else.
            if not isinstance(event, EpochEvent):
                context.listener(event)

        with built_way.backbone.checkpointing(config.gradient_checkpointing), meter.on("training"):
            fit = Fit(
                built_way.trainee,
                built_way.rows["train"],
                validated,
                config,
                key.seed,
                events=listen,
                is_stop_asked=context.is_stop_asked,
                who=who,
                averaging=averaging_of(built_way.trainee),
            ).run()
    if fit.status == "interrupted":
        raise Stopped
    return built_way, fit


class _Serving:
    """A scorer whose replies are booked as serving; its losses are only for the score."""

    def __init__(self, scorer: Scorer, meter: CostMeter) -> None:
        self._scorer, self._meter = scorer, meter

    def ask(self, rows: Sequence[Encoded], question: Question[T]) -> list[T]:
        """The scorer's replies; all but losses are booked as serving."""
        with nullcontext() if isinstance(question, Losses) else self._meter.on("serving"):
            return self._scorer.ask(rows, question)


def _scored(context: CellContext, model: Scorer, built_way: BuiltWay, meter: CostMeter, who: str) -> Scored:
    """Predictions for the test rows, as requests would be served: in batches, with nothing kept."""

    def progress(done: int, total: int) -> None:
        context.listener(ProgressEvent(what=f"{who}: scoring test rows", done=done, total=total))
        if context.is_stop_asked():
            raise Stopped

    with meter.on("serving"):
        # Work that a way does for every request, such as finding the nearest examples, is a part of serving it.
        rows = built_way.rows["test"]
    task, gold = built_way.task or context.task, gold_of(context.task, context.splits.test)
    predict(model, rows[:4], task)
    with meter.on("scoring"):
        return score(_Serving(model, meter), rows, task, gold, progress=progress)


def _model_state(context: CellContext, built_way: BuiltWay, model: Scorer) -> ModelState:
    """The frozen model afterwards: its weights, the weights that the way has beside them, and unrelated texts."""
    backbone = context.resources.backbone
    frozen = {value.data_ptr() for value in backbone.model.parameters()}
    way_values = list(built_way.backbone.model.parameters())
    own_values = [value for value in way_values if value.data_ptr() not in frozen]
    before, after = _perplexities(context, built_way, model)
    return ModelState(
        is_intact=weights_digest(backbone.model) == context.digest,
        is_shared=frozen <= {value.data_ptr() for value in way_values},
        own_bytes=sum(value.numel() * value.element_size() for value in own_values),
        perplexity_before=before,
        perplexity_after=after,
    )


def _perplexities(context: CellContext, built_way: BuiltWay, model: Scorer) -> tuple[float | None, float | None]:
    """Perplexity of unrelated texts by the model alone and under the way; None of a model that writes no text."""
    backbone = context.resources.backbone
    first = built_way.rows["test"][0]
    if not isinstance(model, PromptedModel) or backbone.family.kind != "decoder" or first.slots:
        return None, None
    bos = tuple(backbone.text.tokenizer.bos_ids)
    with_bos = bool(bos) and (*first.input_elements, *first.anchor_elements)[: len(bos)] == bos
    try:
        after = context.perplexity(model, with_bos)
    except OvertureError:
        return None, None
    return context.perplexity_before(with_bos), after
