"""Prompt vectors with a trained length each: v_i = g_i w_i / ||w_i||.

Direction and length are trained apart, so that a step cannot make a vector long by turning it.
Trainable values: P D + P.

Source: Salimans and Kingma 2016, "Weight Normalization", equation 2, applied to prompt vectors.
"""

import torch
from pydantic import Field
from torch import Tensor

from overture.core.config import Config
from overture.core.injection import Injection, Place, Vectors
from overture.prompt.method import Method
from overture.prompt.module import PromptModule, Request


class ScaledOptions(Config):
    """Options of scaled vectors."""

    length_rate: float = Field(0.1, gt=0, description="Factor on the learning rate of the lengths.")


METHOD = Method(
    "scaled_vectors",
    title="vectors among the live tokens, with a trained length each",
    source="Salimans and Kingma 2016",
    options=ScaledOptions,
    places=("before", "after", "slots"),
    learning_rate={"before": 3e-2, "after": 1e-1, "slots": 3e-2},
    formula="P D + P",
)


class ScaledVectors(PromptModule):
    """Trainable directions [P, D] and lengths [P, 1]."""

    def __init__(self, start: Tensor, place: Place, length_rate: float) -> None:
        super().__init__()
        self.place, self.length_rate = place, length_rate
        self.directions = torch.nn.Parameter(start.clone())
        self.lengths = torch.nn.Parameter(start.norm(dim=1, keepdim=True))

    def injection(self) -> Injection:
        """The vectors that enter the model; before the first step they are the start."""
        values = self.lengths * torch.nn.functional.normalize(self.directions, dim=1)
        return Injection(Vectors(values, self.place))

    def rates(self) -> dict[str, float]:
        """The lengths take a part of the learning rate."""
        return {"lengths": self.length_rate}


def build(request: Request) -> ScaledVectors:
    """Directions and lengths of the starting vectors."""
    return ScaledVectors(request.start, request.place, request.options.length_rate)
