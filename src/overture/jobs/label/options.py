"""Options of the choice of rows to label; without torch."""

from pydantic import Field

from overture.core.config import Config


class SuggestOptions(Config):
    """Which rows are suggested."""

    count: int = Field(20, ge=1, le=10_000, description="Rows to suggest.")
    random_share: float = Field(
        0.2,
        ge=0,
        lt=1,
        description="Share of them drawn by chance from rows that are never suggested otherwise, for an honest score.",
    )
    pool: int = Field(2000, ge=1, description="Rows that the prompt reads to choose from; a sample of more.")
    seed: int = Field(0, ge=0, description="Seed of all draws.")
