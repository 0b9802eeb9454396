"""Pruned vectors: some of P vectors, and of these some pieces; the rest is gone.

    V = S(theta),   theta [n, D/k] trained: the n pieces that are left, of k equal pieces of each vector

A token that is not named is not there; a piece whose mask is 0 is zero and stays so. Everything begins at the values
that the whole prompt of P vectors begins at for the same seed, so training the rest is "rewinding".
`overture prune` chooses what to keep. Trained values: n D / k, that is P' D when no piece is masked.

Source: Ma et al. 2022, "XPrompt: Exploring the Extreme of Prompt Tuning", section 4 (hierarchical structured pruning,
rewinding). Deviation: the vectors stand wherever a prompt may stand, not only before the text.
"""

import torch
from torch import Tensor

from overture.core.errors import ConfigError
from overture.core.injection import Injection, Place, Vectors
from overture.prompt.methods import PrunedOptions
from overture.prompt.module import PromptModule, Request

# The template's slots say how many vectors stand there, so none may go.


class PrunedVectors(PromptModule):
    """The pieces that remain, [n, D/k], and a mask of their places, [P', k]."""

    kept: Tensor

    def __init__(self, start: Tensor, place: Place, options: PrunedOptions) -> None:
        super().__init__()
        self.place = place
        self.register_buffer("kept", torch.tensor(options.kept), persistent=False)
        pieces = start[list(options.tokens)].view(*self.kept.shape, -1)
        self.values = torch.nn.Parameter(pieces[self.kept].clone())

    def injection(self) -> Injection:
        """The vectors that remain, zero where a piece is masked."""
        zeros = self.values.new_zeros(*self.kept.shape, self.values.shape[1])
        return Injection(Vectors(zeros.masked_scatter(self.kept[..., None], self.values).flatten(1), self.place))


def build(request: Request) -> PrunedVectors:
    """The kept pieces of the starting vectors.

    Raises:
        ConfigError: the whole prompt has no such vector, or vectors cannot be cut into so many pieces.
    """
    options: PrunedOptions = request.options
    if options.tokens[-1] >= request.length:
        raise ConfigError(
            "the prompt has no such vector",
            where="prompt.options.tokens",
            got=str(options.tokens[-1]),
            wanted=f"0 to {request.length - 1}: prompt.length is the length before pruning",
        )
    num_pieces, width = options.pieces_each, int(request.start.shape[1])
    if width % num_pieces:
        raise ConfigError(
            "the vectors cannot be cut into so many equal pieces",
            where="prompt.options.masks",
            got=str(num_pieces),
            wanted=f"a divisor of {width}",
        )
    return PrunedVectors(request.start, request.place, options)
