"""Records of a comparison's summary: everything that its page and its advice read; made from cells alone."""

from collections.abc import Sequence
from typing import Literal, Self

from pydantic import Field

from overture.core.notebook import ShortForm, Shown
from overture.core.records.base import Record, optional
from overture.core.records.cells import FailedCell, RateChoice, Request
from overture.core.records.scores import Confusion, Difference, Interval, LabelScore, VerdictWords

OVER_SEEDS = "t over seeds"


class Score(Interval):
    """Mean score of a way at a size."""

    way: str = Field(description="the way")
    size: int = Field(description="training rows")
    n_seeds: int = Field(description="number of seeds", gt=0)
    each: tuple[float, ...] = Field(description="score of each seed")


class MetricMean(Record):
    """A metric's mean over seeds."""

    value: float = Field(description="the mean")
    low: float = Field(description="lower end of the interval")
    high: float = Field(description="upper end of the interval")
    n: int | None = optional("number of rows scored")
    level: float | None = optional("confidence of the interval")
    method: str = Field(description="how the interval was found")
    seed: int | None = optional("seed of the resampling")
    n_seeds: int = Field(description="number of seeds", gt=0)
    tokenizer: str | None = optional("how the metric cut texts into words")


class WayMetrics(Record):
    """Every metric of a way at a size."""

    way: str = Field(description="the way")
    size: int = Field(description="training rows")
    values: dict[str, MetricMean] = Field(description="metric -> mean")


class Bounds(Record):
    """An interval that holds for all pairs of a size at once."""

    value: float = Field(description="the difference")
    low: float = Field(description="lower end")
    high: float = Field(description="upper end")
    level: float = Field(description="confidence of this pair's interval")

    def reversed(self) -> Self:
        """The interval of the difference the other way round."""
        return self.model_copy(update={"value": -self.value, "low": -self.high, "high": -self.low})


Verdict = Literal["better", "worse", "level", "undecided"]
_REVERSED: dict[Verdict, Verdict] = {"better": "worse", "worse": "better", "level": "level", "undecided": "undecided"}


class Pair(Difference):
    """Two ways at one size."""

    size: int = Field(description="training rows")
    a: str = Field(description="the first way")
    b: str = Field(description="the second way")
    p_corrected: float = Field(description="p-value after Holm's correction for all pairs of the size", ge=0, le=1)
    together: Bounds = Field(description="interval of the difference that holds for all pairs at once")
    verdict: Verdict = Field(description="what the first way is beside the second")

    def reversed(self) -> Self:
        """The pair seen from the second way."""
        difference = self.difference
        turned = {"value": -difference.value, "low": -difference.high, "high": -difference.low}
        return self.model_copy(
            update={
                "a": self.b,
                "b": self.a,
                "difference": difference.model_copy(update=turned),
                "together": self.together.reversed(),
                "verdict": _REVERSED[self.verdict],
            }
        )


class Shares(Record):
    """Costs as shares of the reference's; none where the reference has no such cost."""

    seconds: float | None = Field(description="wall time of training")
    cpu_seconds: float | None = Field(description="processor time of training")
    flops: float | None = Field(description="operations of training")
    trainable: float | None = Field(description="trained values")
    stored_bytes: float | None = Field(description="bytes kept")
    serving_seconds_per_1000: float | None = Field(description="wall time of 1,000 requests")


class Against(Pair):
    """A way beside the reference."""

    way: str = Field(description="the way")
    reference: str = Field(description="the reference")
    shares: Shares = Field(description="its costs as shares of the reference's")


class Worth(Record):
    """Training rows that one way saves against another."""

    rows: float | None = Field(description="rows that the other needs beyond this one's, on average; none if not known")
    low: float | None = Field(description="lower end of its interval; none where too few resamples can be read off")
    high: float | None = Field(description="upper end of its interval")
    times: float | None = Field(description="how many times as many rows the other needs")
    times_low: float | None = Field(description="lower end of its interval")
    times_high: float | None = Field(description="upper end of its interval")
    scores: tuple[float, float] | None = Field(description="the scores over which it was averaged")
    read_off: float = Field(description="share of the resamples whose curves share scores", ge=0, le=1)


class WayWorth(Worth):
    """Worth of a way against the reference."""

    way: str = Field(description="the way")
    reference: str = Field(description="the reference")


class Enough(Record):
    """From how many training rows on a way is surely better than one that uses none."""

    way: str = Field(description="the way")
    than: str = Field(description="the way that uses no rows")
    size: int | None = Field(description="training rows; none if at no size")


