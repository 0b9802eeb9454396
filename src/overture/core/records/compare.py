"""Records of a comparison: plans, costs."""

from collections.abc import Mapping, Sequence
from typing import Any

from overture.core.config import Config

JOULES_PER_KWH = 3.6e6
MAX_VALIDATION = 256
"""A cell has as many validation rows as training rows, and no more than these."""
OF_SEEDS = "t over seeds"


class Plan(Config):
    """What is run.

    Args:
        sizes: training rows.
        seeds: how many.
        is_tuned: whether each way's learning rate is chosen among several.
        seconds: what it is expected to take; none without a budget.
        left_out: what the budget did not allow, in words.
    """

    sizes: tuple[int, ...]
    seeds: int
    is_tuned: bool
    seconds: float | None = None
    left_out: tuple[str, ...] = ()


def cost_of(ledger: Sequence[Mapping[str, Any]], way: str, size: int) -> Mapping[str, Any]:
    """A way's costs at a size, or at none where it does not depend on rows."""
    return next(one for one in ledger if one["way"] == way and one["size"] in (size, 0))
