"""The common beginning of a pass's rows runs once for all of them: prompt vectors, and the texts' first tokens.

Texts of a template begin with its own words, those of a chat with its system message. Exact for decoders, gradients
included: no token there sees what stands behind it.

Shape letters: P prompt length, L length, D width.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from overture.core.injection import Injection, LayerMemory, Memory, Vectors
from overture.core.rows import Answer, Element, Encoded, OneOf, segments_of
from overture.engine.backbone import Backbone
from overture.engine.memories import prompt_columns
from overture.engine.step import FUSED

_WORTH_TOKENS = 8
"""Tokens that a pass of their own for prompt vectors must save."""
_WORTH_HEAD = 64
"""Tokens that the texts' first tokens must save, for rows behind more columns have slower attention."""
_WORTH_SHARE = 0.2
"""Share of their tokens that texts to be kept must save, for these run once anyway."""


def runs_once(backbone: Backbone, injection: Injection | None) -> bool:
    """Whether a prompt's vectors run once for all rows of a pass of this model, and are in no row's live tokens."""
    return injection is not None and _can_share(backbone) and _is_movable(injection)


def head_of_kept(backbone: Backbone, texts: Sequence[Sequence[Element]]) -> tuple[int, ...]:
    """The common first tokens of texts that are about to be cached; () where running them once saves too little.

    A cached text ends at position -1, so the positions of its first tokens depend on its length. Their keys and values
    are the same in texts of one length, or in all texts where positions are absolute. Each text keeps at least one
    token behind them.
    """
    if len(texts) < 2 or not _can_share(backbone) or max(map(len, texts)) >= FUSED["cpu"]:
        return ()
    head = _common_head(texts)[: max(0, min(map(len, texts)) - 1)]
    num_runs = len(set(map(len, texts))) if backbone.family.is_rotary else 1
    num_saved = (len(texts) - num_runs) * len(head)
    return head if num_saved >= max(_WORTH_HEAD, _WORTH_SHARE * sum(map(len, texts))) else ()


@dataclass(frozen=True, slots=True)
class _Beginning:
    """Rows of one prompt that begin alike.

    Args:
        numbers: of the rows.
        memory: the prompt's, in front of all.
        vectors: the prompt's, behind them.
        head: the first tokens of the texts.
    """

    numbers: list[int]
    memory: LayerMemory | None
    vectors: Vectors | None
    head: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Lengths of the parts; beginnings with the same run together."""
        parts = (self.memory, self.vectors)
        return *(part.length if part else 0 for part in parts), len(self.head)  # type: ignore[return-value]


def with_shared_beginnings(
    backbone: Backbone,
    rows: Sequence[Encoded],
    injections: Sequence[Injection | None],
    has_live_input: Sequence[bool],
) -> tuple[Sequence[Encoded], list[Injection | None]]:
    """Rows and prompts whose common beginnings became memory: each runs once for the pass, not once for each row.

    Nothing changes on a GPU, where a small pass takes as long as a large one, nor with compiled layers, which would
    need more graphs for such passes.

    Args:
        backbone: the model.
        rows: of one pass.
        injections: a prompt, or none, for each row.
        has_live_input: whether each row's input is live, and not in memory.
    """
    injections = list(injections)
    if not _can_share(backbone):
        return rows, injections
    by_prompt: dict[tuple[int, ...], list[int]] = {}
    for number, injection in enumerate(injections):
        parts = (injection.vectors, injection.memory) if injection else (None, None)
        key = (*map(id, parts), bool(injection and injection.offset is not None), has_live_input[number])
        by_prompt.setdefault(key, []).append(number)
    alike: dict[tuple[int, int, int], list[_Beginning]] = {}
    for numbers in by_prompt.values():
        beginning = _beginning(numbers, rows, injections[numbers[0]], has_live_input[numbers[0]])
        if beginning:
            alike.setdefault(beginning.shape, []).append(beginning)
    shared_rows = list(rows)
    for beginnings in alike.values():
        for beginning, memory in zip(beginnings, _run(backbone, beginnings), strict=True):
            for number in beginning.numbers:
                injection = injections[number] or Injection()
                injections[number] = replace(injection, vectors=None, memory=Memory(memory, "memory"))
                if beginning.head:
                    later_elements = rows[number].input_elements[len(beginning.head) :]
                    shared_rows[number] = replace(rows[number], input=segments_of(later_elements), slots=(), texts=None)
    return shared_rows, injections


def _beginning(
    numbers: list[int], rows: Sequence[Encoded], injection: Injection | None, has_live_input: bool
) -> _Beginning | None:
    """The common beginning of one prompt's rows; None where running it once would not pay."""
    vectors = injection.vectors if injection else None
    memory = injection.memory if injection else None
    num_others = len(numbers) - 1
    if injection and vectors and not (_is_movable(injection) and num_others * vectors.length >= _WORTH_TOKENS):
        return None
    head: tuple[int, ...] = ()
    is_first = has_live_input and (memory is None or memory.place == "memory")
    is_plain = injection is None or (injection.offset is None and injection.head is None)
    if is_first and is_plain and all(is_read_at_end(rows[number]) for number in numbers):
        head = _common_head([rows[number].input_elements for number in numbers])
    if num_others * len(head) < _WORTH_HEAD:
        head = ()
    return _Beginning(numbers, memory.memory if memory else None, vectors, head) if vectors or head else None


