"""Moves values between host and device without waiting, by one copy from locked pages.

`torch.tensor(..., device="cuda")` waits until the device has finished all earlier work; `sent` does not. On the CPU
nothing is copied.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def is_far(device: torch.device) -> bool:
    """Whether tensors have to be sent there."""
    return device.type == "cuda"


def sent(values: Sequence[Any], device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
    """Numbers of the host as a tensor on a device."""
    return moved(torch.tensor(values, dtype=dtype), device)


def moved(value: Tensor, device: torch.device) -> Tensor:
    """A tensor on a device; the same one when it is there."""
    if value.device == device:
        return value
    return locked(value).to(device, non_blocking=True) if is_far(device) else value.to(device)


def locked(value: Tensor) -> Tensor:
    """A tensor of the host in locked pages, which are copied asynchronously; tensors elsewhere as they are."""
    return value.pin_memory() if value.device.type == "cpu" else value
