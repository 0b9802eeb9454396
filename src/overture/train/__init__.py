"""The loop, optimisers and checkpoints."""

from overture.train.fit import Fit, FitResult, FitTogether, TrainConfig, Validation

__all__ = ["Fit", "FitResult", "FitTogether", "TrainConfig", "Validation"]