def _can_share(backbone: Backbone) -> bool:
    return backbone.family.kind == "decoder" and backbone.device.type == "cpu" and not backbone.stack.is_compiled


def _is_movable(injection: Injection) -> bool:
    """Whether vectors can be memory in training: nothing is read from them, and the text does not run below them."""
    vectors = injection.vectors
    return (
        vectors is not None and vectors.place == "before" and not (vectors.layer or vectors.targets or injection.memory)
    )


def is_read_at_end(row: Encoded) -> bool:
    """Whether a row is read behind its input only, so that its first tokens may become memory."""
    target = row.target
    return isinstance(target, Answer) or (isinstance(target, OneOf) and target.read is None)


def _common_head(texts: Sequence[Sequence[Element]]) -> tuple[int, ...]:
    """The tokens that all texts begin with, up to the first signal."""
    first_text, *other_texts = texts
    head: list[int] = []
    for element, *other_elements in zip(first_text, *other_texts, strict=False):
        if not isinstance(element, int) or any(other_element != element for other_element in other_elements):
            break
        head.append(element)
    return tuple(head)


def _run(backbone: Backbone, beginnings: Sequence[_Beginning]) -> list[LayerMemory]:
    """The memories of beginnings of one shape: the prompt's memory, its vectors, then the texts' first tokens."""
    rows = []
    for beginning in beginnings:
        vectors = [beginning.vectors.values.to(backbone.device, backbone.dtype)] if beginning.vectors else []
        rows.append(torch.cat([*vectors, *([backbone.embed(list(beginning.head))] if beginning.head else [])]))
    # [J, P + L, D], for J beginnings.
    live = torch.stack(rows)
    memories = [beginning.memory for beginning in beginnings]
    num_columns = memories[0].length if memories[0] else 0
    positions = torch.arange(num_columns, num_columns + live.shape[1], device=backbone.device).expand(live.shape[:2])
    firsts = [num_columns] * len(beginnings)
    in_front = [prompt_columns(memories, firsts, backbone)] if num_columns else []
    new_memories = backbone.memories_of(live, positions, in_front)
    return [
        _concatenated(memory, new_memory) if memory else new_memory
        for memory, new_memory in zip(memories, new_memories, strict=True)
    ]


def _concatenated(memory: LayerMemory, new_memory: LayerMemory) -> LayerMemory:
    keys, values = [
        torch.cat([part.to(new_part), new_part], dim=2)
        for part, new_part in ((memory.keys, new_memory.keys), (memory.values, new_memory.values))
    ]
    weights = memory.weights
    if weights is not None:
        weights = torch.cat([weights, weights.new_ones(len(weights), new_memory.length)], dim=1)
    return LayerMemory(keys, values, weights)
