"""The prompt memories of a batch's rows, as columns that live tokens attend to.

Shape letters: B rows, P prompt length, N layers, H key/value heads, K head width.
"""

from collections.abc import Sequence
from itertools import groupby

import torch
from torch import Tensor

from overture.core.injection import LayerMemory
from overture.engine.backbone import Backbone
from overture.engine.step import Columns
from overture.engine.transfer import sent


def prompt_columns(memories: Sequence[LayerMemory | None], firsts: Sequence[int], backbone: Backbone) -> Columns:
    """The rows' prompt memories; they end where each row's live tokens begin.

    Args:
        memories: a memory, or none, of each row, with all heads.
        firsts: positions of the rows' first live tokens.
        backbone: reads them; in several processes each reads its own heads.
    """
    device, heads_here = backbone.device, backbone.own_heads
    longest = max(memory.length for memory in memories if memory)
    lengths = sent([memory.length if memory else 0 for memory in memories], device)[:, None]
    valid = torch.arange(longest, device=device)[None] < lengths
    positions = sent(firsts, device)[:, None] - lengths + torch.arange(longest, device=device)[None]
    first_memory = memories[0]
    if first_memory is not None and all(memory is first_memory for memory in memories):
        weights = None if first_memory.weights is None else list(first_memory.weights[:, None])
        return Columns(
            _by_layer(heads_here(first_memory.keys)[:, None]),
            _by_layer(heads_here(first_memory.values)[:, None]),
            positions,
            valid,
            weights,
        )
    # One memory of each run of the same, where all runs are of one length, as in a cohort; else all of them.
    runs = [list(run) for _, run in groupby(memories, key=id)]
    distinct_memories = [run[0] for run in runs] if len({len(run) for run in runs}) == 1 else list(memories)
    keys = heads_here(_side_by_side([memory.keys if memory else None for memory in distinct_memories], longest))
    values = heads_here(_side_by_side([memory.values if memory else None for memory in distinct_memories], longest))
    return Columns(_by_layer(keys), _by_layer(values), positions, valid, _weights(memories, longest), "run")


def _by_layer(values: Tensor) -> dict[int, Tensor]:
    return dict(enumerate(values))


def _weights(memories: Sequence[LayerMemory | None], longest: int) -> list[Tensor] | None:
    """Weights of several rows' columns by layer, [B, longest]; None when no row has any."""
    if all(memory is None or memory.weights is None for memory in memories):
        return None
    some_memory = next(memory for memory in memories if memory)
    rows = []
    for memory in memories:
        columns = memory.weights if memory else None
        ones = some_memory.keys.new_ones(
            some_memory.keys.shape[0], longest - (columns.shape[1] if columns is not None else 0)
        )
        rows.append(ones if columns is None else torch.cat([columns, ones], dim=1))
    return list(torch.stack(rows, dim=1))


def _side_by_side(values: Sequence[Tensor | None], longest: int) -> Tensor:
    """Memories [N, H, P, K] of several rows, padded on the right: [N, B, H, longest, K]."""
    some_value = next(value for value in values if value is not None)
    empty = some_value[:, :, :0]
    rows = [empty if value is None else value for value in values]
    padding = [(0, 0, 0, longest - row.shape[2]) for row in rows]
    return torch.stack([torch.nn.functional.pad(row, pad) for row, pad in zip(rows, padding, strict=True)], dim=1)
