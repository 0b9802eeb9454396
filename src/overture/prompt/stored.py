"""Vectors of stored prompts, for methods that build on them."""

import torch
from torch import Tensor

from overture.core.errors import ConfigError
from overture.prompt.source import PromptSource


def stored_vectors(source: PromptSource, ref: str, length: int, where: str) -> Tensor:
    """A stored prompt's vectors, cut or repeated to a length: float32 [P, D].

    Args:
        source: looks the prompt up.
        ref: the prompt's name, or name and version.
        length: P.
        where: the option that named it, for the error.

    Raises:
        ConfigError: there is no such prompt, or it has no vectors.
    """
    prompt = source.prompt(ref)
    if prompt.vectors is None:
        raise ConfigError("this prompt has no vectors to build on", where=where, got=ref, wanted="a prompt of vectors")
    values = prompt.vectors.values.detach().float()
    return values[torch.arange(length) % len(values)].clone()
