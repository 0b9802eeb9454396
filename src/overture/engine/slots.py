"""Writes answers that begin and end at any time together: one token for all of them in each step.

A row has a slot, in which its columns (input, prompt, tokens so far) lie without gaps, with room for all that it may
write. Slots of one length class stand side by side, so a step attends to views of their buffers and copies nothing.

Shape letters: B rows, S slots, C columns of a length class, D width, V vocabulary, H key/value heads, K head width.

Source: iteration-level scheduling, Yu et al. 2022 (Orca), section 4.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from overture.core.injection import LayerMemory
from overture.core.rows import Encoded
from overture.engine.backbone import Backbone
from overture.engine.generate import first_pass, kept_columns
from overture.engine.inputs import Inputs
from overture.engine.joined import Rider
from overture.engine.lines import Line, append_next
from overture.engine.passes import Injections
from overture.engine.step import Columns, Step

_SHORTEST, _GROWTH = 128, 4
"""Columns of the shortest length class, and by how much each next one is longer."""
_NONE = -(1 << 40)


class Slots:
    """Answers that are being written by one model.

    Args:
        backbone: a decoder.
    """

    def __init__(self, backbone: Backbone) -> None:
        self.backbone = backbone
        self._groups: dict[tuple[int, int], _Group] = {}

    def __len__(self) -> int:
        return sum(len(group.lines) for group in self._groups.values())

    def __contains__(self, line: Line) -> bool:
        return any(line in group.lines or line in (group.grown or ()) for group in self._groups.values())

    @property
    def rider(self) -> Rider | None:
        """The largest group of answers whose next tokens another pass of the model may carry; None without one."""
        one_stretch_groups = [group for group in self._groups.values() if len(group.stretches) == 1]
        groups = [group for group in one_stretch_groups if group.lines and group.failure is None]
        return max(groups, key=lambda group: len(group.lines), default=None)

    @property
    def num_bytes(self) -> int:
        """Memory that the slots take."""
        return sum(stretch.num_bytes for group in self._groups.values() for stretch in group.stretches)

    @staticmethod
    def bytes_of(backbone: Backbone, num_columns: int) -> int:
        """Memory of a slot with room for so many columns."""
        info = backbone.info
        values = 2 * info.num_layers * info.num_kv_heads * info.head_dim
        return _length_class(num_columns) * values * backbone.dtype.itemsize

    @torch.no_grad()
    def begin(
        self,
        inputs: Inputs,
        rows: Sequence[Encoded],
        injections: Injections,
        lines: Sequence[Line],
        room_bytes: float = math.inf,
    ) -> None:
        """Read rows and write the first token of each answer; answers that continue get a slot.

        Args:
            inputs: runs or caches the texts.
            rows: any rows.
            injections: a prompt, or none, for each row; all enter at the same layer.
            lines: the rows' answers, empty.
            room_bytes: further memory that slots may take; no spare slots are made beyond it.
        """
        logits, answer_pass = first_pass(inputs, rows, injections)
        tokens = append_next(logits, lines).tolist()
        passes: list[tuple[int, int | None, Step]] = (
            [(0, answer_pass.layer, answer_pass.below)] if answer_pass.below else []
        )
        passes.append((answer_pass.layer, None, answer_pass.step))
        parts = [[*step.memory, kept_columns(step)] for _, _, step in passes]
        # The last valid position of each row, whatever stands in its padding.
        ends = [step.positions.masked_fill(~step.valid, _NONE).amax(1) for _, _, step in passes]
        size_of: dict[int, int] = {}
        for row, line in enumerate(lines):
            if not line.is_done:
                num_columns = max(sum(int(_of_row(part.valid, row).sum()) for part in of_pass) for of_pass in parts)
                size_of[row] = _length_class(num_columns + line.max_new_tokens)
        for size, num_new in Counter(size_of.values()).items():
            if (answer_pass.layer, size) not in self._groups:
                stretches = [_Stretch(self.backbone, start, end, size) for start, end, _ in passes]
                self._groups[answer_pass.layer, size] = _Group(self.backbone, stretches, [], [])
            examples = [of_pass[-1] for of_pass in parts]
            room_bytes -= self._make_room(self._groups[answer_pass.layer, size], num_new, examples, room_bytes)
        for row, size in size_of.items():
            group = self._groups[answer_pass.layer, size]
            for stretch, of_pass, end in zip(group.stretches, parts, ends, strict=True):
                stretch.fill(of_pass, row, len(rows), end[row])
            group.lines.append(lines[row])
            group.tokens.append(tokens[row])

    def _make_room(self, group: "_Group", num_new: int, examples: Sequence[Columns], room_bytes: float) -> int:
        """Make slots for more answers in a group, with spare ones where memory allows; returns the bytes added."""
        size, num_needed = group.stretches[0].size, len(group.lines) + num_new
        num_slots = len(group.stretches[0].valid)
        if num_needed <= num_slots:
            return 0
        slot_bytes = self.bytes_of(self.backbone, size)
        # A long slot may take all the memory that is allowed, so long answers get no spare slots at first.
        num_free = max(num_needed, 4 if size == _SHORTEST else 1, 2 * num_slots)
        bytes_before = self.num_bytes
        if (num_free - num_slots) * slot_bytes > room_bytes:
            self.trim()
            num_free = num_needed
        for stretch, example in zip(group.stretches, examples, strict=True):
            stretch.resize(num_free, example)
        return self.num_bytes - bytes_before

    def trim(self) -> None:
        """Give back the memory of slots that are free."""
        for group in self._groups.values():
            for stretch in group.stretches:
                stretch.resize(stretch.num)

    @torch.no_grad()
    def step(self) -> list[Line]:
        """Write one more token of every answer that no other pass carried; finished answers leave their slots.

        Returns:
            All answers that have grown since the last step.
        """
        grown = [line for group in self._groups.values() for line in group.advance()]
        self._groups = {key: group for key, group in self._groups.items() if group.lines}
        return grown

    def drop(self, line: Line) -> None:
        """Free the slot of an answer that nobody waits for."""
        for group in self._groups.values():
            if line in group.lines:
                group.free(group.lines.index(line))
        self._groups = {key: group for key, group in self._groups.items() if group.lines or group.grown}


@dataclass(slots=True)
class _Group:
    """Answers of one length class under prompts that enter at one layer; in slots 0 to B-1."""

    backbone: Backbone
    stretches: "list[_Stretch]"
    lines: list[Line]
    tokens: list[int]
    grown: list[Line] | None = None
    """Answers whose next tokens another pass has written since the last step; None if none has."""
    failure: Exception | None = None
    """The error of writing them, raised at the next step and not in the other pass."""

    def advance(self) -> list[Line]:
        """Write one more token of each answer, unless another pass has, and return the answers."""
        if self.grown is None:
            live = self._live()
            for stretch in self.stretches:
                live = stretch.next(live)
            self._append(live)
        grown, self.grown = self.grown or [], None
        if self.failure is not None:
            raise self.failure
        return grown

    def step(self) -> tuple[Tensor, Step]:
        """Meets `Rider.step`: one token of each answer."""
        (stretch,) = self.stretches
        return self._live(), stretch.step()

    def arrived(self, hidden: Tensor) -> None:
        """Meets `Rider.arrived`."""
        try:
            self._append(hidden)
        except Exception as error:
            self.failure = error

    def _append(self, hidden: Tensor) -> None:
        """Write the next tokens, and free the slots of answers that are done."""
        for stretch in self.stretches:
            stretch.grow()
        self.grown = lines = list(self.lines)
        self.tokens = append_next(self.backbone.head(hidden[:, 0]), lines).tolist()
        for number in reversed(range(len(lines))):
            if lines[number].is_done:
                if lines[number].keeps_memory and len(self.stretches) == 1:
                    lines[number].memory = self.stretches[0].memory_of(number)
                self.free(number)

    def _live(self) -> Tensor:
        return self.backbone.embed(torch.tensor(self.tokens)[:, None])

    def free(self, number: int) -> None:
        """Free a slot: the last answer moves into it."""
        for stretch in self.stretches:
            stretch.free(number)
        self.lines[number], self.tokens[number] = self.lines[-1], self.tokens[-1]
        self.lines.pop()
        self.tokens.pop()


class _Stretch:
    """Slots in some neighbouring layers; below a late prompt a row has other columns than above it.

    Args:
        backbone: the model.
        start: the first layer.
        end: behind the last layer; None for all.
        size: columns of a slot, C.
    """

    def __init__(self, backbone: Backbone, start: int, end: int | None, size: int) -> None:
        self.backbone, self.start, self.end, self.size = backbone, start, end, size
        self.num = 0
        self.room: dict[int, tuple[Tensor, Tensor]] = {}
        self.weights: list[Tensor] | None = None
        self.positions = torch.empty(0, size, dtype=torch.long, device=backbone.device)
        self.valid = self.positions.bool()
        self.lengths: list[int] = []
        self.last = self.positions[:, 0]

    @property
    def num_bytes(self) -> int:
        return sum(values.nbytes for pair in self.room.values() for values in pair)

    def fill(self, parts: Sequence[Columns], row: int, num_rows: int, last_position: Tensor) -> None:
        """Give a row the next slot.

        Args:
            parts: the columns of all rows of its pass.
            row: its number among them.
            num_rows: how many they are.
            last_position: position of its last live token.
        """
        slot, start = self.num, 0
        for part in parts:
            is_valid = _of_row(part.valid, row)
            end = start + int(is_valid.sum())
            for layer, pair in self.room.items():
                for buffer, values in zip(pair, (part.keys[layer], part.values[layer]), strict=True):
                    buffer[slot, :, start:end] = values[_memory_index(part, len(values), row, num_rows)][:, is_valid]
            self.positions[slot, start:end] = _of_row(part.positions, row)[is_valid]
            if part.weights is not None and self.weights is None:
                self.weights = [values.new_ones(self.valid.shape) for values in part.weights]
            for layer, of_slots in enumerate(self.weights or ()):
                of_slots[slot, start:end] = 1.0 if part.weights is None else _of_row(part.weights[layer], row)[is_valid]
            start = end
        self.valid[slot] = torch.arange(self.size, device=self.valid.device) < start
        for of_slots in self.weights or ():
            of_slots[slot, start:] = 1.0
        self.last[slot] = last_position
        self.lengths.append(start)
        self.num += 1

    def next(self, live: Tensor) -> Tensor:
        """One more token in each slot, [B, 1, D]; `grow` makes it one of the slot's columns."""
        return self.backbone.run(live, self.step(), self.start, self.end)

    def step(self) -> Step:
        """The pass of one more token in each slot."""
        num, most, device = self.num, max(self.lengths) + 1, self.last.device
        ends = torch.tensor(self.lengths, device=device)
        rows = torch.arange(num, device=device)
        position = self.last[:num] + 1
        self.positions[rows, ends], self.valid[rows, ends] = position, True
        room = {layer: (keys[:num], values[:num]) for layer, (keys, values) in self.room.items()}
        keys, values = [{layer: pair[which][:, :, :most] for layer, pair in room.items()} for which in (0, 1)]
        weights = None if self.weights is None else [of_slots[:num, :most] for of_slots in self.weights]
        memory = Columns(
            keys, values, self.positions[:num, :most], self.valid[:num, :most], weights, room=room, ends=ends
        )
        return Step(position[:, None], position[:, None] > _NONE, memory=[memory])

    def grow(self) -> None:
        """The token that has run is one of each slot's columns."""
        self.last[: self.num] += 1
        self.lengths = [length + 1 for length in self.lengths]

    def memory_of(self, slot: int) -> LayerMemory | None:
        """A copy of a slot's columns; None where they have weights."""
        if self.weights is not None:
            return None
        parts = ([pair[which][slot, :, : self.lengths[slot]] for pair in self.room.values()] for which in (0, 1))
        return LayerMemory(*map(torch.stack, parts))

    def free(self, slot: int) -> None:
        last_slot, length = self.num - 1, self.lengths[-1]
        if slot != last_slot:
            for buffer in (values for pair in self.room.values() for values in pair):
                buffer[slot, :, :length] = buffer[last_slot, :, :length]
            for of_slots in (self.positions, self.valid, *(self.weights or ())):
                of_slots[slot] = of_slots[last_slot]
            self.last[slot], self.lengths[slot] = self.last[last_slot], length
        self.lengths.pop()
        self.num -= 1

    def resize(self, num: int, like: Columns | None = None) -> None:
        """Change the number of slots; those in use stay.

        Args:
            num: slots.
            like: columns of the kind that they hold; needed for the first ones.
        """
        if num == len(self.valid):
            return

        def resized(values: Tensor) -> Tensor:
            slots = values.new_zeros(num, *values.shape[1:])
            slots[: self.num] = values[: self.num]
            return slots

        if not self.room and like is not None:
            layers = [layer for layer in like.keys if layer >= self.start and (self.end is None or layer < self.end)]
            self.room = {layer: (self._empty(like.keys[layer]), self._empty(like.values[layer])) for layer in layers}
        for layer in self.room:
            # One layer at a time, so that only one layer's buffers are in memory twice.
            keys, values = self.room[layer]
            self.room[layer] = (resized(keys), resized(values))
        self.positions, self.valid, self.last = resized(self.positions), resized(self.valid), resized(self.last)
        self.weights = None if self.weights is None else [resized(of_slots) for of_slots in self.weights]

    def _empty(self, like: Tensor) -> Tensor:
        return like.new_empty(0, like.shape[1], self.size, like.shape[3])


def _length_class(num_columns: int) -> int:
    size = _SHORTEST
    while size < num_columns:
        size *= _GROWTH
    return size


def _of_row(values: Tensor, row: int) -> Tensor:
    return values[row if len(values) > 1 else 0]


def _memory_index(part: Columns, num_memories: int, row: int, num_rows: int) -> int:
    """Index of a row's memory among those that the rows share."""
    if part.shared == "cycle":
        return row % num_memories
    return row // (num_rows // num_memories)
