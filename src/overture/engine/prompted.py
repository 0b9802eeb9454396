"""A backbone under a prompt, or under one for each row: losses, label scores and answers.

Shape letters: B rows, P prompt length, S live tokens, M memory columns, D width, W label words, C labels.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from overture.core.types import Encoded, Injection, Memory, PromptMethod, Vectors
from overture.engine.attention import Columns, Step
from overture.engine.backbone import Backbone
from overture.engine.cache import InputCache, padded
from overture.engine.layout import Layout, Start, answer_layout, label_layout

Progress = Callable[[int, int], None]
Make = Callable[[Sequence[Encoded], Sequence[Start], torch.device], Layout]


@dataclass(frozen=True, slots=True)
class RowPrompts:
    """A prompt for each row, by the row's number: several prompts, or none, in one batch."""

    injections: Sequence[Injection | None]


class PromptedModel:
    """The frozen backbone with one prompt, or with none.

    Meets `core.types.Trainee` and `core.types.Scorer`.

    Args:
        backbone: the model.
        prompt: a method whose values may change, constant values, one for each row, or None for the model as it is.
        cache: keeps the inputs' keys and values where the prompt cannot change them; None runs them each time.
        max_tokens: live tokens of one forward pass while an input cache is filled.
    """

    def __init__(
        self,
        backbone: Backbone,
        prompt: PromptMethod | Injection | RowPrompts | None = None,
        cache: InputCache | None = None,
        max_tokens: int = 2048,
    ) -> None:
        self.backbone, self.prompt, self.cache, self.max_tokens = backbone, prompt, cache, max_tokens

    # -- what the prompt is

    def injection(self) -> Injection | None:
        """The prompt's values now; of prompts that differ by row there is no one."""
        assert not isinstance(self.prompt, RowPrompts)
        if self.prompt is None or isinstance(self.prompt, Vectors | Memory):
            return self.prompt
        return self.prompt.injection()

    def trainable(self) -> dict[str, Tensor]:
        """What gradient descent changes, by name."""
        if self.prompt is None or isinstance(self.prompt, Vectors | Memory | RowPrompts):
            return {}
        return self.prompt.trainable()

    # -- losses and scores

    def loss(self, rows: Sequence[Encoded]) -> Tensor:
        """Sum of the rows' negative log-likelihoods: of the right label among the labels, or of the answer's tokens."""
        if rows[0].candidates is not None:
            scores = self._label_scores(rows)
            gold = torch.tensor([row.label for row in rows], device=scores.device)
            return torch.nn.functional.nll_loss(scores, gold, reduction="sum")
        hidden, layout = self._forward(rows, answer_layout)
        at = torch.tensor([(row, index) for row, index, _ in layout.targets], device=hidden.device)
        logits = self.backbone.head(hidden[at[:, 0], at[:, 1]])
        gold = torch.tensor([token for _, _, token in layout.targets], device=hidden.device)
        return torch.nn.functional.cross_entropy(logits, gold, reduction="sum")

    def weight(self, rows: Sequence[Encoded]) -> float:
        """Rows for label tasks, answer tokens for free text."""
        return float(len(rows) if rows[0].candidates is not None else sum(len(row.answer_ids or ()) for row in rows))

    @torch.no_grad()
    def label_scores(self, rows: Sequence[Encoded]) -> Tensor:
        """Log-probabilities of the labels, [B, C], normalised over them; a label's words add up."""
        return self._label_scores(rows).cpu()

    def _label_scores(self, rows: Sequence[Encoded]) -> Tensor:
        candidates = rows[0].candidates
        assert candidates is not None
        hidden, layout = self._forward(rows, label_layout)
        device = hidden.device
        ends = hidden[torch.arange(len(rows), device=device), layout.trunk_end]
        # The vocabulary's normaliser at the trunk's end is the same for every word, so only the words' rows are needed.
        first = torch.tensor([word[0] for word in candidates.words], device=device)
        scores = self.backbone.head(ends, first)
        if layout.targets:
            scores = scores + self._following(hidden, layout, scores.shape)
        label_of = torch.tensor(candidates.label_of, device=device)
        per_label = [scores[:, label_of == label].logsumexp(1) for label in range(len(candidates.labels))]
        return torch.stack(per_label, dim=1).log_softmax(dim=1)

    def _following(self, hidden: Tensor, layout: Layout, shape: torch.Size) -> Tensor:
        """Log-likelihood of each word's tokens after the first, [B, W]."""
        row, index, token = torch.tensor(layout.targets, device=hidden.device).T
        logits = self.backbone.head(hidden[row, index]).log_softmax(dim=-1)
        values = logits.gather(1, token[:, None])[:, 0]
        words = torch.tensor(layout.words, device=hidden.device)
        return torch.zeros(shape, device=hidden.device, dtype=values.dtype).index_put((row, words), values, True)

    # -- the forward pass

    def _forward(self, rows: Sequence[Encoded], make: Make) -> tuple[Tensor, Layout]:
        """Hidden states of the live tokens, [B, S, D], and their layout."""
        live, step, layout = self._prepared(rows, make)
        return self.backbone.run(live, step), layout

    def _prepared(self, rows: Sequence[Encoded], make: Make) -> tuple[Tensor, Step, Layout]:
        injections = self._injections(rows)
        starts = [self._start(row, injection) for row, injection in zip(rows, injections, strict=True)]
        layout = make(rows, starts, self.backbone.device)
        memory = []
        if not all(start.with_input for start in starts):
            memory.append(self._inputs(rows, [start.with_input for start in starts]))
        if any(isinstance(injection, Memory) for injection in injections):
            firsts = [start.position for start in starts]
            memory.append(_prompt_columns(injections, firsts, self.backbone.device))
        live = _with_vectors(self.backbone.embed(layout.ids), injections)
        return live, Step(layout.positions, layout.valid, layout.branch, memory), layout

    def _injections(self, rows: Sequence[Encoded]) -> list[Injection | None]:
        if isinstance(self.prompt, RowPrompts):
            return [self.prompt.injections[row.row] for row in rows]
        # Made once a pass: a method may compute it, and its gradient is shared by all rows.
        return [self.injection()] * len(rows)

    def _start(self, row: Encoded, injection: Injection | None) -> Start:
        with_input = not self._runs_input_first(injection)
        shift = 0 if with_input or self.backbone.family.is_rotary else len(row.input_ids)
        if isinstance(injection, Memory):
            return Start(shift + injection.length, 0, with_input)
        return Start(shift, injection.length if injection else 0, with_input)

    def _runs_input_first(self, injection: Injection | None) -> bool:
        # Without a cache an input in front of an `after` prompt still runs by itself: same numbers, kept by nobody.
        return injection.place == "after" if injection else self.cache is not None

    # -- inputs that run once

    def warm(self, rows: Sequence[Encoded], progress: Progress | None = None) -> None:
        """Fill the cache with the rows' inputs, in an order that depends on the rows alone.

        Args:
            rows: all rows of a split, so that a resumed run computes in the same groups, bit for bit.
            progress: called with (done, all).
        """
        if self.cache is None:
            return
        pairs = zip(rows, self._injections(rows), strict=True)
        kept = {row.input_ids for row, injection in pairs if self._runs_input_first(injection)}
        texts = sorted(kept, key=lambda ids: (len(ids), ids))
        done = 0
        for group in _groups(texts, self.max_tokens):
            missing = [ids for ids in group if self.cache.get(ids) is None]
            if missing:
                for ids, entry in zip(group, self._computed(group), strict=True):
                    if self.cache.get(ids) is None:
                        self.cache.put(ids, entry)
            done += len(group)
            if progress:
                progress(done, len(texts))

    def _inputs(self, rows: Sequence[Encoded], is_live: Sequence[bool]) -> Columns:
        """The inputs' keys and values for a batch; positions end below the prompt's first. Live inputs have none."""
        texts = [() if live else row.input_ids for row, live in zip(rows, is_live, strict=True)]
        cached = {ids: self.cache.get(ids) if self.cache else None for ids in texts}
        missing = [ids for ids, entry in cached.items() if entry is None]
        for ids, entry in zip(missing, self._computed(missing) if missing else [], strict=True):
            cached[ids] = entry
            if self.cache is not None:
                self.cache.put(ids, entry)
        found = [kept for ids in texts if (kept := cached[ids]) is not None]
        values, valid = padded(found, self.backbone.device)
        positions = torch.arange(valid.shape[1], device=valid.device)[None].expand_as(valid)
        if self.backbone.family.is_rotary:
            positions = positions - valid.sum(1, keepdim=True)
        return Columns(list(values[:, 0]), list(values[:, 1]), positions, valid)

    @torch.no_grad()
    def _computed(self, texts: Sequence[tuple[int, ...]]) -> list[Tensor]:
        """Entries [N, 2, H, L, K] of texts."""
        device = self.backbone.device
        longest = max(1, *map(len, texts))
        ids = torch.tensor([[*text, *[0] * (longest - len(text))] for text in texts], device=device)
        lengths = torch.tensor([len(text) for text in texts], device=device)[:, None]
        positions = torch.arange(longest, device=device)[None].expand_as(ids)
        valid = positions < lengths
        if self.backbone.family.is_rotary:
            positions = positions - lengths
        columns = self.backbone.remember(self.backbone.embed(ids), positions, valid)
        keys, values = torch.stack(list(columns.keys)), torch.stack(list(columns.values))
        both = torch.stack([keys, values], dim=1)
        return [both[:, :, index, :, : len(text)].clone() for index, text in enumerate(texts)]

    # -- answers

    @torch.no_grad()
    def generate(self, rows: Sequence[Encoded], max_new_tokens: int, stop: Sequence[str]) -> list[str]:
        """Greedy answers: until the end token, a stop text, or ``max_new_tokens``.

        Args:
            rows: their answers, if known, are not looked at.
            max_new_tokens: at most so many tokens.
            stop: the answer ends before the first of these texts.
        """
        asked = [Encoded(row.row, row.input_ids, row.anchor_ids) for row in rows]
        live, step, layout = self._prepared(asked, answer_layout)
        step.kept = {}
        hidden = self.backbone.run(live, step)
        at = torch.arange(len(rows), device=live.device)
        token = self.backbone.head(hidden[at, layout.trunk_end]).argmax(-1)
        position = layout.positions[at, layout.trunk_end]
        memory = [*step.memory, self._kept(step)]
        answers: list[list[int]] = [[] for _ in rows]
        is_done = [False] * len(rows)
        for num_new in range(1, max_new_tokens + 1):
            self._append(answers, is_done, token.tolist(), stop)
            if all(is_done) or num_new == max_new_tokens:
                break
            position = position + 1
            ones = torch.ones(len(rows), 1, dtype=torch.bool, device=live.device)
            step = Step(position[:, None], ones, None, memory, kept={})
            hidden = self.backbone.run(self.backbone.embed(token[:, None]), step)
            token = self.backbone.head(hidden[:, 0]).argmax(-1)
            memory = [*memory[:-1], _joined(memory[-1], self._kept(step))]
        return [_cut(self.backbone.tokenizer.decode(answer), stop) for answer in answers]

    def _kept(self, step: Step) -> Columns:
        kept = step.kept or {}
        pairs = [kept[layer] for layer in range(self.backbone.info.num_layers)]
        return Columns([key for key, _ in pairs], [value for _, value in pairs], step.positions, step.valid)

    def _append(
        self, answers: list[list[int]], is_done: list[bool], tokens: Sequence[int], stop: Sequence[str]
    ) -> None:
        for index, token in enumerate(tokens):
            if is_done[index]:
                continue
            if token == self.backbone.tokenizer.eos_id:
                is_done[index] = True
                continue
            answers[index].append(token)
            # Leading white space may spell a stop text before the answer has begun.
            text = self.backbone.tokenizer.decode(answers[index]).lstrip()
            is_done[index] = any(end in text for end in stop)


