"""What a cell costs: time, processor time, positions, operations, energy and memory, each booked where it arises."""

import gc
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields

from overture.core.meter import Meter
from overture.engine.backbone import Backbone
from overture.engine.operations import Operations, counted
from overture.jobs.compare.energy import energy_meter


@dataclass(slots=True)
class Account:
    """What one kind of work cost.

    Args:
        seconds: wall time.
        cpu_seconds: of all threads of the process.
        positions: positions that ran through the model, padding included.
        flops: floating-point operations, by the rules of `engine.operations`.
        joules: by the machine's meter; 0 where there is none.
    """

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    positions: float = 0.0
    flops: float = 0.0
    joules: float = 0.0

    def add(self, now: "Account", before: "Account") -> None:
        """Book what lies between two readings."""
        for field in fields(self):
            gained = getattr(now, field.name) - getattr(before, field.name)
            setattr(self, field.name, getattr(self, field.name) + gained)

    def as_dict(self) -> dict[str, float]:
        """Plain values."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


class Ledger:
    """Accounts of one cell; work is booked on one account at a time, and inner accounts interrupt outer ones.

    Memory is the process's, the model included; ``grown_bytes`` is what the work took beyond what was there when it
    began. Positions and operations are those within `counting`.

    Args:
        device: what computes, as torch names its kind.
    """

    def __init__(self, device: str) -> None:
        self.accounts: dict[str, Account] = {}
        self._operations: Operations | None = None
        self._positions = self._flops = 0.0
        self._energy = energy_meter(device)
        gc.collect()
        self._meter = Meter(device)
        self._bytes_before = self._meter.peak_bytes
        self._current, self._read = "", self._reading()

    @contextmanager
    def counting(self, backbone: Backbone) -> Iterator[None]:
        """Count what a model computes while the block runs."""
        assert self._operations is None
        with counted(backbone) as found:
            self._operations = found
            try:
                yield
            finally:
                self._operations = None
                self._positions, self._flops = self._positions + found.positions, self._flops + found.flops

    @contextmanager
    def on(self, name: str) -> Iterator[Account]:
        """Book the block's work on an account."""
        outer = self._current
        self._turn_to(name)
        try:
            yield self.accounts[name]
        finally:
            self._turn_to(outer)

    @property
    def energy(self) -> str:
        """Which meters were read; empty where there are none."""
        return self._energy.what if self._energy else ""

    def as_dict(self) -> dict[str, object]:
        """All accounts, and memory."""
        peak = self._meter.peak_bytes
        return {
            **{name: account.as_dict() for name, account in self.accounts.items()},
            "peak_bytes": peak,
            "grown_bytes": max(0, peak - self._bytes_before),
            "energy_meter": self.energy,
        }

    def _turn_to(self, name: str) -> None:
        now = self._reading()
        if self._current:
            self.accounts[self._current].add(now, self._read)
        if name:
            self.accounts.setdefault(name, Account())
        self._current, self._read = name, now

    def _reading(self) -> Account:
        used = os.times()
        joules = self._energy.joules() if self._energy else 0.0
        positions, flops = self._positions, self._flops
        if self._operations:
            positions, flops = positions + self._operations.positions, flops + self._operations.flops
        return Account(time.perf_counter(), used.user + used.system, positions, flops, joules)
