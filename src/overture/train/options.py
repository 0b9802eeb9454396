"""Options of the training loop; imports no torch, so that a request is checked at once."""

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Discriminator, Field, Tag

from overture.core.config import Config
from overture.data.values import label_text

OptimiserName = Literal["adamw", "adafactor"]

EPOCHS, MIN_STEPS = 5, 60


def _keys_as_labels(weights: Any) -> Any:
    # YAML reads unquoted 0 or true as a number or truth value.
    return {label_text(label) or label: w for label, w in weights.items()} if isinstance(weights, dict) else weights


ClassWeights = Annotated[
    Annotated[Literal["none", "balanced"], Tag("<name>")]
    | Annotated[dict[str, Annotated[float, Field(gt=0, le=1e6)]], Tag("<weights>")],
    Discriminator(lambda value: "<weights>" if isinstance(value, Mapping) else "<name>"),
    BeforeValidator(_keys_as_labels),
]


class TrainConfig(Config):
    """How a prompt is trained."""

    epochs: int | None = Field(
        None,
        ge=1,
        description="Rounds of training, after each of which validation rows are scored; 5 if the task file does not "
        "say.",
    )
    passes: int | None = Field(
        None,
        ge=1,
        description="Passes over the training rows in an epoch; if not given 1, or where rows are few and no number of "
        "epochs is asked for as many as make 60 optimiser steps together.",
    )
    batch_size: int = Field(16, ge=1, description="Rows of one optimiser step.")
    class_weights: ClassWeights = Field(
        "none",
        description="How much rows of a label count in the training loss: none (all rows the same), balanced (all "
        "labels the same), or a weight by label. Scores and the validation loss are not weighted.",
    )
    lr: float | None = Field(None, gt=0, le=10, description="Learning rate; the method's own if not given.")
    optimiser: OptimiserName = Field("adamw", description="adamw or adafactor.")
    weight_decay: float = Field(0.0, ge=0, description="Decoupled weight decay.")
    warmup_steps: int = Field(10, ge=0, description="Steps over which the learning rate rises.")
    schedule: Literal["linear", "constant"] = Field("linear", description="The learning rate after the warm-up.")
    average: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="The share that a mean of the values keeps of itself at each step; the mean is validated and kept "
        "in place of the values. 0 for the values themselves.",
    )
    clip: float = Field(1.0, gt=0, description="Largest length of the gradient.")
    patience: int = Field(3, ge=1, description="Epochs without a better validation score before training stops.")
    max_tokens: int = Field(4096, ge=1, description="Padded tokens of one forward pass; larger batches are cut.")
    shared_tokens: int = Field(
        1280, ge=1, description="The same of a pass that several prompts share, such as the seeds of a run."
    )
    checkpoint_seconds: float = Field(30.0, ge=0, description="Seconds between checkpoints within an epoch.")
    fit_memory: bool = Field(
        True, description="On a GPU, passes as large as its memory allows by a trial, whatever the two limits say."
    )
    gradient_checkpointing: bool = Field(False, description="Less memory, about a third more time.")

    @property
    def num_epochs(self) -> int:
        """How many epochs there are."""
        return self.epochs or EPOCHS

    @property
    def num_passes(self) -> int:
        """How often an epoch passes over the rows; see `for_rows`."""
        return self.passes or 1

    def num_batches(self, num_rows: int) -> int:
        """Optimiser steps of an epoch over so many rows."""
        return self.num_passes * math.ceil(num_rows / self.batch_size)

    def for_rows(self, num_rows: int) -> Self:
        """The options with all numbers filled in, for so many training rows."""
        # Without any rows, `fit.check_rows` raises the error.
        needed = math.ceil(MIN_STEPS / (EPOCHS * max(1, math.ceil(num_rows / self.batch_size))))
        passes = self.passes or (1 if self.epochs else needed)
        return self.model_copy(update={"epochs": self.num_epochs, "passes": passes})

    def with_steps(self, num_rows: int, min_steps: int) -> Self:
        """The options with enough epochs for so many steps; patience grows in proportion."""
        epochs = max(self.num_epochs, math.ceil(min_steps / self.num_batches(num_rows)))
        patience = math.ceil(self.patience * epochs / self.num_epochs)
        return self.model_copy(update={"epochs": epochs, "passes": self.num_passes, "patience": patience})
