"""Scores with their uncertainty: intervals, paired tests, spreads over seeds."""

from pydantic import Field

from overture.core.records.base import Record

LEVEL = 0.95


class Interval(Record):
    """A score with its confidence interval."""

    value: float = Field(description="the score")
    low: float = Field(description="lower end of the interval")
    high: float = Field(description="upper end of the interval")
    n: int = Field(description="number of rows scored", gt=0)
    level: float = Field(default=LEVEL, description="confidence of the interval", gt=0, lt=1)
    method: str = Field(default="bootstrap percentile", description="how the interval was found")
    seed: int = Field(default=0, description="seed of the resampling")


class Paired(Record):
    """Two sets of predictions on the same rows."""

    metric: str = Field(description="the metric compared")
    a: float = Field(description="score of the first")
    b: float = Field(description="score of the second")
    difference: Interval = Field(description="first minus second")
    p_value: float = Field(description="probability of such a difference if both were alike", ge=0, le=1)
    test: str = Field(description="how the p-value was found")
    only_a: int = Field(description="rows that only the first has right", ge=0)
    only_b: int = Field(description="rows that only the second has right", ge=0)


class Spread(Record):
    """A score over several seeds."""

    mean: float = Field(description="mean over the seeds")
    sd: float | None = Field(description="sample standard deviation; none for one seed")
    low: float | None = Field(description="lower end of the t interval of the mean; none for one seed")
    high: float | None = Field(description="upper end of the t interval of the mean; none for one seed")
    n_seeds: int = Field(description="number of seeds", gt=0)
