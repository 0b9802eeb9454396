"""Contracts between rooms: tokenizers, methods, trainees, questions to a model and their answerers.

Shape letters: B rows, D width, C labels, n marks of a row, R places of a row at which something is predicted.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, ClassVar, Generic, Protocol, TypeVar, runtime_checkable

from overture.core.decoding import GREEDY, Decoding
from overture.core.errors import OvertureError
from overture.core.injection import Injection
from overture.core.media import Media
from overture.core.records.base import Record
from overture.core.records.events import Listener
from overture.core.rows import Encoded, Likelihood, Reading, ScoredToken, Segment, Written

if TYPE_CHECKING:
    import torch

    from overture.core.capabilities import Capabilities

T = TypeVar("T")


class TextTokenizer(Protocol):
    """A tokenizer as the data room needs it; the engine's backbone provides one."""

    def encode_plain(self, text: str) -> list[int]:
        """Tokens of text in which special tokens' spellings are only text."""
        ...

    def offsets(self, text: str) -> list[tuple[int, int, int]]:
        """As `encode_plain`, with where each token stands in the text: (token, first character, end)."""
        ...

    def segments(self, media: Media) -> Sequence[Segment]:
        """An image or a sound as the model reads it.

        Raises:
            BackboneError: the model reads no such input.
            DataError: it does not fit the model, such as a sound that is too long.
        """
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
    def has_words(self) -> bool:
        """Whether the model reads texts at all; models of images or of sounds alone do not."""
        ...

    @property
    def reading(self) -> Reading:
        """Where an encoder's label is read if the task does not say."""
        ...

    @property
    def start_ids(self) -> tuple[int, ...]:
        """The start tokens of a decoder that reads an encoder's output; none for models of one stack."""
        ...

    def speech_start(self, language: str, is_translated: bool) -> tuple[int, ...]:
        """The start tokens of a decoder that writes down sounds, in a language and for a task.

        Raises:
            DataError: the model has no choice of them, or not this language.
        """
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
    """A parameterisation of a prompt's values; each method has a file of its own."""

    def injection(self) -> Injection:
        """The prompt's values, differentiable."""
        ...

    def rates(self) -> dict[str, float]:
        """Factors on the learning rate, by name; 1 where none is given."""
        ...

    def trainable(self) -> dict[str, "torch.Tensor"]:
        """The trainable values by name."""
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
        """The trainable values by name."""
        ...


class Trainee(Protocol):
    """A model as the training loop needs it: prompted models, LoRA and full fine-tuning."""

    def rates(self) -> dict[str, float]:
        """Factors on the learning rate, by name; 1 where none is given."""
        ...

    def loss(self, rows: Sequence[Encoded]) -> "torch.Tensor":
        """Sum of the rows' losses, a scalar that can be differentiated."""
        ...

    def weight(self, rows: Sequence[Encoded]) -> float:
        """The divisor of the summed losses; by default the sum of the targets' weights."""
        ...

    def trainable(self) -> dict[str, "torch.Tensor"]:
        """The trainable values by name."""
        ...


class Trainees(Protocol):
    """Several trainees, by number, of which some can share forward passes."""

    def groups(self, batches: Mapping[int, Sequence[Encoded]]) -> list[list[int]]:
        """The members whose batches can share forward passes."""
        ...

    def losses(self, batches: Mapping[int, Sequence[Encoded]]) -> Mapping[int, "torch.Tensor"]:
        """As `Trainee.loss`, of each member of one group."""
        ...


class Reducer(Protocol):
    """Sums and agreements of the processes that train one prompt together, each on its share of every batch."""

    rank: int
    """The number of this process's share, from 0."""
    size: int
    """How many shares there are."""
    is_first: bool
    """Whether this is the process that writes checkpoints."""
    is_lockstep: bool
    """Whether all processes must run as many forward passes as each other."""

    def sum(self, values: Sequence["torch.Tensor"]) -> None:
        """Replace each value by its sum over the shares, in place; called between backward and clipping.

        Args:
            values: as many, of the same shapes and in the same order, in every process.
        """
        ...

    def most(self, value: float) -> float:
        """The largest of all processes' values."""
        ...

    def from_first(self, values: Sequence[float]) -> list[float]:
        """The first process's values; all processes have as many."""
        ...


# -- questions about rows


class Question(Generic[T]):
    """A question about each row; T is one row's reply. Questions are frozen records and compare by value."""

    has_gradient: ClassVar[bool] = False
    """Whether replies can be differentiated; for other questions a prompt has its finished values."""


@dataclass(frozen=True, slots=True)
class Losses(Question["torch.Tensor"]):
    """Negative log-likelihood of a row's right label or answer, a scalar; differentiable where gradients are recorded.

    Args:
        with_vector_targets: adds the prompt's own terms of the loss, such as the targets of its vectors.
    """

    with_vector_targets: bool = True
    has_gradient: ClassVar[bool] = True


@dataclass(frozen=True, slots=True)
class LabelScores(Question["torch.Tensor"]):
    """Log-probabilities of the labels, [C], on the CPU; a label's probability is the sum over its words."""


@dataclass(frozen=True, slots=True)
class MarkScores(Question["torch.Tensor"]):
    """Logits of the labels at a row's marks, [n, C], on the CPU."""


@dataclass(frozen=True, slots=True)
class Likelihoods(Question[list[Likelihood]]):
    """Log-likelihoods over the vocabulary of a row's candidate words, in order; rows may have different ones."""


