"""A row as the model reads it, its target, and replies to questions about it.

Shape letters: B rows, L length, P prompt length, D width, N layers, H key/value heads, K head width, V vocabulary,
M memory columns.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from itertools import chain, groupby
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    import torch

Reading = Literal["mask", "first", "mean"]


@dataclass(frozen=True, slots=True)
class Tokens:
    """A stretch of text."""

    ids: tuple[int, ...]

    @property
    def elements(self) -> tuple[int, ...]:
        """The elements, one for each position."""
        return self.ids

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, slots=True)
class Signal:
    """A stretch that is no text, such as an image.

    Args:
        modality: such as ``image``; the model's frontend of it makes vectors of the signal.
        key: digest of its bytes and of their preparation, so that equal keys mean equal content.
        length: its positions.
        load: returns its values: pixels [C, H, W], or samples [T].
        is_whole: in a decoder too its positions see each other both ways.
        grid: rows and columns of its positions, where the model places them by these; it then takes as many places
            among a row's positions as its longer side has.
    """

    modality: str
    key: str
    length: int
    load: "Callable[[], torch.Tensor]" = field(compare=False, repr=False)
    # Not shown: digests of rows are made of what is.
    is_whole: bool = field(default=False, repr=False)
    grid: tuple[int, int] | None = field(default=None, repr=False)

    @property
    def elements(self) -> "tuple[Patch, ...]":
        """The elements, one for each position."""
        return tuple(Patch(self, index) for index in range(self.length))

    def __len__(self) -> int:
        return self.length


@dataclass(frozen=True, slots=True)
class Patch:
    """One position of a signal."""

    signal: Signal
    index: int

    def __str__(self) -> str:
        return f"{self.signal.key}:{self.index}"


Segment = Tokens | Signal
Element = int | Patch
"""The element at one position: a token, or a part of a signal. Elements name content and serve as cache keys."""


@dataclass(frozen=True, slots=True)
class Candidates:
    """The label words of a task as tokens, shared by all its rows; or the texts that one row may choose from.

    Args:
        labels: the labels' names, in order.
        words: token ids of every word; each is non-empty.
        label_of: for each word, the index of its label.
        is_mean: a word's score is its log-likelihood per token, so that long ones are not at a disadvantage.
        is_own: they are one row's own, one word for each; scores are likelihoods over the vocabulary.
        is_of_tokens: they are compared at many tokens of a row: tags, and the ends of answers.
    """

    labels: tuple[str, ...]
    words: tuple[tuple[int, ...], ...]
    label_of: tuple[int, ...]
    is_mean: bool = False
    is_own: bool = False
    is_of_tokens: bool = False


class Allowed(Protocol):
    """The rule for the next token of an answer."""

    def __call__(self, tokens: Sequence[int], /) -> Sequence[int]:
        """Tokens that may follow an answer's tokens so far, the end token among them; empty where none may."""
        ...


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


@dataclass(frozen=True, slots=True)
class OneOf:
    """One of several labels, or a share of each, read at one place of the row.

    Args:
        candidates: the labels with their words.
        label: index of the right one; None when unknown.
        shares: a probability for each label instead of one right ``label``.
        read: the token that the label is read from, by its index into input and anchor, or the mean of them all; None
            for the last token, where decoders predict.
        is_mask: the token read is a mask, at which the model predicts a word.
        factor: how much the row counts in training, where labels have weights.
    """

    candidates: Candidates
    label: int | None = None
    shares: tuple[float, ...] | None = None
    read: int | Literal["mean"] | None = None
    is_mask: bool = False
    factor: float = 1.0

    @property
    def is_known(self) -> bool:
        """Whether something can be learnt from it."""
        return self.label is not None or self.shares is not None

    @property
    def weight(self) -> float:
        """The row's weight in a mean over rows."""
        return self.factor

    @property
    def num_tokens(self) -> int:
        """Tokens that are learnt behind the row; label words are none of them."""
        return 0

    @property
    def gold(self) -> tuple[int, ...]:
        """The right choice at each place where one is made."""
        return () if self.label is None else (self.label,)


