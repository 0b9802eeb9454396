"""Names of a model's parameters by their use, to choose those that a loss reaches."""

from collections.abc import Iterable

import torch

from overture.engine.backbone import Backbone


def names_in(backbone: Backbone, modules: Iterable[torch.nn.Module]) -> set[str]:
    """Names of the model's parameters that stand in some of its modules."""
    inside = {id(value) for module in modules for value in module.parameters()}
    return {name for name, value in backbone.model.named_parameters() if id(value) in inside}


def idle_names(backbone: Backbone) -> set[str]:
    """Names of parameters that are never trained: an encoder's pooler; without words, all but layers and last norm."""
    family = backbone.family
    if not family.has_words:
        norm = family.norm_of(backbone.base)
        trained = names_in(backbone, [*backbone.layers, *([norm] if norm is not None else [])])
        return {name for name, _ in backbone.model.named_parameters()} - trained
    pooler = getattr(backbone.base, family.pooler, None) if family.pooler else None
    return names_in(backbone, [pooler]) if pooler is not None else set()


def head_names(backbone: Backbone) -> set[str]:
    """Names of the head's own parameters, which only label words need; none where the head is the embedding table."""
    if backbone.words_head is None:
        return set()
    return names_in(backbone, [backbone.words_head.map]) - names_in(backbone, [backbone.model.get_input_embeddings()])


def upper_names(backbone: Backbone, num_layers: int) -> set[str]:
    """Names of the parameters of the highest layers, of the norm behind them and of the way to the head."""
    norm = getattr(backbone.base, backbone.family.norm, None) if backbone.family.norm else None
    transform = backbone.words_head.transform if backbone.words_head else ()
    modules = [*backbone.layers[-num_layers:], norm, *transform]
    return names_in(backbone, [m for m in modules if isinstance(m, torch.nn.Module)]) | head_names(backbone)
