"""Prompt vectors: P trainable vectors among the live tokens (prompt tuning).

The model reads [P; X] at `before`, [X; P; anchor] at `after`. Trainable values: P * D.

Source: Lester, Al-Rfou and Constant 2021, "The Power of Scale for Parameter-Efficient Prompt Tuning", section 2.
Deviation: `after` puts the vectors between the input and the template's constant end, so that the input's keys and
values do not depend on the prompt and can be kept.
"""

import torch
from torch import Tensor

from overture.core.config import Config
from overture.core.types import Place, Vectors

PLACES: tuple[Place, ...] = ("before", "after")


class Options(Config):
    """Prompt vectors have no options of their own."""


class PromptVectors(torch.nn.Module):
    """Trainable vectors [P, D]."""

    def __init__(self, start: Tensor, place: Place) -> None:
        super().__init__()
        self.place = place
        self.values = torch.nn.Parameter(start.clone())

    def injection(self) -> Vectors:
        """The vectors as they are."""
        return Vectors(self.values, self.place)

    def trainable(self) -> dict[str, Tensor]:
        """All values."""
        return dict(self.named_parameters())


def num_trainable(length: int, hidden_size: int) -> int:
    """P * D."""
    return length * hidden_size
