"""The loop, optimisers and checkpoints."""

from overture.train.fit import Fit, FitResult, TrainConfig, Validation

__all__ = ["Fit", "FitResult", "TrainConfig", "Validation"]
