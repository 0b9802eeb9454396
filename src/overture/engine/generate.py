"""Writes answers for many rows and prompts at a time over kept keys and values: greedy, sampled, or by beam search.

Shape letters: B rows, W beams, V vocabulary.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from overture.core.decoding import GREEDY, Decoding
from overture.core.rows import Encoded, Written
from overture.engine.backbone import Backbone
from overture.engine.inputs import Inputs
from overture.engine.layout import answer_layout
from overture.engine.lines import Line, allowed_of, append_next, chance_of, log_shares_of, without
from overture.engine.passes import Injections, Pass, prepared
from overture.engine.step import Columns, Step

# Tokens that kept keys and values have room for at first.
_ROOM = 32


@torch.no_grad()
def written_answers(
    inputs: Inputs,
    rows: Sequence[Encoded],
    injections: Injections,
    max_new_tokens: int,
    stop: Sequence[str],
    decoding: Decoding = GREEDY,
    texts: Sequence[Encoded] = (),
) -> list[Written]:
    """Write an answer for each row, until the end token, a stop text, or ``max_new_tokens``.

    Args:
        inputs: runs or caches the texts.
        rows: their limits on answers apply; the answers that they may hold are ignored.
        injections: a prompt, or none, for each row; all enter at the same layer.
        max_new_tokens: the largest number of tokens.
        stop: the answer ends before the first of these texts.
        decoding: how tokens are chosen.
        texts: rows whose texts seed the random choice, where ``rows`` have no text; ``rows`` when empty.
    """
    backbone = inputs.backbone
    if decoding.beams > 1:
        search = _Search(backbone, rows, stop, max_new_tokens, decoding)
        logits, answer_pass = first_pass(inputs, rows, injections)
        return search.run(logits, _Continued(backbone, answer_pass))

    def is_done(ids: Sequence[int]) -> bool:
        return is_stopped(backbone, ids, stop)

    chances = [chance_of(row, decoding) for row in texts or rows]
    lines = [
        Line(row, backbone.info.eos_id, max_new_tokens, is_done, chance)
        for row, chance in zip(rows, chances, strict=True)
    ]
    _write_lines(inputs, rows, injections, lines)
    return [answer_of(backbone, line, stop) for line in lines]


@torch.no_grad()
def greedy_tokens(
    inputs: Inputs,
    rows: Sequence[Encoded],
    injections: Injections,
    max_new_tokens: int,
    is_done: Callable[[Sequence[int]], bool],
) -> list[list[int]]:
    """Each row's likeliest tokens without the end token; `is_done` gets a row's tokens so far and ends it."""
    lines = [Line(row, inputs.backbone.info.eos_id, max_new_tokens, is_done) for row in rows]
    _write_lines(inputs, rows, injections, lines)
    return [line.ids for line in lines]


def first_pass(inputs: Inputs, rows: Sequence[Encoded], injections: Injections) -> tuple[Tensor, Pass]:
    """The pass over the rows before their answers: logits of the first token, [B, V], and the pass itself."""
    backbone = inputs.backbone
    unlabelled_rows = [Encoded(row.row, row.input, row.anchor, slots=row.slots) for row in rows]
    answer_pass = prepared(inputs, unlabelled_rows, injections, answer_layout, is_generating=True)
    hidden = backbone.run(answer_pass.live, answer_pass.step, answer_pass.layer)
    logits = backbone.head(hidden[torch.arange(len(rows), device=hidden.device), answer_pass.layout.trunk_end])
    return logits, answer_pass


def _write_lines(inputs: Inputs, rows: Sequence[Encoded], injections: Injections, lines: Sequence[Line]) -> None:
    backbone = inputs.backbone
    logits, answer_pass = first_pass(inputs, rows, injections)
    continuation = _Continued(backbone, answer_pass)
    token = append_next(logits, lines, backbone.unwritten)
    while not all(line.is_done for line in lines):
        token = append_next(backbone.head(continuation.next(token)), lines, backbone.unwritten)


def answer_of(backbone: Backbone, line: "Line | _Beam", stop: Sequence[str]) -> Written:
    """The text and likelihood of a line, cut at a stop text and without the end token."""
    text = _cut_at_stop(backbone.text.tokenizer.decode(line.ids), stop)
    return Written(text, tuple(line.ids), line.log_likelihood, tuple(line.shares) if isinstance(line, Line) else ())


# -- beam search


@dataclass(slots=True)
class _Beam:
    """A beginning of an answer: its tokens, the sum of their log-likelihoods, and the index of the beam it extends."""

    ids: tuple[int, ...]
    log_likelihood: float
    came_from: int = 0


class _Beams:
    """One row's beginnings and finished answers."""

    def __init__(self, num_beams: int, length_penalty: float) -> None:
        self.num_beams, self.length_penalty = num_beams, length_penalty
        self.running = [_Beam((), 0.0)]
        self.finished: list[tuple[float, _Beam]] = []
        self.is_done = False

    def finish(self, beam: _Beam, length: int) -> None:
        """Keep a finished answer if it is among the best."""
        self.finished.append((beam.log_likelihood / length**self.length_penalty, beam))
        self.finished.sort(key=lambda answer: -answer[0])
        del self.finished[self.num_beams :]

    def close(self, length: int) -> None:
        """Set ``is_done`` if no beginning, at its present length, beats the finished answers; as transformers does."""
        if not self.running:
            self.is_done = True
        elif len(self.finished) == self.num_beams:
            best = self.running[0].log_likelihood / length**self.length_penalty
            self.is_done = best <= self.finished[-1][0]


