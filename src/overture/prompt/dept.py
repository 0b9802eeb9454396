"""Decomposed prompt: a short prompt, and a low-rank offset on the text's own token vectors.

    [P; e_1 + o_1; ...; e_S + o_S; e_(S+1); ...],   o = A B,   A [S, r], B [r, D]

The offset depends on where a token stands in its row's text (input and anchor), not on the token; the first S tokens
have one. A is random and B is zero, so the offset begins at nothing, as in LoRA. Trainable values: P D + r (S + D).
At `after` the prompt stands between input and anchor, but the offset still changes the input: its keys and values
cannot be kept, so that place costs what `before` costs.

Source: Shi and Lipani 2024, "DePT: Decomposed Prompt Tuning for Parameter-Efficient Fine-tuning", section 2.
Deviation: with label words or answers behind the text, those have no offset. The paper's two learning rates are
`offset_rate`: the offset's is that much of the prompt's.
"""

import torch
from torch import Tensor

from overture.core.injection import Injection, Place, Vectors
from overture.prompt.methods import DeptOptions
from overture.prompt.module import PromptModule, Request


class DecomposedPrompt(PromptModule):
    """Trainable vectors [P, D] and the two factors of the offset, [S, r] and [r, D]."""

    def __init__(self, start: Tensor, place: Place, options: DeptOptions, generator: torch.Generator) -> None:
        super().__init__()
        self.place, self.offset_rate = place, options.offset_rate
        self.values = torch.nn.Parameter(start.clone())
        left = torch.randn(options.max_tokens, options.rank, generator=generator) / options.rank**0.5
        self.left = torch.nn.Parameter(left.to(start))
        self.right = torch.nn.Parameter(start.new_zeros(options.rank, start.shape[1]))

    def rates(self) -> dict[str, float]:
        """The offset has a rate of its own."""
        return {"left": self.offset_rate, "right": self.offset_rate}

    def injection(self) -> Injection:
        """The vectors and the offset [S, D]."""
        return Injection(Vectors(self.values, self.place), offset=self.left @ self.right)


def build(request: Request) -> DecomposedPrompt:
    """The prompt at its start, without any offset yet."""
    return DecomposedPrompt(request.start, request.place, request.options, request.generator("offset"))
