"""Written answers over kept keys and values, many rows and prompts at a time: greedy, by chance, or by beam search.

Shape letters: B rows, W beams, V vocabulary.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from overture.core.decoding import GREEDY, Decoding
from overture.core.seeds import derived_seed
from overture.core.types import Encoded, Written
from overture.engine.attention import Columns, Step
from overture.engine.backbone import Backbone
from overture.engine.inputs import Inputs
from overture.engine.layout import answer_layout
from overture.engine.passes import Injections, Pass, prepared


@torch.no_grad()
def written(
    inputs: Inputs,
    rows: Sequence[Encoded],
    injections: Injections,
    max_new_tokens: int,
    stop: Sequence[str],
    decoding: Decoding = GREEDY,
    texts: Sequence[Encoded] = (),
) -> list[Written]:
    """Answers: until the end token, a stop text, or ``max_new_tokens``; all injections enter at the same layer.

    Args:
        inputs: gives texts that run by themselves.
        rows: what they allow is kept to; answers, if known, are not looked at.
        injections: a prompt, or none, for each row.
        max_new_tokens: at most so many tokens.
        stop: the answer ends before the first of these texts.
        decoding: how tokens are chosen.
        texts: the rows with the texts that chance is drawn by, where the answers' rows have none; the rows when empty.
    """
    backbone = inputs.backbone
    if decoding.beams > 1:
        search = _Search(backbone, rows, stop, max_new_tokens, decoding)
        return search.run(*_begun(inputs, rows, injections))

    def is_done(ids: Sequence[int]) -> bool:
        return _is_stopped(backbone, ids, stop)

    choose = _drawn(texts or rows, decoding) if decoding.temperature is not None else _likeliest
    lines = _one_by_one(inputs, rows, injections, max_new_tokens, is_done, choose)
    return [_answer(backbone, line.ids, line.log_likelihood, stop) for line in lines]


@torch.no_grad()
def greedy_tokens(
    inputs: Inputs,
    rows: Sequence[Encoded],
    injections: Injections,
    max_new_tokens: int,
    is_done: Callable[[Sequence[int]], bool],
) -> list[list[int]]:
    """The likeliest tokens, the end token left out; `is_done` looks at what a row has so far."""
    return [line.ids for line in _one_by_one(inputs, rows, injections, max_new_tokens, is_done, _likeliest)]


def _begun(inputs: Inputs, rows: Sequence[Encoded], injections: Injections) -> tuple[Tensor, "_Continued"]:
    """Logits of the first token, [B, V], and what goes on behind it."""
    backbone = inputs.backbone
    asked = [Encoded(row.row, row.input_ids, row.anchor_ids, slots=row.slots) for row in rows]
    first = prepared(inputs, asked, injections, answer_layout, is_generating=True)
    hidden = backbone.run(first.live, first.step, first.layer)
    logits = backbone.head(hidden[torch.arange(len(rows), device=hidden.device), first.layout.trunk_end])
    return logits, _Continued(backbone, first)


def _one_by_one(
    inputs: Inputs,
    rows: Sequence[Encoded],
    injections: Injections,
    max_new_tokens: int,
    is_done: Callable[[Sequence[int]], bool],
    choose: Callable[[Tensor], Tensor],
) -> list["_Line"]:
    backbone = inputs.backbone
    logits, continued = _begun(inputs, rows, injections)
    lines = [_Line(row, backbone.tokenizer.eos_id, is_done) for row in rows]
    for num_new in range(1, max_new_tokens + 1):
        allowed = _within(logits, lines)
        token = choose(allowed)
        shares = _log_shares(logits).gather(1, token[:, None])[:, 0].tolist()
        for line, chosen, share in zip(lines, token.tolist(), shares, strict=True):
            line.append(chosen, share)
        if num_new == max_new_tokens or all(line.is_done for line in lines):
            break
        logits = backbone.head(continued.next(token))
    return lines


def _log_shares(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(dim=-1)


class _Line:
    """One answer as it is written."""

    def __init__(self, row: Encoded, eos_id: int | None, is_whole: Callable[[Sequence[int]], bool]) -> None:
        self.row, self.eos_id, self.is_whole = row, eos_id, is_whole
        self.ids: list[int] = []
        self.log_likelihood = 0.0
        self.is_done = False

    def may_follow(self) -> Sequence[int] | None:
        """Tokens that may come next; None for any."""
        return None if self.is_done or self.row.allowed is None else self.row.allowed(self.ids)

    def append(self, token: int, share: float) -> None:
        """Write a token; nothing is written behind the end."""
        if self.is_done:
            return
        if self.row.allowed is not None and token not in self.row.allowed(self.ids):
            # Nothing may follow: the answer ends here.
            self.is_done = True
            return
        self.log_likelihood += share
        if token == self.eos_id:
            self.is_done = True
            return
        self.ids.append(token)
        self.is_done = self.is_whole(self.ids)


def _answer(backbone: Backbone, ids: Sequence[int], log_likelihood: float, stop: Sequence[str]) -> Written:
    return Written(_cut(backbone.tokenizer.decode(ids), stop), tuple(ids), log_likelihood)


def _within(logits: Tensor, lines: Sequence[_Line]) -> Tensor:
    """Logits with what may not be written at minus infinity; rows that may write anything, or nothing, as they are."""
    each = [line.may_follow() for line in lines]
    if all(allowed is None for allowed in each):
        return logits
    found = logits.clone()
    for number, allowed in enumerate(each):
        if allowed:
            at = torch.tensor(list(allowed), device=logits.device)
            found[number] = torch.full_like(logits[number], float("-inf")).index_copy(0, at, logits[number, at])
    return found


# -- one token of many


def _likeliest(logits: Tensor) -> Tensor:
    return logits.argmax(-1)


@dataclass(frozen=True, slots=True)
class _Chance:
    """Tokens drawn by chance, each row from a stream of its own, so that batches change nothing.

    Source of top-p: Holtzman et al. 2020, "The Curious Case of Neural Text Degeneration", section 3.1.
    """

    generators: tuple[torch.Generator, ...]
    temperature: float
    top_p: float

    def __call__(self, logits: Tensor) -> Tensor:
        shares = (logits.double().cpu() / self.temperature).softmax(dim=-1)
        ordered, index = shares.sort(dim=-1, descending=True, stable=True)
        # A token is kept when those before it do not have the share yet.
        kept = ordered * (ordered.cumsum(-1) - ordered < self.top_p)
        drawn = [torch.multinomial(own, 1, generator=stream) for own, stream in zip(kept, self.generators, strict=True)]
        return index.gather(1, torch.stack(drawn))[:, 0].to(logits.device)


def _drawn(rows: Sequence[Encoded], decoding: Decoding) -> _Chance:
    assert decoding.temperature is not None
    streams = []
    for row in rows:
        text = " ".join(map(str, (*row.input_ids, *row.anchor_ids)))
        streams.append(torch.Generator().manual_seed(derived_seed(decoding.seed, "sample", text)))
    return _Chance(tuple(streams), decoding.temperature, decoding.top_p)


# -- beam search


@dataclass(slots=True)
class _Beam:
    """A beginning: its tokens and the sum of their log-likelihoods."""

    ids: tuple[int, ...]
    total: float
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
        self.finished.append((beam.total / length**self.length_penalty, beam))
        self.finished.sort(key=lambda each: -each[0])
        del self.finished[self.num_beams :]

    def close(self, length: int) -> None:
        """Whether the beginnings can still better what is finished; as transformers has it, at their length now."""
        if not self.running:
            self.is_done = True
        elif len(self.finished) == self.num_beams:
            best = self.running[0].total / length**self.length_penalty
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

    def run(self, logits: Tensor, continued: "_Continued") -> list[Written]:
        """The best answer of each row; beams of all rows that are not done run together."""
        owner = list(range(len(self.rows)))
        for length in range(1, self.max_new_tokens + 1):
            shares = _log_shares(logits)
            done = 0
            for row, beams in enumerate(self.beams):
                count = owner.count(row)
                if count:
                    self._step(row, beams, shares[done : done + count], length)
                done += count
            firsts = {row: owner.index(row) for row in set(owner)}
            live = [(row, beam) for row, beams in enumerate(self.beams) if not beams.is_done for beam in beams.running]
            if not live:
                break
            continued.select([firsts[row] + beam.came_from for row, beam in live])
            owner = [row for row, _ in live]
            token = torch.tensor([beam.ids[-1] for _, beam in live], device=logits.device)
            logits = self.backbone.head(continued.next(token))
        return [self._best(beams) for beams in self.beams]

    def _step(self, row: int, beams: _Beams, shares: Tensor, length: int) -> None:
        running: list[_Beam] = []
        for rank, beam in enumerate(self._continuations(row, beams, shares, length)):
            if beam.ids[-1] == self.backbone.tokenizer.eos_id:
                is_end, beam.ids = True, beam.ids[:-1]
            else:
                is_end = length == self.max_new_tokens or _is_stopped(self.backbone, beam.ids, self.stop)
            if is_end and rank < self.num_beams:
                beams.finish(beam, length)
            elif not is_end and len(running) < self.num_beams:
                running.append(beam)
        beams.running = running
        beams.close(length)

    def _continuations(self, row: int, beams: _Beams, shares: Tensor, length: int) -> Iterator[_Beam]:
        """The likeliest beginnings with one token more, twice as many as there are beams."""
        shares = self._allowed(row, beams, shares, length)
        totals = torch.tensor([beam.total for beam in beams.running], device=shares.device, dtype=shares.dtype)
        each = (shares + totals[:, None]).flatten()
        values, index = each.topk(min(2 * self.num_beams, len(each)))
        for value, at in zip(values.tolist(), index.tolist(), strict=True):
            if value > float("-inf"):
                number, token = divmod(at, shares.shape[1])
                yield _Beam((*beams.running[number].ids, token), value, number)

    def _allowed(self, row: int, beams: _Beams, shares: Tensor, length: int) -> Tensor:
        allowed = self.rows[row].allowed
        if allowed is None:
            return shares
        found = torch.full_like(shares, float("-inf"))
        for number, beam in enumerate(beams.running):
            tokens = list(allowed(beam.ids))
            if tokens:
                found[number, tokens] = shares[number, tokens]
            else:
                beams.finish(beam, max(length - 1, 1))
        return found

    def _best(self, beams: _Beams) -> Written:
        best = beams.finished[0][1] if beams.finished else (beams.running or [_Beam((), 0.0)])[0]
        return _answer(self.backbone, best.ids, best.total, self.stop)


# -- token after token


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

    def select(self, index: Tensor) -> None:
        """Go on with these rows, some perhaps several times."""
        self.memory = [_selected(columns, index) for columns in self.memory]
        self.position = self.position[index]


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

    def select(self, rows: Sequence[int]) -> None:
        """Go on with these rows, some perhaps several times."""
        for stretch in self.stretches:
            stretch.select(torch.tensor(rows, device=stretch.position.device))


def _selected(columns: Columns, index: Tensor) -> Columns:
    def of(values: Tensor) -> Tensor:
        # What is the same for all rows stands there once.
        return values if values.shape[0] == 1 else values[index]

    return Columns(
        {layer: of(key) for layer, key in columns.keys.items()},
        {layer: of(value) for layer, value in columns.values.items()},
        of(columns.positions),
        of(columns.valid),
        None if columns.weights is None else [of(weights) for weights in columns.weights],
    )


def _kept(step: Step) -> Columns:
    kept = step.kept or {}
    keys = {layer: key for layer, (key, _) in kept.items()}
    return Columns(keys, {layer: value for layer, (_, value) in kept.items()}, step.positions, step.valid)


def _joined(left: Columns, right: Columns) -> Columns:
    def both(first: Tensor, second: Tensor, dim: int) -> Tensor:
        return torch.cat([first.expand(second.shape[0], *first.shape[1:]), second], dim=dim)

    return Columns(
        {layer: both(left.keys[layer], key, 2) for layer, key in right.keys.items()},
        {layer: both(left.values[layer], value, 2) for layer, value in right.values.items()},
        both(left.positions, right.positions, 1),
        both(left.valid, right.valid, 1),
    )


def _is_stopped(backbone: Backbone, ids: Sequence[int], stop: Sequence[str]) -> bool:
    # Leading white space may spell a stop text before the answer has begun.
    text = backbone.tokenizer.decode(ids).lstrip() if stop else ""
    return any(end in text for end in stop)


def _cut(text: str, stop: Sequence[str]) -> str:
    text = text.strip()
    return text[: min((text.find(end) for end in stop if end in text), default=len(text))].strip()
