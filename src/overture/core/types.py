"""What passes between layers.

Shape letters: B rows, L length, P prompt length, D width, N layers, H key/value heads, K head width, V vocabulary,
M memory columns.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from overture.core.decoding import GREEDY, Decoding

if TYPE_CHECKING:
    import torch

Place = Literal["before", "after", "memory", "slots", "around"]
Reading = Literal["mask", "first", "mean"]
Kind = Literal["decoder", "encoder", "encoder-decoder"]


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


class TextTokenizer(Protocol):
    """What the data layer needs of a tokenizer; the engine's backbone provides it."""

    def encode_plain(self, text: str) -> list[int]:
        """Tokens of text in which special tokens' spellings are only text."""
        ...

    def offsets(self, text: str) -> list[tuple[int, int, int]]:
        """As `encode_plain`, with where each token stands in the text: (token, first character, end)."""
        ...

    def encode_template(self, text: str) -> list[int]:
        """Tokens of text written by the task's author: special tokens are recognised."""
        ...

    def split_specials(self, text: str) -> list[tuple[str, bool]]:
        """The text cut at special tokens: (piece, is it a special token)."""
        ...

    def chat(self, messages: Sequence[dict[str, str]]) -> str:
        """The model's chat template over messages, ending where the assistant speaks."""
        ...

    @property
    def bos_ids(self) -> tuple[int, ...]:
        """Tokens that the model expects before any text; often none."""
        ...

    @property
    def end_ids(self) -> tuple[int, ...]:
        """Tokens that the model expects behind any text; none for decoders."""
        ...

    @property
    def mask_ids(self) -> tuple[int, ...]:
        """The token in whose place the model predicts another; none for decoders."""
        ...

    @property
    def is_encoder(self) -> bool:
        """Whether the model reads in both directions and writes nothing."""
        ...

    @property
    def start_ids(self) -> tuple[int, ...]:
        """What a decoder that reads an encoder's output begins with; none where one stack reads and writes."""
        ...

    @property
    def eos_id(self) -> int | None:
        """The token that ends an answer."""
        ...

    @property
    def max_length(self) -> int:
        """The model's context, in tokens."""
        ...


@dataclass(frozen=True, slots=True)
class LayerMemory:
    """Keys and values per layer, as attention sees them.

    Args:
        keys: [N, H, P, K].
        values: [N, H, P, K].
        weights: factors from 0 to 1 on the attention that each column gets, [N, P]; 1 when None. At 0 a column is
            as if it were not there.
    """

    keys: "torch.Tensor"
    values: "torch.Tensor"
    weights: "torch.Tensor | None" = None

    @property
    def length(self) -> int:
        """Columns, P."""
        return int(self.keys.shape[2])


@dataclass(frozen=True, slots=True)
class Target:
    """A token that a prompt vector must predict, beside the rows' own losses.

    Args:
        index: of the vector whose output predicts, from 0.
        token: what it must predict.
        weight: of this term, for each row.
    """

    index: int
    token: int
    weight: float


@dataclass(frozen=True, slots=True)
class Vectors:
    """Prompt vectors among the live tokens.

    Args:
        values: [P, D].
        place: `before` the text, `after` the input, in the template's own `slots`, or `around` the input.
        layer: the first layer that sees them; below it the text runs alone.
        targets: what the vectors themselves must predict in training; only at `before`.
        split: at `around`, 1 at the number of vectors that stand before the text and 0 elsewhere, [P + 1]; the others
            stand after the input. Its gradient says what moving the split would do.
    """

    values: "torch.Tensor"
    place: Place
    layer: int = 0
    targets: tuple[Target, ...] = ()
    split: "torch.Tensor | None" = None

    def __post_init__(self) -> None:
        if (self.place == "around") != (self.split is not None):
            raise ValueError("vectors around the input, and only those, are split")

    @property
    def length(self) -> int:
        """Prompt length, P."""
        return int(self.values.shape[0])

    @property
    def num_before(self) -> int:
        """How many of vectors `around` the input stand before the text."""
        assert self.split is not None
        return int(self.split.argmax())


@dataclass(frozen=True, slots=True)
class Memory:
    """Prompt memory: at `memory` it stands before the text, at `after` between input and anchor."""

    memory: LayerMemory
    place: Place

    @property
    def length(self) -> int:
        """Prompt length, P."""
        return self.memory.length


@dataclass(frozen=True, slots=True)
class LabelHead:
    """A classifier's own map before its label vectors: tanh(W h + b), h at the very first live token.

    Args:
        weight: W, [D, D].
        bias: b, [D].
        label_bias: added to the labels' scores, [C].
    """

    weight: "torch.Tensor"
    bias: "torch.Tensor"
    label_bias: "torch.Tensor"


