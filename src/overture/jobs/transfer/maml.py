"""MAML with its second derivatives: how a start should move so that steps of gradient descent from it go further.

    theta_0 = theta,    theta_i+1 = theta_i - a u(g_i),    g_i = grad L_i(theta_i),    u(g) = g min(1, clip / |g|)
    gradient = dL_k-1(theta_k-1) / d theta = (1 - H_0 u'_0 a) (1 - H_1 u'_1 a) ... g_k-1

for the k batches of a visit, of which the last asks what the steps on the others were worth. H_i is the Hessian of L_i
at theta_i and u'_i the derivative of u at g_i. It is taken from the last step to the first, each a product of one
Hessian with one vector, so the graph of one step alone is ever kept, however many there are.

Source: Finn, Abbeel and Levine 2017, "Model-Agnostic Meta-Learning", section 2.2, equation 1. Deviations: one task is
visited at a time; gradients are clipped inside too, as they are in tuning; the rate a is the request's times the root
of the number of values, so that a clipped step is as long as one of AdamW, with which the start will be used.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from overture.core.contracts import Trainee
from overture.core.room import Room
from overture.core.rows import Encoded
from overture.data.batches import micro_batches, num_padded

Values = dict[str, Tensor]
Batch = Sequence[Encoded]


class Maml:
    """The gradient of what a visit reached, by the values that it began with.

    Args:
        trainee: the model under the start; its values are those that are learnt.
        lr: learning rate of AdamW for such values.
        clip: largest length of a gradient.
        max_tokens: padded tokens of one pass.
        notify: told when memory ran out and passes became smaller.
    """

    def __init__(
        self, trainee: Trainee, lr: float, clip: float, max_tokens: int, notify: Callable[[str], None]
    ) -> None:
        self.trainee, self.clip, self.room = trainee, clip, Room(max_tokens, notify)
        self.values = trainee.trainable()
        num_values = sum(value.numel() for value in self.values.values())
        rates = trainee.rates()
        self.rates = {name: lr * rates.get(name, 1.0) * math.sqrt(num_values) for name in self.values}

    def gradient(self, batches: Sequence[Batch]) -> tuple[Values, float]:
        """Walk through the batches, and back; the values are as before afterwards.

        Returns:
            The gradient by name, and the mean of the batches' losses; no gradient when something was not finite.
        """
        start = copied(self.values)
        steps, losses = [], list[float]()
        try:
            for batch in batches:
                slope, loss = self._slope(batch)
                losses.append(loss)
                if not math.isfinite(loss) or not _is_finite(slope):
                    return {}, math.nan
                steps.append((batch, copied(self.values), slope))
                moved = _clipped(slope, self.clip)
                put(self.values, {name: value - self.rates[name] * moved[name] for name, value in self.values.items()})
            found = steps.pop()[2]
            while steps:
                batch, values, slope = steps.pop()
                put(self.values, values)
                found = self._pulled_back(batch, slope, found)
            return (found, sum(losses) / len(losses)) if _is_finite(found) else ({}, math.nan)
        finally:
            put(self.values, start)

    def _slope(self, batch: Batch) -> tuple[Values, float]:
        """The gradient of a batch's mean loss, and that loss."""

        def summed(parts: Sequence[Batch]) -> tuple[Values, float]:
            total, loss = self._zeros(), 0.0
            for part in parts:
                own = self.trainee.loss(part) / weight
                _add(total, self._gradients(own))
                loss += float(own.detach())
            return total, loss

        weight = self.trainee.weight(batch)
        return self.room.run(lambda limit: micro_batches(batch, limit), summed, num_padded)

    def _pulled_back(self, batch: Batch, slope: Values, towards: Values) -> Values:
        """By a step's beginning, what is ``towards`` by its end: (1 - a H u') towards."""

        def product(parts: Sequence[Batch]) -> Values:
            total = self._zeros()
            for part in parts:
                own = self._gradients(self.trainee.loss(part) / weight, keep=True)
                _add(total, self._gradients(_product(own, direction)))
            return total

        weight = self.trainee.weight(batch)
        direction = _clip_pulled_back(slope, {name: self.rates[name] * towards[name] for name in towards}, self.clip)
        # Fused attention has no second derivative.
        with sdpa_kernel(SDPBackend.MATH):
            turned = self.room.run(lambda limit: micro_batches(batch, limit), product, num_padded)
        return {name: towards[name] - turned[name] for name in towards}

    def _gradients(self, of: Tensor, keep: bool = False) -> Values:
        found = torch.autograd.grad(of, list(self.values.values()), create_graph=keep, materialize_grads=True)
        return dict(zip(self.values, found, strict=True))

    def _zeros(self) -> Values:
        return {name: torch.zeros_like(value) for name, value in self.values.items()}


def copied(values: Values) -> Values:
    """The values as they are now."""
    return {name: value.detach().clone() for name, value in values.items()}


@torch.no_grad()
def put(values: Values, wanted: Values) -> None:
    """Give the values those of others, by name."""
    for name, value in values.items():
        value.copy_(wanted[name])


def _add(total: Values, more: Values) -> None:
    for name, value in more.items():
        total[name] += value.detach()


def _product(a: Values, b: Values) -> Tensor:
    return torch.stack([(value * b[name]).sum() for name, value in a.items()]).sum()


def _clipped(slope: Values, clip: float) -> Values:
    length = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(value) for value in slope.values()]))
    share = clip / length.clamp(min=clip)
    return {name: value * share for name, value in slope.items()}


def _clip_pulled_back(slope: Values, towards: Values, clip: float) -> Values:
    """u' towards: the derivative of a clipped gradient by the gradient, which is symmetric."""
    free = {name: value.detach().requires_grad_() for name, value in slope.items()}
    along = _product(_clipped(free, clip), towards)
    return dict(zip(free, torch.autograd.grad(along, list(free.values())), strict=True))


def _is_finite(values: Values) -> bool:
    return all(bool(value.isfinite().all()) for value in values.values())
