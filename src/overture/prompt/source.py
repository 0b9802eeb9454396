"""Facts and look-ups of the frozen model that a prompt method needs; `evaluate.source` makes them of a backbone."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any, Protocol

from torch import Tensor

from overture.core.errors import ConfigError
from overture.core.injection import Injection, LayerMemory, Place, ReadAt
from overture.core.rows import Candidates, Encoded


class Captions(Protocol):
    """The tower of texts of a model that compares images with texts; `engine.captions` has the maths."""

    @property
    def scale(self) -> Tensor:
        """The factor on cosines, []."""
        ...

    @property
    def width(self) -> int:
        """Width of the common space, E."""
        ...

    @property
    def begin_ids(self) -> tuple[int, ...]:
        """Tokens that every caption begins with."""
        ...

    @property
    def end_ids(self) -> tuple[int, ...]:
        """Tokens that every caption ends with."""
        ...

    def encode(self, text: str) -> list[int]:
        """Tokens of a piece of a caption."""
        ...

    def embed(self, ids: Sequence[int]) -> Tensor:
        """Vectors of tokens, [n, D]."""
        ...

    def features(self, trunk: Tensor, branches: Sequence[Tensor], deep: Tensor | None = None) -> Tensor:
        """Captions with a common beginning [T, D], and what follows it in each, in the common space, [C, E]."""
        ...


def no_prompts(ref: str) -> Injection:
    """Refuse to look up a stored prompt, where there is no store."""
    raise ConfigError("there is no store to look a prompt up in", where="prompt", got=ref)


def no_rows(*args: object) -> Any:
    """Refuse to start from training rows, where there are none."""
    raise ConfigError("there are no training rows to start from", where="prompt.init", fix="--set prompt.init=random")


@dataclass(frozen=True, slots=True)
class PromptSource:
    """Facts and look-ups of the frozen model.

    Args:
        hidden_size: width of a token vector, D.
        embedding_norm: mean length of a vocabulary vector.
        embed: token ids to vectors, [n, D].
        memory_of: vectors [P, D] to the keys and values they have in every layer.
        encode: text to token ids.
        sample: vectors of common tokens, [n, D], by a random number generator.
        num_layers: N.
        num_heads: key/value heads, H.
        head_dim: K.
        memory_of_layers: vectors for every layer [N, P, D] to the keys and values that they have there.
        head_rows: token ids to the head's vectors, [n, D].
        candidates: the task's label words; None for free text.
        examples: training rows, for methods that start from labelled examples.
        prompt: looks up a stored prompt by name, for methods and starts that build on others.
        null_id: the token that ends texts; None where the model has none.
        bos_ids: the start tokens that the model expects in front of any text; the examples begin with them.
        predicts_words: whether the model predicts label words where the task reads.
        has_words: whether the model reads words at all; models of images or sounds alone do not.
        states: a number of positions of training rows as they enter each layer, float32 [N, n, D], by a random number
            generator.
        probe: weight [C, D] and bias [C] of a linear probe of the training rows, by where it reads them; on their last
            states when None.
        encoder: the same of an encoder-decoder's encoder; then these are the decoder's.
        captions: the tower of texts of a model that compares images with texts; None in other models.
        texts: the facts of that tower.
        modalities: of the model's input.
        label_texts: the words of each label, as captions have them.
    """

    hidden_size: int
    embedding_norm: float
    embed: Callable[[Sequence[int]], Tensor]
    memory_of: Callable[[Tensor], LayerMemory]
    encode: Callable[[str], list[int]]
    sample: Callable[[int, Random], Tensor]
    num_layers: int
    num_heads: int
    head_dim: int
    memory_of_layers: Callable[[Tensor], LayerMemory]
    head_rows: Callable[[Sequence[int]], Tensor]
    candidates: Candidates | None = None
    examples: Sequence[Encoded] = ()
    prompt: Callable[[str], Injection] = no_prompts
    null_id: int | None = None
    bos_ids: tuple[int, ...] = ()
    predicts_words: bool = True
    has_words: bool = True
    states: Callable[[int, Random], Tensor] = no_rows
    probe: Callable[[ReadAt | None], tuple[Tensor, Tensor]] = no_rows
    encoder: "PromptSource | None" = None
    captions: Captions | None = None
    texts: "PromptSource | None" = None
    modalities: frozenset[str] = frozenset({"text"})
    label_texts: tuple[str, ...] = ()

    def lowest(self, num_layers: int) -> "PromptSource":
        """The facts of the lowest layers, for a prompt whose labels are read below the others."""
        if num_layers == self.num_layers:
            return self
        return replace(
            self,
            num_layers=num_layers,
            memory_of=lambda vectors: self.memory_of(vectors).lowest(num_layers),
            states=lambda count, random: self.states(count, random)[:num_layers],
        )

    def at(self, place: Place) -> "PromptSource":
        """The facts of the layers that a prompt at a place enters."""
        return self.encoder if self.encoder and place != "after" else self
