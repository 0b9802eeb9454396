"""Learning rate over steps, and the optimisers by name."""

from collections.abc import Callable, Iterable
from typing import Literal

import torch
from torch import Tensor

OptimiserName = Literal["adamw", "adafactor"]

Build = Callable[[Iterable[Tensor], float, float], torch.optim.Optimizer]


def _adamw(values: Iterable[Tensor], lr: float, weight_decay: float) -> torch.optim.Optimizer:
    return torch.optim.AdamW(values, lr=lr, weight_decay=weight_decay)


def _adafactor(values: Iterable[Tensor], lr: float, weight_decay: float) -> torch.optim.Optimizer:
    return torch.optim.Adafactor(values, lr=lr, weight_decay=weight_decay)


OPTIMISERS: dict[str, Build] = {"adamw": _adamw, "adafactor": _adafactor}


def rate_at(step: int, num_steps: int, num_warmup: int, schedule: str) -> float:
    """The share of the learning rate at a step, from 0: up over the warm-up, then down to zero or level.

    Args:
        step: optimiser steps done.
        num_steps: of the whole run.
        num_warmup: steps that rise.
        schedule: ``linear`` or ``constant``.
    """
    if step < num_warmup:
        return (step + 1) / num_warmup
    if schedule == "constant":
        return 1.0
    return max(0.0, (num_steps - step) / max(1, num_steps - num_warmup))
