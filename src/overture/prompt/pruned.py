"""Pruned vectors: some of P vectors, and of these some pieces; the rest is gone.

    V = S(theta),   theta [n, D/k] trained: the n pieces that are left, of k equal pieces of each vector

A token that is not named is not there; a piece whose mask is 0 is zero and stays so. Everything begins at the values
that the whole prompt of P vectors begins at for the same seed, so training the rest is "rewinding".
`overture prune` chooses what to keep. Trained values: n D / k, that is P' D when no piece is masked.

Source: Ma et al. 2022, "XPrompt: Exploring the Extreme of Prompt Tuning", section 4 (hierarchical structured pruning,
rewinding). Deviation: the vectors stand wherever a prompt may stand, not only before the text.
"""

import torch
from pydantic import Field, field_validator, model_validator
from torch import Tensor

from overture.core.config import Config
from overture.core.errors import ConfigError
from overture.core.injection import Injection, Place, Vectors
from overture.prompt.method import Method, PromptModule, Request

# The template's slots say how many vectors stand there, so none may go.
PLACES: tuple[Place, ...] = ("before", "after")


class Options(Config):
    """What is left of a prompt."""

    tokens: tuple[int, ...] = Field(
        min_length=1, description="The vectors that are kept, by their index in the whole prompt, from 0."
    )
    masks: tuple[str, ...] = Field(
        (), description="For each kept vector, which of its equal pieces are kept: 1011 zeroes the second of four."
    )

    @field_validator("tokens")
    @classmethod
    def _in_order(cls, tokens: tuple[int, ...]) -> tuple[int, ...]:
        if list(tokens) != sorted(set(tokens)) or tokens[:1] < (0,):
            raise ValueError("the tokens must be given in order, each once, from 0")
        return tokens

    @model_validator(mode="after")
    def _alike(self) -> "Options":
        if not self.masks:
            return self
        if len(self.masks) != len(self.tokens) or len({len(mask) for mask in self.masks}) != 1:
            raise ValueError("masks must be as many as tokens, and equally long")
        if any(not mask or set(mask) - {"0", "1"} or "1" not in mask for mask in self.masks):
            raise ValueError("a mask is a text of 0 and 1 with at least one 1")
        return self

    @property
    def kept(self) -> list[list[bool]]:
        """Whether each piece of each kept vector is kept."""
        return [[piece == "1" for piece in mask] for mask in self.masks or ("1",) * len(self.tokens)]

    @property
    def kept_pieces(self) -> int:
        """Pieces that are kept, n."""
        return sum(map(sum, self.kept))

    @property
    def pieces_each(self) -> int:
        """Pieces that a vector is cut into, k."""
        return len(self.kept[0])


class PrunedVectors(PromptModule):
    """The pieces that are left, [n, D/k], and where they belong, [P', k]."""

    kept: Tensor

    def __init__(self, start: Tensor, place: Place, options: Options) -> None:
        super().__init__()
        self.place = place
        self.register_buffer("kept", torch.tensor(options.kept), persistent=False)
        pieces = start[list(options.tokens)].view(*self.kept.shape, -1)
        self.values = torch.nn.Parameter(pieces[self.kept].clone())

    def injection(self) -> Injection:
        """The kept vectors, zero where a piece is masked."""
        zeros = self.values.new_zeros(*self.kept.shape, self.values.shape[1])
        return Injection(Vectors(zeros.masked_scatter(self.kept[..., None], self.values).flatten(1), self.place))


def build(request: Request) -> PrunedVectors:
    """What is kept of the starting vectors.

    Raises:
        ConfigError: the whole prompt has no such vector, or vectors cannot be cut into so many pieces.
    """
    options: Options = request.options
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


METHOD = Method(
    title="what is left of vectors after pruning",
    source="Ma et al. 2022 (XPrompt)",
    options=Options,
    places=PLACES,
    learning_rate={"before": 3e-2, "after": 1e-1},
    build=build,
    formula="n D / k",
    letters={"n": "kept_pieces", "k": "pieces_each"},
)
