"""Typed answers: the type follows from the keys of the answer that the task's kind shows."""

from typing import Annotated, Any, Literal

from pydantic import Field, JsonValue

from overture.core.records.base import Record, optional


class Choice(Record):
    """One label, or one of a row's own choices."""

    type: Literal["choice"] = "choice"
    choice: str | None = Field(description="what was chosen; none where the answer is withheld")
    confidence: float | None = Field(None, description="its probability")
    probabilities: dict[str, float] | None = Field(None, description="of all, or of the likeliest `top`")
    set: list[str] | None = optional("labels among which the right one is, where `coverage` asks")
    abstained: bool | None = optional("whether the answer is withheld, where `abstain` asks")


class LabelShare(Record):
    """A label that may apply beside others."""

    label: str = Field(description="its name")
    probability: float | None = Field(None, description="that it applies")
    chosen: bool = Field(description="whether it applies")


class Labels(Record):
    """All labels that apply."""

    type: Literal["labels"] = "labels"
    labels: list[LabelShare] = Field(description="the chosen ones first; the others where they have probabilities")


class Score(Record):
    """A number."""

    type: Literal["score"] = "score"
    score: float | None = Field(description="the value")
    probabilities: dict[str, float] | None = Field(None, description="of the steps between which it lies")


class Span(Record):
    """A labelled part of a text."""

    label: str = Field(description="what it is")
    start: int = Field(description="first character, from 0; first word where the row holds words")
    end: int = Field(description="behind the last character or word")
    score: float | None = Field(None, description="how sure the model is of it: mean probability of its tokens or tags")
    text: str | None = Field(None, description="the part itself; none where the template shows several fields")


class Tags(Record):
    """Labelled parts of a text."""

    type: Literal["tags"] = "tags"
    text: str = Field(description="the spans in words")
    unit: Literal["characters", "words"] = Field("characters", description="what start and end count")
    spans: list[Span] = Field(description="in order")


class TextAnswer(Record):
    """A text."""

    type: Literal["text"] = "text"
    text: str = Field(description="the answer")
    start: int | None = Field(None, description="of an answer taken from the context, its first character there")
    end: int | None = Field(None, description="behind the last character")


Answer = Annotated[Choice | Labels | Score | Tags | TextAnswer, Field(discriminator="type")]


def typed_answer(fields: dict[str, Any], top: int | None = None, value: JsonValue = None) -> Answer:
    """Convert an answer, as `predict` shows it, to its type.

    Args:
        fields: the answer by `TaskKind.shown`; its keys decide the type.
        top: keep so many of the likeliest labels.
        value: the field that spans lie in, where there is only one.
    """
    shares = fields.get("probabilities")
    likeliest = sorted(shares, key=lambda label: -shares[label])[:top] if shares else []
    rounded_shares = {label: round(shares[label], 4) for label in likeliest} if shares else None
    confidence = None if fields.get("confidence") is None else round(fields["confidence"], 4)
    if "labels" in fields:
        chosen = fields["labels"]
        others = [label for label in likeliest if label not in chosen]
        shown_labels = [(label, True) for label in chosen] + [(label, False) for label in others]
        rounded = {label: round(share, 4) for label, share in (shares or {}).items()}
        return Labels(
            labels=[LabelShare(label=name, probability=rounded.get(name), chosen=is_on) for name, is_on in shown_labels]
        )
    if "value" in fields:
        return Score(score=fields["value"], probabilities=rounded_shares)
    if "spans" in fields:
        is_words = isinstance(value, list)
        parts = value if isinstance(value, list | str) else None
        parts_of_spans = [None if parts is None else parts[span["start"] : span["end"]] for span in fields["spans"]]
        texts = [" ".join(map(str, part)) if isinstance(part, list) else part for part in parts_of_spans]
        spans = [Span(**span, text=text) for span, text in zip(fields["spans"], texts, strict=True)]
        return Tags(text=fields["answer"], unit="words" if is_words else "characters", spans=spans)
    chosen = fields.get("label", fields.get("answer"))
    if "label" in fields or shares:
        return Choice(
            choice=None if chosen is None else str(chosen),
            confidence=confidence,
            probabilities=rounded_shares,
            set=fields.get("set"),
            abstained=fields.get("abstained"),
        )
    return TextAnswer(text=str(chosen), start=fields.get("start"), end=fields.get("end"))


def answer_text(answer: Answer) -> str:
    """A typed answer in words, for a chat."""
    if isinstance(answer, Choice):
        return answer.choice or ""
    if isinstance(answer, Labels):
        return ", ".join(share.label for share in answer.labels if share.chosen)
    return str(answer.score) if isinstance(answer, Score) else answer.text