@dataclass(frozen=True, slots=True)
class Injection:
    """Everything that a prompt adds to the frozen model; the engine consumes it without knowing the method.

    Args:
        vectors: among the live tokens.
        memory: columns that live tokens attend to.
        labels: one vector for each label, [C, D], instead of the label words' rows of the head.
        offset: added to the embeddings of the row's first S tokens, [S, D]; the prompt's own are not counted.
        head: what stands before the label vectors instead of the model's own head; only together with them.
    """

    vectors: Vectors | None = None
    memory: Memory | None = None
    labels: "torch.Tensor | None" = None
    offset: "torch.Tensor | None" = None
    head: LabelHead | None = None

    def __post_init__(self) -> None:
        if self.layer and (self.memory or self.offset is not None):
            raise ValueError("vectors at a late layer stand alone: below it the text must run as it is")
        if self.memory and self.memory.place == "after" and not self.leaves_input:
            raise ValueError("a memory after the input needs the input's own keys and values")

    @property
    def length(self) -> int:
        """Prompt length, P: vectors and columns."""
        return sum(part.length for part in (self.vectors, self.memory) if part)

    @property
    def layer(self) -> int:
        """The first layer that the prompt changes."""
        return self.vectors.layer if self.vectors else 0

    @property
    def places(self) -> set[Place]:
        """Where its parts stand."""
        return {part.place for part in (self.vectors, self.memory) if part}

    @property
    def leaves_input(self) -> bool:
        """Whether the input's keys and values are the model's own, so that they can be kept."""
        return self.places <= {"after"} and self.offset is None and self.layer == 0


@runtime_checkable
class PromptMethod(Protocol):
    """How a prompt's values are parameterised. One file per method; the registry names them."""

    def injection(self) -> Injection:
        """The prompt's values, differentiable."""
        ...

    def rates(self) -> dict[str, float]:
        """Factors on the learning rate, by name; 1 where none is given."""
        ...

    def trainable(self) -> dict[str, "torch.Tensor"]:
        """What gradient descent may change, by name."""
        ...


@runtime_checkable
class RowMethod(Protocol):
    """A method whose prompt depends on the row: its values do, its parts and where they stand do not."""

    def injections(self, features: "torch.Tensor") -> Sequence[Injection]:
        """A prompt for each row from its features [B, D]: the mean of its tokens' vectors, prompt not counted."""
        ...

    def rates(self) -> dict[str, float]:
        """Factors on the learning rate, by name; 1 where none is given."""
        ...

    def trainable(self) -> dict[str, "torch.Tensor"]:
        """What gradient descent may change, by name."""
        ...


class Trainee(Protocol):
    """What the training loop needs; prompted models, LoRA and full fine-tuning meet it alike."""

    def rates(self) -> dict[str, float]:
        """Factors on the learning rate, by name; 1 where none is given."""
        ...

    def loss(self, rows: Sequence[Encoded]) -> "torch.Tensor":
        """Sum of the rows' losses, a scalar that can be differentiated."""
        ...

    def weight(self, rows: Sequence[Encoded]) -> float:
        """What the sum is divided by: rows for labels, answer tokens for free text."""
        ...

    def trainable(self) -> dict[str, "torch.Tensor"]:
        """What gradient descent changes, by name."""
        ...


class Trainees(Protocol):
    """Several trainees, by number, of which some can share forward passes."""

    def groups(self, batches: Mapping[int, Sequence[Encoded]]) -> list[list[int]]:
        """The members whose batches can share forward passes."""
        ...

    def losses(self, batches: Mapping[int, Sequence[Encoded]]) -> Mapping[int, "torch.Tensor"]:
        """As `Trainee.loss`, of each member of one group."""
        ...

    def expect(self, batches: Mapping[int, Sequence[Encoded]]) -> None:
        """What `losses` will be asked next: it may be prepared while the device is busy. May be empty, may not come."""
        ...


class Scorer(Protocol):
    """What evaluation needs of a model."""

    def log_loss(self, rows: Sequence[Encoded]) -> "torch.Tensor":
        """Sum of the rows' negative log-likelihoods, a scalar."""
        ...

    def weight(self, rows: Sequence[Encoded]) -> float:
        """As `Trainee.weight`."""
        ...

    def label_scores(self, rows: Sequence[Encoded]) -> "torch.Tensor":
        """Log-probabilities of the labels, [B, labels], normalised over them; -inf for those that a row lacks."""
        ...

    def mark_scores(self, rows: Sequence[Encoded]) -> "list[torch.Tensor]":
        """Logits of the labels at each row's marks, [n, labels]."""
        ...

    def generate(self, rows: Sequence[Encoded], max_new_tokens: int, stop: Sequence[str]) -> list[str]:
        """Greedy answers."""
        ...

    def answer(
        self, rows: Sequence[Encoded], max_new_tokens: int, stop: Sequence[str], decoding: Decoding = GREEDY
    ) -> list[Written]:
        """Answers by any decoding, within what each row allows."""
        ...
