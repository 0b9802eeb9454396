"""States of rows in every layer of the frozen model without any prompt, for probes and starts.

Shape letters: B rows, L length, N layers, D width.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from overture.core.errors import BackboneError
from overture.core.rows import Answer, Encoded, OneOf
from overture.engine.inputs import Inputs
from overture.engine.layout import Layout, answer_layout
from overture.engine.passes import text_layout
from overture.engine.readers import read_states


@torch.no_grad()
def layer_by_layer(
    inputs: Inputs, rows: Sequence[Encoded], last: int | None = None
) -> Iterator[tuple[int, Tensor, Layout]]:
    """Hidden states that enter each layer, [B, L, D], and last those behind the last layer and its norm.

    Args:
        inputs: makes the vectors that enter the first layer.
        rows: a batch; their answers are left out.
        last: the number of layers after which it ends; all of them when None.

    Yields:
        Number of layers that have run, the states, where each token stands.

    Raises:
        BackboneError: the model is an encoder-decoder, whose rows pass two stacks.
    """
    backbone = inputs.backbone
    if backbone.encoder is not None:
        raise BackboneError(
            "the layers of an encoder-decoder are not one stack to read from",
            where=backbone.info.id,
            fix="read the last states: layer last",
        )
    unlabelled_rows = [row if isinstance(row.target, OneOf) else replace(row, target=Answer()) for row in rows]
    layout = text_layout(unlabelled_rows, answer_layout, backbone)
    step = layout.step()
    hidden, num_layers = inputs.entered(layout), backbone.info.num_layers
    for layer in range(num_layers):
        yield layer, hidden, layout
        if layer == last:
            return
        hidden = backbone.run(hidden, step, layer, layer + 1 if layer + 1 < num_layers else None)
    yield num_layers, hidden, layout


def pooled_by_layer(inputs: Inputs, rows: Sequence[Encoded], layers: tuple[int, ...]) -> list[Tensor]:
    """For each row the state that its label is read from and the mean of its states, in some layers: [n, 2, D].

    Results are cached by a row's content where there is a cache.

    Args:
        inputs: makes the vectors that enter the first layer, and has the cache.
        rows: a batch.
        layers: how many layers have run, in order; the number of all of them means behind the last norm too.
    """
    cache, contents = inputs.cache, [(_label_index(row), *row.input_elements, *row.anchor_elements) for row in rows]
    pooled: dict[tuple[int, int], Tensor] = {}
    for number, content in enumerate(contents):
        for layer in layers if cache is not None else ():
            if (entry := cache.get(("pooled", layer, *content))) is not None:  # type: ignore[union-attr]
                pooled[number, layer] = entry
    missing = [number for number in range(len(rows)) if any((number, layer) not in pooled for layer in layers)]
    if missing:
        for layer, hidden, layout in layer_by_layer(inputs, [rows[number] for number in missing], max(layers)):
            if layer not in layers:
                continue
            states = torch.stack([read_states(hidden, layout, is_mean) for is_mean in (False, True)], dim=1)
            for number, entry in zip(missing, states, strict=True):
                pooled[number, layer] = entry.clone()
                if cache is not None:
                    cache.put(("pooled", layer, *contents[number]), entry.clone())
    return [torch.stack([pooled[number, layer] for layer in layers]) for number in range(len(rows))]


def pooled_images(inputs: Inputs, rows: Sequence[Encoded], pooled: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """For each row the one state that the model compares with texts, [B, D]; kept by content where there is a cache.

    Args:
        inputs: makes the vectors that enter the first layer, and has the cache.
        rows: a batch.
        pooled: from last states [B, S, D], and where a row's own are [B, S], to one state of each, [B, D].
    """
    cache = inputs.cache
    keys = [("compared", *row.input_elements, *row.anchor_elements) for row in rows]
    entries = [None if cache is None else cache.get(key) for key in keys]
    missing = [number for number, entry in enumerate(entries) if entry is None]
    if missing:
        *_, (_, hidden, layout) = layer_by_layer(inputs, [rows[number] for number in missing])
        with torch.no_grad():
            states = pooled(hidden, layout.trunk_index >= 0)
        for number, state in zip(missing, states, strict=True):
            entries[number] = state.clone()
            if cache is not None:
                cache.put(keys[number], state.clone())
    return torch.stack([entry for entry in entries if entry is not None])


def states_at(inputs: Inputs, picks: Sequence[tuple[Encoded, int]]) -> Tensor:
    """States of some positions as they enter each layer, float32 [N, n, D].

    Args:
        inputs: makes the vectors that enter the first layer.
        picks: a row, and the index of a position in it.
    """
    of_picks = []
    num_layers = inputs.backbone.info.num_layers
    for row, index in picks:
        walk = [hidden[0, index] for layer, hidden, _ in layer_by_layer(inputs, [row]) if layer < num_layers]
        of_picks.append(torch.stack(walk))
    return torch.stack(of_picks, dim=1).float()


def _label_index(row: Encoded) -> int:
    """The index that a row's label is read from; the last if the target names none."""
    read = row.target.read if isinstance(row.target, OneOf) else None
    return read if isinstance(read, int) else row.num_text - 1