@dataclass(frozen=True, slots=True)
class TokenShares(Question[list[ScoredToken]]):
    """A row's own tokens with their log-probabilities, and behind them the likeliest token that would follow.

    Args:
        num_top: how many of the likeliest tokens are listed at each place.
    """

    num_top: int = 0


@dataclass(frozen=True, slots=True)
class Answers(Question[Written]):
    """A written answer of tokens that the row allows; the row's right answer is ignored.

    Args:
        max_new_tokens: the largest number of tokens; the end token or a stop text may end the answer before.
        stop: the answer ends before the first of these texts.
        decoding: greedy, by chance, or beam search.
    """

    max_new_tokens: int
    stop: tuple[str, ...] = ()
    decoding: Decoding = GREEDY


@dataclass(frozen=True, slots=True)
class Continuations(Question[list[int]]):
    """Greedy tokens behind a row, the end token left out.

    Args:
        max_new_tokens: the largest number of tokens.
        is_done: takes a row's tokens so far; whether the answer ends with them.
    """

    max_new_tokens: int
    is_done: Callable[[Sequence[int]], bool]


@dataclass(frozen=True, slots=True)
class Features(Question["torch.Tensor"]):
    """The hidden state of the last layer that a label is read from, [D].

    Args:
        is_mean: the mean over the row's tokens instead.
    """

    is_mean: bool = False


@dataclass(frozen=True, slots=True)
class Readout:
    """A model's predictions at the positions of a row that enter the loss.

    Args:
        hidden: the last hidden states there, [R, D].
        scores: log-probabilities of the labels there, [R, C]; None for free text, where the head computes them.
    """

    hidden: "torch.Tensor"
    scores: "torch.Tensor | None" = None

    def kept(self) -> "Readout":
        """A constant copy. A frozen head can compute the logits again, so it holds D numbers a token and not V."""
        scores = None if self.scores is None else self.scores.detach().clone()
        return Readout(self.hidden.detach().clone(), scores)


@dataclass(frozen=True, slots=True)
class Readouts(Question[Readout]):
    """States and scores where predictions count, differentiable; distillation compares them."""

    has_gradient: ClassVar[bool] = True


# -- answerers and their parts


class Frontend(Protocol):
    """The entry of one modality into a model."""

    @property
    def fingerprint(self) -> str:
        """Of all that decides which segments a value becomes."""
        ...

    @property
    def modalities(self) -> frozenset[str]:
        """The modalities that it reads."""
        ...

    def segments(self, value: object) -> Sequence[Segment]:
        """The segments of a value, such as a text."""
        ...

    def enter(self, segments: Sequence[Segment]) -> "torch.Tensor":
        """Vectors as the first layer gets them, one for each position, [L, D]."""
        ...

    def sample(self, num: int, random: Random) -> "torch.Tensor":
        """Vectors that prompts may start from, [num, D]."""
        ...


class Answerer(Protocol):
    """Answers questions about rows, each under a prompt of its own or none."""

    @property
    def capabilities(self) -> "Capabilities":
        """Its capabilities."""
        ...

    def ask(self, pairs: "Sequence[tuple[Encoded, Injection | None]]", question: Question[T]) -> list[T]:
        """A reply for each pair, in order.

        Raises:
            BackboneError: the model cannot answer such rows under such prompts.
        """
        ...


class Scorer(Protocol):
    """A model under its own prompt or prompts, as evaluation needs it."""

    def ask(self, rows: Sequence[Encoded], question: Question[T]) -> list[T]:
        """A reply for each row, in order."""
        ...


@dataclass(frozen=True, slots=True)
class Slopes:
    """The gradient of rows' summed loss by the vectors that enter the first layer.

    Args:
        prompt: by the prompt's vectors, [P, D].
        text: by each token of a row's input and anchor, [B, L, D]; zero behind a row's last token.
    """

    prompt: "torch.Tensor"
    text: "torch.Tensor"


class Judge(Protocol):
    """Scores several prompts on the same rows, for searches and explanations."""

    def losses(self, prompts: Sequence[Injection | None], rows: Sequence[Encoded]) -> "torch.Tensor":
        """Each row's loss under each prompt, [J, B]."""
        ...

    def scores(self, prompts: Sequence[Injection | None], rows: Sequence[Encoded]) -> "torch.Tensor":
        """Log-probabilities of the labels of each row under each prompt, [J, B, C]."""
        ...

    def slopes(self, prompt: Injection | None, rows: Sequence[Encoded]) -> Slopes:
        """Gradients of the loss by the embeddings of the prompt and of the texts."""
        ...


# -- jobs


Job = TypeVar("Job", bound=Record)
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Done(Generic[Job, Result]):
    """The outcome of one job: a result or an error.

    Args:
        job: the job.
        seconds: wall time that it took.
        result: what it returned; None where it failed.
        error: why it failed.
    """

    job: Job
    seconds: float
    result: Result | None = None
    error: OvertureError | None = None

    def checked(self) -> Result:
        """The result.

        Raises:
            OvertureError: the job failed.
        """
        if self.error:
            raise self.error
        assert self.result is not None
        return self.result


class Executor(Protocol[Job, Result]):
    """Runs jobs that may run elsewhere: a job is a record that can be serialised, with everything that it needs."""

    def map(self, jobs: Iterable[Job], on_event: Listener) -> Iterator[Done[Job, Result]]:
        """The outcomes in the order of the jobs; a job that fails is one failed `Done` and not the end.

        Args:
            jobs: taken one by one as there is room for them, so that later jobs may depend on earlier outcomes.
            on_event: called with the jobs' events.

        Raises:
            Stopped: a stop was asked for between two jobs or within one.
        """
        ...
