"""Figures as a report says them: time, memory, counts, energy, shares, p-values."""

from collections.abc import Mapping
from typing import Any


def seconds_text(seconds: float) -> str:
    """A time span."""
    return f"{seconds:.1f} s" if seconds < 120 else f"{seconds / 60:.1f} min"


def bytes_text(size: float) -> str:
    """An amount of memory."""
    for limit, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if size >= limit:
            return f"{size / limit:.1f} {unit}"
    return f"{size:.0f} B"


def count_text(count: float) -> str:
    """A large number."""
    for limit, unit in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= limit:
            return f"{count / limit:.1f}{unit}"
    return f"{count:.0f}"


def energy_text(cost: Mapping[str, Any], name: str) -> str:
    """Watt-hours, marked where no meter measured them."""
    mark = "" if cost["energy"].startswith("measured") else " (estimate)"
    return f"{1000 * cost[name]:.3g}{mark}"


def failed_text(one: Mapping[str, Any]) -> str:
    """A cell that could not be run, and why."""
    where = f", {one['size']} rows, seed {one['seed']}" if one["size"] else ""
    return f"{one['way']}{where}: {one['what']}"


def share_text(share: float | None) -> str:
    """A share of something else."""
    if share is None:
        return "-"
    if 0 < share < 0.0001:
        return "< 0.01%"
    return f"{share:.0%}" if share >= 0.1 or share == 0 else f"{share:.2%}"


def p_text(p_value: float) -> str:
    """A p-value."""
    return "< 0.001" if p_value < 0.001 else f"{p_value:.2g}"
