"""Options of the baselines; imports no torch."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from overture.core.config import Config
from overture.engine.options import LoraOptions
from overture.prompt.config import LabelRate, Labels

Choice = Literal["balanced", "random", "nearest"]


class LabelOptions(Config):
    """Options of label words and label vectors, as in `prompt.labels`."""

    labels: Labels = Field(
        "auto", description="words, a trained vector for each label, or vectors only where the model predicts no words."
    )
    label_rate: LabelRate = 1.0


class PlainOptions(Config):
    """Options of the model as it is."""

    calibrated: bool = Field(False, description="Divide label scores by those of texts without content.")


class TextOptions(PlainOptions):
    """Options of a prompt written by hand."""

    text: str = Field(min_length=1, description="Text in front of the template; special tokens are recognised.")


class InContextOptions(PlainOptions):
    """Options of in-context examples."""

    shots: int = Field(8, ge=1, description="Examples in front of every row.")
    choice: Choice = Field(
        "balanced",
        description="balanced over the labels, random, or those nearest to the row, which run as live text.",
    )
    orders: int = Field(1, ge=1, le=64, description="Orders of the examples to choose from on validation rows.")

    @model_validator(mode="after")
    def _orders_fit(self) -> Self:
        if self.orders > 1 and self.choice == "nearest":
            raise ValueError("the nearest examples are ordered by how near they are; orders must be 1")
        if self.calibrated and self.choice == "nearest":
            raise ValueError("a text without content has no nearest examples; calibrated must be false")
        return self


class LinearOptions(Config):
    """Options of the linear head."""

    features: Literal["read", "mean", "read+mean", "search"] = Field(
        "read",
        description="The state that the label is read from (the last token in decoders), the tokens' mean, both side "
        "by side, or whichever is best on validation rows.",
    )
    layer: Annotated[int, Field(ge=0)] | Literal["last", "search"] = Field(
        "last",
        description="How many layers the features have passed: a number, last (and the norm behind it), or search: the "
        "best on validation rows.",
    )
    penalties: tuple[float, ...] = Field(
        (1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0),
        min_length=1,
        description="Inverse strengths of the L2 penalty (scikit-learn's C) to choose from on validation rows.",
    )


class HeadOptions(LabelOptions):
    """Options of the head."""

    labels: Literal["vectors"] = Field(
        "vectors", description="A trained vector for each label; a head has nothing else."
    )


class BitFitOptions(LabelOptions):
    """Options of BitFit."""

    values: Literal["biases", "norms"] = Field(
        "biases", description="The biases, or the scales and biases of the norms (LN-tuning)."
    )


class LoraBaselineOptions(LabelOptions, LoraOptions):
    """Options of LoRA as a baseline."""


class FullOptions(LabelOptions):
    """Options of full fine-tuning."""

    layers: int | None = Field(
        None, ge=1, description="Number of the highest layers that are trained, with all after them; all if not given."
    )
