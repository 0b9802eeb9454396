"""Options of what is learnt on several tasks or carried to another model; imports no torch."""

from typing import Literal

from pydantic import Field

from overture.core.config import Config

FEWEST = 50
"""Common tokens that a map between two models needs at least."""


class MetaConfig(Config):
    """How a start is learnt."""

    steps: int = Field(100, ge=1, description="Visits to a task; each moves the start once.")
    inner: int = Field(8, ge=1, description="Optimiser steps on the task in each visit.")
    rate: float = Field(
        0.5, gt=0, le=1, description="How far the start moves towards where a visit led; falls to zero over the visits."
    )
    algorithm: Literal["reptile", "fomaml"] = Field(
        "reptile", description="reptile moves by all steps of a visit, fomaml (first-order MAML) by the last."
    )


class MultiConfig(Config):
    """How several tasks are trained together."""

    logits: float | None = Field(
        None,
        ge=0,
        description="Weight of the teachers' predictions; the method's own if not given (mpt 0.9, attempt 0).",
    )
    hidden: float | None = Field(
        None, ge=0, description="Weight of the teachers' last hidden states; the method's own if not given."
    )
    temperature: float = Field(1.0, gt=0, description="Above 1 the teachers' unlikely answers count more.")
    mixing: Literal["drawn", "all"] = Field(
        "drawn", description="Tasks of a batch: a number drawn from two up (drawn), or whatever rows come (all)."
    )


class RecycleConfig(Config):
    """How the map is fitted."""

    tokens: int = Field(10_000, ge=FEWEST, description="Common tokens that the map is fitted on, most frequent first.")
