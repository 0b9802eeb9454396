"""One cell of a comparison: one way, so many training rows, one seed; trained, scored, and what it cost.

All ways at a size and seed get the same rows. Rows are nested: those of a smaller size are among those of a larger one.
A cell has as many validation rows as training rows (up to a limit): whoever has 8 rows has not 500 to choose epochs by.

Source of the last: Perez, Kiela and Cho, "True few-shot learning with language models", 2021.
"""

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any, Self

from torch import get_num_threads

from overture.core.config import Config
from overture.core.contracts import Losses, Question, Scorer, T
from overture.core.errors import ConfigError, OvertureError, Stopped
from overture.core.records.compare import MAX_VALIDATION
from overture.core.records.events import EpochEvent, Event, Listener, ProgressEvent, ignore
from overture.core.rows import Answer, Encoded
from overture.core.seeds import named_random
from overture.core.versions import versions
from overture.data.kind import no_group
from overture.data.rows import Row, gold_of
from overture.data.splits import Splits
from overture.data.task import Task
from overture.engine.backbone import Backbone, weights_digest
from overture.engine.prompted import PromptedModel
from overture.evaluate.scoring import Scored, mean_loss, predict, score
from overture.jobs.compare.ledger import Ledger
from overture.jobs.compare.ways import Bench, Made, Way
from overture.train.fit import Fit, FitResult, Validation

_PASSAGE_TOKENS = 160


