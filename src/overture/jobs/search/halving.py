"""Successive halving: when a group is halved, and what it costs.

Before the learning rate has risen, and a little after, a score says how high the rate is rather than how good: so
nothing is dropped before the first rung, which is counted in optimiser steps.
"""

import math
from collections.abc import Sequence


def first_rung(num_batches: int, num_steps: int) -> int:
    """The epoch, from 1, at whose end that many optimiser steps are done, so many in each epoch."""
    return max(1, math.ceil(num_steps / num_batches))


def is_rung(epoch: int, first: int) -> bool:
    """Whether a group is halved after this epoch: at the first rung, and at 2, 4, 8, ... times as many epochs."""
    rung = first
    while rung < epoch:
        rung *= 2
    return rung == epoch


def num_after(alive: int, num_spared: int = 0) -> int:
    """How many go on after a rung, if those that are spared are not among the best."""
    return min(alive, math.ceil(alive / 2) + num_spared)


def halving_tokens(epoch_tokens: Sequence[float], epochs: int, first: int, num_spared: int = 0) -> float:
    """Tokens that a group will run, if what is dropped costs as much as what goes on."""
    alive, total = len(epoch_tokens), 0.0
    for epoch in range(1, epochs + 1):
        total += alive
        if is_rung(epoch, first):
            alive = num_after(alive, num_spared)
    return total * sum(epoch_tokens) / len(epoch_tokens)
