"""Everything that a prompt adds to the frozen model, as one closed record of parts.

A part is one class here and one field of `Injection`. It names its tensors in ``stored``; moving, detaching, storing
and reading an injection follow from the fields.

Shape letters: B rows, L length, P prompt length, D width, N layers, H key/value heads, K head width, V vocabulary,
M memory columns.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

if TYPE_CHECKING:
    import torch

Place = Literal["before", "after", "memory", "slots", "around"]
Pooled = Literal["read", "mean", "read+mean"]
ModelKind = Literal["decoder", "encoder", "encoder-decoder"]
"""How a model's stacks attend; it decides which places a prompt may enter at."""


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
    stored: ClassVar[Mapping[str, str]] = {"keys": "keys", "values": "values", "weights": "weights"}

    @property
    def length(self) -> int:
        """Columns, P."""
        return int(self.keys.shape[2])

    def map(self, change: "Callable[[torch.Tensor], torch.Tensor]") -> "LayerMemory":
        """The same memory with each tensor replaced by a function of it."""
        return _with_changed_tensors(self, change)

    def lowest(self, num_layers: int) -> "LayerMemory":
        """The memory of the lowest layers alone."""
        return self.map(lambda values: values[:num_layers])


@dataclass(frozen=True, slots=True)
class VectorTarget:
    """A token that a prompt vector must predict; its loss is added to each row's.

    Args:
        index: of the vector whose output predicts, from 0.
        token: the token to predict.
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
        targets: tokens that the vectors themselves must predict in training; only at `before`.
        split: at `around`, 1 at the number of vectors that stand before the text and 0 elsewhere, [P + 1]; the others
            stand after the input. Its gradient says what moving the split would do.
    """

    values: "torch.Tensor"
    place: Place
    layer: int = 0
    targets: tuple[VectorTarget, ...] = ()
    split: "torch.Tensor | None" = None
    stored: ClassVar[Mapping[str, str]] = {"values": "vectors", "split": "split"}

    def __post_init__(self) -> None:
        if (self.place == "around") != (self.split is not None):
            raise ValueError("vectors around the input, and only those, are split")
        if self.split is not None and len(self.split) != self.length + 1:
            raise ValueError(f"{self.length} vectors have {self.length + 1} splits, not {len(self.split)}")

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
    """The parts of a classifier beside its label vectors: a bias for each label, and perhaps a map in front of them.

    With a map, tanh(W h + b), the labels are read at the very first live token; without one, at the target's place.
    With a scale, the label vectors are texts in the space that a model of two towers maps images and texts to, and a
    label's score is the scale times the cosine of the image and its vector.

    Args:
        label_bias: added to the labels' scores, [C].
        weight: W, [D, D].
        bias: b, [D].
        scale: a number, [].
    """

    label_bias: "torch.Tensor"
    weight: "torch.Tensor | None" = None
    bias: "torch.Tensor | None" = None
    scale: "torch.Tensor | None" = None
    stored: ClassVar[Mapping[str, str]] = {
        "weight": "head_weight",
        "bias": "head_bias",
        "label_bias": "label_bias",
        "scale": "label_scale",
    }

    def __post_init__(self) -> None:
        if (self.weight is None) != (self.bias is None):
            raise ValueError("a classifier's map has a weight and a bias")
        if self.weight is not None and self.scale is not None:
            raise ValueError("cosines are of the model's own map, so a classifier with a map has no scale")


@dataclass(frozen=True, slots=True)
class Teacher:
    """The frozen model, near which a prompt that changes the images holds each row in training.

    Args:
        texts: the frozen model's texts of the labels, as unit vectors, [C, E].
        image_weight: of the mean distance of an image's unit vector from the frozen model's, by component.
        scores_weight: of the divergence of the labels' probabilities from the frozen model's, for each label.
    """

    texts: "torch.Tensor"
    image_weight: float
    scores_weight: float


@dataclass(frozen=True, slots=True)
class ReadAt:
    """Where label vectors read the rows of an encoder.

    Args:
        layer: number of layers that have run; None for all, with the norm behind them.
        features: the one state that the row's target names, the mean of the row's states, or both side by side, for
            which a label's vector is twice as long; None for the target's choice.
    """

    layer: int | None = None
    features: Pooled | None = None


