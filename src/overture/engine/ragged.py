"""Runs the rows of a pass in groups of like length, so that little padding is computed.

A batch of requests is as long as its longest row. On a CPU the time grows with the padded tokens, and a few hundred of
them reach the full rate of its products. A GPU would have to be waited for to learn the lengths, and is faster with one
large pass; there, and where gradients are recorded, rows stay together.

Shape letters: B rows, S live tokens, D width.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from overture.engine.step import Columns, Step

ENOUGH = 192
"""Tokens of a pass from which on it pays to begin another."""
WASTE = 1.15
"""Padded tokens over tokens that a pass may have."""


def like_lengths(lengths: Sequence[int]) -> list[list[int]]:
    """Rows in groups of like length, the shortest first; all in one where there is little to save."""
    groups: list[list[int]] = [[]]
    total = 0
    for row in sorted(range(len(lengths)), key=lambda row: lengths[row]):
        num_padded = (len(groups[-1]) + 1) * lengths[row]
        if total >= ENOUGH and num_padded > WASTE * (total + lengths[row]):
            groups.append([])
            total = 0
        groups[-1].append(row)
        total += lengths[row]
    return groups


def groups_of(live: Tensor, step: Step) -> list[list[int]]:
    """The rows of a pass that are run together; one group where the pass stays whole."""
    num_rows = live.shape[0]
    is_whole = (
        torch.is_grad_enabled()
        or live.device.type != "cpu"
        or not step.is_packed
        # Each memory must be a row's own, or the same for all, and have no room for tokens behind it.
        or any(part.room is not None for part in step.memory)
        or any(part.num_memories(layer) not in (1, num_rows) for part in step.memory for layer in part.keys)
    )
    return [[*range(num_rows)]] if is_whole else like_lengths(step.valid.sum(1).tolist())


def in_groups(
    run: Callable[[Tensor, Step], Tensor], live: Tensor, step: Step, groups: Sequence[Sequence[int]]
) -> Tensor:
    """Run each group of rows and put the results together, [B, S, D]; zero at padding.

    Args:
        run: of some rows.
        live: of all rows, [B, S, D].
        step: of all rows; what it keeps is filled in.
        groups: every row once.
    """
    all_hidden: Tensor | None = None
    for rows in groups:
        indices = torch.tensor(rows)
        group_step = _group_step(step, indices)
        length = group_step.valid.shape[1]
        hidden = run(live[indices, :length], group_step)
        all_hidden = hidden.new_zeros(*live.shape[:2], hidden.shape[-1]) if all_hidden is None else all_hidden
        all_hidden[indices, :length] = hidden
        for layer, pair in (group_step.key_values or {}).items():
            assert step.key_values is not None
            if layer not in step.key_values:
                num_heads, width = pair[0].shape[1], pair[0].shape[3]
                shape = (step.valid.shape[0], num_heads, step.valid.shape[1], width)
                step.key_values[layer] = (pair[0].new_zeros(shape), pair[1].new_zeros(*shape[:3], pair[1].shape[3]))
            for buffer, values in zip(step.key_values[layer], pair, strict=True):
                buffer[indices, :, : values.shape[2]] = values
    assert all_hidden is not None
    return all_hidden


def _group_step(step: Step, indices: Tensor) -> Step:
    """A step for some of the rows, cut to the length of the longest of them."""
    length = int(step.valid[indices].sum(1).max())
    branch = None if step.branch is None else step.branch[indices, :length]
    memory = [_columns_of(part, indices, len(step.valid)) for part in step.memory]
    key_values: dict[int, tuple[Tensor, Tensor]] | None = None if step.key_values is None else {}
    text_index = None if step.text_index is None else step.text_index[indices, :length]
    positions, valid = step.positions[indices, :length], step.valid[indices, :length]
    images = None if step.images is None else step.images.of(indices, length)
    return Step(positions, valid, branch, memory, key_values, is_packed=True, text_index=text_index, images=images)


def _columns_of(part: Columns, indices: Tensor, num_rows: int) -> Columns:
    def of_group(value: Tensor) -> Tensor:
        return value[indices] if value.shape[0] == num_rows else value

    return replace(
        part,
        keys={layer: of_group(value) for layer, value in part.keys.items()},
        values={layer: of_group(value) for layer, value in part.values.items()},
        positions=of_group(part.positions),
        valid=of_group(part.valid),
        weights=None if part.weights is None else [of_group(value) for value in part.weights],
    )
