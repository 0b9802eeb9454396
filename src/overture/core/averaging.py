"""A weighted mean of a training's values over its epochs; the weights are fixed beforehand."""

from dataclasses import dataclass
from math import exp

_LARGEST = 700.0
"""The exponential of a larger number overflows a float."""


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
        """The weight of an epoch in the mean of the epochs up to it; 1 for the first.

        Args:
            epoch: its number, from 1.
            num_epochs: of the whole training.
        """
        logs = [-0.5 * ((n / num_epochs - self.peak) / self.width) ** 2 for n in range(1, epoch + 1)]
        return 1 / sum(exp(min(log - logs[-1], _LARGEST)) for log in logs)
