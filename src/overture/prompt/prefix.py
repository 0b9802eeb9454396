"""Prefix memory: P trainable keys and values in every layer (prefix tuning, P-tuning v2).

In layer n and head h a live token with query q [K], which sees keys Kx [M, K] and values Vx [M, K] of the text, gets

    softmax(q [Kp; Kx]' / sqrt(K)) [Vp; Vx],   Kp = M[0, n, h], Vp = M[1, n, h],   both [P, K]

of the trained M [2, N, H, P, K]. With the MLP M is made of one code for each column, and folded away in the end:

    M_p = M0_p + W2 tanh(W1 e_p + b1) + b2,   e [P, W], W1 [W, W], W2 [2 N H K, W]

At `memory` they stand before the text, at `after` between the input and the template's constant end.
Trainable values: 2 N P H K; with the MLP P W + W W + W + (W + 1) 2 N H K (W `mlp_width`).

Source: Li and Liang 2021, "Prefix-Tuning", section 4.2 (memory) and 4.3 (MLP); Liu et al. 2022, "P-Tuning v2",
section 3. Deviations: the memory starts from the keys and values of real tokens instead of noise; the MLP's output is
added to that start and begins at zero, so both variants begin at the same prompt.
"""

import torch
from torch import Tensor

from overture.core.injection import Injection, LayerMemory, Memory, Place
from overture.prompt.methods import PrefixOptions
from overture.prompt.module import PromptModule, Request


class PrefixMemory(PromptModule):
    """Trainable keys and values, [2, N, H, P, K]."""

    def __init__(self, start: LayerMemory, place: Place) -> None:
        super().__init__()
        self.place = place
        self.values = torch.nn.Parameter(torch.stack([start.keys, start.values]).detach().float().clone())

    def injection(self) -> Injection:
        """Keys and values as they are."""
        return Injection(memory=Memory(LayerMemory(self.values[0], self.values[1]), self.place))


class MlpPrefixMemory(PromptModule):
    """Keys and values made by an MLP from trainable vectors: M = M0 + W2 tanh(W1 e + b1) + b2."""

    start: Tensor

    def __init__(self, start: LayerMemory, place: Place, width: int, generator: torch.Generator) -> None:
        super().__init__()
        self.place = place
        stacked = torch.stack([start.keys, start.values]).detach().float().clone()
        self.register_buffer("start", stacked)
        num_out = stacked.numel() // start.length
        self.code = torch.nn.Parameter(torch.randn(start.length, width, generator=generator).to(stacked))
        inner = torch.randn(width, width, generator=generator) / width**0.5
        self.inner_weight = torch.nn.Parameter(inner.to(stacked))
        self.inner_bias = torch.nn.Parameter(stacked.new_zeros(width))
        self.outer_weight = torch.nn.Parameter(stacked.new_zeros(num_out, width))
        self.outer_bias = torch.nn.Parameter(stacked.new_zeros(num_out))

    def injection(self) -> Injection:
        """The start plus the MLP's output."""
        hidden = torch.tanh(torch.nn.functional.linear(self.code, self.inner_weight, self.inner_bias))
        change = torch.nn.functional.linear(hidden, self.outer_weight, self.outer_bias)
        kind, layers, heads, length, width = self.start.shape
        change = change.view(length, kind, layers, heads, width).permute(1, 2, 3, 0, 4)
        values = self.start + change
        return Injection(memory=Memory(LayerMemory(values[0], values[1]), self.place))


def build(request: Request) -> PrefixMemory | MlpPrefixMemory:
    """The memory at its start, or an MLP that begins there."""
    options: PrefixOptions = request.options
    start = request.start_memory()
    if options.reparameterise == "none":
        return PrefixMemory(start, request.place)
    return MlpPrefixMemory(start, request.place, options.mlp_width, request.generator("mlp"))
