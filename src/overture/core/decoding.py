"""Options of writing answers: greedy, sampled, or by beam search."""

from typing import Self

from pydantic import Field, model_validator

from overture.core.config import Config


class Decoding(Config):
    """How answers are written; greedily unless something is set."""

    beams: int = Field(1, ge=1, le=64, description="Beginnings that a beam search keeps; 1 is greedy.")
    length_penalty: float = Field(
        1.0,
        description="Beam search divides a log-likelihood by the length to this power; more favours longer answers.",
    )
    temperature: float | None = Field(
        None, gt=0, description="Draw tokens by chance, from probabilities sharpened (below 1) or flattened (above)."
    )
    top_p: float = Field(1.0, gt=0, le=1, description="Draw from the likeliest tokens that have this share together.")
    seed: int = Field(0, ge=0, description="Seed of the drawing; each row has a stream of its own.")

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if self.beams > 1 and self.temperature is not None:
            raise ValueError("beams and temperature exclude each other")
        if self.top_p < 1 and self.temperature is None:
            raise ValueError("top_p is for drawing; set temperature too, 1.0 for the model's own probabilities")
        return self


GREEDY = Decoding()
