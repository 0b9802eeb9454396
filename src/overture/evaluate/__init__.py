"""How good a prompt is, and how sure that is. Numerical libraries are imported only when something is computed."""

from overture.evaluate.confusion import confusion
from overture.evaluate.intervals import Interval, across_seeds, bootstrap, paired_test
from overture.evaluate.metrics import METRICS

__all__ = ["METRICS", "Interval", "across_seeds", "bootstrap", "confusion", "paired_test"]
