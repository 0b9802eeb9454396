"""A finished prompt as plain tensors, and back."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from overture.core.config import validated
from overture.core.contracts import RowMethod
from overture.core.errors import ConfigError
from overture.core.injection import STORED, Injection, Vectors
from overture.prompt.config import PromptConfig
from overture.prompt.labels import has_inner_method, with_labels
from overture.prompt.module import PromptModule, Request
from overture.prompt.registry import method_of
from overture.prompt.source import PromptSource

STATE = "state."


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
        source: the model's facts; only prompts that depend on the row need it.

    Raises:
        ConfigError: the tensors are not those of a prompt.
    """
    if any(name.startswith(ADAPTER) for name in tensors):
        raise ConfigError(
            "this prompt was trained together with an adapter, and without it is another prompt",
            fix="use it whole: overture predict and eval do; here take a prompt that was tuned without --adapter",
        )
    if any(name.startswith(STATE) for name in tensors):
        return _row_prompt(tensors, config, source)
    try:
        return Injection.from_tensors(tensors, config.place, int(config.options.get("layer", 0)))
    except ValueError as error:
        raise ConfigError(
            "not the tensors of a prompt", got=str(error), wanted="some of " + ", ".join(sorted(STORED))
        ) from error


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
        prompt = with_labels(prompt, torch.zeros_like(state["labels"]), config.label_rate)
    assert isinstance(prompt, PromptModule)
    assert isinstance(prompt, RowMethod)
    wanted = {name: value.shape for name, value in prompt.state_dict().items()}
    if {name: value.shape for name, value in state.items()} != wanted:
        raise ConfigError(f"not the tensors of a {config.method!r} prompt", got=", ".join(sorted(state)))
    prompt.load_state_dict(state)
    return prompt
