"""Records of an explanation: what a prompt changes, which of its parts matter, and whether that can be trusted."""

from typing import Literal

from pydantic import Field

from overture.core.records.base import Record, optional
from overture.core.records.scores import Paired

PartKind = Literal["column", "word", "section", "example"]


class Mean(Record):
    """A mean over rows with its interval."""

    value: float = Field(description="the mean")
    low: float = Field(description="lower end of the interval")
    high: float = Field(description="upper end of the interval")
    n: int = Field(description="rows")


class ShiftedWord(Record):
    """A token of the vocabulary that the prompt makes likelier or less likely where the answer stands."""

    word: str = Field(description="the token")
    change: float = Field(description="mean change of its log-probability, in nats")


class LabelShift(Record):
    """The prompt's effect on the rows of one label."""

    label: str = Field(description="the rows' right label")
    rows: int = Field(description="rows of the label")
    without: dict[str, float] = Field(description="label -> mean probability without the prompt")
    with_prompt: dict[str, float] = Field(description="label -> mean probability with the prompt")
    raised: list[ShiftedWord] = Field([], description="tokens that become likelier than for the other labels' rows")


class Part(Record):
    """A part of a prompt, left out."""

    kind: PartKind = Field(description="what it is")
    name: str = Field(description="the part: a column's number, or its words")
    change: Mean = Field(description="divergence of the answers without it from those of the whole prompt, in nats")
    drop: Mean = Field(description="how much log-likelihood of the right answer is lost without it; below 0 it harms")

    @property
    def effect(self) -> Literal["helps", "harms", "unclear"]:
        """Whether it helps the right answers, as far as the interval says."""
        return "helps" if self.drop.low > 0 else "harms" if self.drop.high < 0 else "unclear"


class FlipCount(Record):
    """Rows by whether they are right without and with the prompt."""

    label: str = Field(description="the right label; empty for all rows")
    fixed: int = Field(description="wrong without, right with the prompt")
    broken: int = Field(description="right without, wrong with the prompt")
    both_right: int = Field(description="right in both")
    both_wrong: int = Field(description="wrong in both")


class Slice(Record):
    """A word that is too frequent or too rare among fixed, broken, or turned rows."""

    word: str = Field(description="the word")
    among: str = Field(description="fixed, broken, or the label that the prompt turns rows to")
    rows_with: int = Field(description="rows that hold the word")
    hits: int = Field(description="of these, rows of the group")
    group: int = Field(description="rows of the group in all")
    is_rare: bool = Field(default=False, description="the word is rarer in the group than in all rows")
    p_value: float = Field(description="Fisher's exact test, two-sided")
    q_value: float = Field(description="corrected for all words (Benjamini and Hochberg)")


class HeatWord(Record):
    """A word of a row, left out."""

    word: str = Field(description="the word")
    without: float = Field(description="log-likelihood lost without the word, no prompt")
    with_prompt: float = Field(description="the same under the prompt")


class AttentionShare(Record):
    """How much the token that the answer is read from attends to the prompt; no measure of importance by itself."""

    heads: list[list[float]] = Field(description="by layer, by head: share of attention that the prompt gets")
    columns: list[float] = Field(description="by column: the share, a mean over layers and heads")
    rows: int = Field(description="rows of the mean")


class VectorReading(Record):
    """The tokens that the model's head predicts from a prompt vector below a layer (logit lens)."""

    column: int = Field(description="number of the vector, from 1")
    layer: int = Field(description="layer that the state enters; the number of layers for what leaves the last")
    tokens: list[str] = Field(description="likeliest next tokens, the likeliest first")


class TextHeat(Record):
    """One row, word by word; a long one in pieces of several words."""

    gold: str = Field(description="the right label")
    said_without: str = Field(description="the answer without the prompt")
    said_with: str = Field(description="the answer with the prompt")
    words: list[HeatWord] = Field(
        description="its words or pieces, in order: tiles of an image from the top, stretches of a sound"
    )
    columns: int | None = optional("tiles side by side, of an image; all stretches, of a sound")


class Check(Record):
    """A check of the explanation itself."""

    name: str = Field(description="what is checked")
    passed: bool | None = Field(description="whether it holds; none where it could not be done")
    value: float | None = optional("the measured value")
    text: str = Field(description="what was measured and what was wanted, or why it could not be done")


class Explanation(Record):
    """Result of `overture explain`."""

    prompt: str = Field(description="the prompt, as name@version")
    backbone: str = Field(description="the model")
    task: str = Field(description="name of the task")
    method: str = Field(description="method of the prompt")
    place: str = Field(description="where it stands")
    length: int = Field(description="its length in tokens")
    text: list[str] = Field([], description="its words, for a prompt of words")
    split: str = Field(description="what the rows are called")
    rows: int = Field(description="rows that were looked at")
    compared: Paired = Field(description="accuracy with against without the prompt")
    raised: list[ShiftedWord] = Field([], description="tokens that become likelier over all rows")
    lowered: list[ShiftedWord] = Field([], description="tokens that become less likely over all rows")
    labels: list[LabelShift] = Field(description="the shift by label")
    parts: list[Part] = Field(description="the prompt's parts, in order")
    attention: AttentionShare | None = Field(None, description="attention to the prompt's columns")
    lens: list[VectorReading] = Field([], description="what vectors become from layer to layer")
    flips: list[FlipCount] = Field(description="all rows first, then each label")
    slices: list[Slice] = Field(description="words that mark changed rows, the surest first")
    texts: list[TextHeat] = Field(description="some rows, word by word")
    checks: list[Check] = Field(description="checks of the explanation")
    seconds: float = Field(description="seconds of the whole command")
    notices: list[str] = Field([], description="what the user should know")
