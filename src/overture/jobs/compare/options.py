"""Options of a comparison; imports no torch."""

from pathlib import Path

from pydantic import Field, field_validator

from overture.core.config import Config
from overture.core.records.cells import WayName
from overture.jobs.run.request import TuneConfig
from overture.train.options import MIN_STEPS


class CompareConfig(Config):
    """The request of a comparison."""

    tune: TuneConfig = Field(description="Task, prompt and training options that all ways share.")
    ways: tuple[WayName, ...] = Field(
        (),
        description="Ways: no-prompt, in-context, linear, head, lora, full, METHOD-PLACE to train a prompt, or "
        "prompt:NAME for a stored one. If none is named: no-prompt, in-context, linear or head, lora and the task's "
        "own prompt, where they fit.",
    )
    settings: dict[WayName, tuple[str, ...]] = Field({}, description="Settings of one way alone: KEY=VALUE by way.")
    sizes: tuple[int, ...] = Field((16, 64, 256), min_length=1, description="Numbers of training rows to compare at.")
    seeds: int = Field(3, ge=1, le=100, description="Seeds: each draws rows, start and order, the same for all ways.")
    budget: float | None = Field(
        None, gt=0, description="Minutes; sizes and seeds that do not fit are left out, and the report says which."
    )
    price: float | None = Field(None, ge=0, description="Price of an hour of this machine, in any currency.")
    watts: float = Field(
        65.0, gt=0, description="Power of the machine, assumed where it has no meter that can be read."
    )
    margin: float = Field(0.02, gt=0, lt=1, description="Differences up to this count as none.")
    reference: WayName = Field(
        "", description="The way that others are compared with; lora, full or no-prompt if not given."
    )
    unrelated: Path | None = Field(
        None,
        description="Text for measuring forgetting, passages separated by empty lines; a built-in text if not given.",
    )
    is_rate_tuned: bool = Field(
        True, description="Whether each way's learning rate is chosen on validation rows, at the largest size."
    )
    min_steps: int = Field(
        MIN_STEPS, ge=1, description="Optimiser steps given to every training at least, however few the rows."
    )

    @field_validator("sizes")
    @classmethod
    def _rising(cls, sizes: tuple[int, ...]) -> tuple[int, ...]:
        if any(size < 2 for size in sizes):
            raise ValueError("a size is a number of training rows, two at least")
        return tuple(sorted(set(sizes)))

    @field_validator("ways")
    @classmethod
    def _once(cls, ways: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(ways))
