"""Greedy answers over kept keys and values, many rows and prompts at a time."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from overture.core.types import Encoded
from overture.engine.attention import Columns, Step
from overture.engine.backbone import Backbone
from overture.engine.inputs import Inputs
from overture.engine.layout import answer_layout
from overture.engine.passes import Injections, Pass, prepared

# Tokens that kept keys and values have room for at first.
_ROOM = 32


@torch.no_grad()
def greedy(
    inputs: Inputs, rows: Sequence[Encoded], injections: Injections, max_new_tokens: int, stop: Sequence[str]
) -> list[str]:
    """Answers: until the end token, a stop text, or ``max_new_tokens``; all injections enter at the same layer."""
    decode = inputs.backbone.tokenizer.decode

    def is_done(answer: Sequence[int]) -> bool:
        # Leading white space may spell a stop text before the answer has begun.
        text = decode(answer).lstrip()
        return any(end in text for end in stop)

    answers = greedy_tokens(inputs, rows, injections, max_new_tokens, is_done)
    return [_cut(decode(answer), stop) for answer in answers]


@torch.no_grad()
def greedy_tokens(
    inputs: Inputs,
    rows: Sequence[Encoded],
    injections: Injections,
    max_new_tokens: int,
    is_done: Callable[[Sequence[int]], bool],
) -> list[list[int]]:
    """Tokens as `greedy` writes them, the end token left out; `is_done` looks at what a row has so far."""
    backbone = inputs.backbone
    asked = [Encoded(row.row, row.input_ids, row.anchor_ids, slots=row.slots) for row in rows]
    first = prepared(inputs, asked, injections, answer_layout, is_generating=True)
    hidden = backbone.run(first.live, first.step, first.layer)
    token = backbone.head(hidden[torch.arange(len(rows), device=hidden.device), first.layout.trunk_end]).argmax(-1)
    continued = _Continued(backbone, first)
    answers: list[list[int]] = [[] for _ in rows]
    ended = [False] * len(rows)
    for num_new in range(1, max_new_tokens + 1):
        _append(backbone, answers, ended, token.tolist(), is_done)
        if all(ended) or num_new == max_new_tokens:
            break
        token = backbone.head(continued.next(token)).argmax(-1)
    return answers


class _Stretch:
    """Some neighbouring layers with what they have kept so far, in buffers that tokens are added to."""

    def __init__(self, backbone: Backbone, step: Step, first: int, end: int | None) -> None:
        self.backbone, self.first, self.end = backbone, first, end
        self.memory = [_merged([*step.memory, _kept(step)], step.positions.shape[0])]
        # The last valid position of each row, whatever stands in its padding.
        self.position = step.positions.masked_fill(~step.valid, -(1 << 40)).amax(1)

    def next(self, live: Tensor) -> Tensor:
        """One more token for each row, [B, 1, D]."""
        self.position = self.position + 1
        step = Step(self.position[:, None], torch.ones_like(self.position[:, None], dtype=torch.bool))
        step.memory = [_with_room(part) for part in self.memory]
        hidden = self.backbone.run(live, step, self.first, self.end)
        self.memory = [_grown(part, step) for part in step.memory]
        return hidden


class _Continued:
    """Token after token behind a prepared pass; below a late prompt the layers have memories of their own."""

    def __init__(self, backbone: Backbone, first: Pass) -> None:
        self.backbone = backbone
        self.stretches = [_Stretch(backbone, first.below, 0, first.layer)] if first.below else []
        self.stretches.append(_Stretch(backbone, first.step, first.layer, None))

    def next(self, token: Tensor) -> Tensor:
        """Hidden states behind a token of each row, [B, D]."""
        live = self.backbone.embed(token[:, None])
        for stretch in self.stretches:
            live = stretch.next(live)
        return live[:, 0]


def _kept(step: Step) -> Columns:
    kept = step.kept or {}
    keys = {layer: key for layer, (key, _) in kept.items()}
    return Columns(keys, {layer: value for layer, (_, value) in kept.items()}, step.positions, step.valid)


def _merged(parts: Sequence[Columns], num_rows: int) -> Columns:
    """All columns as one part with room behind it, so that tokens are added in place.

    Steps are many and small: a prompt's columns are copied once here, not at every step and layer.
    """
    num = sum(part.valid.shape[1] for part in parts)

    def buffer(layer: int, which: str) -> Tensor:
        like = getattr(parts[-1], which)[layer]
        found, start = like.new_empty(num_rows, like.shape[1], num + _ROOM, like.shape[3]), 0
        for part in parts:
            values = getattr(part, which)[layer]
            found[:, :, start : start + values.shape[2]] = _of_rows(values, part.shared, num_rows)
            start += values.shape[2]
        return found

    room = {layer: (buffer(layer, "keys"), buffer(layer, "values")) for layer in parts[-1].keys}
    positions = torch.cat([part.positions.expand(num_rows, -1) for part in parts], dim=1)
    valid = torch.cat([part.valid.expand(num_rows, -1) for part in parts], dim=1)
    return _filled(room, positions, valid, _merged_weights(parts, num_rows))


def _filled(
    room: dict[int, tuple[Tensor, Tensor]], positions: Tensor, valid: Tensor, weights: list[Tensor] | None
) -> Columns:
    """Columns that are the beginning of buffers."""
    end = positions.shape[1]
    keys, values = [{layer: pair[at][:, :, :end] for layer, pair in room.items()} for at in (0, 1)]
    return Columns(keys, values, positions, valid, weights, room=room)


def _of_rows(values: Tensor, shared: str, num_rows: int) -> Tensor:
    """What stands once for several rows, for each of them."""
    share = num_rows // values.shape[0]
    if share == 1 or values.shape[0] == 1:
        return values.expand(num_rows, -1, -1, -1)
    return values.repeat(share, 1, 1, 1) if shared == "cycle" else values.repeat_interleave(share, dim=0)


def _merged_weights(parts: Sequence[Columns], num_rows: int) -> list[Tensor] | None:
    known = next((part.weights for part in parts if part.weights is not None), None)
    if known is None:
        return None
    return [
        torch.cat(
            [
                known[0].new_ones(num_rows, part.valid.shape[1])
                if part.weights is None
                else part.weights[layer].expand(num_rows, -1)
                for part in parts
            ],
            dim=1,
        )
        for layer in range(len(known))
    ]


def _with_room(part: Columns) -> Columns:
    """Columns with room for at least one more behind them; grown by half, so that copies stay rare."""
    num = part.valid.shape[1]
    if part.room is not None and all(keys.shape[2] > num for keys, _ in part.room.values()):
        return part
    more = max(_ROOM, num // 2)
    room = {layer: (_longer(keys, more), _longer(part.values[layer], more)) for layer, keys in part.keys.items()}
    return replace(part, room=room)


def _longer(values: Tensor, more: int) -> Tensor:
    return torch.cat([values, values.new_empty(*values.shape[:2], more, values.shape[3])], dim=2)


def _grown(part: Columns, step: Step) -> Columns:
    """Columns with the step's live tokens, which attention wrote behind them."""
    assert part.room is not None
    weights = part.weights
    if weights is not None:
        weights = [torch.cat([own, own.new_ones(step.positions.shape)], dim=1) for own in weights]
    positions = torch.cat([part.positions, step.positions], dim=1)
    return _filled(dict(part.room), positions, torch.cat([part.valid, step.valid], dim=1), weights)


def _append(
    backbone: Backbone,
    answers: list[list[int]],
    ended: list[bool],
    tokens: Sequence[int],
    is_done: Callable[[Sequence[int]], bool],
) -> None:
    for index, token in enumerate(tokens):
        if ended[index]:
            continue
        if token == backbone.tokenizer.eos_id:
            ended[index] = True
            continue
        answers[index].append(token)
        ended[index] = is_done(answers[index])


def _cut(text: str, stop: Sequence[str]) -> str:
    text = text.strip()
    return text[: min((text.find(end) for end in stop if end in text), default=len(text))].strip()
