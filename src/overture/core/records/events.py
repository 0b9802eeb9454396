"""Events of a run: one record for each kind, handed to a listener and kept in ``events.jsonl``."""

from collections.abc import Callable
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from overture.core.records.base import Record, optional


class _Event(Record):
    """Fields of every event."""

    time: str | None = optional("when it was kept, UTC, ISO 8601")
    event: str = Field(description="the kind of event")


class StartEvent(_Event):
    """A run begins, or goes on."""

    event: Literal["start"] = "start"
    run: str = Field(description="the run's name")
    folder: str = Field(description="the run's folder")


class NoticeEvent(_Event):
    """Something that the user should know."""

    event: Literal["notice"] = "notice"
    text: str = Field(description="one sentence")


class ProgressEvent(_Event):
    """A piece of work has got further; not kept."""

    event: Literal["progress"] = "progress"
    what: str = Field(description="the piece of work")
    done: int = Field(description="how much of it is done")
    total: int = Field(description="how much it is in all")
    detail: str = Field("", description="more about it, such as its speed")


class PlanStep(Record):
    """One step of a run, before it begins."""

    what: str = Field(description="the work, for people")
    seconds: float | None = optional("about how long it takes; none before anything was measured")


class PlanEvent(_Event):
    """The steps of a run that is about to work."""

    event: Literal["plan"] = "plan"
    steps: list[PlanStep] = Field(description="the steps, in their order")


class StageEvent(_Event):
    """A step of the plan begins; the one before has ended."""

    event: Literal["stage"] = "stage"
    number: int = Field(description="which step of the plan, from 1")


class DataEvent(_Event):
    """The rows and the label words of a run."""

    event: Literal["data"] = "data"
    rows: dict[str, int] = Field({}, description="split -> number of encoded rows")
    repeats: dict[str, int] = Field({}, description="split -> rows that show what an earlier training row shows")
    labels: dict[str, dict[str, int]] | None = optional("split -> label -> number of rows")
    words: dict[str, int] | None = optional("label word -> number of its tokens")


class _TrainingEvent(_Event):
    """Fields of every event of a training."""

    who: str | None = optional("which training it is, for people; the seed says it where this is absent")
    seed: int = Field(description="seed of the training")
    epoch: int = Field(description="the epoch, from 0")
    num_epochs: int = Field(description="epochs of the whole training")
    num_steps: int = Field(description="optimiser steps of the whole training")

    @property
    def title(self) -> str:
        """The training's name for people."""
        return self.who or f"seed {self.seed}"


class StepEvent(_TrainingEvent):
    """One optimiser step was taken."""

    event: Literal["step"] = "step"
    step: int = Field(description="steps taken so far")
    loss: float = Field(description="mean loss of the batch")
    grad_norm: float = Field(description="length of the gradient before clipping")


class DivergedEvent(_TrainingEvent):
    """The loss or the gradient is not finite; the training ends."""

    event: Literal["diverged"] = "diverged"
    step: int = Field(description="steps taken before")


class EpochEvent(_TrainingEvent):
    """An epoch has ended and its validation rows are scored."""

    event: Literal["epoch"] = "epoch"
    train_loss: float = Field(description="mean training loss of the epoch")
    validation_loss: float = Field(description="mean validation loss after the epoch")
    validation_score: float = Field(description="score of the validation rows; the larger, the better")
    seconds: float = Field(description="seconds of training so far")
    is_best: bool = Field(description="whether no earlier epoch scored better")


class Sample(Record):
    """A row and the answer that the prompt gives it now, both cut to some hundred characters."""

    text: str = Field(description="what the model is shown")
    gold: str = Field(description="the right answer")
    predicted: str = Field(description="the answer given")
    confidence: float | None = optional("probability of the answer given; none where the model gives no probabilities")
    is_right: bool | None = optional("whether it is right by the task's metric; none where that is no yes or no")


class SamplesEvent(_Event):
    """The prompt's answers to a few validation rows, the same in every epoch; sent before the epoch's own event."""

    event: Literal["samples"] = "samples"
    who: str | None = optional("which training it is, for people; the seed says it where this is absent")
    seed: int = Field(description="seed of the training")
    epoch: int = Field(description="the epoch that has ended, from 0")
    samples: list[Sample] = Field(description="the rows")


class NormChange(Record):
    """Mean length of a prompt's vectors before and after training."""

    start: float = Field(description="before")
    end: float = Field(description="after")


class NormsEvent(_Event):
    """How far a prompt moved from its start."""

    event: Literal["norms"] = "norms"
    seed: int = Field(description="seed of the training")
    lr: float = Field(description="the learning rate")
    lengths: dict[str, NormChange] = Field({}, description="tensor -> mean length of its vectors")
    moved: float | None = Field(description="distance from the start as a share of the start's length")
    embedding: float = Field(description="mean length of the vocabulary's vectors")


class CellEvent(_Event):
    """A cell of a comparison is measured."""

    event: Literal["cell"] = "cell"
    what: str = Field(description="the cell, for people")
    metric: str = Field(description="the task's metric")
    value: float | None = Field(description="its score; none where training diverged")
    seconds: float = Field(description="wall seconds that it took")


class EndEvent(_Event):
    """A run has its result."""

    event: Literal["end"] = "end"
    prompt: str | None = Field(description="the stored prompt, as name@version")


Event = Annotated[
    StartEvent
    | NoticeEvent
    | ProgressEvent
    | PlanEvent
    | StageEvent
    | DataEvent
    | StepEvent
    | DivergedEvent
    | EpochEvent
    | SamplesEvent
    | NormsEvent
    | CellEvent
    | EndEvent,
    Field(discriminator="event"),
]
EVENTS: TypeAdapter[Event] = TypeAdapter(Event)
"""Reads an event of any kind."""
Listener = Callable[[Event], None]


def ignore(event: Event) -> None:
    """The listener of a caller who wants to hear nothing."""


def as_notices(listener: Listener) -> Callable[[str], None]:
    """A callback for sentences, which the listener gets as notices."""
    return lambda text: listener(NoticeEvent(text=text))


def as_progress(listener: Listener) -> Callable[[str, int, int], None]:
    """A callback for (what, done, all), which the listener gets as progress."""
    return lambda what, done, total: listener(ProgressEvent(what=what, done=done, total=total))
