"""Ultra-low-dimensional prompt tuning: a few numbers for each vector, and a frozen random projection.

    V = (Z R) * s + b,   Z [P, r] trained, R [r, D] frozen and normal with variance 1/r, s [D] and b [D] trained

R depends on the seed alone and is never kept: an artifact has Z, s, b, the seed and R's fingerprint (`core.projected`),
and V where that is not more. Trainable values: P r + 2 D.

Source: Wu, Hao and Mou 2025, "Ultra-Low-Dimensional Prompt Tuning via Random Projection", the section on optimisation
in ultra-low dimensions: a frozen random up-projection, with a trained shift and scale (n r + 2 d values there).
Deviation: Z and b begin where V is closest to the starting vectors by least squares, for s = 1: b at their mean, and Z
R at the projection of what differs from it.
"""

import torch
from torch import Tensor

from overture.core.injection import Injection, Place, Vectors
from overture.core.projected import NAMES, origin, projection, vectors_of
from overture.core.seeds import derived_seed
from overture.prompt.module import PromptModule, Request


class ProjectedVectors(PromptModule):
    """Numbers [P, r], scale [D] and shift [D]; the projection [r, D] is no part of the state."""

    projection: Tensor

    def __init__(self, start: Tensor, place: Place, rank: int, seed: int) -> None:
        super().__init__()
        self.place = place
        drawn = projection(seed, rank, start.shape[1])
        self.origin = origin(seed, drawn)
        self.register_buffer("projection", drawn, persistent=False)
        mean = start.mean(0)
        self.codes = torch.nn.Parameter((start - mean) @ torch.linalg.pinv(drawn))
        self.scale = torch.nn.Parameter(torch.ones_like(mean))
        self.shift = torch.nn.Parameter(mean)

    def injection(self) -> Injection:
        """The projected numbers, scaled and shifted."""
        return Injection(Vectors(vectors_of(self.codes, self.scale, self.shift, self.projection), self.place))

    def compact(self) -> dict[str, Tensor]:
        """The trained numbers, and where the projection is from."""
        return dict(zip(NAMES, (self.codes, self.scale, self.shift, self.origin), strict=True))


def build(request: Request) -> ProjectedVectors:
    """As close to the starting vectors as the projection allows."""
    seed = derived_seed(request.seed, "projection") % 2**32
    return ProjectedVectors(request.start, request.place, request.options.rank, seed)
