"""A finished prompt as plain tensors, and back."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from overture.core.config import validated
from overture.core.contracts import RowMethod
from overture.core.errors import ArtifactError, ConfigError, Problem
from overture.core.injection import STORED, Injection, Vectors
from overture.prompt.config import PromptConfig
from overture.prompt.labels import has_inner_method, with_labels
from overture.prompt.module import PromptModule, Request
from overture.prompt.registry import method_of
from overture.prompt.source import PromptSource

STATE = "state."


_BY_LAYER = ("keys", "values", "weights")
"""Tensors that begin with a layer."""

ADAPTER = "adapter."
"""Prefix of the names of an adapter's tensors, beside the prompt that it was trained with."""


def prompt_tensors(prompt: Any) -> dict[str, Tensor]:
    """A finished prompt as plain tensors for an artifact.

    The values are those that enter the model, without the network that made them. Of a prompt that depends on the row
    the method's own state is kept instead.
    """
    if isinstance(prompt, RowMethod):
        assert isinstance(prompt, PromptModule)
        return {STATE + name: value.detach() for name, value in prompt.state_dict().items()}
    with torch.no_grad():
        injection: Injection = prompt.injection()
    return {name: value.detach() for name, value in injection.tensors().items()}


def prompt_from(
    tensors: dict[str, Tensor], config: PromptConfig, source: PromptSource | None = None
) -> Injection | RowMethod:
    """The inverse of `prompt_tensors`.

    Args:
        tensors: of an artifact.
        config: the prompt's, from its manifest.
        source: the model's facts, which the tensors are checked against; None only reads them.

    Raises:
        ArtifactError: the tensors are not those of a prompt for this model.
        ConfigError: they hold an adapter too.
    """
    if any(name.startswith(ADAPTER) for name in tensors):
        raise ConfigError(
            "this prompt was trained together with an adapter, and without it is another prompt",
            fix="use it whole: overture predict and eval do; here take a prompt that was tuned without --adapter",
        )
    if any(name.startswith(STATE) for name in tensors):
        return _row_prompt(tensors, config, source)
    layer = config.options.get("layer", 0)
    if config.read_at is not None and config.read_at.layer is not None:
        # Earlier versions kept values of the layers above too, which are not run.
        num_layers, source = config.read_at.layer, source and source.lowest(config.read_at.layer)
        tensors = {
            name: value[:num_layers] if name in _BY_LAYER and value.dim() else value for name, value in tensors.items()
        }
    if source is not None:
        _check_tensors(tensors, config, layer, source)
    try:
        return Injection.from_tensors(tensors, config.place, int(layer), config.read_at)
    except ValueError as error:
        raise ArtifactError(
            "not the tensors of a prompt", got=str(error), wanted="some of " + ", ".join(sorted(STORED))
        ) from error


def _check_tensors(tensors: dict[str, Tensor], config: PromptConfig, layer: Any, source: PromptSource) -> None:
    """Check that tensors have the shapes and values of a prompt for this model."""
    side = source.at(config.place)
    width, num_layers = side.hidden_size, side.num_layers
    columns = tensors["keys"].shape[2] if "keys" in tensors and tensors["keys"].dim() == 4 else None
    num_vectors = tensors["vectors"].shape[0] if "vectors" in tensors and tensors["vectors"].dim() else 0
    memory = (num_layers, side.num_heads, columns, side.head_dim)
    num_labels = len(source.candidates.labels) if source.candidates else None
    label_width: int | None = source.hidden_size if "head_weight" in tensors else source.head_rows([0]).shape[-1]
    if config.read_at is not None:
        label_width = source.hidden_size * (2 if config.read_at.features == "read+mean" else 1)
    if "label_scale" in tensors:
        label_width = source.captions.width if source.captions else None
    expected_shapes: dict[str, tuple[int | None, ...]] = {
        "vectors": (None, width),
        "split": (num_vectors + 1,),
        "keys": memory,
        "values": memory,
        "weights": (num_layers, columns),
        "labels": (num_labels, label_width),
        "offset": (None, width),
        "head_weight": (source.hidden_size, source.hidden_size),
        "head_bias": (source.hidden_size,),
        "label_bias": (num_labels,),
        "label_scale": (),
    }
    problems = []
    for name, tensor in tensors.items():
        shape = tuple(tensor.shape)
        expected = expected_shapes.get(name, shape)
        if len(shape) != len(expected) or any(
            expected_size not in (None, got) for got, expected_size in zip(shape, expected, strict=True)
        ):
            sizes = ", ".join("any" if size is None else str(size) for size in expected)
            problems.append(Problem(name, f"shape {list(shape)}, wanted [{sizes}]"))
        elif not tensor.is_floating_point() or not tensor.isfinite().all():
            problems.append(Problem(name, "holds values that are no finite floating-point numbers"))
    if "weights" in tensors and not ((tensors["weights"] >= 0) & (tensors["weights"] <= 1)).all():
        problems.append(Problem("weights", "wanted factors from 0 to 1"))
    if not isinstance(layer, int) or not 0 <= layer < num_layers:
        problems.append(Problem("prompt.options.layer", f"{layer!r}, wanted 0 to {num_layers - 1}"))
    if problems:
        raise ArtifactError(
            "the stored prompt does not fit the model",
            wanted=f"tensors for {num_layers} layers of width {width}",
            fix="fetch the prompt again from where it was made, or train it anew",
            problems=problems,
        )


def _row_prompt(tensors: dict[str, Tensor], config: PromptConfig, source: PromptSource | None) -> RowMethod:
    assert source is not None, "a prompt that depends on the row is built for a model"
    method = method_of(config)
    options = validated(method.options, config.options, "prompt.options")
    start = torch.zeros(config.length, source.hidden_size)
    # Stored prompts that it was built from may be gone by now; their values are in the tensors.
    blank = replace(source.at(config.place), prompt=lambda ref: Injection(Vectors(start, "before")))
    prompt = method.maths.build(Request(options, config.place, start, blank, 0))
    state = {name.removeprefix(STATE): value for name, value in tensors.items()}
    if has_inner_method(list(state)) and "labels" in state:
        bias = torch.zeros_like(state["label_bias"]) if "label_bias" in state else None
        prompt = with_labels(prompt, torch.zeros_like(state["labels"]), bias=bias, read_at=config.read_at)
    assert isinstance(prompt, PromptModule)
    assert isinstance(prompt, RowMethod)
    expected_shapes = {name: value.shape for name, value in prompt.state_dict().items()}
    if {name: value.shape for name, value in state.items()} != expected_shapes:
        raise ArtifactError(f"not the tensors of a {config.method!r} prompt", got=", ".join(sorted(state)))
    prompt.load_state_dict(state)
    return prompt
