"""Residual prompt tuning: prompt vectors plus the output of a small perceptron that they share.

    V = P + norm(W2 gelu(W1 P + b1) + b2),   norm(x) = g (x - mean x) / std x + c

with P [P, D], W1 [m, D] and W2 [D, m]. In the end the perceptron is folded away: what is kept is V [P, D].
Trainable values: P D + 2 D m + m + 3 D.

Source: Razdaibiedina et al. 2023, "Residual Prompt Tuning", section 3; the norm stands behind the second projection, as
in the authors' code. Deviations: only the perceptron that all vectors share, not the variant with one for each; g
begins at zero instead of one, so that V begins at the starting vectors; GELU instead of ReLU, since the perceptron only
ever sees P inputs and a unit that is off for all of them would learn nothing; no dropout.
"""

import torch
from torch import Tensor

from overture.core.injection import Injection, Place, Vectors
from overture.prompt.module import PromptModule, Request


class ResidualVectors(PromptModule):
    """Vectors [P, D] and the perceptron that they all pass."""

    def __init__(self, start: Tensor, place: Place, bottleneck: int, generator: torch.Generator) -> None:
        super().__init__()
        self.place = place
        width = start.shape[1]
        self.values = torch.nn.Parameter(start.clone())
        self.down_weight = torch.nn.Parameter(torch.randn(bottleneck, width, generator=generator) / width**0.5)
        self.down_bias = torch.nn.Parameter(torch.zeros(bottleneck))
        self.up_weight = torch.nn.Parameter(torch.randn(width, bottleneck, generator=generator) / bottleneck**0.5)
        self.up_bias = torch.nn.Parameter(torch.zeros(width))
        self.norm_gain = torch.nn.Parameter(torch.zeros(width))
        self.norm_shift = torch.nn.Parameter(torch.zeros(width))

    def injection(self) -> Injection:
        """The vectors plus the perceptron's output."""
        hidden = torch.nn.functional.gelu(torch.nn.functional.linear(self.values, self.down_weight, self.down_bias))
        change = torch.nn.functional.linear(hidden, self.up_weight, self.up_bias)
        change = torch.nn.functional.layer_norm(change, change.shape[1:], self.norm_gain, self.norm_shift)
        return Injection(Vectors(self.values + change, self.place))


def build(request: Request) -> ResidualVectors:
    """The starting vectors and a perceptron that adds nothing yet."""
    return ResidualVectors(request.start, request.place, request.options.bottleneck, request.generator("perceptron"))
