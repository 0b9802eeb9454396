"""A report of the data that a first task file was written for."""

from pydantic import Field

from overture.core.media import Modality
from overture.core.records.base import Record


class LabelRows(Record):
    """The rows of one label."""

    label: str = Field(description="the label, as the task file names it")
    rows: dict[str, int] = Field(description="how many rows have it, by split")
    also: list[str] = Field([], description="its other spellings in the data")


class LeftOut(Record):
    """A field that the template does not show."""

    field: str = Field(description="its name")
    why: str = Field(description="the reason, in a few words")


class Lengths(Record):
    """How long the rows' texts are, in words or tokens."""

    median: int = Field(description="half of the rows have at most so many")
    most_rows: int = Field(description="19 of 20 rows have at most so many")
    longest: int = Field(description="the longest row's")


class SourceOfLabel(Record):
    """Something beside the label, such as a speaker, each of whose values goes with one label alone."""

    what: str = Field(description="the column, or the part of the files' names")
    values: int = Field(description="how many different values it has")
    examples: list[str] = Field(description="some values with their labels")


class MediaReport(Record):
    """Sizes, lengths and problems of the rows' images or sounds."""

    modality: Modality = Field(description="image or audio")
    looked_at: int = Field(description="files whose content was looked at")
    broken: int = Field(0, description="files that cannot be read")
    first_broken: list[str] = Field([], description="the first of them, and why")
    seconds: list[float] = Field([], description="the shortest, the median and the longest sound")
    rates: dict[str, int] = Field({}, description="sounds by samples a second, the commonest first")
    sizes: dict[str, int] = Field({}, description="images by width x height, the commonest first")
    constant: list[str] = Field([], description="images of one colour, or sounds of silence")
    alike: list[tuple[str, str]] = Field([], description="files of two splits that show nearly the same")
    sources: list[SourceOfLabel] = Field([], description="what may be learnt instead of the label")


class DataReport(Record):
    """The content of a data file, as far as a task can use it."""

    kind: str = Field(description="the kind of task that was recognised")
    rows: dict[str, int] = Field(description="rows by split; all under `path` where one file is to be split")
    target: list[str] = Field(description="fields that hold the label or the answer")
    texts: list[str] = Field(description="fields that the template shows")
    left_out: list[LeftOut] = Field([], description="fields that it does not show")
    labels: list[LabelRows] = Field([], description="the labels with their rows")
    alike: list[tuple[str, str]] = Field([], description="two labels each that may be one, misspelled")
    empty: dict[str, int] = Field({}, description="rows without a text, by shown field")
    media: MediaReport | None = Field(None, description="the rows' images or sounds")
    unlabelled: int = Field(0, description="rows without a label or answer")
    repeats: int = Field(0, description="rows that show what an earlier row shows")
    repeats_of_training: dict[str, int] = Field(
        {}, description="rows that show what a training row shows, by validation and test"
    )
    contradictions: int = Field(0, description="repeats with another label or answer")
    words: Lengths | None = Field(None, description="lengths of the rows' texts in words")
    tokens: Lengths | None = Field(None, description="in the model's tokens; none where its tokenizer is not at hand")
    languages: dict[str, float] = Field(
        {}, description="share of the rows by language, the commonest first; by script where that is all that is sure"
    )
