"""Ultra-low-dimensional prompt tuning: a few numbers for each vector, and a frozen random projection.

    V = (Z R) * s + b,   Z [P, r] trained, R [r, D] frozen and normal with variance 1/r, s [D] and b [D] trained

R depends on the seed alone. A stored prompt has V, [P, D]. Trainable values: P r + 2 D.

Source: Wu, Hao and Mou 2025, "Ultra-Low-Dimensional Prompt Tuning via Random Projection", the section on optimisation
in ultra-low dimensions: a frozen random up-projection, with a trained shift and scale (n r + 2 d values there).
Deviation: Z and b begin where V is closest to the starting vectors by least squares, for s = 1: b at their mean, and
Z R at the projection of their differences from it.
"""

import torch
from torch import Tensor

from overture.core.injection import Injection, Place, Vectors
from overture.prompt.module import PromptModule, Request


class ProjectedVectors(PromptModule):
    """Codes [P, r], scale [D] and shift [D]; the projection [r, D] is drawn again and no part of the state."""

    projection: Tensor

    def __init__(self, start: Tensor, place: Place, rank: int, generator: torch.Generator) -> None:
        super().__init__()
        self.place = place
        projection = torch.randn(rank, start.shape[1], generator=generator) / rank**0.5
        self.register_buffer("projection", projection, persistent=False)
        mean = start.mean(0)
        self.codes = torch.nn.Parameter((start - mean) @ torch.linalg.pinv(projection))
        self.scale = torch.nn.Parameter(torch.ones_like(mean))
        self.shift = torch.nn.Parameter(mean)

    def injection(self) -> Injection:
        """The projected codes, scaled and shifted."""
        return Injection(Vectors(self.codes @ self.projection * self.scale + self.shift, self.place))


def build(request: Request) -> ProjectedVectors:
    """As close to the starting vectors as the projection allows."""
    return ProjectedVectors(request.start, request.place, request.options.rank, request.generator("projection"))
