"""Results of making things shorter: a text as a memory, a prompt with fewer values."""

from typing import Literal

from pydantic import Field

from overture.core.records.base import Record, optional
from overture.core.records.scores import Comparison, SplitScores
from overture.core.records.training import EpochRecord


class Conversations(Record):
    """Numbers of conversations."""

    trained: int = Field(description="conversations that were trained on")
    held_out: int = Field(description="conversations that chose the best epoch and were measured on")


class Knowledge(Record):
    """One way to give the model a text, on held-out conversations."""

    perplexity: float = Field(description="perplexity of the answers")
    divergence: float = Field(description="KL divergence a token from the model with the right piece of the text")
    columns: int = Field(description="columns of memory")
    bytes: int = Field(description="bytes of keys and values")


class CartridgeResult(Record):
    """Result of `overture cartridge`."""

    status: Literal["finished", "interrupted"]
    prompt: str | None = Field(description="the stored prompt; none for a run that was stopped early")
    text_tokens: int = Field(description="tokens of the text")
    length: int = Field(description="columns of the memory")
    folder: str | None = optional("the stored prompt's folder")
    trainable: int | None = optional("number of trained values")
    conversations: Conversations | None = optional("numbers of conversations")
    ways: dict[str, Knowledge] | None = optional("ways to give the model the text")
    history: list[EpochRecord] | None = optional("epochs of the training")
    seconds: float | None = optional("seconds of training")
    notices: list[str] = Field(description="what the user should know")


class PrunedCandidate(Record):
    """A part of a prompt that was trained again."""

    level: Literal["tokens", "pieces"] = Field(description="what was dropped")
    share: float = Field(description="share of the level's units that were kept")
    tokens: list[int] = Field(description="indices of the kept tokens")
    masks: list[str] = Field(description="masks of their pieces; empty where all are kept")
    score: float | None = Field(description="the task's metric on validation rows; none where the loss diverged")
    loss: float | None = Field(description="validation loss; none where it diverged")
    trainable: int = Field(description="number of trained values")
    seconds: float = Field(description="seconds of training")


class Kept(Record):
    """The units that the pruned prompt keeps."""

    tokens: list[int] = Field(description="indices of the tokens")
    masks: list[str] = Field(description="masks of their pieces; empty where all are kept")
    level: Literal["tokens", "pieces"] = Field(description="what was dropped last")
    share: float = Field(description="share of that level's units")


class Whole(Record):
    """The prompt before it was pruned."""

    length: int = Field(description="its length")
    trainable: int | None = Field(description="number of trained values")
    metrics: dict[str, SplitScores] = Field(description="split -> metrics")


class Importance(Record):
    """Mean size of the loss's gradient by the masks."""

    tokens: list[float] = Field(description="of each token")


class PruneResult(Record):
    """Result of `overture prune`."""

    prompt: str = Field(description="the stored pruned prompt, as name@version")
    folder: str = Field(description="its folder")
    pruned_from: str = Field(description="the whole prompt")
    task: str = Field(description="name of the task")
    metric: str = Field(description="metric that the task is judged by")
    place: str = Field(description="where the prompt enters")
    length: int = Field(description="tokens that are left")
    trainable: int = Field(description="number of trained values")
    metrics: dict[str, SplitScores] = Field(description="split -> metrics")
    kept: Kept
    whole: Whole
    compared: dict[str, Comparison] = Field(description="the pruned prompt against the whole one")
    importance: Importance
    candidates: list[PrunedCandidate]
    seconds: float = Field(description="seconds of all trainings")
    notices: list[str] = Field(description="what the user should know")
