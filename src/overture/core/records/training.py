"""The epochs of a training."""

from pydantic import Field

from overture.core.records.base import Record


class EpochRecord(Record):
    """One epoch of a training, measured after its last step."""

    epoch: int = Field(description="the epoch, from 0")
    train_loss: float = Field(description="mean training loss of the epoch")
    validation_loss: float = Field(description="mean validation loss after the epoch")
    validation_score: float = Field(description="score of the validation rows; the larger, the better")
    seconds: float = Field(description="seconds of training so far")
