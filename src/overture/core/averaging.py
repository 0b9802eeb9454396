"""A mean of a training's values over its epochs, by weights that are known beforehand."""

from dataclasses import dataclass
from math import exp

_LARGEST = 700.0
"""Exponents above it have no float."""


@dataclass(frozen=True, slots=True)
class Averaging:
    """Weights of the values that each epoch ends with: a normal density over the epochs.

    Args:
        peak: the epoch that weighs most, as a share of all epochs.
        width: the standard deviation, as a share of all epochs.
    """

    peak: float
    width: float

    def share(self, epoch: int, num_epochs: int) -> float:
        """How much an epoch weighs in the mean of the epochs up to it; of the first this is 1.

        Args:
            epoch: its number, from 1.
            num_epochs: of the whole training.
        """
        logs = [-0.5 * ((n / num_epochs - self.peak) / self.width) ** 2 for n in range(1, epoch + 1)]
        return 1 / sum(exp(min(log - logs[-1], _LARGEST)) for log in logs)
