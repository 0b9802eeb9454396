"""Options of the methods whose vectors stand among the labels' words; imports no torch."""

from typing import Annotated, Literal

from pydantic import Field

from overture.core.config import Config

Caption = Annotated[
    str,
    Field(pattern=r"^[^{}]*[{][}][^{}]*$", description="A caption written by hand; {} is the label's words."),
]
CAPTION = "a photo of a {}."
CAPTIONS = (
    "itap of a {}.",
    "a bad photo of the {}.",
    "a origami {}.",
    "a photo of the large {}.",
    "a {} in a video game.",
    "art of the {}.",
    "a photo of the small {}.",
)
"""The few that CLIP's authors chose among their eighty."""


class CoopOptions(Config):
    """Options of a context of the labels' words."""

    per_label: bool = Field(False, description="Each label has vectors of its own.")
    suffix: str = Field(".", description="What ends each caption behind the label's words; may be empty.")


class KgCoopOptions(CoopOptions):
    """Options of a context that stays near a caption written by hand."""

    weight: float = Field(8.0, ge=0, description="Weight of the distance from the captions written by hand, w.")
    caption: Caption = CAPTION


class MapleOptions(CoopOptions):
    """Options of prompts in both towers."""

    per_label: Literal[False] = Field(False, description="One context serves all labels.")
    depth: int = Field(9, ge=1, description="Layers of the tower of texts that read vectors of their own, J.")


class PromptSrcOptions(MapleOptions):
    """Options of self-regulating prompts."""

    captions: tuple[Caption, ...] = Field(
        CAPTIONS, min_length=1, description="Captions written by hand, whose mean the texts are held near."
    )
    text_weight: float = Field(25.0, ge=0, description="Weight of the texts' distance from the frozen model's, a.")
    image_weight: float = Field(10.0, ge=0, description="Weight of the images' distance from the frozen model's, b.")
    scores_weight: float = Field(1.0, ge=0, description="Weight of the divergence from the frozen model's scores, w.")
    peak: float = Field(0.75, ge=0, le=1, description="Epoch that weighs most in the mean, as a share of all epochs.")
    width: float = Field(0.05, gt=0, le=10, description="Standard deviation of these weights, as a share likewise.")