@dataclass(frozen=True, slots=True)
class Injection:
    """Everything that a prompt adds to the frozen model; the engine consumes it without knowing the method.

    Args:
        vectors: among the live tokens.
        memory: columns that live tokens attend to.
        labels: one vector for each label, [C, D], instead of the label words' rows of the head.
        offset: added to the embeddings of the row's first S tokens, [S, D]; the prompt's own are not counted.
        head: parts of a classifier beside the label vectors, instead of the model's own head.
        read_at: where label vectors read; None for the last states, as the row's target says.
        penalty: a term of the training loss beside the rows' own, for each row, []; it is part of no answer and is not
            stored.
        teacher: gives another such term, which depends on the row.
    """

    vectors: Vectors | None = None
    memory: Memory | None = None
    labels: "torch.Tensor | None" = None
    offset: "torch.Tensor | None" = None
    head: LabelHead | None = None
    read_at: ReadAt | None = None
    penalty: "torch.Tensor | None" = None
    teacher: Teacher | None = None
    stored: ClassVar[Mapping[str, str]] = {"labels": "labels", "offset": "offset"}

    def __post_init__(self) -> None:
        if self.head and self.labels is None:
            raise ValueError("a classifier's parts stand beside label vectors, and there are none")
        if self.teacher and not self.is_matched:
            raise ValueError("a teacher compares images with texts, and the labels are none")
        if self.read_at and self.labels is None:
            raise ValueError("a layer to read labels at needs label vectors, and there are none")
        if self.read_at and self.read_at.layer is not None and self.read_at.layer <= self.layer:
            raise ValueError("labels are read below the layer at which the vectors enter")
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
    def leaves_states(self) -> bool:
        """Whether the model's hidden states remain its own, so that only the labels are read differently."""
        return not self.places and self.offset is None

    @property
    def is_matched(self) -> bool:
        """Whether its label vectors are texts that images are compared with."""
        return self.head is not None and self.head.scale is not None

    @property
    def leaves_input(self) -> bool:
        """Whether the input's keys and values are the model's own, so that they can be kept."""
        return self.places <= {"after"} and self.offset is None and self.layer == 0

    def parts(self) -> "Iterator[tuple[str, Any]]":
        """Its parts by field: records of this module, or tensors."""
        for field in fields(self):
            if (part := getattr(self, field.name)) is not None:
                yield field.name, part

    def map(self, change: "Callable[[torch.Tensor], torch.Tensor]") -> "Injection":
        """The same injection with each tensor replaced by a function of it; the same record where none changed."""
        return _with_changed_tensors(self, change)

    def tensors(self) -> "dict[str, torch.Tensor]":
        """Its tensors by the names that they have on disk."""
        return dict(_named_tensors(self))

    @classmethod
    def from_tensors(
        cls, tensors: "Mapping[str, torch.Tensor]", place: Place, layer: int = 0, read_at: ReadAt | None = None
    ) -> Self:
        """The inverse of `tensors`.

        Args:
            tensors: by the names that they have on disk.
            place: of its vectors and of its memory.
            layer: of its vectors.
            read_at: where its label vectors read.

        Raises:
            ValueError: a tensor is of no part, or a part lacks one.
        """
        unknown = set(tensors) - STORED
        if unknown or not tensors:
            raise ValueError(f"not the tensors of a prompt: {', '.join(sorted(unknown)) or 'none'}")
        vectors = _part_of(Vectors, tensors, place=place, layer=layer)
        columns = _part_of(LayerMemory, tensors)
        memory = Memory(columns, place) if columns else None
        labels, offset = tensors.get("labels"), tensors.get("offset")
        return cls(vectors, memory, labels, offset, _part_of(LabelHead, tensors), read_at)


_STORED_PARTS: tuple[Any, ...] = (Vectors, LayerMemory, LabelHead, Injection)
STORED = frozenset(name for part in _STORED_PARTS for name in part.stored.values())
"""Names that tensors of an injection have on disk."""


def _with_changed_tensors(record: Any, change: "Callable[[torch.Tensor], torch.Tensor]") -> Any:
    import torch

    changed = {}
    for field in fields(record):
        value = getattr(record, field.name)
        if isinstance(value, torch.Tensor):
            new_value = change(value)
        elif is_dataclass(value):
            new_value = _with_changed_tensors(value, change)
        else:
            continue
        if new_value is not value:
            changed[field.name] = new_value
    return replace(record, **changed) if changed else record


def _named_tensors(record: Any) -> "Iterator[tuple[str, torch.Tensor]]":
    for field in fields(record):
        value = getattr(record, field.name)
        if is_dataclass(value):
            yield from _named_tensors(value)
        elif value is not None and field.name in getattr(record, "stored", ()):
            yield record.stored[field.name], value


def _part_of(part: Any, tensors: "Mapping[str, torch.Tensor]", **options: Any) -> Any:
    """A part built from its stored tensors; None where none is stored."""
    values = {field: tensors[name] for field, name in part.stored.items() if name in tensors}
    if not values:
        return None
    needed = {
        part.stored[field.name] for field in fields(part) if field.name in part.stored and field.default is MISSING
    }
    if lacking := needed - set(tensors):
        raise ValueError(f"a part of a prompt lacks {', '.join(sorted(lacking))}")
    return part(**values, **options)
