"""A frozen model's layers as compiled kernels: one graph serves all layers of a kind, and texts of all lengths.

Lengths, rows and columns are symbols in a graph, so nothing is padded. A layer gets only its own part of the step:
its number would become a part of the graph, and each layer would need graphs of its own.
"""

import copy
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import torch

from overture.core.errors import BackboneError
from overture.engine.attention import is_shared
from overture.engine.step import Columns, Step

Backend = str | Callable[..., Any]
MOST = 128
"""Graphs of one model; a pass that would need one more runs as it is."""


def compiled_layers(layers: Iterable[torch.nn.Module], backend: Backend) -> torch.nn.ModuleList:
    """Copies of layers that run compiled; values and hooks are the layers' own, and the layers stay as they are.

    Args:
        layers: of one model, lowest first.
        backend: what compiles graphs, as `torch.compile` takes it.
    """
    call = torch.compile(  # type: ignore[call-overload]
        _call_layer, fullgraph=True, dynamic=True, backend=backend, recompile_limit=MOST, isolate_recompiles=True
    )
    return torch.nn.ModuleList([_compiled_layer(layer, number, call) for number, layer in enumerate(layers)])


def check_compiler(device: torch.device, backend: Backend) -> None:
    """Compile one small product.

    Raises:
        BackboneError: nothing can be compiled for this device.
    """
    try:
        torch.compile(lambda value: value.sin() * value, fullgraph=True, backend=backend)(torch.ones(8, device=device))
    except (RuntimeError, OSError, ImportError) as error:
        needs = "a C++ compiler" if device.type == "cpu" else "Triton and a C compiler"
        lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        raise BackboneError(
            "layers cannot be compiled here",
            where="compile_layers",
            got=lines[0][:300],
            wanted=f"what torch.compile needs for {device.type}: {needs}",
            fix="install it (for a CPU: g++ or clang++, named by CXX if it is not found), or leave out compile_layers",
        ) from error


def _call_layer(layer: torch.nn.Module, args: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
    # The class's own function: a wrapper that recomputes activations belongs around the compiled layer, not in it.
    return type(layer).forward(layer, *args, **keywords)


def _compiled_layer(layer: torch.nn.Module, number: int, call: Callable[..., Any]) -> torch.nn.Module:
    # Imported here: it takes seconds, and only compiled layers need it.
    from torch._dynamo.exc import FailOnRecompileLimitHit
    from torch.fx.experimental import _config as config

    def forward(*args: Any, overture: Step, **keywords: Any) -> Any:
        if _has_graphs(overture, number):
            # The layer is number 0 of its own step, whichever it is; the masks are those of the whole pass.
            memory = [_columns_of(part, number) for part in overture.memory]
            layer_step = replace(
                overture, memory=memory, key_values=None if overture.key_values is None else {}, layer=0
            )
            try:
                # Sizes that happen to be equal once are not taken to be equal always.
                with config.patch(use_duck_shape=False):  # type: ignore[attr-defined]
                    out = call(layer, args, keywords | {"overture": layer_step})
            except FailOnRecompileLimitHit:
                pass
            else:
                if overture.key_values is not None and layer_step.key_values is not None:
                    overture.key_values[number] = layer_step.key_values[0]
                return out
        return type(layer).forward(layer, *args, overture=overture, **keywords)

    layer_copy = copy.copy(layer)
    layer_copy.forward = forward
    return layer_copy


def _has_graphs(step: Step, layer: int) -> bool:
    """Whether passes like this one are worth graphs."""
    # Buffers that are written in place grow with each token of an answer.
    if any(part.room is not None for part in step.memory):
        return False
    # How many rows share a memory is a quotient of two symbols, over which torch thinks for half a minute a graph.
    return not is_shared(step.memory, layer, len(step.positions))


def _columns_of(part: Columns, layer: int) -> Columns:
    weights = None if part.weights is None else [part.weights[layer]]
    return replace(part, keys={0: part.keys[layer]}, values={0: part.values[layer]}, weights=weights)