class _Search:
    """Beam search over all rows at once.

    Source: transformers' ``generate`` with ``early_stopping=False``, which it equals: twice as many continuations as
    beams are looked at, an answer that ends counts if it is among the first W, and a row is done when its best
    beginning, at its length now, is no better than the worst of W finished answers.
    """

    def __init__(
        self, backbone: Backbone, rows: Sequence[Encoded], stop: Sequence[str], max_new_tokens: int, decoding: Decoding
    ) -> None:
        self.backbone, self.rows, self.stop, self.max_new_tokens = backbone, rows, stop, max_new_tokens
        self.num_beams = decoding.beams
        self.beams = [_Beams(decoding.beams, decoding.length_penalty) for _ in rows]

    def run(self, logits: Tensor, continuation: "_Continued") -> list[Written]:
        """The best answer of each row; beams of all rows that are not done run together."""
        owner = list(range(len(self.rows)))
        for length in range(1, self.max_new_tokens + 1):
            shares = log_shares_of(logits)
            num_scored = 0
            for row, beams in enumerate(self.beams):
                count = owner.count(row)
                if count:
                    self._step(row, beams, shares[num_scored : num_scored + count], length)
                num_scored += count
            first_index = {row: owner.index(row) for row in set(owner)}
            live = [(row, beam) for row, beams in enumerate(self.beams) if not beams.is_done for beam in beams.running]
            if not live:
                break
            continuation.select([first_index[row] + beam.came_from for row, beam in live])
            owner = [row for row, _ in live]
            token = torch.tensor([beam.ids[-1] for _, beam in live], device=logits.device)
            logits = self.backbone.head(continuation.next(token))
        finals = [row.finished[0][1] if row.finished else (row.running or [_Beam((), 0.0)])[0] for row in self.beams]
        return [answer_of(self.backbone, beam, self.stop) for beam in finals]

    def _step(self, row: int, beams: _Beams, shares: Tensor, length: int) -> None:
        running: list[_Beam] = []
        for rank, beam in enumerate(self._continuations(row, beams, shares, length)):
            if beam.ids[-1] == self.backbone.info.eos_id:
                is_end, beam.ids = True, beam.ids[:-1]
            else:
                is_end = length == self.max_new_tokens or is_stopped(self.backbone, beam.ids, self.stop)
            if is_end and rank < self.num_beams:
                beams.finish(beam, length)
            elif not is_end and len(running) < self.num_beams:
                running.append(beam)
        beams.running = running
        beams.close(length)

    def _continuations(self, row: int, beams: _Beams, shares: Tensor, length: int) -> Iterator[_Beam]:
        """The likeliest beginnings with one token more, twice as many as there are beams."""
        shares = self._allowed_shares(row, beams, shares, length)
        totals = torch.tensor([beam.log_likelihood for beam in beams.running], device=shares.device, dtype=shares.dtype)
        continued_totals = (shares + totals[:, None]).flatten()
        values, index = continued_totals.topk(min(2 * self.num_beams, len(continued_totals)))
        for value, flat_index in zip(values.tolist(), index.tolist(), strict=True):
            if value > float("-inf"):
                number, token = divmod(flat_index, shares.shape[1])
                yield _Beam((*beams.running[number].ids, token), value, number)

    def _allowed_shares(self, row: int, beams: _Beams, shares: Tensor, length: int) -> Tensor:
        allowed = allowed_of(self.rows[row])
        if allowed is None:
            return without(shares, self.backbone.unwritten, [len(beam.ids) for beam in beams.running])
        masked = torch.full_like(shares, float("-inf"))
        for number, beam in enumerate(beams.running):
            tokens = list(allowed(beam.ids))
            if tokens:
                masked[number, tokens] = shares[number, tokens]
            else:
                beams.finish(beam, max(length - 1, 1))
        return masked


