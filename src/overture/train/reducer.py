"""Sums over the processes of one training; one process has nothing to add."""

from collections.abc import Sequence

from torch import Tensor


class OneProcess:
    """A training in this process alone; meets `core.contracts.Reducer`."""

    rank = 0
    size = 1

    def sum(self, values: Sequence[Tensor]) -> None:
        """Leaves the values as they are."""
