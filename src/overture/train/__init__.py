"""The loop, optimisers and checkpoints."""

from overture.train.fit import MIN_STEPS, Fit, FitResult, FitTogether, TrainConfig, Validation

__all__ = ["MIN_STEPS", "Fit", "FitResult", "FitTogether", "TrainConfig", "Validation"]