def _with_vectors(live: Tensor, injections: Sequence[Injection | None]) -> Tensor:
    """Live tokens with each row's prompt vectors in the places kept for them, [B, S, D]."""
    first = injections[0]
    if all(injection is first for injection in injections):
        if not isinstance(first, Vectors):
            return live
        vectors = first.values.to(live.dtype).expand(live.shape[0], -1, -1)
        return torch.cat([vectors, live[:, first.length :]], dim=1)
    rows = [
        torch.cat([found.values.to(own.dtype), own[found.length :]]) if isinstance(found, Vectors) else own
        for own, found in zip(live, injections, strict=True)
    ]
    return torch.stack(rows)


def _prompt_columns(injections: Sequence[Injection | None], firsts: Sequence[int], device: torch.device) -> Columns:
    """The rows' prompt memories; they end where each row's live tokens begin."""
    memories = [found.memory if isinstance(found, Memory) else None for found in injections]
    longest = max(memory.length for memory in memories if memory)
    lengths = torch.tensor([memory.length if memory else 0 for memory in memories], device=device)[:, None]
    valid = torch.arange(longest, device=device)[None] < lengths
    positions = torch.tensor(firsts, device=device)[:, None] - lengths + torch.arange(longest, device=device)[None]
    first = injections[0]
    if all(found is first for found in injections):
        assert isinstance(first, Memory)
        return Columns(list(first.memory.keys[:, None]), list(first.memory.values[:, None]), positions, valid)
    keys = _side_by_side([memory.keys if memory else None for memory in memories], longest)
    values = _side_by_side([memory.values if memory else None for memory in memories], longest)
    return Columns(list(keys), list(values), positions, valid)


