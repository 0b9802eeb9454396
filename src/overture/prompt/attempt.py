"""Attentional mixture of stored prompts: the task's own prompt, plus a mixture that each row chooses for itself.

    P(x) = T + sum_j a_j(x) Q_j,   j over the stored prompts and T itself,   Q_j [P, D]
    a(x) = softmax_j(q_j . g(x) / (t sqrt(D))),   g(x) = norm(W_up silu(W_down f(x))),   W_down [m, D], W_up [D, m]

f(x) [D] is the mean of the row's token vectors and q_j that of prompt j, both scaled to a root mean square of one;
norm is a layer norm with trained scale and shift. The stored prompts are constants and are kept with the prompt.
Trainable values: P D + 2 m D + 2 D; T P D + 2 m D + 2 D for T tasks that share the attention (`jobs.transfer.multi`).

Source: Asai et al. 2022, "ATTEMPT: Parameter-Efficient Multi-task Tuning via Attentional Mixtures of Soft Prompts",
section 3 (3.3: several tasks share the attention, each has its own T). Deviations: means instead of maxima over tokens,
and vectors of equal length before they are compared, so that the temperature t does not depend on the model; the
network begins at random, whatever was trained before.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import layer_norm, linear, silu

from overture.core.injection import Injection, Place, Vectors
from overture.prompt.features import unit
from overture.prompt.methods import AttemptOptions
from overture.prompt.module import PromptModule, Request
from overture.prompt.stored import stored_vectors


class MixedPrompt(PromptModule):
    """The task's prompt [P, D], stored prompts [J, P, D] and the attention over them."""

    sources: Tensor

    def __init__(
        self, start: Tensor, sources: Tensor, place: Place, options: AttemptOptions, random: torch.Generator
    ) -> None:
        super().__init__()
        self.place, self.temperature = place, options.temperature
        size, width = start.shape[1], options.width
        self.register_buffer("sources", sources)
        self.target = torch.nn.Parameter(start.clone())
        down, up = torch.randn(width, size, generator=random), torch.randn(size, width, generator=random)
        self.down_weight = torch.nn.Parameter((down / size**0.5).to(start))
        self.up_weight = torch.nn.Parameter((up / width**0.5).to(start))
        self.norm_weight = torch.nn.Parameter(start.new_ones(size))
        self.norm_bias = torch.nn.Parameter(start.new_zeros(size))

    def injections(self, features: Tensor) -> Sequence[Injection]:
        """Each row's prompt from its features, [B, D]."""
        prompts = torch.cat([self.sources, self.target[None]])
        shares = self.shares(features.to(self.target.dtype), prompts)
        values = self.target + torch.einsum("bj,jpd->bpd", shares, prompts)
        return [Injection(Vectors(vectors, self.place)) for vectors in values]

    def shares(self, features: Tensor, prompts: Tensor) -> Tensor:
        """The weight of each prompt in every row's mixture, [B, J + 1]; a row's weights add up to one."""
        size = features.shape[-1]
        hidden = linear(silu(linear(unit(features), self.down_weight)), self.up_weight)
        query = layer_norm(hidden, (size,), self.norm_weight, self.norm_bias)
        return (query @ unit(prompts.mean(1)).T / (self.temperature * size**0.5)).softmax(-1)


def build(request: Request) -> MixedPrompt:
    """The task's prompt at its start, beside the stored ones.

    Raises:
        ConfigError: a stored prompt is unknown, or has no vectors.
    """
    options: AttemptOptions = request.options
    where = "prompt.options.sources"
    source_vectors = [stored_vectors(request.source, ref, request.length, where) for ref in options.sources]
    sources = torch.stack(source_vectors).to(request.start)
    return MixedPrompt(request.start, sources, request.place, options, request.generator("attention"))
