"""Options of the search, of the rate finder and of the search for label words; imports no torch."""

from typing import Self

from pydantic import Field, model_validator

from overture.core.config import Config
from overture.jobs.run.request import TuneConfig
from overture.jobs.run.search_config import SearchConfig


class SearchRequest(TuneConfig):
    """A request with what may be chosen from and spent: the section `search` of a task file."""

    search: SearchConfig = Field(SearchConfig(), description="What `overture search` may choose from and spend.")


class LrConfig(Config):
    """A range test."""

    low: float = Field(1e-4, gt=0, description="The first learning rate.")
    high: float = Field(10.0, gt=0, le=1e3, description="The last learning rate.")
    steps: int = Field(48, ge=8, le=10_000, description="Optimiser steps from the first to the last.")

    @model_validator(mode="after")
    def _is_range(self) -> Self:
        if self.low >= self.high:
            raise ValueError("low must be below high")
        return self


class WordsConfig(Config):
    """How label words are looked for."""

    pool: int = Field(100, ge=1, le=10_000, description="Likeliest words of each label that are looked at.")
    words: int = Field(10, ge=1, le=100, description="Words of each pool that may be chosen, those that tell most.")
    rounds: int = Field(10, ge=1, le=100, description="Most rounds over the labels while words are chosen.")
