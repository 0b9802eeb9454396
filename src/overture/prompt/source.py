"""What a prompt method may ask of the model it is made for; the engine's backbone is handed in as this."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from overture.core.types import Candidates, LayerMemory


@dataclass(frozen=True, slots=True)
class PromptSource:
    """Facts and look-ups of the frozen model.

    Args:
        hidden_size: width of a token vector, D.
        embedding_norm: mean length of a vocabulary vector.
        embed: token ids to vectors, [n, D].
        memory_of: vectors [P, D] to the keys and values they have in every layer.
        encode: text to token ids.
        text_ids: token ids that are text, most frequent first.
        candidates: the task's label words, for `labels` initialisation.
    """

    hidden_size: int
    embedding_norm: float
    embed: Callable[[Sequence[int]], Tensor]
    memory_of: Callable[[Tensor], LayerMemory]
    encode: Callable[[str], list[int]]
    text_ids: Sequence[int]
    candidates: Candidates | None = None
