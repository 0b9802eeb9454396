"""Successive halving: after which epochs a group is halved, and what it costs."""

import math
from collections.abc import Sequence


def next_decision(epoch: int, last: int, epoch_share: float, share_left: float, first: int | None = None) -> int:
    """The next epoch after which a group may be halved or its budget be spent, at the latest the last one.

    Args:
        epoch: epochs that were run.
        last: epochs of the longest training.
        epoch_share: share of the budget that an epoch of all members takes.
        share_left: share of the budget that the group may still spend.
        first: the first rung; None where nothing is halved.
    """
    following = epoch + 1
    while following < last and epoch_share * (following - epoch) < share_left:
        if first is not None and is_rung(following, first):
            break
        following += 1
    return following


def first_rung(num_batches: int, num_steps: int) -> int:
    """The epoch, from 1, at whose end that many optimiser steps are done, with so many batches in each epoch.

    Nothing is dropped earlier: while the learning rate rises, and a little after, a score says how high the rate is
    rather than how good.
    """
    return max(1, math.ceil(num_steps / num_batches))


def is_rung(epoch: int, first: int) -> bool:
    """Whether a group is halved after this epoch: at the first rung, and at 2, 4, 8, ... times as many epochs."""
    rung = first
    while rung < epoch:
        rung *= 2
    return rung == epoch


def num_after(num_alive: int, num_spared: int = 0) -> int:
    """How many go on after a rung, if those that are spared are not among the best."""
    return min(num_alive, math.ceil(num_alive / 2) + num_spared)


def halving_tokens(epoch_tokens: Sequence[float], epochs: int, first: int, num_spared: int = 0) -> float:
    """Tokens that a group will run, if those that are dropped cost as much as those that go on."""
    num_alive, total = len(epoch_tokens), 0.0
    for epoch in range(1, epochs + 1):
        total += num_alive
        if is_rung(epoch, first):
            num_alive = num_after(num_alive, num_spared)
    return total * sum(epoch_tokens) / len(epoch_tokens)
