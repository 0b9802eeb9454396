"""Options of what is learnt on several tasks or carried to another model, and what can be; imports no torch."""

from collections.abc import Collection
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from overture.core.config import Config
from overture.core.errors import ConfigError

if TYPE_CHECKING:
    from overture.store.manifest import Manifest

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


_WHY = {
    "keys": "keys and values are made by the layers of one model; only vectors of tokens can be mapped",
    "labels": "vectors that stand for labels belong to the head of one model",
    "split": "where vectors are split was learned with the model that they stood in",
    "offset": "an offset on the text's vectors belongs to the text's length in one tokenizer",
}


def check_recyclable(manifest: "Manifest", names: Collection[str]) -> None:
    """Refuse a prompt that holds more than vectors among the live tokens.

    Args:
        manifest: of the prompt.
        names: of its tensors.

    Raises:
        ConfigError: says what cannot be mapped.
    """
    why = [_WHY[name] for name in _WHY if name in names]
    if manifest.options.adapter is not None:
        why.append("the adapter that it was trained with belongs to the layers of one model")
    if manifest.layer:
        why.append("vectors at a late layer are hidden states, and no tokens stand for those")
    if manifest.text:
        why.append("words need no map: another model reads them as they are")
    if "vectors" not in names and not why:
        why.append("a prompt that depends on the row is made by a network for one model")
    if why:
        raise ConfigError(
            "this prompt cannot be recycled",
            where=manifest.ref,
            got=f"method {manifest.method} at {manifest.place}: {'; '.join(why)}",
            wanted="a prompt of vectors among the live tokens",
            fix="tune one with --method vectors and without --adapter",
        )


def same_model(name: str) -> ConfigError:
    """The error of a prompt that is to be mapped to its own model."""
    return ConfigError(
        "the prompt was made for this very model", where="backbone", got=name, fix="name another model with --backbone"
    )
