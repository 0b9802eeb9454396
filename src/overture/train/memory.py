"""A device's memory: its free bytes, and the peak of a piece of work."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch


class DeviceMemory(Protocol):
    """Questions about a device's memory that planning asks."""

    def free_bytes(self) -> int:
        """Bytes that new tensors may take."""
        ...

    def peak_of(self, work: Callable[[], object]) -> int:
        """Bytes that a piece of work takes at its peak, beyond what is there before."""
        ...


@dataclass(frozen=True, slots=True)
class CudaMemory:
    """The memory of a CUDA device, as torch's allocator counts it."""

    device: torch.device

    def free_bytes(self) -> int:
        """Bytes that the driver has left, and those that the allocator keeps without using them."""
        free, _ = torch.cuda.mem_get_info(self.device)
        return free + torch.cuda.memory_reserved(self.device) - torch.cuda.memory_allocated(self.device)

    def peak_of(self, work: Callable[[], object]) -> int:
        """The peak of the allocator's own count."""
        before = torch.cuda.memory_allocated(self.device)
        torch.cuda.reset_peak_memory_stats(self.device)
        work()
        return torch.cuda.max_memory_allocated(self.device) - before


def device_memory(device: torch.device) -> DeviceMemory | None:
    """The memory of a device that has its own; None on the CPU."""
    return CudaMemory(device) if device.type == "cuda" else None
