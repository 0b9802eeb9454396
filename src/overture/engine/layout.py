"""Lays out the tokens of a batch: ids, positions, branches and the places whose predictions count.

A row's live tokens are the trunk (text up to the anchor's end, or up to the answer's last token but one) and, behind
it, one branch for each label word of several tokens. Branches see the trunk and not each other, so words are scored in
one pass, exactly. Memory columns before the live tokens have negative positions where positions are relative.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor

from overture.core.rows import Element, Encoded, OneOf, Patch
from overture.engine.step import Columns, Images, Step
from overture.engine.transfer import moved, sent

Place = tuple[int, int, Patch]
"""A row, an index in it, and the part of a signal that stands there."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Tokens of a batch, padded on the right.

    Args:
        ids: [B, S]; 0 where no token stands.
        positions: [B, S].
        valid: [B, S].
        branch: [B, S]; None when no row has branches.
        is_vector: where the prompt's vectors go, [B, S]; None when no row has any.
        trunk_index: number of each token among its row's text tokens, -1 for all others, [B, S].
        trunk_end: index of the last trunk token, [B].
        read: index of the token that labels are read from, [B]; the trunk's end unless the rows say another.
        targets: (row, index, token) of every prediction beyond the trunk's end; empty for one-token label words.
        words: for each target the number of its label word; empty for answers.
        lines: the same row by row without padding, on the host, so that reading it does not wait for the device.
        patches: (row, index, patch) of every part of a signal.
        images: facts of images for masks and positions; None where they are treated like tokens.
    """

    ids: Tensor
    positions: Tensor
    valid: Tensor
    branch: Tensor | None
    is_vector: Tensor | None
    trunk_index: Tensor
    trunk_end: Tensor
    read: Tensor
    targets: list[tuple[int, int, int]]
    words: list[int]
    lines: "list[Line]"
    patches: "list[Place]"
    images: Images | None

    def step(self, memory: Sequence[Columns] = (), key_values: dict[int, tuple[Tensor, Tensor]] | None = None) -> Step:
        """The step of a forward pass of these tokens.

        Args:
            memory: columns before them.
            key_values: gets their keys and values, by layer, where it is a dict.
        """
        return Step(
            self.positions,
            self.valid,
            self.branch,
            memory,
            key_values,
            is_packed=True,
            text_index=self.trunk_index,
            images=self.images,
        )


@dataclass(slots=True)
class Line:
    """One row's live tokens while they are laid out, in the words of `Layout`."""

    ids: list[Element]
    positions: list[int]
    branch: list[int]
    is_vector: list[bool]
    trunk_index: list[int]
    read: int = 0
    targets: list[tuple[int, int]] = field(default_factory=list)
    words: list[int] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Start:
    """How a row's live tokens begin.

    Args:
        position: of the first live token.
        vectors: where prompt vectors stand among the text's live tokens, in order: (index into them, how many).
        with_input: the input is live; else it stands in memory.
    """

    position: int
    vectors: tuple[tuple[int, int], ...]
    with_input: bool


def label_layout(rows: Sequence[Encoded], starts: Sequence[Start], device: torch.device) -> Layout:
    """Live tokens for scoring label words.

    Args:
        rows: rows of one task, with candidates.
        starts: how each row's live tokens begin.
        device: where the tensors go.
    """
    lines, ends = [], []
    for row, start in zip(rows, starts, strict=True):
        line = _trunk(row, start)
        ends.append(len(line.ids) - 1)
        assert isinstance(row.target, OneOf)
        end = line.positions[-1]
        for number, word in enumerate(row.target.candidates.words):
            for offset, (token, following) in enumerate(pairwise(word)):
                line.targets.append((len(line.ids), following))
                line.words.append(number)
                line.ids.append(token)
                line.positions.append(end + 1 + offset)
                line.branch.append(number + 1)
                line.is_vector.append(False)
                line.trunk_index.append(-1)
        lines.append(line)
    return _batched(lines, ends, device)


def answer_layout(rows: Sequence[Encoded], starts: Sequence[Start], device: torch.device) -> Layout:
    """Live tokens for the likelihood of answers; rows without an answer end at the anchor (for generation)."""
    lines, ends = [], []
    for row, start in zip(rows, starts, strict=True):
        line = _trunk(row, start)
        end = len(line.ids) - 1
        ends.append(end)
        answer = row.answer_ids or ()
        line.ids += answer[:-1]
        line.positions += range(line.positions[-1] + 1, line.positions[-1] + len(answer))
        num_live = max(len(answer) - 1, 0)
        line.branch += [0] * num_live
        line.is_vector += [False] * num_live
        line.trunk_index += [-1] * num_live
        line.targets = [(end + offset, token) for offset, token in enumerate(answer)]
        lines.append(line)
    return _batched(lines, ends, device)


