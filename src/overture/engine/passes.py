"""Prepares one forward pass under prompts: live tokens, the memory that they attend to, and places of vectors.

Shape letters: B rows, P prompt length, S live tokens, M memory columns, N layers, H key/value heads, K head width.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from overture.core.errors import BackboneError
from overture.core.injection import Injection
from overture.core.rows import Encoded
from overture.engine.backbone import Backbone
from overture.engine.beginnings import with_shared_beginnings
from overture.engine.inputs import Inputs, Text
from overture.engine.layout import Layout, Start
from overture.engine.memories import prompt_columns
from overture.engine.splits import with_splits
from overture.engine.step import FUSED, Columns, Step

Make = Callable[[Sequence[Encoded], Sequence[Start], torch.device], Layout]
Injections = Sequence[Injection | None]


@dataclass(frozen=True, slots=True)
class Pass:
    """A prepared forward pass.

    Args:
        live: the states that enter ``layer``, [B, S, D].
        step: positions, masks and memory of the live tokens.
        layout: where each token stands.
        layer: the first layer under the prompts; below it the text ran alone.
        below: the step of that run, with its keys and values; None at layer 0, or if the states came from the cache.
    """

    live: Tensor
    step: Step
    layout: Layout
    layer: int = 0
    below: Step | None = None


def prepared(
    inputs: Inputs,
    rows: Sequence[Encoded],
    injections: Injections,
    make: Make,
    is_generating: bool = False,
    is_whole: bool = False,
) -> Pass:
    """Prepare a forward pass.

    Args:
        inputs: runs or caches the texts.
        rows: the batch.
        injections: a prompt, or none, for each row; all enter at the same layer.
        make: lays out label words or answers.
        is_generating: the step collects keys and values, for the tokens to come.
        is_whole: all vectors and texts are live tokens of every row, also where they could run once for several, so
            that their states can be read.

    Raises:
        BackboneError: ``is_whole`` under an adapter that leaves the texts to the frozen model.
    """
    backbone = inputs.backbone
    if is_whole and inputs.reader is not backbone:
        raise BackboneError(
            "the states of a text cannot be read under an adapter that begins behind it",
            where=backbone.info.id,
            fix="an adapter with place everywhere",
        )
    # Long texts keep the causal kernel, which has no room for memory and is worth more.
    if not is_whole and max(row.num_tokens for row in rows) < FUSED["cpu"]:
        has_live_input = [not _runs_input_first(injection, inputs) for injection in injections]
        rows, injections = with_shared_beginnings(backbone, rows, injections, has_live_input)
    layer = max(injection.layer if injection else 0 for injection in injections)
    is_live = [not _runs_input_first(injection, inputs) for injection in injections]
    starts = [_start(backbone, *start_facts) for start_facts in zip(rows, injections, is_live, strict=True)]
    layout = make(rows, starts, backbone.device)
    memory = _memory(inputs, rows, injections, is_live, starts)
    key_values: dict[int, tuple[Tensor, Tensor]] | None = {} if is_generating else None
    step = layout.step(memory, key_values)
    if layer:
        live, below = _text_below(inputs, rows, make, layer, layout, is_generating)
    else:
        live, below = _with_offsets(inputs.entered(layout), layout, injections), None
    live = with_splits(_with_vectors(live, layout, injections), rows, injections)
    return Pass(live, step, layout, layer, below)


def kept_input(row: Encoded, injection: Injection | None, inputs: Inputs) -> Text | None:
    """A row's text if its keys and values can be cached under this prompt, else None."""
    return row.input_elements if _runs_input_first(injection, inputs) else None


def text_layout(rows: Sequence[Encoded], make: Make, backbone: Backbone) -> Layout:
    """The layout of rows without any prompt, as they run below a late one."""
    return make(rows, [Start(0, (), True)] * len(rows), backbone.device)


def _runs_input_first(injection: Injection | None, inputs: Inputs) -> bool:
    if not inputs.backbone.family.is_causal:
        # An encoder's input sees the prompt behind it.
        return False
    if inputs.reader is not inputs.backbone:
        # Another model runs it; `core.capabilities` has refused prompts that would change it.
        return True
    # Without a cache an input in front of an `after` prompt still runs by itself, for the same numbers.
    if injection is None or not injection.length:
        return inputs.cache is not None and (injection is None or injection.leaves_input)
    return injection.leaves_input


