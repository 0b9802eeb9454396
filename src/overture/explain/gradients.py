"""Integrated gradients of a prompt's columns.

IG_j = (p_j - b_j) . integral over a of dF/dp_j at b + a (p - b); F is the mean log-likelihood of the right answers, and
the sum of all is F(p) - F(b) (completeness). The baseline b is the vocabulary's mean vector for vectors, and zero keys
and values for memory. Source: Sundararajan et al. 2017, "Axiomatic attribution for deep networks", with Gauss-Legendre
nodes in place of equal steps.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from overture.core.injection import Injection
from overture.core.rows import Encoded
from overture.engine.answerer import LocalAnswerer


@dataclass(frozen=True, slots=True)
class Integrated:
    """Integrated gradients of a prompt.

    Args:
        columns: one value for each column, vectors first.
        residual: of completeness, as a share of F(p) - F(b).
    """

    columns: list[float]
    residual: float


def integrated(answerer: LocalAnswerer, prompt: Injection, rows: Sequence[Encoded], nodes: int = 16) -> Integrated:
    """Integrated gradients over rows.

    Args:
        answerer: the model.
        prompt: of vectors or memory.
        rows: the rows whose right answers count.
        nodes: of the quadrature.
    """
    import numpy as np

    ends = [("vectors", prompt.vectors.values)] if prompt.vectors else []
    if prompt.memory:
        ends += [("keys", prompt.memory.memory.keys), ("values", prompt.memory.memory.values)]
    starts = [_baseline_values(answerer, name, value) for name, value in ends]
    places, weights = np.polynomial.legendre.leggauss(nodes)
    gradients = [torch.zeros_like(value) for _, value in ends]
    for place, weight in zip((places + 1) / 2, weights / 2, strict=True):
        values = [
            (start + float(place) * (end - start)).detach().requires_grad_()
            for start, (_, end) in zip(starts, ends, strict=True)
        ]
        with torch.enable_grad():
            likelihood = -_mean_loss(answerer, _with_values(prompt, values), rows)
            slopes = torch.autograd.grad(likelihood, values)
        gradients = [total + float(weight) * slope for total, slope in zip(gradients, slopes, strict=True)]
    columns: list[float] = []
    products = [(end - start) * g for (_, end), start, g in zip(ends, starts, gradients, strict=True)]
    if prompt.vectors:
        columns += products[0].sum(-1).tolist()
    if prompt.memory:
        # [N, H, P, K] each.
        keys, values_of_memory = products[-2:]
        columns += (keys + values_of_memory).sum((0, 1, 3)).tolist()
    with torch.no_grad():
        difference = float(
            _mean_loss(answerer, _with_values(prompt, starts), rows) - _mean_loss(answerer, prompt, rows)
        )
    return Integrated(columns, abs(sum(columns) - difference) / max(abs(difference), 1e-9))


def _mean_loss(answerer: LocalAnswerer, prompt: Injection, rows: Sequence[Encoded]) -> Tensor:
    return answerer.losses(rows, [prompt] * len(rows), with_vector_targets=False).mean()


def _with_values(prompt: Injection, values: Sequence[Tensor]) -> Injection:
    changed, remaining = prompt, list(values)
    if prompt.vectors:
        changed = replace(changed, vectors=replace(prompt.vectors, values=remaining.pop(0)))
    if prompt.memory:
        columns = replace(prompt.memory.memory, keys=remaining[0], values=remaining[1])
        changed = replace(changed, memory=replace(prompt.memory, memory=columns))
    return changed


def _baseline_values(answerer: LocalAnswerer, name: str, value: Tensor) -> Tensor:
    if name != "vectors":
        return torch.zeros_like(value)
    with torch.no_grad():
        mean = answerer.backbone.embed(range(answerer.backbone.info.vocab_size)).mean(0)
    return mean.to(value).expand_as(value).clone()
