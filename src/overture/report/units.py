"""Figures as a report shows them: time, memory, counts, energy, shares, p-values, worth in rows."""

from overture.core.records.cells import FailedCell
from overture.core.records.compare import Worth


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


def score_text(score: float) -> str:
    """A score."""
    return f"{score:.3f}"


def energy_text(kwh: float, energy: str) -> str:
    """Watt-hours, marked where no meter measured them.

    Args:
        kwh: the amount.
        energy: how it was found.
    """
    mark = "" if energy.startswith("measured") else " (estimate)"
    return f"{1000 * kwh:.3g}{mark}"


def failed_text(cell: FailedCell) -> str:
    """A cell that could not be run, and why."""
    where = f", {cell.size} rows, seed {cell.seed}" if cell.size else ""
    return f"{cell.way}{where}: {cell.what}"


def share_text(share: float | None) -> str:
    """A share of another quantity: a percentage, or how many times as much."""
    if share is None:
        return "-"
    if share >= 2:
        return f"{share:,.0f}x" if share >= 10 else f"{share:.1f}x"
    if 0 < share < 0.0001:
        return "< 0.01%"
    return f"{share:.0%}" if share >= 0.1 or share == 0 else f"{share:.2%}"


def p_text(p_value: float) -> str:
    """A p-value."""
    return "< 0.001" if p_value < 0.001 else f"{p_value:.2g}"


def worth_text(worth: Worth) -> str:
    """Rows with their interval."""
    if worth.rows is None:
        return "cannot be read off: the curves share no scores"
    if worth.low is None:
        return f"{worth.rows:+.0f} (no interval: the curves hardly share scores)"
    return f"{worth.rows:+.0f} ({worth.low:+.0f} to {worth.high:+.0f})"


def times_text(worth: Worth) -> str:
    """The ratio of rows with its interval."""
    if worth.times is None:
        return "-"
    tail = "" if worth.times_low is None else f" ({worth.times_low:.2g} to {worth.times_high:.2g})"
    return f"{worth.times:.2g}{tail}"
