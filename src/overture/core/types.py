"""What passes between layers.

Shape letters: B rows, L length, P prompt length, D width, N layers, H key/value heads, K head width, V vocabulary,
M memory columns.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    import torch

Place = Literal["before", "after", "memory"]


@dataclass(frozen=True, slots=True)
class Candidates:
    """The label words of a task as tokens, shared by all its rows.

    Args:
        labels: the labels' names, in order.
        words: token ids of every word; each is non-empty.
        label_of: for each word, the index of its label.
    """

    labels: tuple[str, ...]
    words: tuple[tuple[int, ...], ...]
    label_of: tuple[int, ...]


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
    """

    row: int
    input_ids: tuple[int, ...]
    anchor_ids: tuple[int, ...]
    candidates: Candidates | None = None
    label: int | None = None
    answer_ids: tuple[int, ...] | None = None

    @property
    def num_tokens(self) -> int:
        """Tokens of the row without any prompt."""
        return len(self.input_ids) + len(self.anchor_ids) + len(self.answer_ids or ())


class TextTokenizer(Protocol):
    """What the data layer needs of a tokenizer; the engine's backbone provides it."""

    def encode_plain(self, text: str) -> list[int]:
        """Tokens of text in which special tokens' spellings are only text."""
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
    """

    keys: "torch.Tensor"
    values: "torch.Tensor"

    @property
    def length(self) -> int:
        """Columns, P."""
        return int(self.keys.shape[2])


@dataclass(frozen=True, slots=True)
class Vectors:
    """Prompt vectors among the live tokens: [P, D], at `before` or `after`."""

    values: "torch.Tensor"
    place: Place

    @property
    def length(self) -> int:
        """Prompt length, P."""
        return int(self.values.shape[0])


@dataclass(frozen=True, slots=True)
class Memory:
    """Prompt memory: at `memory` it stands before the text, at `after` between input and anchor."""

    memory: LayerMemory
    place: Place

    @property
    def length(self) -> int:
        """Prompt length, P."""
        return self.memory.length


Injection = Vectors | Memory


class PromptMethod(Protocol):
    """How a prompt's values are parameterised. One file per method; the registry names them."""

    def injection(self) -> Injection:
        """The prompt's values, differentiable."""
        ...

    def trainable(self) -> dict[str, "torch.Tensor"]:
        """What gradient descent may change, by name."""
        ...


class Trainee(Protocol):
    """What the training loop needs; prompted models, LoRA and full fine-tuning meet it alike."""

    def loss(self, rows: Sequence[Encoded]) -> "torch.Tensor":
        """Sum of the rows' losses, a scalar that can be differentiated."""
        ...

    def weight(self, rows: Sequence[Encoded]) -> float:
        """What the sum is divided by: rows for labels, answer tokens for free text."""
        ...

    def trainable(self) -> dict[str, "torch.Tensor"]:
        """What gradient descent changes, by name."""
        ...


class Scorer(Protocol):
    """What evaluation needs of a model."""

    def loss(self, rows: Sequence[Encoded]) -> "torch.Tensor":
        """As `Trainee.loss`."""
        ...

    def weight(self, rows: Sequence[Encoded]) -> float:
        """As `Trainee.weight`."""
        ...

    def label_scores(self, rows: Sequence[Encoded]) -> "torch.Tensor":
        """Log-probabilities of the labels, [B, labels], normalised over them."""
        ...

    def generate(self, rows: Sequence[Encoded], max_new_tokens: int, stop: Sequence[str]) -> list[str]:
        """Greedy answers."""
        ...