def _side_by_side(values: Sequence[Tensor | None], longest: int) -> Tensor:
    """Memories [N, H, P, K] of several rows, padded on the right: [N, B, H, longest, K]."""
    some = next(value for value in values if value is not None)
    empty = some[:, :, :0]
    rows = [empty if value is None else value for value in values]
    padding = [(0, 0, 0, longest - row.shape[2]) for row in rows]
    return torch.stack([torch.nn.functional.pad(row, pad) for row, pad in zip(rows, padding, strict=True)], dim=1)


def _joined(left: Columns, right: Columns) -> Columns:
    return Columns(
        [torch.cat(pair, dim=2) for pair in zip(left.keys, right.keys, strict=True)],
        [torch.cat(pair, dim=2) for pair in zip(left.values, right.values, strict=True)],
        torch.cat([left.positions, right.positions], dim=1),
        torch.cat([left.valid, right.valid], dim=1),
    )


def _cut(text: str, stop: Sequence[str]) -> str:
    text = text.strip()
    return text[: min((text.find(end) for end in stop if end in text), default=len(text))].strip()


def _groups(texts: Sequence[tuple[int, ...]], max_tokens: int) -> list[list[tuple[int, ...]]]:
    groups: list[list[tuple[int, ...]]] = []
    for ids in texts:
        if groups and (len(groups[-1]) + 1) * max(1, len(ids)) <= max_tokens:
            groups[-1].append(ids)
        else:
            groups.append([ids])
    return groups