def _start(backbone: Backbone, row: Encoded, injection: Injection | None, is_live: bool) -> Start:
    position = 0 if is_live or backbone.family.is_rotary else row.num_input
    if injection is None:
        return Start(position, (), is_live)
    if injection.memory:
        position += injection.memory.length
    return Start(position, _vector_slots(row, injection, is_live), is_live)


def _vector_slots(row: Encoded, injection: Injection, is_live: bool) -> tuple[tuple[int, int], ...]:
    vectors = injection.vectors
    if vectors is None:
        return ()
    if vectors.place == "slots":
        assert sum(count for _, count in row.slots) == vectors.length, "the template's slots hold the prompt"
        return row.slots
    if vectors.place == "around":
        return (0, vectors.num_before), (row.num_input, vectors.length - vectors.num_before)
    index = row.num_input if vectors.place == "after" and is_live else 0
    return ((index, vectors.length),)


def _memory(
    inputs: Inputs,
    rows: Sequence[Encoded],
    injections: Injections,
    is_live: Sequence[bool],
    starts: Sequence[Start],
) -> list[Columns]:
    memory = []
    if not all(is_live):
        memory.append(
            inputs.columns([() if live else row.input_elements for row, live in zip(rows, is_live, strict=True)])
        )
    memories = [injection.memory.memory if injection and injection.memory else None for injection in injections]
    if any(memories):
        firsts = [start.position for start in starts]
        memory.append(prompt_columns(memories, firsts, inputs.backbone))
    return memory


def _text_below(
    inputs: Inputs, rows: Sequence[Encoded], make: Make, layer: int, layout: Layout, is_generating: bool
) -> tuple[Tensor, Step | None]:
    """States of the text that ran alone up to a layer, [B, S, D], with zeros at the places of prompt vectors."""
    backbone = inputs.backbone
    text_layout_alone = text_layout(rows, make, backbone)
    step = None
    if is_generating or backbone.cross_columns is not None:
        # The cache's key does not hold the encoder's output, by which equal lines of a decoder differ.
        step = text_layout_alone.step(key_values={})
        hidden = backbone.run(inputs.entered(text_layout_alone), step, end_layer=layer)
    else:
        hidden = inputs.hidden(layer, text_layout_alone)
    is_text = layout.valid if layout.is_vector is None else layout.valid & ~layout.is_vector
    # Which of its row's text tokens each one is; a mask as an index would wait for the device.
    number = (is_text.cumsum(1) - 1).clamp(0, hidden.shape[1] - 1)
    live = hidden.gather(1, number[:, :, None].expand(-1, -1, hidden.shape[-1]))
    return live.masked_fill(~is_text[:, :, None], 0.0), step


def _with_vectors(live: Tensor, layout: Layout, injections: Injections) -> Tensor:
    """Live tokens with each row's prompt vectors in their places, [B, S, D]."""
    if layout.is_vector is None:
        return live
    row_vectors = [injection.vectors.values for injection in injections if injection and injection.vectors]
    first_values = row_vectors[0]
    if len(row_vectors) == len(injections) and all(values is first_values for values in row_vectors):
        values = first_values.to(live.dtype).expand(len(row_vectors), -1, -1).reshape(-1, live.shape[-1])
    else:
        values = torch.cat(row_vectors).to(live.dtype)
    return live.masked_scatter(layout.is_vector[:, :, None], values)


def _with_offsets(live: Tensor, layout: Layout, injections: Injections) -> Tensor:
    offsets = [injection.offset if injection else None for injection in injections]
    if not any(offset is not None for offset in offsets):
        return live
    rows = zip(live, offsets, layout.trunk_index, strict=True)
    row_offsets = [
        torch.zeros_like(vectors) if offset is None else _live_offset(offset, index) for vectors, offset, index in rows
    ]
    return live + torch.stack(row_offsets).to(live.dtype)


def _live_offset(offset: Tensor, index: Tensor) -> Tensor:
    """The offset of each live token, [S, D]; zero beyond the offset's end and for all that is not the row's text."""
    is_in = (index >= 0) & (index < len(offset))
    return offset[index.clamp(0, len(offset) - 1)] * is_in[:, None]