class Key(Config):
    """Which cell."""

    way: str
    size: int
    seed: int

    @property
    def slug(self) -> str:
        """Its name as a file."""
        return f"{self.way.replace(':', '_')}--{self.size}--{self.seed}"

    def __str__(self) -> str:
        return f"{self.way}:{self.size}:{self.seed}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """The inverse of `str`.

        Raises:
            ConfigError: it does not name a cell.
        """
        way, *numbers = text.rsplit(":", 2)
        if len(numbers) != 2 or not way or not all(part.isdecimal() for part in numbers):
            raise ConfigError("not a cell", where="--cell", got=f"{text!r:.80}", wanted="WAY:SIZE:SEED")
        return cls(way=way, size=int(numbers[0]), seed=int(numbers[1]))

    @property
    def title(self) -> str:
        """For people."""
        return f"{self.way}, {self.size} rows, seed {self.seed}" if self.size else self.way


@dataclass(slots=True)
class Lab:
    """What all cells of a comparison share.

    Args:
        bench: model and store.
        task: what is learnt.
        splits: all rows.
        min_steps: optimiser steps that every training takes at least.
        passages: unrelated texts.
        listener: told of events.
        is_stop_asked: looked at after each step.
        max_validation: validation rows of a cell at most.
    """

    bench: Bench
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
        self.digest = weights_digest(self.bench.backbone.model)

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
        """A notice that names rows by their files alone: a cell goes into reports, and those to others."""
        splits = self.splits
        for file in {row.file for name in ("train", "validation", "test") for row in getattr(splits, name)}:
            text = text.replace(file, Path(file).name) if Path(file).is_absolute() else text
        return text

    def perplexity(self, scorer: Scorer, with_bos: bool) -> float:
        """Perplexity of the unrelated texts: three quarters of each, given its first quarter."""
        rows = unrelated_rows(self.bench.backbone, self.passages, with_bos)
        return math.exp(min(mean_loss(scorer, rows), 700.0))

    def perplexity_before(self, with_bos: bool) -> float:
        """The same of the model as it is."""
        if with_bos not in self._before:
            self._before[with_bos] = self.perplexity(PromptedModel(self.bench.backbone), with_bos)
        return self._before[with_bos]


def ordered(task: Task, rows: Sequence[Row], seed: int, split: str) -> list[Row]:
    """Rows in an order whose every beginning is a sample.

    Rows with a label: one of each label first, then labels by their shares. All others are shuffled, so an answer that
    many rows have comes as often as chance has it.

    Args:
        task: says what a row's answer is, and whether it is a label.
        rows: a split.
        seed: of the comparison.
        split: its name; each split has its own order.
    """
    random = named_random(seed, "compare", split)
    has_labels = task.spec.group is not no_group
    groups: dict[str, list[Row]] = {}
    for row, answer in zip(rows, gold_of(task, rows), strict=True):
        groups.setdefault(str(answer), []).append(row)
    placed: list[tuple[float, float, Row]] = []
    for _, members in sorted(groups.items()):
        random.shuffle(members)
        shift = random.random()
        for number, row in enumerate(members):
            # Evenly spread over the whole order, but for one of each label, which come before all others.
            is_spread = has_labels and (number or len(groups) == 1)
            place = (number + shift) / len(members) if is_spread else -1.0
            placed.append((place, random.random(), row))
    return [row for *_, row in sorted(placed, key=lambda entry: entry[:2])]


def passages_of(path: Path | None) -> list[str]:
    """Texts that have nothing to do with the task.

    Raises:
        ConfigError: the file cannot be read, or holds no text.
    """
    try:
        text = (path or files("overture.data") / "unrelated.txt").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError("the unrelated text cannot be read", where="--unrelated", got=str(error)) from error
    found = [" ".join(part.split()) for part in text.split("\n\n") if part.strip()]
    if not found:
        raise ConfigError("the unrelated text is empty", where=str(path), wanted="passages parted by empty lines")
    return found


def unrelated_rows(backbone: Backbone, passages: Sequence[str], with_bos: bool) -> list[Encoded]:
    """Texts as rows whose answer is their continuation, so that a prompt stands where it does in use."""
    rows: list[Encoded] = []
    for text in passages:
        ids = tuple(backbone.tokenizer.encode_plain(text)[:_PASSAGE_TOKENS])
        cut = len(ids) // 4
        if cut < 1 or cut + 1 >= len(ids):
            raise ConfigError("an unrelated text is too short", where="--unrelated", got=f"{text!r:.60}")
        start = backbone.tokenizer.bos_ids if with_bos else ()
        rows.append(Encoded(len(rows), (*start, *ids[:cut]), ids[cut : cut + 1], Answer(ids[cut + 1 :])))
    return rows


def trial(lab: Lab, way: Way, key: Key, rate: float) -> dict[str, Any]:
    """Train with one learning rate and score validation rows alone."""
    book = Ledger(lab.bench.backbone.device.type)
    made, fitted = _trained(lab, way, key, rate, book, f"{key.title}, lr {rate:g}")
    assert fitted is not None
    del made
    history = fitted.progress.history
    at = fitted.progress.best_epoch
    best: dict[str, float | None] = {"score": None, "loss": None}
    if fitted.best:
        best = {"score": history[at].validation_score, "loss": history[at].validation_loss}
    return {"lr": rate, **best, "status": fitted.status, "ledger": book.as_dict()}


def measured(lab: Lab, way: Way, key: Key, rate: float | None) -> dict[str, Any]:
    """Train, score, and say what it cost.

    Raises:
        Stopped: the user asked to stop; a cell that is not done is not kept.
        UserError: the way does not fit the model or the task.
    """
    book = Ledger(lab.bench.backbone.device.type)
    made, fitted = _trained(lab, way, key, rate, book, key.title)
    found: dict[str, Any] = {
        **key.model_dump(),
        "status": fitted.status if fitted else "finished",
        "lr": rate,
        "rows": {name: len(found) for name, found in lab.rows(key.size, key.seed).items()} | {"train": key.size},
        "trainable": made.num_trainable,
        "facts": made.facts,
        "versions": versions(),
        "threads": get_num_threads(),
    }
    if fitted:
        progress = fitted.progress
        found |= {
            "steps": progress.step,
            "best_epoch": progress.best_epoch,
            "history": [epoch.dump() for epoch in progress.history],
        }
    if fitted and not fitted.best:
        return {**found, "metrics": {}, "ledger": book.as_dict()}
    served = made.served()
    with book.counting(made.backbone):
        scored = _scored(lab, served, made, book, key.title)
    found |= {
        "metrics": {"test": {name: value.model_dump() for name, value in scored.metrics(lab.task).items()}},
        "gold": list(scored.gold),
        "predicted": list(scored.predicted),
        "stored_bytes": made.stored_bytes(),
        "notices": [lab.without_folders(text) for text in dict.fromkeys(made.notices)],
    }
    ledger = book.as_dict()
    return {**found, "ledger": ledger, "base": _base(lab, made, served)}


def _trained(lab: Lab, way: Way, key: Key, rate: float | None, book: Ledger, who: str) -> tuple[Made, FitResult | None]:
    rows = lab.rows(key.size, key.seed)
    with book.on("building"), book.counting(lab.bench.backbone):
        made = way.make(lab.bench, rows, key.seed)
    if made.trainee is None:
        return made, None
    with book.counting(made.backbone):
        with book.on("reading"):
            made.warm(made.rows["train"])
            made.warm(made.rows["validation"])
        config = way.config.train.with_steps(len(rows["train"]), lab.min_steps).model_copy(update={"lr": rate})
        answers = gold_of(lab.task, rows["validation"])

        def validated() -> Validation:
            with book.on("validation"):
                found = score(made.model, made.rows["validation"], lab.task, answers, config.max_tokens)
                return Validation(found.value(lab.task), found.loss)

        def listen(event: Event) -> None:
            # Dozens of short epochs a cell: their lines would bury everything else.
            if not isinstance(event, EpochEvent):
                lab.listener(event)

        with made.backbone.checkpointing(config.gradient_checkpointing), book.on("training"):
            fitted = Fit(
                made.trainee,
                made.rows["train"],
                validated,
                config,
                key.seed,
                events=listen,
                is_stop_asked=lab.is_stop_asked,
                who=who,
            ).run()
    if fitted.status == "interrupted":
        raise Stopped
    return made, fitted


class _Served:
    """A scorer whose replies are booked as serving; its losses are only for the score."""

    def __init__(self, scorer: Scorer, book: Ledger) -> None:
        self._scorer, self._book = scorer, book

    def ask(self, rows: Sequence[Encoded], question: Question[T]) -> list[T]:
        """As the scorer's own."""
        with nullcontext() if isinstance(question, Losses) else self._book.on("serving"):
            return self._scorer.ask(rows, question)


