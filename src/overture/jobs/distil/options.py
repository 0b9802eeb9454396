"""Options of a cartridge and of pruning; imports no torch."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from overture.core.config import Config
from overture.train.options import TrainConfig

Share = Annotated[float, Field(gt=0, lt=1)]


class CartridgeConfig(Config):
    """How a text becomes a memory."""

    length: int = Field(128, ge=2, le=20000, description="Columns of the memory, P: tokens that it takes the room of.")
    frozen: int = Field(1, ge=0, description="First columns that are not trained.")
    piece: int = Field(256, ge=32, description="Longest piece of the text that is talked about at a time, in tokens.")
    conversations: int = Field(80, ge=2, description="Conversations that are trained on.")
    held_out: int = Field(20, ge=1, description="Further conversations that choose the best epoch and are measured on.")
    question_tokens: int = Field(32, ge=1, description="Upper limit on the tokens of a question.")
    answer_tokens: int = Field(48, ge=1, description="Upper limit on the tokens of an answer.")
    seed: int = Field(0, ge=0, description="Draws the pieces and orders the batches.")
    train: TrainConfig = Field(
        TrainConfig(epochs=6, batch_size=4, max_tokens=1024), description="How the memory is trained."
    )

    @model_validator(mode="after")
    def _some_are_trained(self) -> Self:
        if self.frozen >= self.length:
            raise ValueError(f"no column is left to train: frozen must be less than the length, {self.length}")
        return self


class PruneConfig(Config):
    """Options of pruning."""

    keep: tuple[Share, ...] = Field(
        (0.75, 0.5, 0.33, 0.25), min_length=1, description="Share to keep; each is tried, for tokens, then for pieces."
    )
    pieces: int = Field(16, ge=1, description="Equal pieces of a token's vector; 1 prunes whole tokens only.")
