"""Soft label words: prompt vectors, and one trained vector for each label in place of the label words (`labels.py`).

With P [P, D] at [P; X] (or [X; P; anchor], or in slots) and v [C, D]. Trainable values: P D + C D.

Source: Hambardzumyan, Khachatrian and May 2021, "WARP: Word-level Adversarial ReProgramming", section 3.
Deviations: see `labels.py`; the option `prompt.labels` puts the same label vectors beside every other method.
"""

from pydantic import Field

from overture.core.config import Config
from overture.core.injection import Place
from overture.prompt.labels import LabelVectors, RowLabelVectors, label_start, with_labels
from overture.prompt.method import Method, Request
from overture.prompt.vectors import PromptVectors

PLACES: tuple[Place, ...] = ("before", "after", "slots")


class Options(Config):
    """Options of soft label words."""

    label_rate: float = Field(1.0, gt=0, description="Factor on the learning rate of the label vectors.")


def build(request: Request) -> LabelVectors | RowLabelVectors:
    """Vectors and label vectors at their start."""
    options: Options = request.options
    vectors = PromptVectors(request.start, request.place)
    return with_labels(vectors, label_start(request.source), options.label_rate)


METHOD = Method(
    title="vectors among the live tokens, and one for each label",
    source="Hambardzumyan et al. 2021 (WARP)",
    options=Options,
    places=PLACES,
    learning_rate={"before": 3e-2, "after": 3e-2, "slots": 3e-2},
    build=build,
    formula="P D + C D",
    needs_labels=True,
)
