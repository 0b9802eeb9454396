"""Options of the search, of the rate finder and of the search for label words; imports no torch."""

from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from overture.core.config import Config
from overture.core.injection import Place
from overture.data.task import TemplateText, Words
from overture.jobs.run.request import TuneConfig
from overture.prompt.config import Init

Name = Annotated[str, StringConstraints(min_length=1)]


class SearchConfig(Config):
    """The search space of `overture search`, its budget, and its rules of choice."""

    form: Literal["soft", "hard", "any"] = Field(
        "soft",
        description="soft chooses among trained prompts, hard finds a prompt of words without training, any does both "
        "and compares their winners with each other and with no prompt.",
    )
    method: tuple[Name, ...] = Field((), description="Methods to choose from; a few good ones if not given.")
    place: tuple[Place, ...] = Field((), description="Places to choose from; those of the methods if not given.")
    length: tuple[Annotated[int, Field(ge=0, le=20000)], ...] = Field(
        (), description="Prompt lengths to choose from; 5, 10, 20, 50 if not given. 0 is always a candidate."
    )
    init: tuple[Init, ...] = Field((), description="Starting points to choose from; the task file's if not given.")
    lr: tuple[Annotated[float, Field(gt=0, le=10)], Annotated[float, Field(gt=0, le=10)]] | None = Field(
        None, description="Lowest and highest learning rate; ten times below and above the method's own if not given."
    )
    layer: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        (), description="Layers to choose from, for methods with such an option; three inner ones if not given."
    )
    epochs: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        (),
        description="Epochs to choose from, each one pass over the rows unless train.passes says more; the task "
        "file's if not given.",
    )
    template: tuple[TemplateText, ...] = Field((), description="Wordings to choose from, beside the task file's own.")
    labels: tuple[dict[str, Words], ...] = Field(
        (), description="Label words to choose from, beside the task file's own: label to its word or words."
    )
    tunes: float = Field(
        8.0, gt=0, description="Budget: as many times the tokens that tuning the task file's own setting runs."
    )
    seconds: float | None = Field(None, gt=0, description="Budget in seconds, instead of tunes.")
    tokens: float | None = Field(None, gt=0, description="Budget in live tokens that the model runs, instead of tunes.")
    money: float | None = Field(None, gt=0, description="Budget in money, instead of tunes; needs price.")
    price: float | None = Field(None, gt=0, description="What an hour of this machine costs, in the unit of money.")
    cohort: int = Field(8, ge=1, le=256, description="Candidates that start together.")
    min_steps: int = Field(
        20,
        ge=0,
        description="Optimiser steps after the warm-up before candidates are dropped: fewer favour high rates.",
    )
    race_share: float = Field(0.5, ge=0, lt=1, description="Share of the budget kept for racing the best.")
    finalists: int = Field(3, ge=1, le=32, description="How many candidates race, where the budget allows it.")
    race_seeds: int = Field(2, ge=1, le=20, description="Fresh seeds that each finalist is trained with.")
    alpha: float = Field(0.05, gt=0, lt=1, description="A paired test below this probability tells two apart.")
    tolerance: float = Field(
        0.01,
        ge=0,
        lt=1,
        description="Scores that differ by at most this, and not significantly, are equal: the cheaper wins.",
    )

    @model_validator(mode="after")
    def _one_budget(self) -> Self:
        budgets = [name for name in ("seconds", "tokens", "money") if getattr(self, name) is not None]
        if len(budgets) > 1:
            raise ValueError(f"one budget at most, not {' and '.join(budgets)}")
        if (self.money is None) != (self.price is None):
            raise ValueError("money and price (of an hour) go together")
        if self.lr and self.lr[0] > self.lr[1]:
            raise ValueError("lr is lowest, highest")
        return self


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
