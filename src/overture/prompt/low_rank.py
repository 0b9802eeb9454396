"""Decomposed prompt tuning: prompt vectors of low rank.

    V = A B,   A [P, r], B [r, D]

In the end the product is kept, V [P, D].
Trainable values: r (P + D).

Source: Xiao et al. 2023, "Decomposed Prompt Tuning via Low-Rank Reparameterization", section 3. Deviation: instead of
two random factors the start is the best approximation of rank r to the starting vectors, U S W' with the r largest
singular values. A = U S / c and B = c W', with c the root of a vocabulary vector's length: both factors are of like
size and no row of B is zero, whatever the start's own rank, so every direction can still be learned.
"""

import torch
from torch import Tensor

from overture.core.errors import ConfigError
from overture.core.injection import Injection, Place, Vectors
from overture.prompt.module import PromptModule, Request


class LowRankVectors(PromptModule):
    """Two factors, [P, r] and [r, D]."""

    def __init__(self, start: Tensor, place: Place, rank: int, scale: float) -> None:
        super().__init__()
        self.place = place
        left, sizes, right = torch.linalg.svd(start, full_matrices=False)
        self.left = torch.nn.Parameter((left * sizes)[:, :rank] / scale)
        self.right = torch.nn.Parameter(right[:rank] * scale)

    def injection(self) -> Injection:
        """The factors' product."""
        return Injection(Vectors(self.left @ self.right, self.place))


def build(request: Request) -> LowRankVectors:
    """Factors of the starting vectors.

    Raises:
        ConfigError: no prompt of this length has such a rank.
    """
    rank, largest = request.options.rank, min(request.start.shape)
    if rank > largest:
        raise ConfigError(
            "the rank exceeds that of the prompt itself",
            where="prompt.options.rank",
            got=str(rank),
            wanted=f"at most {largest}",
            fix=f"--set prompt.options.rank={largest}, or a longer prompt",
        )
    return LowRankVectors(request.start, request.place, rank, request.source.embedding_norm**0.5)