@dataclass(frozen=True, slots=True)
class AtMarks:
    """Labels at several tokens of a row.

    Args:
        candidates: the labels with their words.
        marks: the tokens, and the right labels there.
    """

    candidates: Candidates
    marks: Marks

    @property
    def is_known(self) -> bool:
        """Whether something can be learnt from it; a part of a row without the row's answer teaches nothing."""
        return self.marks.gold is not None

    @property
    def weight(self) -> float:
        """The row's weight in a mean loss: its tokens where each has a label, else one."""
        return float(len(self.marks.at)) if self.marks.over == "labels" else 1.0

    @property
    def num_tokens(self) -> int:
        """Tokens that are learnt behind the row: none."""
        return 0

    @property
    def gold(self) -> tuple[int, ...]:
        """The right choice at each place where one is made; for labels that may all apply, whether each does."""
        gold = self.marks.gold or ()
        if self.marks.over == "each":
            return tuple(int(label in gold) for label in range(len(self.candidates.labels)))
        return gold if self.marks.at else ()


@dataclass(frozen=True, slots=True)
class Answer:
    """A text that is written behind the row.

    Args:
        ids: its tokens with the end token; None when unknown.
        allowed: the rule for tokens of a generated answer; None where any may follow.
    """

    ids: tuple[int, ...] | None = None
    allowed: Allowed | None = None

    @property
    def is_known(self) -> bool:
        """Whether something can be learnt from it."""
        return self.ids is not None

    @property
    def weight(self) -> float:
        """The row's weight in a mean loss: the answer's tokens."""
        return float(self.num_tokens)

    @property
    def num_tokens(self) -> int:
        """Tokens that are learnt behind the row."""
        return len(self.ids or ())

    @property
    def gold(self) -> tuple[int, ...]:
        """The right token at each place where one is predicted."""
        return self.ids or ()


Target = OneOf | AtMarks | Answer
"""The kind of label or answer that a row has, with the right one where it is known."""


@dataclass(frozen=True, slots=True)
class Written:
    """A generated answer.

    Args:
        text: without the end token, cut at a stop text.
        ids: its tokens, without the end token.
        log_likelihood: of the tokens, with the end token if it was written; not renormalised over allowed tokens.
        shares: log-probabilities of its tokens; none of a search over beams.
    """

    text: str
    ids: tuple[int, ...]
    log_likelihood: float
    shares: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Likelihood:
    """The likelihood of one word behind one row, over the whole vocabulary.

    Args:
        value: log-likelihood, summed over the word's tokens.
        is_greedy: each token is the likeliest at its place.
    """

    value: float
    is_greedy: bool


@dataclass(frozen=True, slots=True)
class ScoredToken:
    """A token of a text with its log-probability given those before it.

    Args:
        id: in the vocabulary.
        share: its log-probability; None for a row's first token, which nothing predicts.
        top: the likeliest tokens at its place with their log-probabilities.
    """

    id: int
    share: float | None
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Prediction:
    """The model's prediction for one row.

    Args:
        text: the label, or the answer, for people.
        shares: probabilities of the labels, in the labels' order; None where there are none.
        answer: the value that is compared with the right answer, if it is not the text.
        score: the model's confidence in it, to choose between parts of one row.
        labels: the labels of `shares`: the task's, or a row's own choices.
        confidence: probability of the one label that was chosen; None where the answer is not one label.
        label_set: a conformal set of labels, likeliest first, where sets were requested.
        is_withheld: whether the answer is withheld because it may be wrong too often; None without such a limit.
        span: first and end character of the answer in its field, if it is a piece of it.
        span_scores: the model's confidence in each span of an answer, from 0 to 1.
    """

    text: str
    shares: tuple[float, ...] | None = None
    answer: Hashable = None
    score: float = 0.0
    labels: tuple[str, ...] = ()
    confidence: float | None = None
    label_set: tuple[str, ...] | None = None
    is_withheld: bool | None = None
    span: tuple[int, int] | None = None
    span_scores: tuple[float, ...] = ()

    @property
    def label(self) -> str | None:
        """The label that was chosen; None where the answer is not one label."""
        return None if self.confidence is None else self.text

    @property
    def probabilities(self) -> dict[str, float] | None:
        """Probabilities by label; None where there are none."""
        return None if self.shares is None else dict(zip(self.labels, self.shares, strict=True))

    def __repr__(self) -> str:
        answer = self.text if self.answer is None or isinstance(self.answer, str) else self.answer
        confidence = "" if self.confidence is None else f", confidence={self.confidence:.3f}"
        return f"Prediction({answer!r}{confidence})"

    @property
    def said(self) -> Hashable:
        """The value that metrics compare with the right answer."""
        return self.text if self.answer is None else self.answer


