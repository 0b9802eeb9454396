"""Between host and device without waiting: what is small goes in one copy from locked pages, behind the device's back.

`torch.tensor(..., device="cuda")` waits until the device has done all that it was asked before; `sent` does not. On the
CPU nothing is copied.
"""

from collections.abc import Sequence
from dataclasses import fields, is_dataclass, replace
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
    """A tensor of the host in locked pages, from which copies need not be waited for; others as they are."""
    return value.pin_memory() if value.device.type == "cpu" else value


def placed(record: Any, device: torch.device) -> Any:
    """A record of tensors, such as an injection, on a device; the same record when all of it is there."""
    if isinstance(record, Tensor):
        return moved(record, device)
    if not is_dataclass(record) or isinstance(record, type):
        return record
    parts = {field.name: getattr(record, field.name) for field in fields(record)}
    there = {name: placed(part, device) for name, part in parts.items()}
    is_there = all(there[name] is part for name, part in parts.items())
    return record if is_there else replace(record, **there)