class Cost(Record):
    """Costs of a way at a size: means over the seeds."""

    way: str = Field(description="the way")
    size: int = Field(description="training rows; 0 of a way that uses none")
    trainable: int = Field(description="trained values")
    validation_rows: int = Field(description="validation rows")
    stored_bytes: int = Field(description="bytes kept beside the frozen model")
    seconds: float = Field(description="wall time of one training with building, reading and validation")
    building_seconds: float = Field(description="of it building")
    reading_seconds: float = Field(description="of it running inputs whose results are kept")
    training_seconds: float = Field(description="of it optimiser steps")
    validation_seconds: float = Field(description="of it scoring validation rows")
    cpu_seconds: float = Field(description="processor time")
    steps: float = Field(description="optimiser steps")
    best_steps: float = Field(description="optimiser steps to the end of the best epoch")
    positions: float = Field(description="positions that ran through the model")
    training_positions: float = Field(description="of them in optimiser steps")
    flops: float = Field(description="floating-point operations")
    peak_bytes: int = Field(description="highest memory of the process")
    grown_bytes: int = Field(description="memory beyond what was used before")
    kwh: float = Field(description="energy")
    energy: str = Field(description="how the energy was found")
    money: float | None = Field(description="price of the seconds; none without a price")
    choosing_seconds: float = Field(description="wall time of choosing the learning rate, once for all sizes and seeds")
    serving_seconds_per_1000: float = Field(description="wall time of 1,000 requests")
    serving_cpu_seconds_per_1000: float = Field(description="processor time of 1,000 requests")
    serving_kwh_per_1000: float = Field(description="energy of 1,000 requests")
    serving_money_per_1000: float | None = Field(description="price of 1,000 requests; none without a price")
    serving_positions_per_row: float = Field(description="positions of one request")
    serving_flops_per_row: float = Field(description="operations of one request")
    is_intact: bool = Field(description="whether the model's weights stayed as they were")
    is_shared: bool = Field(description="whether the way answers with the frozen model's own weights")
    own_bytes: int = Field(description="bytes of weights that the way keeps beside the model's")
    perplexity_before: float | None = Field(description="of unrelated texts, by the model alone")
    perplexity_after: float | None = Field(description="the same under the way")


def cost_of(ledger: Sequence[Cost], way: str, size: int) -> Cost:
    """A way's costs at a size, or at size 0 if the way uses no rows."""
    return next(cost for cost in ledger if cost.way == way and cost.size in (size, 0))


class Curve(Record):
    """Course of one training, an entry for each epoch."""

    way: str = Field(description="the way")
    seed: int = Field(description="the seed")
    best_epoch: int = Field(description="epoch whose values were kept, from 0")
    train_losses: tuple[float, ...] = Field(description="mean training loss")
    validation_losses: tuple[float, ...] = Field(description="mean validation loss")


class WayMistakes(Record):
    """How a way answers each label; rows are counted once a seed."""

    way: str = Field(description="the way")
    n_seeds: int = Field(description="number of seeds", gt=0)
    labels: tuple[LabelScore, ...] = Field(description="scores of each label")
    confusion: Confusion | None = optional("which labels are taken for which; of the two best ways")


class WayAnswer(Record):
    """A way's answer to a test row: the most frequent one over its seeds."""

    way: str = Field(description="the way")
    answer: str = Field(description="the answer")
    is_right: bool = Field(description="whether more than half of its seeds are right")
    num_right: int = Field(description="seeds that are right", ge=0)
    n_seeds: int = Field(description="number of seeds", gt=0)
    confidence: float | None = optional("mean probability of that answer; none where there are no probabilities")


class DisputedRow(Record):
    """A test row that some ways have right and others wrong."""

    where: str = Field(description="file and line, or the number of the row")
    text: str = Field(description="its text, shortened")
    gold: str = Field(description="the right answer")
    answers: tuple[WayAnswer, ...] = Field(description="the answer of each way")

    @property
    def errors(self) -> dict[str, list[str]]:
        """Wrong answer -> the ways that give it, with how sure each is and how many seeds err where not all do."""
        errors: dict[str, list[str]] = {}
        for answer in self.answers:
            if not answer.is_right:
                sure = [] if answer.confidence is None else [f"{answer.confidence:.0%} sure"]
                seeds = [f"{answer.n_seeds - answer.num_right} of {answer.n_seeds} seeds"] if answer.num_right else []
                notes = f" ({', '.join([*sure, *seeds])})" if sure or seeds else ""
                errors.setdefault(answer.answer, []).append(answer.way + notes)
        return errors


