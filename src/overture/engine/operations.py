"""Counts a model's work while it runs: positions that enter its layers, and floating-point operations.

Hooks on the layers count, so no method needs a formula: late prompts enter half the layers, cached inputs none, and
adapters bring parameters of their own. Multiplying and adding are two operations; P is a layer's parameters in
matrices, t the positions, k the keys that each attends to, A the width of all query heads:

- forward: 2 P t + 4 A t k;
- backward, where gradients flow through the layer: 2 P t + 8 A t k;
- gradients of weights, where they are needed: 2 P' t, P' the trained parameters.

So training costs 4 P t where the layer is frozen and 6 P t where it is not (Kaplan et al. 2020, section 2.1). The head
counts alike, for the vocabulary rows that it computes. Padding is computed, so it counts; norms, activations and the
softmax do not, nor does a method's own network, which runs once a pass and not once a token.

An encoder-decoder has the layers of both stacks. Cross-attention's keys and values count when they are computed, so a
cached text costs them once. A tower of texts counts together with its tower of images.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from overture.engine.backbone import Backbone
from overture.engine.step import Columns


@dataclass(slots=True)
class Operations:
    """The work done so far.

    Args:
        num_layers: of the model, in all its stacks.
        flops: floating-point operations.
        layer_positions: positions that entered layers, one for each layer.
    """

    num_layers: int
    flops: float = 0.0
    layer_positions: float = 0.0

    @property
    def positions(self) -> float:
        """Positions that ran through all layers; one that ran through half of them counts half."""
        return self.layer_positions / self.num_layers


@contextmanager
def count_operations(backbone: Backbone) -> Iterator[Operations]:
    """Count what the backbone computes while the block runs; one block at a time."""
    counts = Operations(len(backbone.all_layers))

    def count_layer(
        stack: Backbone, layer: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any
    ) -> None:
        hidden: Tensor = args[0] if args else kwargs["hidden_states"]
        step = kwargs.get("overture")
        num_rows, num_live = hidden.shape[0], hidden.shape[1]
        num_keys = num_live + sum(part.valid.shape[1] for part in step.memory) if step else num_live
        num_keys += step.cross_columns.valid.shape[1] if step and step.cross_columns else 0
        counts.layer_positions += num_rows * num_live
        width = getattr(stack.model.config, stack.family.num_heads) * stack.info.head_dim
        attention_flops = 4.0 * width * num_rows * num_live * num_keys
        output = out[0] if isinstance(out, tuple) else out
        maps = _matrices(stack.cross_maps_of(layer))
        other_matrices = _matrices([layer], excluded=maps)
        counts.flops += _products(other_matrices, num_rows * num_live, output) + attention_flops * (
            3 if _has_gradient(output) else 1
        )
        # The layer itself runs these maps on a stand-in of one token, whose keys and values nobody reads.
        counts.flops += 2.0 * _size(maps) * num_rows

    cross_columns_of = backbone.cross_columns_of

    def count_cross_columns(hidden: Tensor, valid: Tensor) -> Columns:
        columns = cross_columns_of(hidden, valid)
        maps = _matrices(to_heads for layer in backbone.layers for to_heads in backbone.cross_maps_of(layer))
        counts.flops += _products(maps, valid.numel(), columns.keys[0])
        return columns

    head = backbone.head

    def count_head(hidden: Tensor, rows: Tensor | None = None) -> Tensor:
        logits = head(hidden, rows)
        factor = 2 if _has_gradient(logits) else 1
        counts.flops += factor * 2.0 * hidden.numel() * logits.shape[-1]
        return logits

    readers = [backbone.reader] if backbone.reader is not backbone else []
    stacks = (backbone, backbone.encoder, backbone.captions and backbone.captions.backbone, *readers)
    hooks = [
        layer.register_forward_hook(partial(count_layer, stack), with_kwargs=True)
        for stack in stacks
        if stack
        for layer in stack.layers
    ]
    backbone.head, backbone.cross_columns_of = count_head, count_cross_columns  # type: ignore[method-assign]
    try:
        yield counts
    finally:
        del backbone.head, backbone.cross_columns_of
        for hook in hooks:
            hook.remove()


def _has_gradient(value: Tensor) -> bool:
    return torch.is_grad_enabled() and value.requires_grad


def _matrices(modules: Iterable[torch.nn.Module], excluded: Sequence[Tensor] = ()) -> list[Tensor]:
    """Weights that positions are multiplied with, without look-up tables such as T5's table of distances."""
    excluded_ids = {id(value) for value in excluded}
    parts = [part for module in modules for part in module.modules() if not isinstance(part, torch.nn.Embedding)]
    values = [value for part in parts for value in part.parameters(recurse=False)]
    return [value for value in values if value.dim() > 1 and id(value) not in excluded_ids]


def _size(matrices: Sequence[Tensor]) -> int:
    return sum(value.numel() for value in matrices)


def _products(matrices: Sequence[Tensor], num_positions: int, out: Tensor) -> float:
    """Operations of the products of positions with weights."""
    size = _size(matrices)
    if not _has_gradient(out):
        return 2.0 * size * num_positions
    num_trained = _size([value for value in matrices if value.requires_grad])
    return (4.0 * size + 2.0 * num_trained) * num_positions
