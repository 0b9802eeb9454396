"""The model families that run here, and the few facts in which they differ.

A family is listed only when the contract suite covers it; anything else is refused.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from overture.core.errors import BackboneError


def _zero_positions(view: Any) -> None:
    # GPT-2 adds position vectors to whatever enters; a tail's input has them already.
    table = torch.nn.Embedding(view.wpe.num_embeddings, view.wpe.embedding_dim)
    view.wpe = table.to(view.wpe.weight).requires_grad_(False)
    torch.nn.init.zeros_(view.wpe.weight)


def _nothing(view: Any) -> None:
    del view


@dataclass(frozen=True, slots=True)
class Family:
    """How a family differs.

    Args:
        layers: name of the base model's list of layers.
        is_rotary: positions are relative, so they may start anywhere, below zero too.
        prepare_tail: mends a view of the upper layers.
    """

    layers: str
    is_rotary: bool
    prepare_tail: Callable[[Any], None] = _nothing


FAMILIES = {
    "llama": Family("layers", is_rotary=True),
    "gemma3_text": Family("layers", is_rotary=True),
    "qwen3": Family("layers", is_rotary=True),
    "gpt2": Family("h", is_rotary=False, prepare_tail=_zero_positions),
}


def family_of(model_type: str, where: str) -> Family:
    """The family's facts.

    Raises:
        BackboneError: no test covers this family yet.
    """
    if model_type not in FAMILIES:
        raise BackboneError(
            "this model family is not supported yet",
            where=where,
            got=model_type,
            wanted=", ".join(sorted(FAMILIES)),
            fix="choose a backbone of a supported family",
        )
    return FAMILIES[model_type]


def tail_view(base: Any, family: Family, start_layer: int) -> Any:
    """The base model from a layer up; weights are shared, nothing is copied.

    Args:
        base: the base model.
        family: its facts.
        start_layer: the first layer that runs, from 0.
    """
    view = copy.copy(base)
    view._modules = dict(base._modules)
    view._modules[family.layers] = getattr(base, family.layers)[start_layer:]
    if getattr(base.config, "layer_types", None):
        view.config = copy.copy(base.config)
        view.config.layer_types = base.config.layer_types[start_layer:]
    family.prepare_tail(view)
    return view
