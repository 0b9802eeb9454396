"""Sums over the processes of one training; one process has nothing to add. `engine.ranks` has several."""

from collections.abc import Sequence

from torch import Tensor


class OneProcess:
    """A training in this process alone; meets `core.contracts.Reducer`."""

    rank = 0
    size = 1
    is_first = True
    is_lockstep = False

    def sum(self, values: Sequence[Tensor]) -> None:
        """Leaves the values as they are."""

    def most(self, value: float) -> float:
        """The value."""
        return value

    def from_first(self, values: Sequence[float]) -> list[float]:
        """The values."""
        return list(values)