class Disagreement(Record):
    """How far the ways answer the same test rows rightly."""

    num_right: int = Field(description="rows that all ways have right")
    num_wrong: int = Field(description="rows that all ways have wrong")
    num_disputed: int = Field(description="rows that some ways have right and others wrong")
    rows: tuple[DisputedRow, ...] = Field(description="disputed rows; the most certain errors first")


class Advice(VerdictWords):
    """The verdict of a comparison."""

    way: str | None = Field(description="the way that is advised; none without advice")
    rivals: tuple[str, ...] = Field((), description="ways that were not shown to be worse than the best")


class ModelFacts(Record):
    """The frozen model."""

    id: str = Field(description="its name")
    parameters: int = Field(description="number of its values")
    dtype: str = Field(description="their data type")


class Facts(Record):
    """Model, machine and data of a comparison."""

    backbone: ModelFacts = Field(description="the frozen model")
    device: str = Field(description="device, as torch names its kind")
    versions: dict[str, str] = Field(description="package -> version")
    data: str = Field(description="fingerprint of all rows")
    passages: int = Field(description="number of unrelated texts")


class Summary(Shown, Facts):
    """Everything that the report of a comparison shows; made from cells alone."""

    status: Literal["finished", "incomplete"] = Field(description="incomplete if a cell could not be run")
    command: str = Field("", description="the command that made it")
    task: str = Field(description="name of the task")
    metric: str = Field(description="the metric that ways are compared by")
    ways: tuple[str, ...] = Field(description="the ways in order")
    sizes: tuple[int, ...] = Field(description="numbers of training rows, rising")
    seeds: tuple[int, ...] = Field(description="the seeds")
    largest: int = Field(description="largest number of training rows that has cells")
    margin: float = Field(description="largest difference that counts as none")
    scores: tuple[Score, ...] = Field(description="mean scores by way and size")
    metrics: tuple[WayMetrics, ...] = Field(description="every metric by way and size")
    pairs: tuple[Pair, ...] = Field(description="every two ways at every size")
    reference: str = Field(description="the way that others are compared with; empty if there is none")
    against: tuple[Against, ...] = Field(description="each way beside the reference, at the largest size")
    worth: tuple[WayWorth, ...] = Field(description="worth of each way against the reference, in rows")
    enough: tuple[Enough, ...] = Field(description="rows from which on training is surely better than none")
    ledger: tuple[Cost, ...] = Field(description="costs by way and size")
    curves: tuple[Curve, ...] = Field((), description="trainings at the largest size, all seeds")
    mistakes: tuple[WayMistakes, ...] = Field((), description="each way's answers by label, at the largest size")
    disagreement: Disagreement | None = optional("test rows that the ways answer differently, at the largest size")
    rates: dict[str, RateChoice] = Field(description="way -> choice of its learning rate")
    advice: Advice = Field(description="the advice, or why there is none")
    left_out: tuple[str, ...] = Field(description="sentences about what the budget did not allow")
    failed: tuple[FailedCell, ...] = Field(description="cells that could not be run")
    notices: tuple[str, ...] = Field(description="sentences for the reader")
    threads: tuple[int, ...] = Field(description="numbers of processor threads that cells had")
    price: float | None = Field(description="price of an hour of the machine")
    watts: float = Field(description="power that is assumed without a meter")
    request: Request = Field(description="the request")

    @property
    def at_largest(self) -> list[Score]:
        """Scores at the largest size and those of ways that use no rows, in order."""
        return [score for score in self.scores if score.size in (0, self.largest)]

    def short_form(self) -> ShortForm:
        """The scores of all ways at the largest size, the best first, and the advice."""
        scores = sorted(self.at_largest, key=lambda score: -score.value)
        return ShortForm(
            f"{self.task}: {self.metric}, {self.largest} training rows, {len(self.seeds)} seeds",
            [(score.way, score.text) for score in scores],
            [self.advice.what, self.advice.why, self.advice.next],
        )

    @property
    def costs_at_largest(self) -> list[Cost]:
        """Costs at the largest size and those of ways that use no rows, in order."""
        return [cost for cost in self.ledger if cost.size in (0, self.largest)]


class Interrupted(Record):
    """A comparison that was stopped; its finished cells are kept."""

    status: Literal["interrupted"] = "interrupted"
    folder: str = Field(description="where its cells are")
