"""Energy by the machine's own meters, read through codecarbon; nothing is sent anywhere, no tracker runs.

What the meters see is the whole processor or GPU, so other work on the machine counts too.
"""

import logging
import time
from collections.abc import Callable
from typing import Any

JOULES_PER_KWH = 3.6e6
Read = Callable[[float], float]


class EnergyMeter:
    """Joules since it was made.

    Args:
        what: which meters it reads.
        read: the kWh since it was last called, for so many seconds since then.
    """

    def __init__(self, what: str, read: Read) -> None:
        self.what, self._read = what, read
        self._joules, self._last = 0.0, time.perf_counter()

    def joules(self) -> float:
        """So far."""
        now = time.perf_counter()
        self._joules += self._read(now - self._last) * JOULES_PER_KWH
        self._last = now
        return self._joules


def energy_meter(device: str) -> EnergyMeter | None:
    """A meter for what computes; None where codecarbon or a readable meter is missing.

    Args:
        device: ``cpu``, or a GPU's name in torch.
    """
    logging.getLogger("codecarbon").setLevel(logging.CRITICAL)
    try:
        of_cpu = _of_processor()
        of_gpu = _of_gpus() if device.startswith("cuda") else None
    # What packages and drivers may raise here is theirs; without a meter energy is estimated, and the report says so.
    except Exception:
        return None
    if device.startswith("cuda") and of_gpu is None:
        return None
    found = {name: read for name, read in (("processor", of_cpu), ("GPUs", of_gpu)) if read is not None}
    if not found:
        return None
    return EnergyMeter(" and ".join(found), lambda seconds: sum(read(seconds) for read in found.values()))


def _of_processor() -> Read | None:
    from codecarbon.core.cpu import IntelRAPL, is_rapl_available
    from codecarbon.core.units import Time

    if not is_rapl_available():
        return None
    counters: Any = IntelRAPL()
    counters.start()

    def read(seconds: float) -> float:
        found = counters.get_cpu_details(Time.from_seconds(seconds))
        return sum(float(value) for name, value in found.items() if "Energy" in name)

    return read


def _of_gpus() -> Read | None:
    from codecarbon.core.gpu import AllGPUDevices, is_gpu_details_available
    from codecarbon.core.units import Time

    if not is_gpu_details_available():
        return None
    devices: Any = AllGPUDevices()
    devices.start()

    def read(seconds: float) -> float:
        found = devices.get_delta(Time.from_seconds(seconds))
        return sum(float(device["delta_energy_consumption"].kWh) for device in found)

    return read if devices.devices else None
