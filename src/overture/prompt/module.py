"""The module that a method's file builds, and the request that it is built from."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from overture.core.averaging import Averaging
from overture.core.contracts import PromptMethod, RowMethod
from overture.core.injection import LayerMemory, Place
from overture.core.seeds import derived_seed
from overture.prompt.source import PromptSource


class PromptModule(torch.nn.Module):
    """Base of the methods: parameters are trained, buffers are constants that the prompt needs.

    A method has `injection` (`core.contracts.PromptMethod`), or `injections` when it depends on the row (`RowMethod`).
    """

    def trainable(self) -> dict[str, Tensor]:
        """The trained values, by name."""
        return dict(self.named_parameters())

    def rates(self) -> dict[str, float]:
        """Factors on the learning rate, by name; 1 where none is given."""
        return {}

    def averaging(self) -> Averaging | None:
        """Weights of the epochs in the mean that the finished values are; None where they are those of one epoch."""
        return None


@dataclass(frozen=True, slots=True)
class Request:
    """The request that a method builds a prompt from.

    Args:
        options: the method's own options, checked.
        place: where the prompt enters.
        start: token-like vectors to start from, float32 [P, D].
        source: the frozen model's facts.
        seed: of the run.
        memory: the keys and values to start from, when a stored prompt gave them, or the start has those of each layer.
        states: vectors to start from in each layer, float32 [N, P, D], where the start has them.
    """

    options: Any
    place: Place
    start: Tensor
    source: PromptSource
    seed: int
    memory: LayerMemory | None = None
    states: Tensor | None = None

    @property
    def length(self) -> int:
        """Prompt length, P."""
        return int(self.start.shape[0])

    def start_memory(self) -> LayerMemory:
        """Keys and values to start from: a stored prompt's, or those of the starting vectors."""
        return self.memory or self.source.memory_of(self.start)

    def generator(self, name: str) -> torch.Generator:
        """Random numbers for one part of the module; they depend on the seed and the name alone."""
        return torch.Generator().manual_seed(derived_seed(self.seed, name))


Built = PromptMethod | RowMethod
