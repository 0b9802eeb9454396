"""Cartridge: a memory that stands for a long text; its first columns stay as the text made them.

    K, V [N, H, P, K] = [sink; trained],   sink [N, H, f, K],   trained [N, H, P - f, K]

Attention rests on the first token of a sequence, whatever it is; training that column is unstable, so it stays. It
starts from a text's own keys and values (`init: text`), the model's start token first where there is one;
`overture cartridge` trains it by self-study.
Trainable values: 2 N (P - f) H K.

Source: Eyuboglu et al. 2025, "Cartridges: Lightweight and general-purpose long context representations via self-study",
section 3 (the memory, its start and its frozen first token).
"""

from typing import Any

import torch
from torch import Tensor

from overture.core.errors import ConfigError
from overture.core.injection import Injection, LayerMemory, Memory, Place
from overture.prompt.methods import CartridgeOptions
from overture.prompt.module import PromptModule, Request


class Cartridge(PromptModule):
    """Keys and values: a constant sink [2, N, H, f, K] and trained columns [2, N, H, P - f, K]."""

    sink: Tensor

    def __init__(self, start: LayerMemory, place: Place, frozen: int) -> None:
        super().__init__()
        self.place = place
        stacked = torch.stack([start.keys, start.values]).detach().float()
        self.register_buffer("sink", stacked[:, :, :, :frozen].clone())
        self.values = torch.nn.Parameter(stacked[:, :, :, frozen:].clone())

    def injection(self) -> Injection:
        """The sink and, behind it, the trained columns."""
        stacked = torch.cat([self.sink, self.values], dim=3)
        return Injection(memory=Memory(LayerMemory(stacked[0], stacked[1]), self.place))


def build(request: Request) -> Cartridge:
    """The memory at its start.

    Raises:
        ConfigError: no column would be trained.
    """
    options: CartridgeOptions = request.options
    if options.frozen >= request.length:
        raise ConfigError(
            "no column is left to train",
            where="prompt.options.frozen",
            got=str(options.frozen),
            wanted=f"less than the length, {request.length}",
        )
    return Cartridge(request.start_memory(), request.place, options.frozen)


def peft_keys(options: CartridgeOptions) -> dict[str, Any]:
    """The config keys that only peft's type CARTRIDGE has."""
    return {"num_frozen_tokens": options.frozen}
