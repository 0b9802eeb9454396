"""Several passes through the same layers as one: texts that are read, and next tokens of answers, share each matrix.

A pass of a few tokens takes almost as long as its matrices take to be read from memory. Behind the tokens of another
pass they cost their products alone; attention stays each pass's own.

Shape letters: B rows, S live tokens, T tokens of all passes, D width, H heads, K head width.

Source: decodes that ride along with prefills, Agrawal et al. 2024 (Sarathi-Serve), section 4.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

if TYPE_CHECKING:
    from overture.engine.step import Step


class Rider(Protocol):
    """A pass whose tokens can run behind those of another."""

    def step(self) -> "tuple[Tensor, Step]":
        """The input of the first layer, [B, S, D], and its step; called again if the shared pass fails."""
        ...

    def arrived(self, hidden: Tensor) -> None:
        """Take the hidden states behind the last layer, [B, S, D]."""
        ...


@dataclass(slots=True)
class Joined:
    """The steps of passes whose tokens stand behind each other in one row.

    Args:
        steps: of the passes, in order.
    """

    steps: "Sequence[Step]"

    @property
    def positions(self) -> Tensor:
        """Of all tokens, [1, T]."""
        return torch.cat([step.positions.reshape(1, -1) for step in self.steps], dim=1)

    def attended(self, attention: Callable[..., Any], query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Attention of each pass, [1, T, H, K].

        Args:
            attention: of one pass.
            query: [1, H, T, K].
            key: [1, H, T, K], perhaps of fewer heads.
            value: as the keys.
        """
        outs, start = [], 0
        for step in self.steps:
            shape = step.positions.shape
            end = start + shape.numel()
            slices = [values[0, :, start:end] for values in (query, key, value)]
            parts = [values.view(len(values), *shape, -1).transpose(0, 1) for values in slices]
            out, _ = attention(query=parts[0], key=parts[1], value=parts[2], overture=step)
            outs.append(out.flatten(0, 1))
            start = end
        return torch.cat(outs)[None]

    def apart(self, hidden: Tensor) -> list[Tensor]:
        """Hidden states of each pass, [B, S, D], of those of all tokens, [1, T, D]."""
        shapes = [step.positions.shape for step in self.steps]
        parts = torch.split(hidden[0], [shape.numel() for shape in shapes])
        return [part.view(*shape, -1) for part, shape in zip(parts, shapes, strict=True)]


def in_one_row(lives: Sequence[Tensor]) -> Tensor:
    """The inputs of the first layer of all passes in one row, [1, T, D]."""
    return torch.cat([live.flatten(0, 1) for live in lives])[None]
