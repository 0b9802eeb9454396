"""Low-rank prompt adaptation: a shared prompt, gated for each row by a low-rank matrix.

    P(x) = S o sigmoid(U(x) V(x)),   U [P, r], V [r, D],   o entry by entry
    h = tanh(W f(x) + b) [m];   U and V are linear in h, each with a bias

f(x) [D] is the mean of the row's token vectors, scaled to a root mean square of one. V begins at zero, so all gates
begin at one half, and S [P, D] at twice the start: every row begins with the start itself.
Trainable values: P D + m D + m + r (P + D) (m + 1).

Source: Jain et al. 2024, "Prompt Tuning Strikes Back: Customizing Foundation Models with Low-Rank Prompt Adaptation",
section 3. Deviations: the paper trains an encoder of the row, ours is the mean of its token vectors and one narrow
layer, which costs no pass; S begins at real tokens.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import linear

from overture.core.injection import Injection, Place, Vectors
from overture.prompt.features import unit
from overture.prompt.methods import LopaOptions
from overture.prompt.module import PromptModule, Request


class GatedPrompt(PromptModule):
    """A shared prompt [P, D] and what makes its gates."""

    def __init__(self, start: Tensor, place: Place, options: LopaOptions, generator: torch.Generator) -> None:
        super().__init__()
        self.place, self.rank = place, options.rank
        (length, size), width = start.shape, options.width

        def random(*shape: int, scale: float = 1.0) -> torch.nn.Parameter:
            return torch.nn.Parameter((torch.randn(*shape, generator=generator) * scale).to(start))

        self.shared = torch.nn.Parameter(2 * start)
        self.read_weight = random(width, size, scale=size**-0.5)
        self.read_bias = torch.nn.Parameter(start.new_zeros(width))
        self.left_weight = random(length * options.rank, width, scale=width**-0.5)
        self.left_bias = random(length * options.rank)
        self.right_weight = torch.nn.Parameter(start.new_zeros(options.rank * size, width))
        self.right_bias = torch.nn.Parameter(start.new_zeros(options.rank * size))

    def injections(self, features: Tensor) -> Sequence[Injection]:
        """Each row's prompt from its features, [B, D]."""
        length, size = self.shared.shape
        hidden = torch.tanh(linear(unit(features.to(self.shared.dtype)), self.read_weight, self.read_bias))
        left = linear(hidden, self.left_weight, self.left_bias).view(-1, length, self.rank)
        right = linear(hidden, self.right_weight, self.right_bias).view(-1, self.rank, size)
        return [Injection(Vectors(vectors, self.place)) for vectors in self.shared * torch.sigmoid(left @ right)]


def build(request: Request) -> GatedPrompt:
    """The shared prompt at twice its start, and gates at one half."""
    return GatedPrompt(request.start, request.place, request.options, request.generator("gate"))
