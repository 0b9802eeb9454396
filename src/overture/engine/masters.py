"""Values inside a half-precision model that are trained: kept in float32, computed in the model's own precision.

A bfloat16 number has eight bits: a step below 1/512 of a value is rounded away, and those of fine-tuning are smaller.
So the optimiser changes float32 masters, and each use of a value casts its master. Gradients of several uses add up in
float32 as well.

Source: Micikevicius et al. 2018, "Mixed Precision Training", section 3.1. Deviation: losses are not scaled; bfloat16
has float32's range.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import parametrize


def with_masters(model: Any, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Put float32 masters in the place of a model's half-precision parameters; tied ones share one master.

    Args:
        model: a copy whose values no other model shares; its modules are changed.
        values: some of its parameters, by name.

    Returns:
        The values to train, by the same names: the masters, and values that were float32 or wider as they are.
    """
    trained_values = {name: _master(value) for name, value in values.items()}
    masters = {id(values[name]): master for name, master in trained_values.items() if master is not values[name]}
    for module in list(model.modules()):
        for name, value in list(module._parameters.items()):
            master = masters.get(id(value))
            if master is not None:
                module._parameters[name] = master
                parametrize.register_parametrization(module, name, _Cast(value.dtype), unsafe=True)
    return trained_values


def _master(value: Tensor) -> Tensor:
    if torch.promote_types(value.dtype, torch.float32) == value.dtype:
        return value
    return torch.nn.Parameter(value.detach().float(), requires_grad=False)


class _Cast(torch.nn.Module):
    """A master in the precision that the model computes in."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype

    def forward(self, master: Tensor) -> Tensor:
        """The value as the model uses it."""
        return master.to(self.dtype)