@dataclass(frozen=True, slots=True)
class Encoded:
    """One row as the model reads it, cut where a prompt may enter.

    The model reads ``input`` then ``anchor``. A prompt stands before the input or between the two.

    Args:
        row: the row's number in its split, from 0.
        input: the segments that depend on the row; may be kept as memory. May be empty.
        anchor: the constant end of the template; at least one token, so that something is live.
        target: the kind of label or answer; free text by default.
        slots: places of the prompt in the template: (index into input and anchor, number of vectors).
        part: number of this part among those of its row, from 0; long rows are read in several.
        source: data with which the task's kind reads the model's reply; only the kind uses it.
        blanks: the same row without its content, by which its label scores are calibrated.
        texts: stretches of input and anchor, (first, end), that hold the fields' text and not the template's; None when
            unknown.
        start: an encoder-decoder's start tokens, if other than the model's own: language and task.
    """

    row: int
    input: tuple[Segment, ...]
    anchor: tuple[Segment, ...]
    target: Target = Answer()
    slots: tuple[tuple[int, int], ...] = ()
    part: int = 0
    source: Any = None
    blanks: "tuple[Encoded, ...]" = ()
    texts: tuple[tuple[int, int], ...] | None = None
    start: tuple[int, ...] = ()

    @classmethod
    def of_ids(
        cls, row: int, input_ids: Sequence[int], anchor_ids: Sequence[int], target: Target = Answer(), **others: Any
    ) -> "Encoded":
        """A row of text from its tokens; the other fields by name."""
        return cls(row, (Tokens(tuple(input_ids)),), (Tokens(tuple(anchor_ids)),), target, **others)

    @property
    def input_ids(self) -> tuple[int, ...]:
        """Tokens of the input.

        Raises:
            TypeError: a part of it is no text.
        """
        return _ids(self.input)

    @property
    def anchor_ids(self) -> tuple[int, ...]:
        """Tokens of the anchor.

        Raises:
            TypeError: a part of it is no text.
        """
        return _ids(self.anchor)

    @property
    def input_elements(self) -> tuple[Element, ...]:
        """The elements of the input, one for each position."""
        return _elements(self.input)

    @property
    def anchor_elements(self) -> tuple[Element, ...]:
        """The elements of the anchor, one for each position."""
        return _elements(self.anchor)

    @property
    def num_input(self) -> int:
        """Positions of the input."""
        return sum(map(len, self.input))

    @property
    def num_text(self) -> int:
        """Positions of input and anchor."""
        return sum(map(len, self.input)) + sum(map(len, self.anchor))

    @property
    def num_tokens(self) -> int:
        """Positions of the row without any prompt, its answer's among them."""
        return self.num_text + self.target.num_tokens

    @property
    def label(self) -> int | None:
        """Index of the one right label; None where it is unknown, or the target another."""
        return self.target.label if isinstance(self.target, OneOf) else None

    @property
    def answer_ids(self) -> tuple[int, ...] | None:
        """Tokens of the answer; None where it is unknown, or the target another."""
        return self.target.ids if isinstance(self.target, Answer) else None


def segments_of(elements: Sequence[Element]) -> tuple[Segment, ...]:
    """Elements as segments, at least one: neighbouring tokens are one, and the parts of a signal are the signal."""
    segments: list[Segment] = []
    for is_text, stretch in groupby(elements, lambda element: isinstance(element, int)):
        if is_text:
            segments.append(Tokens(tuple(stretch)))  # type: ignore[arg-type]
        else:
            segments += [element.signal for element in stretch if isinstance(element, Patch) and element.index == 0]
    return tuple(segments) or (Tokens(()),)


def text_ids(elements: Sequence[Element]) -> tuple[int, ...]:
    """Elements as the tokens that they are.

    Raises:
        TypeError: one is part of a signal.
    """
    return _ids(segments_of(elements))


def _elements(segments: tuple[Segment, ...]) -> tuple[Element, ...]:
    if len(segments) == 1:
        return segments[0].elements
    return tuple(chain.from_iterable(segment.elements for segment in segments))


def _ids(segments: tuple[Segment, ...]) -> tuple[int, ...]:
    signals = [segment.key for segment in segments if isinstance(segment, Signal)]
    if signals:
        raise TypeError(f"signal {signals[0]} has no tokens")
    return _elements(segments)  # type: ignore[return-value]
