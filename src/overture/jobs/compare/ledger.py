"""Costs of a cell: time, processor time, positions, operations, energy and memory, each booked where it arises."""

import gc
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

from overture.core.meter import Meter
from overture.core.records.cells import Account, Accounts, Ledger
from overture.engine.backbone import Backbone
from overture.engine.operations import Operations, count_operations
from overture.jobs.compare.energy import energy_meter


class CostMeter:
    """Measures the ledger of one cell.

    Work is booked on one account at a time; an inner account interrupts the outer one. Memory is that of the process,
    the model included. Positions and operations are those within `counting`.

    Args:
        device: what computes, as torch names its kind.
    """

    def __init__(self, device: str) -> None:
        self._accounts: dict[Accounts, Account] = {}
        self._operations: Operations | None = None
        self._positions = self._flops = 0.0
        self._energy = energy_meter(device)
        gc.collect()
        self._memory = Meter(device)
        self._bytes_before = self._memory.peak_bytes
        self._current: Accounts | None = None
        self._reading = self._read()

    @contextmanager
    def counting(self, backbone: Backbone) -> Iterator[None]:
        """Count what a model computes while the block runs."""
        assert self._operations is None
        with count_operations(backbone) as operations:
            self._operations = operations
            try:
                yield
            finally:
                self._operations = None
                self._positions, self._flops = self._positions + operations.positions, self._flops + operations.flops

    @contextmanager
    def on(self, account: Accounts) -> Iterator[None]:
        """Book the block's work on an account."""
        outer = self._current
        self._turn_to(account)
        try:
            yield
        finally:
            self._turn_to(outer)

    def ledger(self) -> Ledger:
        """All accounts, and memory, as they are now."""
        peak_bytes = self._memory.peak_bytes
        return Ledger(
            **self._accounts,
            peak_bytes=peak_bytes,
            grown_bytes=max(0, peak_bytes - self._bytes_before),
            energy_meter=self._energy.what if self._energy else "",
        )

    def _turn_to(self, account: Accounts | None) -> None:
        """Book what was spent since the last reading on the current account, and go on with another."""
        reading = self._read()
        if self._current:
            total = self._accounts.get(self._current, Account())
            self._accounts[self._current] = Account(
                **{
                    name: getattr(total, name) + getattr(reading, name) - getattr(self._reading, name)
                    for name in Account.model_fields
                }
            )
        self._current, self._reading = account, reading

    def _read(self) -> Account:
        times = os.times()
        positions, flops = self._positions, self._flops
        if self._operations:
            positions, flops = positions + self._operations.positions, flops + self._operations.flops
        return Account(
            seconds=time.perf_counter(),
            cpu_seconds=times.user + times.system,
            positions=positions,
            flops=flops,
            joules=self._energy.joules() if self._energy else 0.0,
        )
