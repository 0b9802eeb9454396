"""Scores with their uncertainty: intervals, paired tests, spreads over seeds; and which rows went wrong."""

from typing import Any

from pydantic import Field, model_serializer, model_validator

from overture.core.records.base import Record, optional

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
    tokenizer: str | None = optional("how the metric cut texts into words")

    @property
    def text(self) -> str:
        """The score with its interval, for people."""
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"


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


class Difference(Record):
    """Two ways on the same seeds and test rows."""

    difference: Interval = Field(description="first minus second")
    p_value: float = Field(description="probability of such a difference if both were alike", ge=0, le=1)
    test: str = Field(description="how the p-value was found")
    n_seeds: int = Field(description="number of seeds", gt=0)


class Spread(Record):
    """A score over several seeds."""

    mean: float = Field(description="mean over the seeds")
    sd: float | None = Field(description="sample standard deviation; none for one seed")
    low: float | None = Field(description="lower end of the interval of the mean; none for one seed")
    high: float | None = Field(description="upper end of the interval of the mean; none for one seed")
    n_seeds: int = Field(description="number of seeds", gt=0)
    method: str = Field("t over seeds", description="how the interval was found")


class VerdictWords(Record):
    """A verdict in plain words."""

    what: str = Field(description="what came out, in one sentence")
    why: str = Field(description="the figures that show it")
    next: str = Field(description="what to do next")


class SplitScores(Record):
    """The scores of one split; in JSON the loss stands among the metrics."""

    scores: dict[str, Interval] = Field(
        description="metric -> score; the metric that the task is judged by comes first"
    )
    loss: float | None = Field(None, description="mean loss, if it was measured")

    @model_validator(mode="before")
    @classmethod
    def _from_json(cls, values: Any) -> Any:
        if not isinstance(values, dict) or "scores" in values:
            return values
        return {"scores": {name: score for name, score in values.items() if name != "loss"}, "loss": values.get("loss")}

    @model_serializer
    def _as_json(self) -> dict[str, Any]:
        scores = {name: score.dump() for name, score in self.scores.items()}
        return scores if self.loss is None else {**scores, "loss": self.loss}

    def __getitem__(self, metric: str) -> Interval:
        """The score by a metric."""
        return self.scores[metric]


class Comparison(Paired):
    """A paired test on the rows of a split."""

    split: str = Field(description="the split")


class WrongRow(Record):
    """One row that was answered wrongly."""

    where: str = Field(description="file and line")
    text: str = Field(description="what the model was shown")
    gold: str = Field(description="the right answer")
    predicted: str = Field(description="the answer given")
    confidence: float | None = optional("probability of the answer given; none where the model gives no probabilities")
    missed: list[str] = Field([], description="of answers that are sets: what is right and was not given")
    made_up: list[str] = Field([], description="of answers that are sets: what was given and is not right")
    score: float | None = Field(description="the metric on this row alone; none for metrics that need several rows")


class WrongRows(Record):
    """All rows of a split that a stored prompt answers wrongly, in full."""

    split: str = Field(description="the split")
    num_rows: int = Field(description="number of rows scored", gt=0)
    wrong: list[WrongRow] = Field(
        description="the wrong answers, the worst first; of equally bad ones the most confident first"
    )


class ConfusedPair(Record):
    """One kind of error."""

    gold: str = Field(description="the right label")
    predicted: str = Field(description="the label given instead")
    count: int = Field(description="how often", gt=0)
    share: float = Field(description="share of the rows of the right label", gt=0, le=1)
    where: tuple[str, ...] = Field(description="file and line of the first of these rows")


class Confusion(Record):
    """Counts of gold against predicted labels."""

    labels: tuple[str, ...] = Field(description="labels of the rows and of the columns")
    counts: tuple[tuple[int, ...], ...] = Field(description="one row per gold label, one column per predicted label")
    errors: tuple[ConfusedPair, ...] = Field(description="kinds of errors, most frequent first")


class LabelScore(Record):
    """How well one label is predicted."""

    label: str = Field(description="the label")
    precision: float | None = Field(description="share of its predictions that are right; none where there are none")
    recall: float | None = Field(description="share of its occurrences that are predicted; none where there are none")
    f1: float | None = Field(
        description="2 TP / (2 TP + FP + FN); none where the label neither occurs nor is predicted"
    )
    num_gold: int = Field(description="number of its occurrences among the right answers", ge=0)
    num_predicted: int = Field(description="number of its predictions", ge=0)


class Mistakes(Record):
    """The wrong answers on one split, and how well each label is predicted."""

    num_wrong: int | None = optional("number of rows that were answered wrongly")
    wrong: list[WrongRow] = Field(
        [], description="the worst answers, texts shortened; of equally bad ones the most confident first"
    )
    confusion: Confusion | None = optional("which labels are taken for which, where a row has one label")
    labels: tuple[LabelScore, ...] | None = optional("scores of each label, where answers are labels or labelled spans")
