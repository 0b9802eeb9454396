"""A row as the model reads it, what it is asked, and what came back.

Shape letters: B rows, L length, P prompt length, D width, N layers, H key/value heads, K head width, V vocabulary,
M memory columns.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

Reading = Literal["mask", "first", "mean"]


@dataclass(frozen=True, slots=True)
class Candidates:
    """The label words of a task as tokens, shared by all its rows; or the texts that one row may choose from.

    Args:
        labels: the labels' names, in order.
        words: token ids of every word; each is non-empty.
        label_of: for each word, the index of its label.
        is_mean: a word's score is its log-likelihood per token, so that long ones are not at a disadvantage.
        is_own: they are one row's own, one word for each; scores are likelihoods over the vocabulary.
    """

    labels: tuple[str, ...]
    words: tuple[tuple[int, ...], ...]
    label_of: tuple[int, ...]
    is_mean: bool = False
    is_own: bool = False


@dataclass(frozen=True, slots=True)
class Marks:
    """Tokens of a row at which an encoder scores the labels.

    Args:
        at: indices into input and anchor, n of them.
        over: ``labels``: each token has one of the labels. ``places``: each label stands at one of the tokens.
            ``each``: each label applies to the first token or does not.
        gold: the label of each token; the token of each label; or the labels that apply. None when unknown.
    """

    at: tuple[int, ...]
    over: Literal["labels", "places", "each"]
    gold: tuple[int, ...] | None = None


class Allowed(Protocol):
    """What may be written next in an answer."""

    def __call__(self, written: Sequence[int]) -> Sequence[int]:
        """Tokens that may follow those written, the end token among them; none where nothing may."""
        ...


@dataclass(frozen=True, slots=True)
class Written:
    """A generated answer.

    Args:
        text: without the end token, cut at a stop text.
        ids: its tokens, without the end token.
        log_likelihood: of the tokens, the end token with them if it was written; given what was allowed.
    """

    text: str
    ids: tuple[int, ...]
    log_likelihood: float


@dataclass(frozen=True, slots=True)
class Prediction:
    """What the model said of one row.

    Args:
        text: the label, or the answer, for people.
        probabilities: of the labels, in order; None where there are none.
        answer: what is compared with the right answer, where it is not the text.
        score: how sure the model is of it, to choose between parts of one row.
    """

    text: str
    probabilities: tuple[float, ...] | None = None
    answer: Hashable = None
    score: float = 0.0

    @property
    def said(self) -> Hashable:
        """What is compared with the right answer."""
        return self.text if self.answer is None else self.answer


@dataclass(frozen=True, slots=True)
class Encoded:
    """One row as tokens, cut where a prompt may enter.

    The model reads ``input_ids`` then ``anchor_ids``. A prompt stands before the input or between the two.

    Args:
        row: the row's number in its split, from 0.
        input_ids: what depends on the row; may be kept as memory. May be empty.
        anchor_ids: the constant end of the template; at least one token, so that something is live.
        candidates: label words, for label tasks.
        label: index into ``candidates.labels``; None when unknown (prediction).
        answer_ids: the answer's tokens with the end token, for free-text tasks; None when unknown.
        slots: where the template has places for the prompt: (index into input and anchor, number of vectors).
        read: what the label is read from: the token at this index into input and anchor, or the mean of them all;
            None for the last, where models that read from left to right predict.
        is_mask: the token read is a mask, at which the model predicts a word.
        shares: for each label how much of the row is its, where the truth stands between labels; instead of ``label``.
        marks: tokens at which labels are scored, instead of one that is read.
        part: number of this part among those of its row, from 0; long rows are read in several.
        allowed: what a generated answer may hold; None for anything.
        source: what the task's kind needs to read the model's reply; nobody else looks at it.
        blanks: the same row without its content, by which its label scores are corrected.
        texts: stretches of input and anchor, (first, end), that hold the fields' text and not the template's; None when
            unknown.
    """

    row: int
    input_ids: tuple[int, ...]
    anchor_ids: tuple[int, ...]
    candidates: Candidates | None = None
    label: int | None = None
    answer_ids: tuple[int, ...] | None = None
    slots: tuple[tuple[int, int], ...] = ()
    read: int | Literal["mean"] | None = None
    is_mask: bool = False
    shares: tuple[float, ...] | None = None
    marks: Marks | None = None
    part: int = 0
    allowed: Allowed | None = None
    source: Any = None
    blanks: "tuple[Encoded, ...]" = ()
    texts: tuple[tuple[int, int], ...] | None = None

    @property
    def has_target(self) -> bool:
        """Whether something can be learnt from it; a part of a row without the row's answer teaches nothing."""
        known = (self.label, self.shares, self.answer_ids, self.marks and self.marks.gold)
        return any(target is not None for target in known)

    @property
    def num_tokens(self) -> int:
        """Tokens of the row without any prompt."""
        return len(self.input_ids) + len(self.anchor_ids) + len(self.answer_ids or ())
