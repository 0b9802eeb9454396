"""Energy from the machine's own counters, read through codecarbon, which sends nothing and starts no tracker here.

A counter covers the whole processor or GPU, so other work on the machine is included.
"""

import logging
import math
import time
from collections.abc import Callable
from typing import Any

from overture.core.records.cells import JOULES_PER_KWH

Read = Callable[[float], float]
_MIN_SECONDS = 0.1
"""After so many seconds a counter must have moved."""


class EnergyMeter:
    """Joules since the meter was made.

    Args:
        what: which counters it reads.
        read: takes the seconds since its last call; returns the kWh used since then.
    """

    def __init__(self, what: str, read: Read) -> None:
        self.what, self._read = what, read
        self._joules, self._last = 0.0, time.perf_counter()

    def joules(self) -> float:
        """The joules so far; a reading that fails clears `what`, because half a measurement would pass for a whole."""
        now = time.perf_counter()
        seconds, self._last = now - self._last, now
        if self.what:
            try:
                kwh = self._read(seconds)
            except Exception:
                kwh = math.nan
            # codecarbon returns 0 where a counter cannot be read.
            if math.isfinite(kwh) and kwh >= 0 and (kwh > 0 or seconds <= _MIN_SECONDS):
                self._joules += kwh * JOULES_PER_KWH
            else:
                self.what = ""
        return self._joules


def energy_meter(device: str) -> EnergyMeter | None:
    """A meter for a device; None where codecarbon is not installed or finds no counter that it can read.

    Args:
        device: ``cpu``, or a GPU's name in torch.
    """
    logging.getLogger("codecarbon").setLevel(logging.CRITICAL)
    is_gpu = device.startswith("cuda")
    reads: dict[str, Read] = {}
    for name, open_counter in (("processor", _processor), *((("GPUs", _gpus),) if is_gpu else ())):
        try:
            if read := open_counter():
                reads[name] = read
        except (Exception, SystemExit):
            # Drivers and packages raise what they like; without a meter, energy is estimated and marked so.
            continue
    if not reads or (is_gpu and "GPUs" not in reads):
        return None
    return EnergyMeter(" and ".join(reads), lambda seconds: sum(read(seconds) for read in reads.values()))


def _processor() -> Read | None:
    from codecarbon.core.cpu import IntelRAPL, is_rapl_available
    from codecarbon.core.units import Time

    if not is_rapl_available():
        return None
    counters: Any = IntelRAPL()
    counters.start()

    def read(seconds: float) -> float:
        details = counters.get_cpu_details(Time.from_seconds(seconds))
        return sum(float(value) for name, value in details.items() if "Energy" in name)

    return read


def _gpus() -> Read | None:
    from codecarbon.core.gpu import AllGPUDevices, is_gpu_details_available
    from codecarbon.core.units import Time

    if not is_gpu_details_available():
        return None
    devices: Any = AllGPUDevices()
    devices.start()

    def read(seconds: float) -> float:
        deltas = devices.get_delta(Time.from_seconds(seconds))
        return sum(float(device["delta_energy_consumption"].kWh) for device in deltas)

    return read if devices.devices else None
