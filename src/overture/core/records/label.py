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
