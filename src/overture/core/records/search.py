"""Records of a search's run folder and result; results of `overture lr` and `overture words`."""

from typing import Any, Literal

from pydantic import Field, RootModel

from overture.core.notebook import ShortForm, Shown
from overture.core.records.base import Answers, Record, optional
from overture.core.records.scores import Interval, SplitScores


class PlainScore(Record):
    """The model without a prompt on the validation rows, in one wording."""

    wording: int = Field(description="number of the wording; 0 is the task file's own")
    score: float = Field(description="the task's metric")
    loss: float = Field(description="mean loss of the right answers")
    predicted: Answers = Field(description="an answer for each validation row")


class PlainScores(Record):
    """``plain.json``: the model without a prompt, in every wording; empty where it cannot answer."""

    wordings: list[PlainScore]


class FoundRate(Record):
    """The rate that a range test found for a method at a place; None where the loss never blew up."""

    lr: float | None


class FoundRates(RootModel[dict[str, FoundRate]]):
    """``rates.json``: "method place" -> the rate that its range test found."""


class RacePlan(Record):
    """``race.json``: who races on how many fresh seeds."""

    trials: list[int] = Field(description="numbers of the trials")
    seeds: int = Field(description="fresh seeds for each")


class RaceScore(Record):
    """One trial after training with one fresh seed."""

    seed: int = Field(description="the seed")
    score: float = Field(description="the task's metric on validation rows")
    loss: float = Field(description="mean loss of the right answers")
    predicted: Answers = Field(description="an answer for each validation row")
    path: str = Field(description="the prompt's values, in the run's folder; empty where its loss diverged")
    seconds: float = Field(description="seconds of training")


class RaceTurn(RootModel[dict[str, RaceScore]]):
    """``race-N.json``: key of a trial -> its score with the fresh seed of this turn."""


class SpentBook(Record):
    """``spent.json``: what a search has spent so far."""

    counted: dict[str, float] = Field({}, description="live tokens by the part of the search that ran them")
    seconds: float = Field(0.0, description="seconds over all sittings")


class Spent(Record):
    """The spent part of a search's budget."""

    tokens: float = Field(description="live tokens")
    seconds: float = Field(description="seconds over all sittings")
    share: float = Field(description="share of the budget; above 1 when it was exceeded")
    money: float | None = optional("the seconds' price, where an hour has one")
    unit: Literal["tokens", "seconds"] = Field(description="unit of the budget")
    limit: float = Field(description="the budget")


class Choice(Record):
    """The prompt and the training of one candidate."""

    method: str = Field(description="method of the prompt; none without one")
    place: str = Field(description="where the prompt enters")
    length: int = Field(description="length of the prompt")
    init: str = Field(description="what its values start from")
    layer: int | None = optional("the layer, for methods that have one")
    lr: float | None = Field(description="learning rate")
    epochs: int = Field(description="epochs of its whole training")


class TrialResult(Choice):
    """One candidate on the validation rows, with one seed."""

    key: str = Field(description="its name: trial N, or none N for wording N without a prompt")
    title: str = Field(description="for people")
    wording: int = Field(description="number of the wording; 0 is the task file's own")
    score: float | None = Field(description="the task's metric; none where training diverged")
    loss: float | None = Field(description="mean loss of the right answers; none where training diverged")
    tokens: float = Field(description="live tokens of its training")
    seconds: float = Field(description="seconds of its training")
    serving: int = Field(description="live prompt tokens of a request")
    epochs_done: int = Field(description="epochs that were run")
    is_frontier: bool = Field(False, description="whether none is as good for fewer tokens")


class LaneResult(Record):
    """One candidate in the race on fresh seeds."""

    key: str = Field(description="the candidate")
    title: str = Field(description="for people")
    mean: float = Field(description="mean score over the seeds")
    scores: list[float] = Field(description="score of each seed")
    serving: int = Field(description="live prompt tokens of a request")
    tune_tokens: float = Field(description="live tokens of one training")
    p_value: float | None = Field(description="of the paired test against the leader; none for the leader")
    dropped_after: int | None = Field(description="seeds after which it was dropped; none where it was not")
    is_default: bool = Field(description="whether it is the task file's own setting")
    is_winner: bool = Field(description="whether it won")


