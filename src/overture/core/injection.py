"""Everything that a prompt adds to the frozen model, as one closed record.

Shape letters: B rows, L length, P prompt length, D width, N layers, H key/value heads, K head width, V vocabulary,
M memory columns.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch

Place = Literal["before", "after", "memory", "slots", "around"]


Kind = Literal["decoder", "encoder", "encoder-decoder"]


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
class VectorTarget:
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
    targets: tuple[VectorTarget, ...] = ()
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
