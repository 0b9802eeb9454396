"""Options of a concept; imports no torch."""

import re
from typing import Literal

from pydantic import Field

from overture.core.config import Config
from overture.engine.options import Device, DType
from overture.train.options import TrainConfig

CAPTIONS = {
    "object": (
        "a photo of a {}",
        "a close photo of a {}",
        "a photo of one {}",
        "a bright photo of the {}",
        "a dark photo of the {}",
        "a cropped photo of the {}",
        "a picture of my {}",
        "a rendering of the {}",
    ),
    "style": (
        "a painting in the style of {}",
        "a picture in the style of {}",
        "a rendering in the style of {}",
        "a small painting in the style of {}",
        "a large painting in the style of {}",
        "a close picture in the style of {}",
        "a drawing in the style of {}",
        "an artwork in the style of {}",
    ),
}
"""Captions that say little beside the concept, so that its vectors must say the rest."""

TOKEN = r"[^\s{}]{1,64}"
"""Pattern of a token: one word without braces."""


def is_token(text: str) -> bool:
    """Whether a text may be the word for a concept."""
    return re.fullmatch(TOKEN, text) is not None


class ConceptConfig(Config):
    """How images become a concept."""

    backbone: str = Field(
        min_length=1,
        description="The frozen model: a folder of diffusers, or the Hub id of one that was fetched; @512px behind it "
        "shows images at that size.",
    )
    token: str = Field(pattern=f"^{TOKEN}$", description="The new word that stands for the concept, such as <my-cat>.")
    word: str = Field(
        min_length=1, description="A known word that is near to it, such as cat: its vectors are a start."
    )
    about: Literal["object", "style"] = Field("object", description="Whether captions speak of an object or a style.")
    captions: tuple[str, ...] = Field((), description="Captions of your own instead, each with {} for the concept.")
    length: int = Field(1, ge=1, le=64, description="Vectors of the concept: tokens of a caption that it takes.")
    steps: int = Field(3000, ge=1, description="Optimiser steps.")
    held_out: int = Field(0, ge=0, description="Images that are not trained on but measured on.")
    draws: int = Field(32, ge=2, description="Noise levels of each image that the result is measured at.")
    device: Device = Field("auto", description="auto, cpu, cuda or cuda:N.")
    dtype: DType = Field("auto", description="Precision of the frozen model.")
    revision: str | None = Field(None, description="Commit of a Hub model.")
    seed: int = Field(0, ge=0, description="Draws noise, captions and the images that are held out.")
    train: TrainConfig = Field(
        TrainConfig(epochs=20, patience=20, batch_size=4, lr=2e-3, schedule="constant", warmup_steps=1),
        description="How the vectors are trained; an epoch is a part of the steps, after which they are scored.",
    )
