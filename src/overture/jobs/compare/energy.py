"""Energy by the machine's own meters, read through codecarbon; nothing is sent anywhere, no tracker runs.

What the meters see is the whole processor or GPU, so other work on the machine counts too.
"""

import logging
import math
import time
from collections.abc import Callable
from threading import Thread
from typing import Any, TypeVar

from overture.core.records.compare import JOULES_PER_KWH

Read = Callable[[float], float]
T = TypeVar("T")
_PROBE_SECONDS, _READ_SECONDS = 20.0, 2.0
_SURELY_MORE_THAN_NONE_SECONDS = 0.1
_hung: set[str] = set()


class EnergyMeter:
    """Joules since it was made.

    A meter that once fails, hangs, or says nothing is no meter any more: half a measurement would pass for a whole one.

    Args:
        what: which meters it reads.
        read: the kWh since it was last called, for so many seconds since then.
    """

    def __init__(self, what: str, read: Read) -> None:
        self._what, self._read = what, read
        self._joules, self._last, self._is_well = 0.0, time.perf_counter(), True

    @property
    def what(self) -> str:
        """Which meters were read from beginning to end; empty where one failed on the way."""
        return self._what if self._is_well else ""

    def joules(self) -> float:
        """So far; it means nothing where `what` is empty."""
        now = time.perf_counter()
        seconds, self._last = now - self._last, now
        if self._is_well:
            gained = _in_time(lambda: self._read(seconds), _READ_SECONDS, math.nan)
            # No machine runs on nothing: codecarbon gives 0 where a counter could not be read, and tells nobody.
            is_silent = gained == 0 and seconds > _SURELY_MORE_THAN_NONE_SECONDS
            self._is_well = math.isfinite(gained) and gained >= 0 and not is_silent
            self._joules += gained * JOULES_PER_KWH if self._is_well else 0.0
        return self._joules


def energy_meter(device: str) -> EnergyMeter | None:
    """A meter for what computes; None where codecarbon or a readable meter is missing, raises, or does not answer.

    Args:
        device: ``cpu``, or a GPU's name in torch.
    """
    logging.getLogger("codecarbon").setLevel(logging.CRITICAL)
    probes = {"processor": _of_processor} | ({"GPUs": _of_gpus} if device.startswith("cuda") else {})
    found = {name: read for name, probe in probes.items() if (read := _probed(name, probe)) is not None}
    if not found or (device.startswith("cuda") and "GPUs" not in found):
        return None
    return EnergyMeter(" and ".join(found), lambda seconds: sum(read(seconds) for read in found.values()))


def _probed(name: str, probe: Callable[[], Read | None]) -> Read | None:
    """A meter's reader; one that hung is not waited for again."""
    if name in _hung:
        return None
    started = time.perf_counter()
    found = _in_time(probe, _PROBE_SECONDS, None)
    if time.perf_counter() - started >= _PROBE_SECONDS:
        _hung.add(name)
    return found


def _in_time(work: Callable[[], T], seconds: float, otherwise: T) -> T:
    """What work gives, or something else where it raises or takes too long; the program can end all the same.

    What packages and drivers raise here is theirs; without a meter energy is estimated, and the report says so.
    """
    found: list[T] = []

    def run() -> None:
        try:
            found.append(work())
        except BaseException:
            found.append(otherwise)

    thread = Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    return found[0] if found else otherwise


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
