"""The methods by name. A new method is a new file and one line in `METHODS`."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import Field

from overture.core.config import Config, validated
from overture.core.errors import ConfigError
from overture.core.seeds import derived_seed
from overture.core.types import Injection, LayerMemory, Memory, Place, Vectors
from overture.prompt import prefix, vectors
from overture.prompt.inits import Init, starting_vectors
from overture.prompt.source import PromptSource


class PromptConfig(Config):
    """What prompt is tuned, and where it enters."""

    method: str = Field("prefix", description="How the prompt's values are parameterised: prefix or vectors.")
    place: Place = Field(
        "after", description="Where the prompt enters: before, memory (before the text) or after the input."
    )
    length: int = Field(10, ge=1, le=2000, description="Prompt length in virtual tokens.")
    init: Init = Field("vocabulary", description="Starting point: random, vocabulary, text or labels.")
    init_text: str = Field("", description="The text to start from when init is text.")
    options: dict[str, Any] = Field(default_factory=dict, description="Options of the method itself.")


Build = Callable[[Any, torch.Tensor, Place, PromptSource, int], torch.nn.Module]


@dataclass(frozen=True, slots=True)
class Method:
    """A registered method.

    Args:
        options: its own options.
        places: where it can enter.
        learning_rate: what worked for it at each place (see docs/log.md).
        build: from its options, starting vectors, place, source and seed.
    """

    options: type[Config]
    places: tuple[Place, ...]
    learning_rate: dict[Place, float]
    build: Build


def _build_vectors(
    options: vectors.Options, start: torch.Tensor, place: Place, source: PromptSource, seed: int
) -> torch.nn.Module:
    del options, source, seed
    return vectors.PromptVectors(start, place)


def _build_prefix(
    options: prefix.Options, start: torch.Tensor, place: Place, source: PromptSource, seed: int
) -> torch.nn.Module:
    memory = source.memory_of(start)
    if options.reparameterise == "none":
        return prefix.PrefixMemory(memory, place)
    generator = torch.Generator().manual_seed(derived_seed(seed, "mlp"))
    return prefix.MlpPrefixMemory(memory, place, options.mlp_width, generator)


METHODS: dict[str, Method] = {
    "vectors": Method(vectors.Options, vectors.PLACES, {"before": 1e-1, "after": 1e-1}, _build_vectors),
    "prefix": Method(prefix.Options, prefix.PLACES, {"memory": 1e-1, "after": 1e-1}, _build_prefix),
}


def method_of(config: PromptConfig) -> Method:
    """The method a config names, with its place checked.

    Raises:
        ConfigError: no such method, or it cannot enter there.
    """
    method = METHODS.get(config.method)
    if method is None:
        raise ConfigError("no such method", where="prompt.method", got=config.method, wanted=", ".join(METHODS))
    if config.place not in method.places:
        others = [name for name, other in METHODS.items() if config.place in other.places]
        raise ConfigError(
            f"method {config.method!r} cannot enter at {config.place!r}",
            where="prompt.place",
            wanted=" or ".join(method.places),
            fix=f"--place {method.places[0]}, or --method {others[0]}",
        )
    return method


def build_prompt(config: PromptConfig, source: PromptSource, seed: int) -> Any:
    """A fresh prompt, ready to train; it meets `core.types.PromptMethod`.

    Raises:
        ConfigError: the method, its place or its options do not fit.
    """
    method = method_of(config)
    options = validated(method.options, config.options, "prompt.options")
    start = starting_vectors(config.init, config.length, config.init_text, source, seed)
    return method.build(options, start, config.place, source, seed)


def injection_tensors(injection: Injection) -> dict[str, torch.Tensor]:
    """A finished prompt as plain tensors for an artifact; what made it is folded away."""
    if isinstance(injection, Vectors):
        return {"vectors": injection.values.detach()}
    return {"keys": injection.memory.keys.detach(), "values": injection.memory.values.detach()}


def injection_from(tensors: dict[str, torch.Tensor], place: Place) -> Injection:
    """The inverse of `injection_tensors`.

    Raises:
        ConfigError: the tensors are not those of a prompt.
    """
    if set(tensors) == {"vectors"}:
        return Vectors(tensors["vectors"], place)
    if set(tensors) == {"keys", "values"}:
        return Memory(LayerMemory(tensors["keys"], tensors["values"]), place)
    raise ConfigError(
        "not the tensors of a prompt", got=", ".join(sorted(tensors)), wanted="vectors, or keys and values"
    )
