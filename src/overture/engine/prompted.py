"""A backbone under a prompt, or under one for each row: losses, label scores and answers.

Shape letters: B rows, P prompt length, S live tokens, D width, W label words, C labels.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from overture.core.types import Candidates, Encoded, Injection, PromptMethod, RowMethod
from overture.engine import seq2seq
from overture.engine.backbone import Backbone
from overture.engine.cache import InputCache
from overture.engine.distil import Said
from overture.engine.generate import greedy, greedy_tokens
from overture.engine.inputs import Inputs, Progress, groups
from overture.engine.layout import Layout, answer_layout, label_layout
from overture.engine.likelihood import Likelihood, word_likelihoods
from overture.engine.limits import check_reading, check_writing
from overture.engine.passes import Injections, Make, kept_input, prepared, text_layout

OnePrompt = PromptMethod | RowMethod | Injection
Kind = tuple[int, int, bool, Candidates | None]
INNER = "model."
"""What the names of values inside the model begin with."""


@dataclass(frozen=True, slots=True)
class RowPrompts:
    """A prompt for each row, by the row's number: several prompts, or none, in one batch."""

    prompts: Sequence[OnePrompt | None]


class PromptedModel:
    """The backbone with one prompt, or with none; frozen, but for values of its own that a copy may train.

    Meets `core.types.Trainee` and `core.types.Scorer`.

    Args:
        backbone: the model.
        prompt: a method whose values may change, constant values, one for each row, or None for the model as it is.
        cache: keeps what texts give where the prompt cannot change it; None runs them each time. While values inside
            the backbone are trained nothing is kept.
        max_tokens: live tokens of one forward pass while a cache is filled.
    """

    def __init__(
        self,
        backbone: Backbone,
        prompt: OnePrompt | RowPrompts | None = None,
        cache: InputCache | None = None,
        max_tokens: int = 2048,
    ) -> None:
        self.backbone, self.prompt, self.cache, self.max_tokens = backbone, prompt, cache, max_tokens

    @property
    def inputs(self) -> Inputs:
        """What texts give by themselves."""
        return Inputs(self.backbone, self.cache, self.max_tokens)

    # -- what the prompt is

    def injections(self, rows: Sequence[Encoded]) -> list[Injection | None]:
        """The prompt's values now, for each row."""
        if isinstance(self.prompt, RowPrompts):
            return [self._injections_of(self.prompt.prompts[row.row], [row])[0] for row in rows]
        return self._injections_of(self.prompt, rows)

    def _injections_of(self, prompt: OnePrompt | None, rows: Sequence[Encoded]) -> list[Injection | None]:
        if prompt is None or isinstance(prompt, Injection):
            return [prompt] * len(rows)
        if isinstance(prompt, RowMethod):
            return list(prompt.injections(self._features(rows)))
        # Made once a pass: a method may compute it, and its gradient is shared by all rows.
        return [prompt.injection()] * len(rows)

    def _features(self, rows: Sequence[Encoded]) -> Tensor:
        """Mean of each row's token vectors, [B, D]."""
        return torch.stack([self.backbone.embed((*row.input_ids, *row.anchor_ids)).mean(0) for row in rows])

    def trainable(self) -> dict[str, Tensor]:
        """What gradient descent changes, by name: the prompt's values, and those inside the model."""
        own = self.prompt.trainable() if isinstance(self.prompt, PromptMethod | RowMethod) else {}
        inner = {} if self.backbone.is_frozen else self.backbone.inner
        return own | {INNER + name: value for name, value in inner.items()}

    def rates(self) -> dict[str, float]:
        """Factors on the learning rate, by name; 1 where none is given."""
        own = self.prompt.rates() if isinstance(self.prompt, PromptMethod | RowMethod) else {}
        return own | {INNER + name: self.backbone.inner_rate for name in self.backbone.inner}

    def check(self, rows: Sequence[Encoded]) -> None:
        """Whether the model can answer such rows under this prompt, before anything runs.

        Raises:
            BackboneError: it cannot.
        """
        for row, found in zip(rows, self.injections(rows), strict=True):
            check_reading(self.backbone, row, found)

    # -- losses and scores

    def loss(self, rows: Sequence[Encoded]) -> Tensor:
        """Sum of the rows' losses.

        Negative log-likelihoods: of the right label among the labels, or of the answer's tokens; and what the
        prompt's own vectors must predict, once for each row.
        """
        return self.losses_under(rows, self.injections(rows)).sum()

    @torch.no_grad()
    def log_loss(self, rows: Sequence[Encoded]) -> Tensor:
        """Sum of the rows' negative log-likelihoods alone."""
        return self.losses_under(rows, self.injections(rows), with_targets=False).sum()

    def losses_under(self, rows: Sequence[Encoded], injections: Injections, with_targets: bool = True) -> Tensor:
        """Each row's loss under the prompt that is given for it, [B].

        Args:
            rows: the batch; a row may stand in it under several prompts.
            injections: a prompt, or none, for each row.
            with_targets: what the prompt's own vectors must predict counts too.
        """
        at, parts = [], []
        for index, part, found in self._alike(rows, injections):
            at += index
            parts.append(self._losses(part, found, with_targets))
        found_losses = torch.cat(parts)
        return found_losses.new_zeros(len(rows)).index_put(
            (torch.tensor(at, device=found_losses.device),), found_losses
        )

    def said(self, rows: Sequence[Encoded]) -> list[Said]:
        """What the model says of each row where predictions count, differentiable."""
        found: dict[int, Said] = {}
        for index, part, injections in self._alike(rows, self.injections(rows)):
            hidden, layout = self._forward(part, injections)
            found |= dict(zip(index, self._said(part, injections, hidden, layout), strict=True))
        return [found[at] for at in range(len(rows))]

    def _said(self, rows: Sequence[Encoded], injections: Injections, hidden: Tensor, layout: Layout) -> Iterator[Said]:
        if rows[0].candidates is None:
            for number in range(len(rows)):
                yield Said(hidden[number, [index for row, index, _ in layout.targets if row == number]])
            return
        ends, scores = _read(rows, hidden, layout), self._scores(rows, injections, hidden, layout)
        yield from (Said(end[None], own[None]) for end, own in zip(ends, scores, strict=True))

    def _losses(self, rows: Sequence[Encoded], injections: Injections, with_targets: bool) -> Tensor:
        hidden, layout = self._forward(rows, injections)
        if rows[0].candidates is not None:
            scores = self._scores(rows, injections, hidden, layout)
            gold = torch.tensor([row.label for row in rows], device=scores.device)
            losses = torch.nn.functional.nll_loss(scores, gold, reduction="none")
        else:
            row, index, gold = torch.tensor(layout.targets, device=hidden.device).T
            each = torch.nn.functional.cross_entropy(self.backbone.head(hidden[row, index]), gold, reduction="none")
            losses = each.new_zeros(len(rows)).index_add(0, row, each)
        return losses + self._targets_losses(hidden, layout, injections) if with_targets else losses

    def _targets_losses(self, hidden: Tensor, layout: Layout, injections: Injections) -> Tensor | float:
        """What vectors must predict themselves, [B]; before the text they are the same in every row of a prompt."""
        known: dict[int, Tensor] = {}
        for number, found in enumerate(injections):
            targets = found.vectors.targets if found and found.vectors else ()
            if targets and id(found) not in known:
                assert layout.is_vector is not None
                own = hidden[number][layout.is_vector[number]]
                logits = self.backbone.head(own[[target.index for target in targets]])
                gold = torch.tensor([target.token for target in targets], device=hidden.device)
                weights = logits.new_tensor([target.weight for target in targets])
                known[id(found)] = (weights * torch.nn.functional.cross_entropy(logits, gold, reduction="none")).sum()
        if not known:
            return 0.0
        none = hidden.new_zeros(())
        return torch.stack([known.get(id(found), none) for found in injections])

    def weight(self, rows: Sequence[Encoded]) -> float:
        """Rows for label tasks, answer tokens for free text."""
        return float(len(rows) if rows[0].candidates is not None else sum(len(row.answer_ids or ()) for row in rows))

    @torch.no_grad()
    def label_scores(self, rows: Sequence[Encoded]) -> Tensor:
        """Log-probabilities of the labels, [B, C], normalised over them; a label's words add up."""
        return torch.stack(self.label_scores_under(rows, self.injections(rows)))

    @torch.no_grad()
    def label_scores_under(self, rows: Sequence[Encoded], injections: Injections) -> list[Tensor]:
        """As `label_scores`, each row under the prompt that is given for it; on the CPU."""
        scored: dict[int, Tensor] = {}
        for index, part, found in self._alike(rows, injections):
            hidden, layout = self._forward(part, found)
            scored |= zip(index, self._scores(part, found, hidden, layout).cpu(), strict=True)
        return [scored[index] for index in range(len(rows))]

    @torch.no_grad()
    def word_likelihoods(self, rows: Sequence[Encoded]) -> list[list[Likelihood]]:
        """Log-likelihoods over the vocabulary of each row's own candidate words; rows may have different ones.

        Args:
            rows: rows with candidates, of a model that writes, under prompts without label vectors.
        """
        found: dict[int, list[Likelihood]] = {}
        for index, part, injections in self._alike(rows, self.injections(rows), with_labels=False):
            hidden, layout = self._forward(part, injections)
            found |= zip(index, word_likelihoods(self.backbone, part, hidden, layout), strict=True)
        return [found[index] for index in range(len(rows))]

    def _scores(self, rows: Sequence[Encoded], injections: Injections, hidden: Tensor, layout: Layout) -> Tensor:
        candidates = rows[0].candidates
        assert candidates is not None
        ends = _read(rows, hidden, layout)
        labels = [found.labels if found else None for found in injections]
        heads = [found.head if found else None for found in injections]
        if heads[0] is not None:
            return _classified(injections, hidden[:, 0])
        if labels[0] is not None:
            each = torch.stack([own.to(ends.dtype) for own in labels if own is not None])
            scores = torch.einsum("bd,bcd->bc", self.backbone.transformed(ends), each)
            return scores.to(torch.promote_types(scores.dtype, torch.float32)).log_softmax(dim=1)
        return self._word_scores(candidates, hidden, ends, layout)

    def _word_scores(self, candidates: Candidates, hidden: Tensor, ends: Tensor, layout: Layout) -> Tensor:
        # The vocabulary's normaliser at the place that is read is the same for all, so only the words' rows are needed.
        first = torch.tensor([word[0] for word in candidates.words], device=hidden.device)
        scores = self.backbone.head(ends, first)
        if layout.targets:
            scores = scores + self._following(hidden, layout, scores.shape)
        label_of = torch.tensor(candidates.label_of, device=hidden.device)
        per_label = [scores[:, label_of == label].logsumexp(1) for label in range(len(candidates.labels))]
        return torch.stack(per_label, dim=1).log_softmax(dim=1)

    def _following(self, hidden: Tensor, layout: Layout, shape: torch.Size) -> Tensor:
        """Log-likelihood of each word's tokens after the first, [B, W]."""
        row, index, token = torch.tensor(layout.targets, device=hidden.device).T
        logits = self.backbone.head(hidden[row, index]).log_softmax(dim=-1)
        values = logits.gather(1, token[:, None])[:, 0]
        words = torch.tensor(layout.words, device=hidden.device)
        return torch.zeros(shape, device=hidden.device, dtype=values.dtype).index_put((row, words), values, True)

    @torch.no_grad()
    def features(self, rows: Sequence[Encoded]) -> Tensor:
        """Hidden states that labels are read from, [B, D]; rows are read all as a mean, or none."""
        bare = [replace(row, candidates=None, answer_ids=None) for row in rows]
        # Nothing is kept: what ran before has no part in a mean.
        inputs = Inputs(self.backbone, None, self.max_tokens)
        one = prepared(inputs, bare, self.injections(rows), answer_layout)
        return _read(rows, self.backbone.run(one.live, one.step, one.layer), one.layout)

    # -- the forward pass

    def _forward(self, rows: Sequence[Encoded], injections: Injections) -> tuple[Tensor, Layout]:
        """Hidden states of the live tokens, [B, S, D], and their layout."""
        inputs, rows, injections = self._decoding(rows, injections)
        one = prepared(inputs, rows, injections, _make_of(rows, injections))
        return inputs.backbone.run(one.live, one.step, one.layer), one.layout

    def _decoding(
        self, rows: Sequence[Encoded], injections: Injections
    ) -> tuple[Inputs, Sequence[Encoded], Injections]:
        """What reads the rows from left to right: the model, or an encoder-decoder's decoder."""
        return (
            seq2seq.decoding(self.inputs, rows, injections)
            if self.backbone.encoder
            else (self.inputs, rows, injections)
        )

    def kind(self, row: Encoded, injection: Injection | None) -> Kind:
        """What a pass has one of: the layer at which prompts enter, label vectors or words, how labels are read.

        Raises:
            BackboneError: the model cannot answer such a row.
        """
        check_reading(self.backbone, row, injection)
        if injection is None:
            return 0, 0, row.read == "mean", row.candidates
        # Words, label vectors, or a classifier's.
        labels = (injection.labels is not None) + (injection.head is not None)
        return injection.layer, labels, row.read == "mean", row.candidates

    def _alike(
        self, rows: Sequence[Encoded], injections: Injections, with_labels: bool = True
    ) -> Iterator[tuple[list[int], list[Encoded], list[Injection | None]]]:
        """Rows that can share a pass: (their numbers in the batch, they, their prompts).

        Args:
            rows: the batch.
            injections: a prompt, or none, for each row.
            with_labels: the rows of a pass have the same labels.

        Raises:
            BackboneError: the model cannot answer such rows.
        """
        alike: dict[tuple[Any, ...], list[int]] = {}
        for number, each in enumerate(zip(rows, injections, strict=True)):
            *rest, labels = self.kind(*each)
            alike.setdefault((*rest, labels if with_labels else labels is None), []).append(number)
        for index in alike.values():
            yield index, [rows[number] for number in index], [injections[number] for number in index]

    # -- inputs that run once

    @torch.no_grad()
    def warm(self, rows: Sequence[Encoded], progress: Progress | None = None) -> None:
        """Fill the cache with what the rows' texts give, in an order that depends on the rows alone.

        Args:
            rows: all rows of a split, so that a resumed run computes in the same groups, bit for bit.
            progress: called with (done, all).
        """
        if self.inputs.cache is None:
            return
        for _, part, injections in self._alike(rows, self.injections(rows)):
            if self.backbone.encoder:
                seq2seq.warm(self.inputs, part, injections, progress)
                continue
            layer = injections[0].layer if injections[0] else 0
            if layer:
                make = _make_of(part, injections)
                by_length = sorted(part, key=lambda row: (row.num_tokens, row.row))
                batches = groups(by_length, lambda row: row.num_tokens, self.max_tokens)
                layouts = [text_layout(batch, make, self.backbone) for batch in batches]
                self.inputs.warm_hidden(layer, layouts, progress)
                continue
            found = [kept_input(*each, self.inputs) for each in zip(part, injections, strict=True)]
            self.inputs.warm_columns([ids for ids in found if ids is not None], progress)

    # -- answers

    @torch.no_grad()
    def generate(self, rows: Sequence[Encoded], max_new_tokens: int, stop: Sequence[str]) -> list[str]:
        """Greedy answers: until the end token, a stop text, or ``max_new_tokens``.

        Args:
            rows: their answers, if known, are not looked at.
            max_new_tokens: at most so many tokens.
            stop: the answer ends before the first of these texts.

        Raises:
            BackboneError: the model is an encoder.
        """
        return self.generate_under(rows, self.injections(rows), max_new_tokens, stop)

    @torch.no_grad()
    def generate_under(
        self, rows: Sequence[Encoded], injections: Injections, max_new_tokens: int, stop: Sequence[str]
    ) -> list[str]:
        """As `generate`, each row under the prompt that is given for it."""
        check_writing(self.backbone)
        answers: dict[int, str] = {}
        for index, part, found in self._alike(rows, injections):
            answers |= zip(index, greedy(*self._decoding(part, found), max_new_tokens, stop), strict=True)
        return [answers[index] for index in range(len(rows))]

    @torch.no_grad()
    def write(
        self, rows: Sequence[Encoded], max_new_tokens: int, is_done: Callable[[Sequence[int]], bool]
    ) -> list[list[int]]:
        """Greedy tokens behind each row: until the end token, which is left out, or where `is_done` says so.

        Raises:
            BackboneError: the model is an encoder.
        """
        check_writing(self.backbone)
        written: dict[int, list[int]] = {}
        for index, part, found in self._alike(rows, self.injections(rows), with_labels=False):
            written |= zip(index, greedy_tokens(*self._decoding(part, found), max_new_tokens, is_done), strict=True)
        return [written[index] for index in range(len(rows))]


