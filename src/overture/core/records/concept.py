"""Results of learning a concept: vectors that stand in captions of a model that draws."""

from typing import Literal

from pydantic import Field

from overture.core.records.base import Record, optional
from overture.core.records.scores import Interval
from overture.core.records.training import EpochRecord


class ConceptErrors(Record):
    """The denoiser's error on random noise levels of some images, under two captions that differ in one word.

    Both have the same noise and the same captions around the word, draw by draw.
    """

    images: Literal["held out", "trained"] = Field(description="whether the images were trained on")
    num_images: int = Field(description="images", gt=0)
    concept: Interval = Field(description="mean squared error with the concept's vectors in the caption")
    word: Interval = Field(description="the same with the word that the vectors began at")
    difference: Interval = Field(description="word minus concept: positive where the concept is better")
    p_value: float = Field(description="probability of such a difference if both were alike", ge=0, le=1)


class ConceptResult(Record):
    """Result of `overture concept`."""

    status: Literal["finished", "stopped early", "interrupted"]
    prompt: str | None = Field(description="the stored prompt; none for a run that was stopped early")
    token: str = Field(description="the word that stands for the vectors in a caption")
    word: str = Field(description="the word that they began at")
    backbone: str = Field(description="the model")
    length: int = Field(description="vectors of each text encoder")
    images: int = Field(description="images that were trained on")
    folder: str | None = optional("the stored prompt's folder")
    trainable: int | None = optional("number of trained values")
    errors: ConceptErrors | None = optional("what the vectors are worth")
    history: list[EpochRecord] | None = optional("parts of the training, each with its validation")
    seconds: float | None = optional("seconds of training")
    notices: list[str] = Field(description="what the user should know")


class ConceptImport(Record):
    """A concept that was taken over from another program's file."""

    prompt: str = Field(description="the stored prompt, as name@version")
    folder: str = Field(description="its folder")
    backbone: str = Field(description="the model")
    token: str = Field(description="the word that stands for the vectors in a caption")
    length: int = Field(description="vectors of each text encoder")
    notices: list[str] = Field(description="what the user should know")
