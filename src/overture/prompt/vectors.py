"""Prompt vectors: P trainable vectors among the live tokens (prompt tuning).

The model reads [P; X] at `before`, [X; P; anchor] at `after`; at `slots` the template says where.
Trainable values: P D.

Source: Lester, Al-Rfou and Constant 2021, "The Power of Scale for Parameter-Efficient Prompt Tuning", section 2.
Deviation: `after` puts the vectors between the input and the template's constant end, so that the input's keys and
values do not depend on the prompt and can be kept.
"""

import torch
from torch import Tensor

from overture.core.injection import Injection, Place, Vectors
from overture.prompt.module import PromptModule, Request


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
