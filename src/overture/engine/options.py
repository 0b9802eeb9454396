"""Options of a model: how it is loaded, and what is changed inside it. Imports no torch."""

from pydantic import Field

from overture.core.config import Config


class LoraOptions(Config):
    """Options of low-rank adapters."""

    rank: int = Field(8, ge=1, description="Rank of the change of each linear map, r.")
    alpha: float = Field(16.0, gt=0, description="The change is scaled by alpha / r.")
    targets: tuple[str, ...] = Field(
        (), description="Names that the changed linear maps end with, such as q_proj; all in the layers when empty."
    )
