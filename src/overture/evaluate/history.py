"""Overfitting, as the epochs of a training show it."""

from collections.abc import Sequence

from overture.core.records.events import EpochEvent
from overture.core.records.training import EpochRecord

_RISEN = 1.1


def overfitting(epochs: Sequence[EpochRecord | EpochEvent]) -> str:
    """How much worse validation got while training got better; nothing where it did not."""
    if len(epochs) < 2:
        return ""
    best, last = min(epochs, key=lambda epoch: epoch.validation_loss), epochs[-1]
    if last.validation_loss < _RISEN * best.validation_loss or last.train_loss >= best.train_loss:
        return ""
    return (
        f"from epoch {best.epoch + 1:.0f} to {last.epoch + 1:.0f} the validation loss rose from "
        f"{best.validation_loss:.3f} to {last.validation_loss:.3f} while the training loss fell from "
        f"{best.train_loss:.3f} to {last.train_loss:.3f}"
    )
