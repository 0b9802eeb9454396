"""Reads texts piece by piece, and caches beginnings of rows together with their prompt.

A row behind a prompt equals the rest of the row behind a longer memory: the prompt's columns and those of the tokens
that were read. So a long text is read between the tokens of other answers, and a conversation that has grown is read
only from its new part on.

Shape letters: N layers, H key/value heads, C columns, P prompt length, K head width.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import TypeGuard

import torch
from torch import Tensor

from overture.core.contracts import RowMethod
from overture.core.injection import Injection, LayerMemory, Memory
from overture.core.rows import Element, Encoded, Tokens
from overture.engine.backbone import Backbone
from overture.engine.beginnings import is_read_at_end
from overture.engine.step import Columns, Step
from overture.engine.texts import Texts

_CHUNK = 32
"""Beginnings are looked up at multiples of so many tokens."""
_MOST_ENDS = 1 << 16


@dataclass(frozen=True, slots=True)
class Head:
    """The beginning of a row that was read.

    Args:
        memory: columns of the prompt and of the tokens.
        num: tokens of the row's input.
    """

    memory: LayerMemory
    num: int

    def rest(self, row: Encoded) -> Encoded:
        """The row without its beginning."""
        return replace(row, input=(Tokens(row.input_ids[self.num :]),), texts=None)

    def injection(self, injection: Injection | None) -> Injection:
        """The row's prompt with the beginning behind it."""
        memory = Memory(self.memory, "memory")
        return Injection(memory=memory) if injection is None else replace(injection, memory=memory)


def can_have_head(
    prompt: Injection | RowMethod | None, backbone: Backbone, row: Encoded
) -> TypeGuard[Injection | None]:
    """Whether the beginning of a row can be memory: a decoder reads it behind its whole prompt."""
    if backbone.family.kind != "decoder" or row.slots or not is_read_at_end(row) or isinstance(prompt, RowMethod):
        return False
    if backbone.reader is not backbone:
        # The frozen model reads the row's text whole, and the adapter what follows it.
        return False
    if any(not isinstance(segment, Tokens) for segment in row.input):
        return False
    return prompt is None or (prompt.vectors is None and prompt.offset is None and prompt.places <= {"memory"})


class PiecewiseReading:
    """A text that is read in pieces.

    Args:
        backbone: a decoder.
        ids: the tokens to read.
        first: position of the first of them.
        memory: columns in front of them.
    """

    def __init__(
        self, backbone: Backbone, ids: Sequence[Element], first: int = 0, memory: LayerMemory | None = None
    ) -> None:
        self.backbone, self.ids, self.first = backbone, [id_ for id_ in ids if isinstance(id_, int)], first
        info, self._num_before = backbone.info, memory.length if memory else 0
        shape = (info.num_layers, 1, info.num_kv_heads, self._num_before + len(ids), info.head_dim)
        self._keys = torch.empty(shape, dtype=backbone.dtype, device=backbone.device)
        self._values = torch.empty_like(self._keys)
        if memory:
            self._keys[:, 0, :, : memory.length] = memory.keys
            self._values[:, 0, :, : memory.length] = memory.values
        self._weights = memory.weights if memory else None
        self.num_done = 0

    @property
    def is_done(self) -> bool:
        """Whether all is read."""
        return self.num_done == len(self.ids)

    @torch.no_grad()
    def go_on(self, num_tokens: int) -> int:
        """Read up to so many more tokens, and return how many were read."""
        piece = self.ids[self.num_done : self.num_done + num_tokens]
        start, device = self._num_before + self.num_done, self.backbone.device
        keys, values = (dict(enumerate(of_layers[:, :, :, :start])) for of_layers in (self._keys, self._values))
        room = dict(enumerate(zip(self._keys, self._values, strict=True)))
        position = self.first - self._num_before
        places = torch.arange(position, position + start + len(piece), device=device)[None]
        is_there = torch.ones_like(places, dtype=torch.bool)
        memory = Columns(keys, values, places[:, :start], is_there[:, :start], self._weights_of(start), room=room)
        live = self.backbone.embed(torch.tensor([piece], device=device))
        self.backbone.run(live, Step(places[:, start:], is_there[:, start:], memory=[memory]))
        self.num_done += len(piece)
        return len(piece)

    def _weights_of(self, num: int) -> list[Tensor] | None:
        if self._weights is None:
            return None
        ones = self._weights.new_ones(len(self._weights), num - self._num_before)
        return list(torch.cat([self._weights, ones], dim=1)[:, None])

    @property
    def memory(self) -> LayerMemory:
        """The columns in front, and those of the tokens."""
        num = self._keys.shape[3]
        weights = self._weights_of(num)
        return LayerMemory(self._keys[:, 0], self._values[:, 0], None if weights is None else torch.cat(weights))

    @property
    def entry(self) -> Tensor:
        """The same columns in a cache's layout, [N, 2, H, C, K]."""
        return torch.stack([self._keys[:, 0], self._values[:, 0]], dim=1)


class KeptHeads:
    """Finds the longest kept beginning of a row; the values lie in a cache of texts, which may drop them."""

    def __init__(self) -> None:
        self._ends: dict[Hashable, tuple[Hashable, ...]] = {}

    def put(self, texts: Texts, scope: tuple[Hashable, ...], ids: Sequence[int], memory: LayerMemory) -> None:
        """Keep a beginning.

        Args:
            texts: keeps the values.
            scope: tenant and prompt; other scopes do not find it.
            ids: the tokens.
            memory: columns of the prompt and of the tokens, P + len(ids) of them; without weights.
        """
        key = ("head", *scope, *ids)
        texts.put(key, torch.stack([memory.keys, memory.values], dim=1))
        if len(self._ends) > _MOST_ENDS:
            self._ends = {}
        self._ends |= dict.fromkeys(self._names(scope, ids), key)

    def longest(self, texts: Texts, scope: tuple[Hashable, ...], ids: Sequence[int], num_prompt: int) -> Head | None:
        """The longest kept beginning of a text, or None."""
        for number, name in reversed(list(enumerate(self._names(scope, ids), 1))):
            key, num = self._ends.get(name), number * _CHUNK
            if key is None:
                continue
            entry = texts.get(key)
            if entry is None:
                del self._ends[name]
            elif key[1 + len(scope) :][:num] == tuple(ids[:num]):
                columns = entry[:, :, :, : num_prompt + num]
                return Head(LayerMemory(columns[:, 0], columns[:, 1]), num)
        return None

    @staticmethod
    def _names(scope: tuple[Hashable, ...], ids: Sequence[int]) -> list[Hashable]:
        """A hash for each beginning of whole chunks, each computed from the one before."""
        names: list[Hashable] = []
        name: int = hash(scope)
        for start in range(0, len(ids) - _CHUNK + 1, _CHUNK):
            name = hash((name, *ids[start : start + _CHUNK]))
            names.append(name)
        return names