# -- token after token


class _Stretch:
    """Some neighbouring layers with their keys and values so far, in buffers that grow token by token."""

    def __init__(self, backbone: Backbone, step: Step, first: int, end: int | None) -> None:
        self.backbone, self.first, self.end = backbone, first, end
        self.memory = [_merged([*step.memory, kept_columns(step)], step.positions.shape[0])]
        # The last valid position of each row, whatever stands in its padding.
        self.position = step.positions.masked_fill(~step.valid, -(1 << 40)).amax(1)

    def next(self, live: Tensor) -> Tensor:
        """One more token for each row, [B, 1, D]."""
        self.position = self.position + 1
        step = Step(self.position[:, None], torch.ones_like(self.position[:, None], dtype=torch.bool))
        step.memory = [_with_room(part) for part in self.memory]
        hidden = self.backbone.run(live, step, self.first, self.end)
        self.memory = [_with_live_tokens(part, step) for part in step.memory]
        return hidden

    def select(self, index: Tensor) -> None:
        """Continue with these rows only; a row may appear several times."""
        self.memory = [_selected(columns, index) for columns in self.memory]
        self.position = self.position[index]
        if self.backbone.cross_columns is not None:
            self.backbone = self.backbone.reading(_selected(self.backbone.cross_columns, index))


class _Continued:
    """Runs token after token behind a prepared pass; layers below a late prompt are a stretch of their own."""

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

    def select(self, rows: Sequence[int]) -> None:
        """Continue with these rows only; a row may appear several times."""
        for stretch in self.stretches:
            stretch.select(torch.tensor(rows, device=stretch.position.device))


def _selected(part: Columns, index: Tensor) -> Columns:
    """Columns of some rows, perhaps with repeats; values that rows share in turn are stored once and indexed modulo."""

    def of(values: Tensor) -> Tensor:
        return values[index % len(values)]

    weights = None if part.weights is None else [of(layer_weights) for layer_weights in part.weights]
    if part.room is not None:
        room = {layer: (of(keys), of(values)) for layer, (keys, values) in part.room.items()}
        return _columns_in(room, of(part.positions), of(part.valid), weights)
    keys, values = [{layer: of(values) for layer, values in by_layer.items()} for by_layer in (part.keys, part.values)]
    return Columns(keys, values, of(part.positions), of(part.valid), weights)


def kept_columns(step: Step) -> Columns:
    """The keys and values that a step kept."""
    key_values = step.key_values or {}
    keys = {layer: key for layer, (key, _) in key_values.items()}
    return Columns(keys, {layer: value for layer, (_, value) in key_values.items()}, step.positions, step.valid)


def _merged(parts: Sequence[Columns], num_rows: int) -> Columns:
    """All columns as one part with room behind it, so that tokens are added in place.

    A prompt's columns are copied once here, and not at every step and layer.
    """
    num_columns = sum(part.valid.shape[1] for part in parts)

    def buffer(layer: int, which: str) -> Tensor:
        like = getattr(parts[-1], which)[layer]
        values_buffer, start = like.new_empty(num_rows, like.shape[1], num_columns + _ROOM, like.shape[3]), 0
        for part in parts:
            values = getattr(part, which)[layer]
            values_buffer[:, :, start : start + values.shape[2]] = _of_rows(values, part.shared, num_rows)
            start += values.shape[2]
        return values_buffer

    room = {layer: (buffer(layer, "keys"), buffer(layer, "values")) for layer in parts[-1].keys}
    positions = torch.cat([part.positions.expand(num_rows, -1) for part in parts], dim=1)
    valid = torch.cat([part.valid.expand(num_rows, -1) for part in parts], dim=1)
    return _columns_in(room, positions, valid, _merged_weights(parts, num_rows))


