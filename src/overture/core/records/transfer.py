"""Results of what is learnt on several tasks or carried to another model or program."""

from typing import Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from overture.core.records.base import Record, optional
from overture.core.records.prompt import PromptScores
from overture.core.records.scores import Comparison, Paired, SplitScores
from overture.core.records.training import EpochRecord
from overture.core.records.tune import Evaluation

# -- overture meta


class Start(Record):
    """The method and the options of a task that begins at a learnt start."""

    method: str = Field(description="method of the prompt")
    options: dict[str, Any] = Field(description="its options")


class Visit(Record):
    """One visit to a task while a start is learnt."""

    task: str = Field(description="name of the task")
    loss: float | None = Field(description="mean loss of the steps; none where it diverged, and nothing moved")


class FewSteps(Record):
    """One task after a few steps of tuning from either start, on validation rows."""

    task: str = Field(description="name of the task")
    metric: str = Field(description="metric that the task is judged by")
    is_unseen: bool = Field(description="whether the task did not teach the start")
    ordinary: SplitScores = Field(description="metrics from the ordinary start")
    learnt: SplitScores = Field(description="metrics from the learnt start")
    compared: Comparison = Field(description="the learnt start against the ordinary one")


class MetaResult(Record):
    """Result of `overture meta`."""

    status: Literal["finished", "interrupted"]
    prompt: str | None = Field(description="the stored start, as name@version")
    method: str = Field(description="method of the prompt")
    place: str = Field(description="where the prompt enters")
    length: int = Field(description="length of the prompt")
    start: Start
    algorithm: str = Field(description="how the start was moved")
    tasks: list[str] = Field(description="names of the tasks that taught the start")
    steps: int = Field(description="visits that were made")
    inner: int = Field(description="optimiser steps of a visit")
    history: list[Visit] = Field(description="the visits, in order")
    seconds: float = Field(description="seconds of all visits")
    folder: str | None = optional("the stored start's folder")
    few_steps: list[FewSteps] = Field(description="each task after a few steps; empty for a run that was stopped")
    notices: list[str] = Field(description="what the user should know")


# -- overture multi


class KeptPrompt(Record):
    """One task's stored prompt."""

    metrics: dict[str, SplitScores] = Field(description="split -> metrics")
    seconds: float = Field(description="seconds of training")
    trainable: int | None = Field(description="number of trained values")
    prompt: str = Field(description="the stored prompt, as name@version or as the user named it")
    folder: str | None = optional("its folder")


class TaskAlone(Record):
    """A task of a run that was stopped before all were trained together."""

    task: str = Field(description="name of the task")
    single: KeptPrompt | None = optional("the prompt tuned for it alone")


class TaskTogether(Record):
    """A task with both of its prompts."""

    task: str = Field(description="name of the task")
    metric: str = Field(description="metric that the task is judged by")
    split: str = Field(description="split that the prompts are compared on")
    own_values: int = Field(description="trained values that the task does not share")
    single: KeptPrompt = Field(description="the prompt tuned for it alone")
    multi: KeptPrompt = Field(description="the prompt trained together with the others")
    compared: Paired = Field(description="together against alone")


class Distilled(Record):
    """Weights of the teachers."""

    logits: float = Field(description="of their predictions")
    hidden: float = Field(description="of their last hidden states")


class ValueCounts(Record):
    """Numbers of trained values."""

    shared: int = Field(description="values that all tasks share")
    together: int = Field(description="values of all tasks trained together")
    alone: int = Field(description="values of all prompts tuned alone")


class MultiResult(Record):
    """Result of `overture multi`."""

    status: Literal["finished", "interrupted"]
    prompt: str | None = Field(description="the shared prompt; none where the method keeps none")
    method: str = Field(description="method of the prompts")
    place: str = Field(description="where they enter")
    length: int = Field(description="their length")
    weights: Distilled
    tasks: list[TaskTogether | TaskAlone] = Field(description="the tasks, in their order")
    values: ValueCounts | None = optional("numbers of trained values")
    history: list[EpochRecord] | None = optional("epochs of the training together")
    seconds: float | None = optional("seconds of the training together")
    notices: list[str] = Field(description="what the user should know")


# -- overture recycle


class MapFit(Record):
    """How well a map between two models' token vectors fits."""

    tokens: int = Field(description="common tokens that it was fitted on")
    ridge: float = Field(description="ridge, in units of the mean squared length")
    cosine: float = Field(description="mean cosine between mapped and real vectors of held-out tokens")


class RecycleResult(Record):
    """A prompt that was mapped to another model; in JSON its scores stand among the other keys."""

    prompt: str = Field(description="the stored prompt, as name@version")
    folder: str = Field(description="its folder")
    recycled_from: str = Field(description="the prompt of the old model")
    old_backbone: str = Field(description="the old model")
    backbone: str = Field(description="the new model")
    place: str = Field(description="where the prompt enters")
    length: int = Field(description="its length")
    map: MapFit
    notices: list[str] = Field(description="what the user should know")
    evaluation: Evaluation | None = optional("scores on the rows of a task file, where one was given")
    old_metrics: PromptScores | None = optional("scores of the prompt on the old model")

    @model_serializer(mode="wrap")
    def _as_json(self, serialized: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values = serialized(self)
        return {**values.pop("evaluation", {}), **values}


# -- overture similar


class SimilarPrompt(Record):
    """A stored prompt beside a given one."""

    prompt: str = Field(description="the stored prompt, as name@version")
    task: str = Field(description="name of its task")
    method: str = Field(description="its method")
    place: str = Field(description="where it enters")
    length: int = Field(description="its length")
    layer: int = Field(description="layer that it enters at")
    average: float = Field(description="cosine of the average tokens")
    pairs: float = Field(description="mean cosine over all pairs of tokens")


class SimilarResult(Record):
    """Stored prompts of the same model, the most similar first."""

    prompt: str = Field(description="the given prompt")
    backbone: str = Field(description="the model")
    kind: str = Field(description="what is compared: vectors, or keys and values")
    similar: list[SimilarPrompt]
    left_out: dict[str, int] = Field(description="reason -> prompts that cannot be compared")


# -- overture import, overture export


class ImportResult(Record):
    """A peft adapter that was kept as a prompt."""

    prompt: str = Field(description="the stored prompt, as name@version")
    folder: str = Field(description="its folder")
    backbone: str = Field(description="the model")
    method: str = Field(description="its method")
    place: str = Field(description="where it enters")
    length: int = Field(description="its length")
    imported_from: str = Field(description="the program that made it")
    peft_type: str = Field(description="peft's name of the method")
    peft_version: str | None = Field(description="version of peft that wrote it")
    base_model: str | None = Field(description="model that the adapter names")
    task_id: int | None = optional("the task of an adapter for several tasks")
    notices: list[str] = Field(description="what the user should know")


class ExportResult(Record):
    """A prompt that was written for another program."""

    prompt: str = Field(description="the stored prompt")
    to: str = Field(description="the format")
    folder: str = Field(description="the folder that was made")
    files: list[str] = Field(description="its files")
    lost: list[str] = Field(description="what the format cannot hold")