def _classified(injections: Injections, first: Tensor) -> Tensor:
    """Log-probabilities of the labels, [B, C], by each row's own classifier from its first live token, [B, D]."""
    all_parts = [(found.labels, found.head) for found in injections if found]
    parts = [(labels, head) for labels, head in all_parts if labels is not None and head is not None]
    weight, bias = [torch.stack([getattr(head, name) for _, head in parts]).to(first) for name in ("weight", "bias")]
    inner = torch.tanh(torch.einsum("bd,bed->be", first, weight) + bias)
    scores = torch.stack(
        [labels.to(own) @ own + head.label_bias.to(own) for (labels, head), own in zip(parts, inner, strict=True)]
    )
    return scores.to(torch.promote_types(scores.dtype, torch.float32)).log_softmax(dim=1)


def _read(rows: Sequence[Encoded], hidden: Tensor, layout: Layout) -> Tensor:
    """Hidden states that labels are read from, [B, D]; the prompt's own vectors have no part in a mean."""
    if rows[0].read == "mean":
        is_text = (layout.trunk_index >= 0)[:, :, None]
        return hidden.masked_fill(~is_text, 0.0).sum(1) / is_text.sum(1)
    return hidden[torch.arange(len(rows), device=hidden.device), layout.read]


def _make_of(rows: Sequence[Encoded], injections: Injections) -> Make:
    """What is laid out behind the rows: label words or answers; nothing where vectors stand for the labels."""
    has_words = rows[0].candidates is not None and not (injections[0] and injections[0].labels is not None)
    return label_layout if has_words else answer_layout