class Winner(Choice):
    """The candidate that won."""

    key: str = Field(description="its name")
    seed: int | None = Field(description="seed of the stored prompt; none without a prompt")
    wording: dict[str, Any] = Field(description="keys of the task file that its wording changes")


class SearchResult(Shown, Record):
    """``result.json`` of a search."""

    status: Literal["finished"] = "finished"
    run: str = Field(description="the run's name")
    prompt: str | None = Field(description="the stored prompt, as name@version; none where the plain model won")
    task: str = Field(description="name of the task")
    metric: str = Field(description="metric that the task is judged by")
    rows: dict[str, int] = Field(description="split -> number of rows")
    winner: Winner
    metrics: dict[str, SplitScores] = Field(description="split -> the winner's metrics")
    trials: list[TrialResult]
    race: list[LaneResult]
    spent: Spent
    command: str = Field(description="the command that repeats the winner; empty where there is no prompt")
    notices: list[str] = Field(description="what the user should know")
    folder: str | None = optional("the stored prompt's folder")

    def short_form(self) -> ShortForm:
        """The candidates of the last race, the best first, and the winner's score."""
        lanes = sorted(self.race, key=lambda lane: (not lane.is_winner, -lane.mean))
        split = "test" if "test" in self.metrics else "validation"
        score = self.metrics[split][self.metric]
        what = f"{self.prompt}" if self.prompt else "no prompt was better than the model as it is"
        return ShortForm(
            f"{self.task}: {what}, {self.metric} {score.text} on {score.n} {split} rows",
            [("winner" if lane.is_winner else "", lane.title, f"{lane.mean:.3f}") for lane in lanes],
            [f"{len(self.trials)} candidates were tried, with {self.spent.share:.0%} of the budget"],
        )


class RateResult(Record):
    """Result of `overture lr`: a range test's curve and the suggested learning rate."""

    task: str = Field(description="name of the task")
    method: str = Field(description="method of the prompt")
    place: str = Field(description="where the prompt enters")
    length: int = Field(description="length of the prompt")
    default: float = Field(description="the rate without a test: the request's or the method's own")
    rates: list[float] = Field(description="learning rate of each step")
    losses: list[float] = Field(description="loss of each step")
    smooth: list[float] = Field(description="running mean of the losses")
    blow_up: float | None = Field(description="rate at which the loss blew up; none where it did not")
    steepest: float = Field(description="rate at which the loss fell fastest")
    suggested: float | None = Field(description="a tenth of the rate at which the loss blew up")
    seconds: float = Field(description="seconds of the test")
    charts: list[str] = Field(description="files of the chart")
    notices: list[str] = Field(description="what the user should know")


class LabelWord(Record):
    """A word that may stand for a label."""

    word: str = Field(description="as the task file has it, with its leading space")
    log_likelihood: float = Field(description="mean over the label's training rows")
    ratio: float = Field(description="how much higher that is than the mean over the other labels' rows")


class WordingScore(Record):
    """One choice of label words on the validation rows, without training."""

    name: str = Field(description="how the words were chosen")
    labels: dict[str, str | list[str]] = Field(description="label -> its word or words")
    metrics: dict[str, Interval] = Field(description="metrics with intervals")
    loss: float = Field(description="mean loss of the right answers")


class WordsResult(Record):
    """Result of `overture words`."""

    task: str = Field(description="name of the task")
    backbone: str = Field(description="the model")
    metric: str = Field(description="metric that the task is judged by")
    rows: dict[str, int] = Field(description="split -> number of rows")
    labels: dict[str, list[LabelWord]] = Field(description="label -> words that tell it best from the others")
    wordings: list[WordingScore] = Field(description="choices of words, the best first")
    seconds: float = Field(description="seconds of the whole command")
    notices: list[str] = Field(description="what the user should know")