def single_layout(num_rows: int, device: torch.device) -> Layout:
    """A layout of rows of one token each, at which labels are read."""
    lines = [Line([0], [0], [0], [False], [0]) for _ in range(num_rows)]
    return _batched(lines, [0] * num_rows, device)


def _trunk(row: Encoded, start: Start) -> Line:
    text = [*(row.input_elements if start.with_input else ()), *row.anchor_elements]
    line = Line([], [], [], [], [])
    num_done = 0
    for index, count in (*start.vectors, (len(text), 0)):
        # A vector's id is 0 and means nothing.
        line.ids += [*text[num_done:index], *[0] * count]
        line.is_vector += [*[False] * (index - num_done), *[True] * count]
        line.trunk_index += [*range(num_done, index), *[-1] * count]
        num_done = index
    line.positions = positions_of(line.ids, start.position)
    line.branch = [0] * len(line.ids)
    read = row.target.read if isinstance(row.target, OneOf) else None
    line.read = line.trunk_index.index(read) if isinstance(read, int) else len(line.ids) - 1
    return line


def _batched(lines: Sequence[Line], ends: Sequence[int], device: torch.device) -> Layout:
    longest = max(len(line.ids) for line in lines)

    def padded(values: Sequence[Sequence[int]], filler: int = 0) -> Tensor:
        return sent([[*row, *[filler] * (longest - len(row))] for row in values], device)

    tokens, patches = tokens_and_patches([line.ids for line in lines])
    lengths = sent([len(line.ids) for line in lines], device)
    has_branches = any(line.words for line in lines)
    has_vectors = any(any(line.is_vector) for line in lines)
    return Layout(
        ids=padded(tokens),
        positions=padded([line.positions for line in lines]),
        valid=torch.arange(longest, device=device)[None] < lengths[:, None],
        branch=padded([line.branch for line in lines]) if has_branches else None,
        is_vector=padded([line.is_vector for line in lines]).bool() if has_vectors else None,
        trunk_index=padded([line.trunk_index for line in lines], -1),
        trunk_end=sent(ends, device),
        read=sent([line.read for line in lines], device),
        targets=[(number, index, token) for number, line in enumerate(lines) for index, token in line.targets],
        words=[word for line in lines for word in line.words],
        lines=list(lines),
        patches=patches,
        images=images_of(patches, (len(lines), longest), device),
    )


def positions_of(elements: Sequence[Element], first: int) -> list[int]:
    """Positions of a row's elements; parts of an image with rows and columns have its first, less their shifts.

    Args:
        elements: of the row.
        first: the position of the first.
    """
    if not any(isinstance(element, Patch) and element.signal.grid for element in elements):
        return list(range(first, first + len(elements)))
    positions, position = [], first
    for element in elements:
        positions.append(position)
        if isinstance(element, Patch) and (grid := element.signal.grid):
            position += max(grid) if element.index == element.signal.length - 1 else 0
        else:
            position += 1
    return positions


def images_of(patches: Sequence[Place], shape: tuple[int, int], device: torch.device) -> Images | None:
    """Facts of images for masks and positions; None where no image differs from tokens.

    Args:
        patches: (row, index, patch) of each.
        shape: rows and columns of the batch.
        device: where the tensors go.
    """
    whole_images = [place for place in patches if place[2].signal.is_whole]
    shifted = [place for place in patches if place[2].signal.grid]
    if not whole_images and not shifted:
        return None
    number, shifts = torch.full(shape, -1), torch.zeros(*shape, 2, dtype=torch.long)
    image = -1
    for row, index, patch in whole_images:
        image += patch.index == 0
        number[row, index] = image
    for row, index, patch in shifted:
        assert patch.signal.grid is not None
        shifts[row, index] = torch.tensor(divmod(patch.index, patch.signal.grid[1]))
    return Images(moved(number, device) if whole_images else None, moved(shifts, device) if shifted else None)


def tokens_and_patches(
    rows: Sequence[Sequence[Element]],
) -> tuple[Sequence[Sequence[int]], list[Place]]:
    """Rows' tokens, 0 in place of parts of signals, and those parts: (row, index, patch)."""
    patches = [(n, i, element) for n, row in enumerate(rows) for i, element in enumerate(row) if type(element) is Patch]
    if not patches:
        return rows, []  # type: ignore[return-value]
    return [[element if isinstance(element, int) else 0 for element in row] for row in rows], patches
