"""What rooms ask of each other: tokenizers, methods, trainees, scorers.

Shape letters: B rows, D width.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from overture.core.decoding import GREEDY, Decoding
from overture.core.injection import Injection
from overture.core.rows import Encoded, Written

if TYPE_CHECKING:
    import torch


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
