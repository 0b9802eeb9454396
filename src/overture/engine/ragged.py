"""Rows of unlike length in one pass: they are cut by length and run in turn, so that little padding is computed.

A batch of requests is as long as its longest row. On a CPU the time goes with the padded tokens, and a few hundred of
them are enough for the full rate of its products. On a device the lengths would have to be waited for, and one large
pass is worth more; there, and where gradients are recorded, rows stay together.

Shape letters: B rows, S live tokens, D width.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from overture.engine.attention import Columns, Step

ENOUGH = 192
"""Tokens of a pass from which on it pays to begin another."""
WASTE = 1.15
"""Padded tokens over tokens that a pass may have."""


def like_lengths(lengths: Sequence[int]) -> list[list[int]]:
    """Rows in groups of like length, the shortest first; all in one where there is little to save."""
    found: list[list[int]] = [[]]
    total = 0
    for row in sorted(range(len(lengths)), key=lambda row: lengths[row]):
        num_padded = (len(found[-1]) + 1) * lengths[row]
        if total >= ENOUGH and num_padded > WASTE * (total + lengths[row]):
            found.append([])
            total = 0
        found[-1].append(row)
        total += lengths[row]
    return found


def groups_of(live: Tensor, step: Step) -> list[list[int]]:
    """The rows of a pass that are run together; one group where the pass stays whole."""
    num_rows = live.shape[0]
    is_whole = (
        torch.is_grad_enabled()
        or live.device.type != "cpu"
        or not step.is_packed
        or not all(_is_of_rows(part, num_rows) for part in step.memory)
    )
    return [[*range(num_rows)]] if is_whole else like_lengths(step.valid.sum(1).tolist())


def in_groups(
    run: Callable[[Tensor, Step], Tensor], live: Tensor, step: Step, groups: Sequence[Sequence[int]]
) -> Tensor:
    """What a run of all rows gives, [B, S, D], from a run of each group; zero at padding.

    Args:
        run: of some rows.
        live: of all rows, [B, S, D].
        step: of all rows; what it keeps is filled in.
        groups: every row once.
    """
    found: Tensor | None = None
    for rows in groups:
        at = torch.tensor(rows)
        own = _step_of(step, at)
        length = own.valid.shape[1]
        hidden = run(live[at, :length], own)
        found = hidden.new_zeros(*live.shape[:2], hidden.shape[-1]) if found is None else found
        found[at, :length] = hidden
        for layer, pair in (own.kept or {}).items():
            _put(step, layer, pair, at)
    assert found is not None
    return found


def _is_of_rows(part: Columns, num_rows: int) -> bool:
    """Whether a memory is each row's own, or the same for all, and nothing is written behind it."""
    return part.room is None and all(part.num_memories(layer) in (1, num_rows) for layer in part.keys)


def _step_of(step: Step, at: Tensor) -> Step:
    """What a step tells of some rows, as long as the longest of them."""
    length = int(step.valid[at].sum(1).max())
    branch = None if step.branch is None else step.branch[at, :length]
    memory = [_columns_of(part, at, len(step.valid)) for part in step.memory]
    kept: dict[int, tuple[Tensor, Tensor]] | None = None if step.kept is None else {}
    return Step(step.positions[at, :length], step.valid[at, :length], branch, memory, kept, is_packed=True)


def _columns_of(part: Columns, at: Tensor, num_rows: int) -> Columns:
    def own(value: Tensor) -> Tensor:
        return value[at] if value.shape[0] == num_rows else value

    return replace(
        part,
        keys={layer: own(value) for layer, value in part.keys.items()},
        values={layer: own(value) for layer, value in part.values.items()},
        positions=own(part.positions),
        valid=own(part.valid),
        weights=None if part.weights is None else [own(value) for value in part.weights],
    )


def _put(step: Step, layer: int, pair: tuple[Tensor, Tensor], at: Tensor) -> None:
    assert step.kept is not None
    if layer not in step.kept:
        num_heads, width = pair[0].shape[1], pair[0].shape[3]
        shape = (step.valid.shape[0], num_heads, step.valid.shape[1], width)
        step.kept[layer] = (pair[0].new_zeros(shape), pair[1].new_zeros(*shape[:3], pair[1].shape[3]))
    for whole, own in zip(step.kept[layer], pair, strict=True):
        whole[at, :, : own.shape[2]] = own
