"""Greedy answers over kept keys and values, many rows and prompts at a time."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from overture.core.types import Encoded
from overture.engine.attention import Columns, Step
from overture.engine.backbone import Backbone
from overture.engine.inputs import Inputs
from overture.engine.layout import answer_layout
from overture.engine.passes import Injections, Pass, prepared


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
    """Some neighbouring layers with what they have kept so far."""

    def __init__(self, backbone: Backbone, step: Step, first: int, end: int | None) -> None:
        self.backbone, self.first, self.end = backbone, first, end
        self.memory = [*step.memory, _kept(step)]
        # The last valid position of each row, whatever stands in its padding.
        self.position = step.positions.masked_fill(~step.valid, -(1 << 40)).amax(1)

    def next(self, live: Tensor) -> Tensor:
        """One more token for each row, [B, 1, D]."""
        self.position = self.position + 1
        step = Step(self.position[:, None], torch.ones_like(self.position[:, None], dtype=torch.bool), kept={})
        step.memory = self.memory
        hidden = self.backbone.run(live, step, self.first, self.end)
        self.memory = [*self.memory[:-1], _joined(self.memory[-1], _kept(step))]
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


def _joined(left: Columns, right: Columns) -> Columns:
    return Columns(
        {layer: torch.cat([left.keys[layer], key], dim=2) for layer, key in right.keys.items()},
        {layer: torch.cat([left.values[layer], value], dim=2) for layer, value in right.values.items()},
        torch.cat([left.positions, right.positions], dim=1),
        torch.cat([left.valid, right.valid], dim=1),
    )


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
