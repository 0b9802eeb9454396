"""Prompt vectors: P trainable vectors among the live tokens (prompt tuning).

The model reads [P; X] at `before`, [X; P; anchor] at `after`; at `slots` the template says where.
Trainable values: P D.

Source: Lester, Al-Rfou and Constant 2021, "The Power of Scale for Parameter-Efficient Prompt Tuning", section 2.
Deviation: `after` puts the vectors between the input and the template's constant end, so that the input's keys and
values do not depend on the prompt and can be kept.
"""

import torch
from torch import Tensor

from overture.core.config import Config
from overture.core.injection import Injection, Place, Vectors
from overture.prompt.method import Method, PromptModule, Request

PLACES: tuple[Place, ...] = ("before", "after", "slots")


class Options(Config):
    """Prompt vectors have no options of their own."""


class PromptVectors(PromptModule):
    """Trainable vectors [P, D]."""

    def __init__(self, start: Tensor, place: Place) -> None:
        super().__init__()
        self.place = place
        self.values = torch.nn.Parameter(start.clone())

    def injection(self) -> Injection:
        """The vectors as they are."""
        return Injection(Vectors(self.values, self.place))


def build(request: Request) -> PromptVectors:
    """Vectors at their start."""
    return PromptVectors(request.start, request.place)


METHOD = Method(
    title="vectors among the live tokens",
    source="Lester et al. 2021",
    options=Options,
    places=PLACES,
    learning_rate={"before": 3e-2, "after": 1e-1, "slots": 3e-2},
    build=build,
    formula="P D",
    pruned="pruned",
)
