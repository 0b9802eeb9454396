"""Learning rate over steps, and the optimisers by name."""

from collections.abc import Callable
from inspect import unwrap
from typing import Any

import torch

Groups = list[dict[str, Any]]
Build = Callable[[Groups, float, float], torch.optim.Optimizer]


def _without_compiler(kind: type[torch.optim.Optimizer]) -> type[torch.optim.Optimizer]:
    """The same optimiser without the import of torch's compiler, which takes longer than loading a small model.

    torch's decorators keep the compiler out of these methods, for which they import it; nothing here compiles them.
    """
    methods = {name: unwrap(getattr(kind, name)) for name in ("add_param_group", "state_dict", "load_state_dict")}
    step = torch.no_grad()(unwrap(kind.step))
    return type(kind.__name__, (kind,), {**methods, "zero_grad": unwrap(kind.zero_grad), "step": step})


def _adamw(groups: Groups, lr: float, weight_decay: float) -> torch.optim.Optimizer:
    return _without_compiler(torch.optim.AdamW)(groups, lr=lr, weight_decay=weight_decay)  # type: ignore[call-arg]


def _adafactor(groups: Groups, lr: float, weight_decay: float) -> torch.optim.Optimizer:
    return _without_compiler(torch.optim.Adafactor)(groups, lr=lr, weight_decay=weight_decay)  # type: ignore[call-arg]


OPTIMISERS: dict[str, Build] = {"adamw": _adamw, "adafactor": _adafactor}


def rate_at(step: int, num_steps: int, num_warmup: int, schedule: str) -> float:
    """The factor on the learning rate at a step, from 0: it rises over the warm-up, then falls to zero or stays.

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
