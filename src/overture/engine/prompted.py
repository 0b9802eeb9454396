"""A backbone under a prompt: losses, label scores and answers for rows.

Shape letters: B rows, P prompt length, S live tokens, M memory columns, D width, W label words, C labels.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from overture.core.types import Encoded, Injection, Memory, PromptMethod, Vectors
from overture.engine.attention import Columns, Step
from overture.engine.backbone import Backbone
from overture.engine.cache import InputCache, padded
from overture.engine.layout import Layout, answer_layout, label_layout

Progress = Callable[[int, int], None]


class PromptedModel:
    """The frozen backbone with one prompt, or with none.

    Meets `core.types.Trainee` and `core.types.Scorer`.

    Args:
        backbone: the model.
        prompt: a method whose values may change, or a constant injection, or None for the model as it is.
        cache: keeps the inputs' keys and values where the prompt cannot change them; None runs them each time.
        max_tokens: live tokens of one forward pass while an input cache is filled.
    """

    def __init__(
        self,
        backbone: Backbone,
        prompt: PromptMethod | Injection | None = None,
        cache: InputCache | None = None,
        max_tokens: int = 2048,
    ) -> None:
        self.backbone, self.prompt, self.cache, self.max_tokens = backbone, prompt, cache, max_tokens

    # -- what the prompt is

    def injection(self) -> Injection | None:
        """The prompt's values now."""
        if self.prompt is None or isinstance(self.prompt, Vectors | Memory):
            return self.prompt
        return self.prompt.injection()

    def trainable(self) -> dict[str, Tensor]:
        """What gradient descent changes, by name."""
        if self.prompt is None or isinstance(self.prompt, Vectors | Memory):
            return {}
        return self.prompt.trainable()

    @property
    def is_cacheable(self) -> bool:
        """The prompt cannot change what the input computes."""
        injection = self.injection()
        return injection is None or injection.place == "after"

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

    def _forward(self, rows: Sequence[Encoded], make: Callable[..., Layout]) -> tuple[Tensor, Layout]:
        """Hidden states of the rows' own live tokens, [B, S, D], and their layout."""
        live, step, layout, skip = self._prepared(rows, make)
        return self.backbone.run(live, step)[:, skip:], layout

    def _prepared(self, rows: Sequence[Encoded], make: Callable[..., Layout]) -> tuple[Tensor, Step, Layout, int]:
        injection = self.injection()
        num_prompt = injection.length if injection else 0
        with_input = not self._runs_input_first(injection)
        starts = [num_prompt + self._shift(row, with_input) for row in rows]
        layout = make(rows, starts, with_input, self.backbone.device)
        memory = [] if with_input else [self._inputs(rows)]
        if isinstance(injection, Memory):
            memory.append(self._prompt_columns(injection, rows, with_input))
        live = self.backbone.embed(layout.ids)
        if not isinstance(injection, Vectors):
            return live, Step(layout.positions, layout.valid, layout.branch, memory), layout, 0
        return *self._with_vectors(live, injection, layout, starts, memory), layout, num_prompt

    def _runs_input_first(self, injection: Injection | None) -> bool:
        # Without a cache an input in front of an `after` prompt still runs by itself: same numbers, kept by nobody.
        return injection.place == "after" if injection else self.cache is not None

    def _shift(self, row: Encoded, with_input: bool) -> int:
        return 0 if with_input or self.backbone.family.is_rotary else len(row.input_ids)

    def _with_vectors(
        self, live: Tensor, injection: Vectors, layout: Layout, starts: Sequence[int], memory: Sequence[Columns]
    ) -> tuple[Tensor, Step]:
        num_rows, num_prompt = live.shape[0], injection.length
        vectors = injection.values.to(live.dtype).expand(num_rows, -1, -1)
        first = torch.tensor(starts, device=live.device)[:, None] - num_prompt
        positions = first + torch.arange(num_prompt, device=live.device)[None]
        branch = layout.branch
        if branch is not None:
            branch = torch.cat([branch.new_zeros(num_rows, num_prompt), branch], dim=1)
        step = Step(
            torch.cat([positions, layout.positions], dim=1),
            torch.cat([layout.valid.new_ones(num_rows, num_prompt), layout.valid], dim=1),
            branch,
            memory,
        )
        return torch.cat([vectors, live], dim=1), step

    def _prompt_columns(self, injection: Memory, rows: Sequence[Encoded], with_input: bool) -> Columns:
        keys, values = injection.memory.keys[:, None], injection.memory.values[:, None]
        shifts = torch.tensor([self._shift(row, with_input) for row in rows], device=keys.device)[:, None]
        positions = shifts + torch.arange(injection.length, device=keys.device)[None]
        return Columns(list(keys), list(values), positions, torch.ones_like(positions, dtype=torch.bool))

    # -- inputs that run once

    def warm(self, rows: Sequence[Encoded], progress: Progress | None = None) -> None:
        """Fill the cache with the rows' inputs, in an order that depends on the rows alone.

        Args:
            rows: all rows of a split, so that a resumed run computes in the same groups, bit for bit.
            progress: called with (done, all).
        """
        if self.cache is None or not self.is_cacheable:
            return
        texts = sorted({row.input_ids for row in rows}, key=lambda ids: (len(ids), ids))
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

    def _inputs(self, rows: Sequence[Encoded]) -> Columns:
        """The inputs' keys and values for a batch; positions end below the prompt's first."""
        cached = {row.input_ids: self.cache.get(row.input_ids) if self.cache else None for row in rows}
        missing = [ids for ids, entry in cached.items() if entry is None]
        for ids, entry in zip(missing, self._computed(missing) if missing else [], strict=True):
            cached[ids] = entry
            if self.cache is not None:
                self.cache.put(ids, entry)
        found = [kept for row in rows if (kept := cached[row.input_ids]) is not None]
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
        live, step, layout, skip = self._prepared(asked, answer_layout)
        step.kept = {}
        hidden = self.backbone.run(live, step)[:, skip:]
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
