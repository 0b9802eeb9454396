"""Learned position: how many of the vectors stand before the input, and how many after it.

    [P_1 .. P_s; X; P_s+1 .. P_P; anchor],   s = argmax_i (a_i + g_i),   a [P + 1]

In training g is Gumbel noise, so that every split is tried as often as softmax(a) says; the gradient of the choice is
that of softmax((a + g) / t) (straight-through): an estimate, which can point the wrong way. A finished prompt stands at
the likeliest split, g = 0. All splits begin equally likely. Trainable values: P D + P + 1.

Source: Yang et al. 2023, "Dynamic Prompting: A Unified Framework for Prompt Tuning", section 3 (a task's position).
Deviations: the position is the task's, not the row's; `after` is between the input and the template's constant end;
the noise is a function of the seed and of a's bits: new after each step, the same when a run is resumed. Learned length
is what the gates of method `gated` do.
"""

import torch
from torch import Tensor

from overture.core.injection import Injection, Place, Vectors
from overture.core.seeds import derived_seed
from overture.prompt.methods import SplitOptions
from overture.prompt.module import PromptModule, Request


class SplitPrompt(PromptModule):
    """Trainable vectors [P, D] and how likely each split is, [P + 1]."""

    def __init__(self, start: Tensor, place: Place, temperature: float, seed: int) -> None:
        super().__init__()
        self.place, self.temperature, self.seed = place, temperature, seed
        self.values = torch.nn.Parameter(start.clone())
        self.logits = torch.nn.Parameter(start.new_zeros(len(start) + 1))

    def injection(self) -> Injection:
        """With gradients a split that is drawn, without them the likeliest."""
        is_training = torch.is_grad_enabled()
        logits: Tensor = self.logits
        if is_training:
            state = logits.detach().cpu().double().numpy().tobytes().hex()
            generator = torch.Generator().manual_seed(derived_seed(self.seed, "split", state))
            logits = logits - torch.empty(len(logits)).exponential_(generator=generator).log().to(logits)
        split = torch.nn.functional.one_hot(logits.argmax(), len(logits)).to(logits)
        if is_training:
            shares = (logits / self.temperature).softmax(0)
            split = split + shares - shares.detach()
        return Injection(Vectors(self.values, self.place, split=split))


def build(request: Request) -> SplitPrompt:
    """Vectors at their start, all splits equally likely."""
    options: SplitOptions = request.options
    return SplitPrompt(request.start, request.place, options.temperature, request.seed)