def _columns_in(
    room: dict[int, tuple[Tensor, Tensor]], positions: Tensor, valid: Tensor, weights: list[Tensor] | None
) -> Columns:
    """Columns that view the beginning of buffers."""
    end = positions.shape[1]
    keys, values = [{layer: pair[which][:, :, :end] for layer, pair in room.items()} for which in (0, 1)]
    return Columns(keys, values, positions, valid, weights, room=room)


def _of_rows(values: Tensor, shared: str, num_rows: int) -> Tensor:
    """Repeat values that several rows share, once for each row."""
    share = num_rows // values.shape[0]
    if share == 1 or values.shape[0] == 1:
        return values.expand(num_rows, -1, -1, -1)
    return values.repeat(share, 1, 1, 1) if shared == "cycle" else values.repeat_interleave(share, dim=0)


def _merged_weights(parts: Sequence[Columns], num_rows: int) -> list[Tensor] | None:
    layer_weights = next((part.weights for part in parts if part.weights is not None), None)
    if layer_weights is None:
        return None
    return [
        torch.cat(
            [
                layer_weights[0].new_ones(num_rows, part.valid.shape[1])
                if part.weights is None
                else part.weights[layer].expand(num_rows, -1)
                for part in parts
            ],
            dim=1,
        )
        for layer in range(len(layer_weights))
    ]


def _with_room(part: Columns) -> Columns:
    """Columns with room for at least one more behind them; grown by half, so that copies stay rare."""
    num_columns = part.valid.shape[1]
    if part.room is not None and all(keys.shape[2] > num_columns for keys, _ in part.room.values()):
        return part
    num_new = max(_ROOM, num_columns // 2)
    room = {layer: (_longer(keys, num_new), _longer(part.values[layer], num_new)) for layer, keys in part.keys.items()}
    return replace(part, room=room)


def _longer(values: Tensor, num_new: int) -> Tensor:
    return torch.cat([values, values.new_empty(*values.shape[:2], num_new, values.shape[3])], dim=2)


def _with_live_tokens(part: Columns, step: Step) -> Columns:
    """Columns with the step's live tokens, which attention wrote behind them."""
    assert part.room is not None
    weights = part.weights
    if weights is not None:
        weights = [
            torch.cat([layer_weights, layer_weights.new_ones(step.positions.shape)], dim=1) for layer_weights in weights
        ]
    positions = torch.cat([part.positions, step.positions], dim=1)
    return _columns_in(dict(part.room), positions, torch.cat([part.valid, step.valid], dim=1), weights)


def is_stopped(backbone: Backbone, ids: Sequence[int], stop: Sequence[str]) -> bool:
    """Whether an answer holds a stop text."""
    # Leading white space may spell a stop text before the answer has begun.
    text = backbone.text.tokenizer.decode(ids).lstrip() if stop else ""
    return any(end in text for end in stop)


def _cut_at_stop(text: str, stop: Sequence[str]) -> str:
    text = text.lstrip()
    return text[: min((text.find(end) for end in stop if end in text), default=len(text))].strip()


def stable_text(text: str, stop: Sequence[str]) -> str:
    """The beginning of an answer that no further token can change, to be shown while the rest is written.

    Args:
        text: of the tokens so far.
        stop: the answer ends before the first of these texts.
    """
    text = text.lstrip()
    if any(end in text for end in stop):
        return _cut_at_stop(text, stop)
    # The last character may lack tokens, and the text may end in the beginning of a stop text.
    text = text.rstrip("\ufffd")
    lengths = (n for end in stop for n in range(min(len(end) - 1, len(text)), 0, -1) if text.endswith(end[:n]))
    return text[: len(text) - max(lengths, default=0)].rstrip()
