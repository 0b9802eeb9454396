"""Instance-dependent prompt: a shared prompt, and what a small network adds to it for each row.

    P(x) = P0 + reshape(W2 tanh(W1 f(x) + b1)),   W1 [m, D], W2 [P D, m]

f(x) [D] is the mean of the row's token vectors, scaled to a root mean square of one. W2 begins at zero, so every row
begins with the shared prompt P0 [P, D], which is the network's last bias as well.
Trainable values: P D + m D + m + m P D.

Source: Wu et al. 2022, "IDPG: An Instance-Dependent Prompt Generation Method", the section on the generator: a down-
and an up-projection with a nonlinear layer between. Deviations: the paper reads the row through a pretrained encoder,
ours is the mean of token vectors, which costs no pass; the nonlinear layer is tanh, so that what a row can move its
prompt by is bounded, whatever the row; the weights are dense (the paper also has a parameterised hypercomplex variant);
the prompt enters at one layer.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import linear

from overture.core.injection import Injection, Place, Vectors
from overture.prompt.features import unit
from overture.prompt.methods import IdpgOptions
from overture.prompt.module import PromptModule, Request


class InstancePrompt(PromptModule):
    """A shared prompt [P, D] and the bottleneck that moves it."""

    def __init__(self, start: Tensor, place: Place, width: int, generator: torch.Generator) -> None:
        super().__init__()
        self.place = place
        size = start.shape[1]
        self.shared = torch.nn.Parameter(start.clone())
        down = torch.randn(width, size, generator=generator) / size**0.5
        self.down_weight = torch.nn.Parameter(down.to(start))
        self.down_bias = torch.nn.Parameter(start.new_zeros(width))
        self.up_weight = torch.nn.Parameter(start.new_zeros(start.numel(), width))

    def injections(self, features: Tensor) -> Sequence[Injection]:
        """Each row's prompt from its features, [B, D]."""
        hidden = torch.tanh(linear(unit(features.to(self.shared.dtype)), self.down_weight, self.down_bias))
        values = self.shared + linear(hidden, self.up_weight).view(-1, *self.shared.shape)
        return [Injection(Vectors(vectors, self.place)) for vectors in values]


def build(request: Request) -> InstancePrompt:
    """The shared prompt at its start; the generator adds nothing yet."""
    options: IdpgOptions = request.options
    return InstancePrompt(request.start, request.place, options.width, request.generator("generator"))
