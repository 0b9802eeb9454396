"""The model families that run here, and the few facts in which they differ.

A family is listed only when the contract suite covers it; anything else is refused.
"""

import copy
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor

from overture.core.errors import BackboneError


@dataclass(frozen=True, slots=True)
class Family:
    """How a family differs.

    Args:
        base: where in the causal language model the module stands that runs the layers.
        layers: name of its list of layers.
        positions: name of its table of learned positions, added to whatever enters; empty where positions are rotary.
        norm: name of its last norm; None there in models without one.
        project_in: name of its map from token vectors to the layers' width, likewise; empty where no model has one.
        project_out: name of its map from the layers' width to the head's.
    """

    base: str = "base_model"
    layers: str = "layers"
    positions: str = ""
    norm: str = "norm"
    project_in: str = ""
    project_out: str = ""

    @property
    def is_rotary(self) -> bool:
        """Positions are relative, so they may start anywhere, below zero too."""
        return not self.positions

    def base_of(self, model: Any) -> Any:
        """The module that runs the layers."""
        return attrgetter(self.base)(model)

    def layers_of(self, base: Any) -> Any:
        """The layers, lowest first."""
        return getattr(base, self.layers)

    def entering(self, base: Any, vectors: Tensor) -> Tensor:
        """Token vectors, [..., E], as they enter the first layer, [..., D]."""
        projection = getattr(base, self.project_in) if self.project_in else None
        return vectors if projection is None else projection(vectors)


FAMILIES = {
    "llama": Family(),
    "gemma2": Family(),
    "gemma3_text": Family(),
    "gpt2": Family(layers="h", positions="wpe", norm="ln_f"),
    "gpt_neox": Family(norm="final_layer_norm"),
    "mistral": Family(),
    "opt": Family(
        "base_model.decoder",
        positions="embed_positions",
        norm="final_layer_norm",
        project_in="project_in",
        project_out="project_out",
    ),
    "phi3": Family(),
    "qwen2": Family(),
    "qwen3": Family(),
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


def layers_view(base: Any, family: Family, start_layer: int, end_layer: int | None = None) -> Any:
    """Some neighbouring layers of the base model; weights are shared, nothing is copied.

    Args:
        base: the base model.
        family: its facts.
        start_layer: the first layer that runs, from 0.
        end_layer: the first that does not run any more; None runs to the end and the last norm.
    """
    view = copy.copy(base)
    view._modules = dict(base._modules)
    view._modules[family.layers] = family.layers_of(base)[start_layer:end_layer]
    if family.project_in:
        view._modules[family.project_in] = None
    if end_layer is not None:
        view._modules[family.norm] = torch.nn.Identity()
        if family.project_out:
            view._modules[family.project_out] = None
    if getattr(base.config, "layer_types", None):
        view.config = copy.copy(base.config)
        view.config.layer_types = base.config.layer_types[start_layer:end_layer]
    if family.positions and start_layer:
        # What enters an upper layer has its positions already.
        view._modules[family.positions] = _zeros_like(getattr(base, family.positions))
    return view


def _zeros_like(table: Any) -> Any:
    zeros = copy.copy(table)
    zeros._parameters = {"weight": torch.nn.Parameter(torch.zeros_like(table.weight), requires_grad=False)}
    return zeros


def max_length(config: Any) -> int:
    """How many positions a model has whose keys can be kept.

    With `longrope` all angles change where a text outgrows the original length: keys that were kept before, or that
    stand in one batch with a longer row, would be of another model. So such a model ends there.
    """
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type") == "longrope":
        return int(min(config.max_position_embeddings, rope["original_max_position_embeddings"]))
    return int(config.max_position_embeddings)
