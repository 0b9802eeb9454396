"""Encoder-decoders: the encoder reads the row's text; the decoder starts with its start tokens and reads the output.

At `before`, `slots` and `memory` a prompt stands in the encoder, with all rules of encoders. At `after` it stands in
the decoder, in front of the start tokens: then the encoder's output is the model's own, and is kept for each text as
the keys and values that the decoder's cross-attentions make of it. What is left is a decoder whose rows are short, so
label words, answers and late prompts go through the passes of decoders unchanged.

An encoder of sounds reads the row's sound only. The row's words, the template's end, are the decoder's: they stand in
front of the start tokens, and so does a prompt at `slots`.

Shape letters: B rows, L length, D width, N layers, H heads, K head width.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import pad

from overture.core.injection import Injection, Place
from overture.core.rows import Encoded, Tokens
from overture.engine.inputs import Inputs, Progress, Text, groups
from overture.engine.layout import answer_layout
from overture.engine.passes import Injections, prepared, text_layout
from overture.engine.step import Columns
from overture.engine.transfer import sent

_BEHIND: Mapping[bool, frozenset[Place]] = {True: frozenset({"after"}), False: frozenset({"after", "slots"})}
"""Places that are in the decoder, by whether the encoder reads words."""


def in_encoder(injection: Injection | None, reads_words: bool = True) -> Injection | None:
    """The part of a prompt that stands in the encoder; None when it leaves the encoder as it is."""
    behind = _BEHIND[reads_words]
    if injection is None or (injection.places <= behind and injection.offset is None):
        return None
    vectors, memory = injection.vectors, injection.memory
    return replace(
        injection,
        vectors=vectors if vectors and vectors.place not in behind else None,
        memory=memory if memory and memory.place not in behind else None,
        labels=None,
        head=None,
    )


def in_decoder(injection: Injection | None, reads_words: bool = True) -> Injection | None:
    """The part that stands in front of the decoder's start tokens, and the label vectors."""
    if injection is None:
        return None
    vectors, memory = injection.vectors, injection.memory
    is_behind = vectors is not None and vectors.place in _BEHIND[reads_words]
    return replace(
        injection,
        vectors=replace(vectors, place="before" if vectors.place == "after" else "slots")
        if vectors and is_behind
        else None,
        memory=replace(memory, place="memory") if memory and memory.place == "after" else None,
        offset=None,
    )


def decoding(
    inputs: Inputs, rows: Sequence[Encoded], injections: Injections
) -> tuple[Inputs, list[Encoded], list[Injection | None]]:
    """Turn a batch of an encoder-decoder into one of its decoder; runs the encoder where its output is not cached.

    Returns:
        The decoder with the encoder's output, its rows, and the prompts' parts in it.
    """
    backbone, reads_words = inputs.backbone, _reads_words(inputs)
    start = Tokens(backbone.info.start_ids)
    decoder = Inputs(backbone.reading(_encoder_columns(inputs, rows, injections)), None, inputs.max_tokens)
    decoder_rows = []
    for row in rows:
        words = () if reads_words else tuple(part for part in row.anchor if len(part))
        slots = () if reads_words else tuple((index - row.num_input, count) for index, count in row.slots)
        row_start = Tokens(row.start) if row.start else start
        decoder_rows.append(replace(row, input=(), anchor=(*words, row_start), slots=slots, blanks=()))
    return decoder, decoder_rows, [in_decoder(injection, reads_words) for injection in injections]


def encoding(
    inputs: Inputs, rows: Sequence[Encoded], injections: Injections
) -> tuple[Inputs, list[Encoded], list[Injection | None]]:
    """Turn a batch into one of the encoder, without a cache, so that its states can be read."""
    encoder, reads_words = inputs.backbone.encoder, _reads_words(inputs)
    assert encoder is not None
    encoder_rows = list(rows) if reads_words else [replace(row, anchor=(), slots=()) for row in rows]
    return Inputs(encoder, None, inputs.max_tokens), encoder_rows, [in_encoder(i, reads_words) for i in injections]