def _scored(lab: Lab, served: Scorer, made: Made, book: Ledger, who: str) -> Scored:
    """Predictions for the test rows, as requests would be served: in batches, with nothing kept."""

    def progress(done: int, total: int) -> None:
        lab.listener(ProgressEvent(what=f"{who}: scoring test rows", done=done, total=total))
        if lab.is_stop_asked():
            raise Stopped

    with book.on("serving"):
        # What a way finds out of every request, such as the examples nearest to it, is a part of serving it.
        rows = made.rows["test"]
    predict(served, rows[:4], lab.task)
    with book.on("scoring"):
        return score(_Served(served, book), rows, lab.task, gold_of(lab.task, lab.splits.test), progress=progress)


def _base(lab: Lab, made: Made, served: Scorer) -> dict[str, Any]:
    """What became of the model: its weights, what a way keeps of its own, and texts that have nothing to do with it."""
    backbone = lab.bench.backbone
    own = {value.data_ptr() for value in backbone.model.parameters()}
    others = [value for value in made.backbone.model.parameters() if value.data_ptr() not in own]
    left = {value.data_ptr() for value in made.backbone.model.parameters()}
    found: dict[str, Any] = {
        "is_intact": weights_digest(backbone.model) == lab.digest,
        "is_shared": own <= left,
        "own_bytes": sum(value.numel() * value.element_size() for value in others),
        "perplexity_before": None,
        "perplexity_after": None,
    }
    first = made.rows["test"][0]
    if not isinstance(served, PromptedModel) or backbone.family.kind != "decoder" or first.slots:
        return found
    bos = tuple(backbone.tokenizer.bos_ids)
    with_bos = bool(bos) and (*first.input_ids, *first.anchor_ids)[: len(bos)] == bos
    try:
        after = lab.perplexity(served, with_bos)
    except OvertureError:
        return found
    return found | {"perplexity_before": lab.perplexity_before(with_bos), "perplexity_after": after}
