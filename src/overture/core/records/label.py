"""Rows to label, and what a prompt has learnt from labels."""

from typing import Literal

from pydantic import Field, JsonValue

from overture.core.records.base import Record, optional
from overture.core.records.scores import Interval

ChosenBy = Literal["random", "teaches"]


class Suggestion(Record):
    """A row to label."""

    where: str = Field(description="file and line")
    chosen_by: ChosenBy = Field(description="whether chance chose it, for an honest score, or what it teaches")
    fields: dict[str, JsonValue] = Field(description="the row")
    guess: str = Field(description="the prompt's own answer")
    confidence: float = Field(description="its probability")


class Suggestions(Record):
    """Rows to label next, and how far labelling has got."""

    prompt: str = Field(description="the stored prompt, as name@version")
    output: str | None = optional("the file to fill in")
    label_field: str = Field(description="the column to fill in")
    suggested: list[Suggestion] = Field(description="the rows, those that teach most first")
    num_labelled: int = Field(description="rows that have a label", ge=0)
    num_waiting: int = Field(description="rows that were suggested before and have no label yet", ge=0)
    num_left: int = Field(description="rows that are neither labelled nor suggested", ge=0)
    score: Interval | None = optional("accuracy of the prompt on the labelled rows that chance chose")
    notices: list[str] = Field([], description="what was left out or assumed")


class LabelSession(Record):
    """Rows that somebody labels, and the prompt that learns from them."""

    prompt: str = Field(description="the stored prompt that it began with, as name@version")
    source: str = Field(description="the file of rows")
    seed: int = Field(0, description="seed of all draws")
    random_share: float = Field(0.2, description="share of rows kept apart for the score", gt=0, lt=1)
    num_rows: int = Field(description="rows of the session", gt=0)
    left_out: int = Field(0, description="rows of the file that are not in it", ge=0)


class GivenLabels(Record):
    """The labels of a session, in the order in which they were given."""

    labels: dict[int, str | None] = Field({}, description="row -> label; none where the row was skipped")


class LearntRound(Record):
    """A training on the labels of a moment."""

    num_labels: int = Field(description="labels that it learnt from; 0 for the stored prompt", ge=0)
    said: dict[int, str] = Field(description="answers to the rows kept apart")


class Learnt(Record):
    """How far learning has got."""

    state: Literal["loading", "reading", "learning", "waiting", "failed"] = Field(description="what is going on")
    done: int = Field(0, description="how far that has got", ge=0)
    total: int = Field(0, description="how far it goes; 0 where that is unknown", ge=0)
    problem: str = Field("", description="why it failed")
    rounds: list[LearntRound] = Field([], description="trainings, the first one first")
    queue: list[int] = Field([], description="rows that teach most, in order")
    guesses: dict[int, str] = Field({}, description="the prompt's answers to them")
    kept_as: str | None = optional("the version that was stored last")


class CurvePoint(Record):
    """Accuracy after a number of labels."""

    num_labels: int = Field(description="labels that it learnt from", ge=0)
    score: Interval = Field(description="accuracy on the labelled rows that are kept apart")