def warm(inputs: Inputs, rows: Sequence[Encoded], injections: Injections, progress: Progress | None) -> None:
    """Cache the encoder's results for a split's texts; all injections enter at the same layer."""
    encoder = inputs.backbone.encoder
    assert encoder is not None
    reads_words = _reads_words(inputs)
    parts = [in_encoder(injection, reads_words) for injection in injections]
    unprompted_texts = [_encoder_text(row, reads_words) for row, part in zip(rows, parts, strict=True) if part is None]
    if unprompted_texts:
        inputs.warm_columns(unprompted_texts, progress)
    layer = max((part.layer for part in parts if part), default=0)
    if layer:
        prompted_rows = [_encoder_row(row, reads_words) for row, part in zip(rows, parts, strict=True) if part]
        by_length = sorted(prompted_rows, key=lambda row: (row.num_tokens, row.row))
        batches = groups(by_length, lambda row: row.num_tokens, inputs.max_tokens)
        below = Inputs(encoder, inputs.cache, inputs.max_tokens)
        below.warm_hidden(layer, [text_layout(batch, answer_layout, encoder) for batch in batches], progress)


def _reads_words(inputs: Inputs) -> bool:
    """Whether the encoder reads words; else a row's words are the decoder's."""
    encoder = inputs.backbone.encoder
    assert encoder is not None
    return encoder.family.has_words


def _encoder_text(row: Encoded, reads_words: bool) -> Text:
    return (*row.input_elements, *(row.anchor_elements if reads_words else ()))


def _encoder_row(row: Encoded, reads_words: bool) -> Encoded:
    """The part of a row that the encoder reads."""
    return Encoded(row.row, row.input, row.anchor, slots=row.slots) if reads_words else Encoded(row.row, row.input, ())


def _encoder_columns(inputs: Inputs, rows: Sequence[Encoded], injections: Injections) -> Columns:
    """The encoder's output for each row: the kept one, or that of an encoder run under the prompt."""
    reads_words = _reads_words(inputs)
    parts = [in_encoder(injection, reads_words) for injection in injections]
    cached_rows = [index for index, part in enumerate(parts) if part is None]
    prompted_rows = [index for index, part in enumerate(parts) if part is not None]
    columns = []
    if cached_rows:
        columns.append(inputs.columns([_encoder_text(rows[index], reads_words) for index in cached_rows]))
    if prompted_rows:
        encoder = inputs.backbone.encoder
        assert encoder is not None
        encoder_rows = [_encoder_row(rows[index], reads_words) for index in prompted_rows]
        encoder_inputs = Inputs(encoder, inputs.cache, inputs.max_tokens)
        a_pass = prepared(encoder_inputs, encoder_rows, [parts[index] for index in prompted_rows], answer_layout)
        hidden = encoder.run(a_pass.live, a_pass.step, a_pass.layer)
        columns.append(inputs.backbone.cross_columns_of(hidden, a_pass.layout.valid))
    return columns[0] if len(columns) == 1 else _in_batch_order(columns, [*cached_rows, *prompted_rows])


def _in_batch_order(parts: Sequence[Columns], order: Sequence[int]) -> Columns:
    """Columns of some rows and of the others, in the batch's order."""
    longest = max(part.valid.shape[1] for part in parts)
    place = sent(order, parts[0].valid.device).argsort()

    def in_order(values: Sequence[Tensor], axis: int) -> Tensor:
        # Padding is spelt from the last axis on; texts that rows share in turn are there once.
        rows = [
            pad(value, (0, 0) * (-axis - 1) + (0, longest - value.shape[axis])).repeat(
                len(part.valid) // len(value), *[1] * (value.dim() - 1)
            )
            for value, part in zip(values, parts, strict=True)
        ]
        return torch.cat(rows)[place]

    keys, values = [
        {layer: in_order([getattr(part, name)[layer] for part in parts], -2) for layer in parts[0].keys}
        for name in ("keys", "values")
    ]
    positions, valid = [in_order([getattr(part, name) for part in parts], -1) for name in ("positions", "valid")]
    return Columns(keys, values, positions, valid)
