"""Seconds and peak memory of a piece of work."""

import resource
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

_PROC = Path("/proc/self")


@dataclass(slots=True)
class Meter:
    """Measures wall seconds and the process's peak memory from its creation on.

    On Linux the kernel's high-water mark is reset first, so the peak is that of this work on top of what is loaded.
    Elsewhere it is the peak of the process's life. On a GPU it is the device's peak.
    """

    device: str = "cpu"
    _start: float = field(default_factory=time.perf_counter)

    def __post_init__(self) -> None:
        if self.device.startswith("cuda"):
            import torch

            torch.cuda.reset_peak_memory_stats()
            return
        try:
            (_PROC / "clear_refs").write_text("5")
        except OSError:
            return

    @property
    def seconds(self) -> float:
        """Wall seconds so far."""
        return time.perf_counter() - self._start

    @property
    def peak_bytes(self) -> int:
        """Peak memory so far, bytes."""
        if self.device.startswith("cuda"):
            import torch

            return int(torch.cuda.max_memory_allocated())
        status = _PROC / "status"
        if status.exists():
            line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
            return int(line.split()[1]) * 1024
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
