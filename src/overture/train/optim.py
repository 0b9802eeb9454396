"""Learning rate over steps, and the optimisers by name."""

from collections.abc import Callable
from typing import Any

import torch

Groups = list[dict[str, Any]]
Build = Callable[[Groups, float, float], torch.optim.Optimizer]


def _adamw(groups: Groups, lr: float, weight_decay: float) -> torch.optim.Optimizer:
    return torch.optim.AdamW(groups, lr=lr, weight_decay=weight_decay)


def _adafactor(groups: Groups, lr: float, weight_decay: float) -> torch.optim.Optimizer:
    return torch.optim.Adafactor(groups, lr=lr, weight_decay=weight_decay)


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
