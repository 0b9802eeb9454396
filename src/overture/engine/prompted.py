"""A backbone under a prompt, or under one for each row: losses, label scores and answers.

Shape letters: B rows, P prompt length, S live tokens, D width, W label words, C labels.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from overture.core.contracts import PromptMethod, RowMethod
from overture.core.decoding import GREEDY, Decoding
from overture.core.injection import Injection
from overture.core.rows import Candidates, Encoded, Written
from overture.engine import seq2seq
from overture.engine.backbone import Backbone
from overture.engine.cache import InputCache
from overture.engine.distil import Said
from overture.engine.generate import greedy_tokens, written
from overture.engine.inputs import Inputs, Progress, groups
from overture.engine.layout import Layout, answer_layout, label_layout
from overture.engine.likelihood import Likelihood, word_likelihoods
from overture.engine.limits import check_reading, check_writing
from overture.engine.marks import mark_logits, mark_losses, mark_places, mark_shares, mark_weight
from overture.engine.passes import Injections, Make, kept_input, prepared, text_layout
from overture.engine.transfer import moved, sent

OnePrompt = PromptMethod | RowMethod | Injection
_OWN = Candidates((), (), (), is_own=True)
INNER = "model."
"""What the names of values inside the model begin with."""


class PassKey(NamedTuple):
    """What a pass has one of.

    Args:
        layer: at which prompts enter.
        heads: what labels are told by: 0 words, 1 label vectors, 2 a classifier.
        is_mean: labels are read from the mean of the text.
        has_marks: labels are read at many places of a row.
        candidates: the labels; None for free text.
    """

    layer: int
    heads: int
    is_mean: bool
    has_marks: bool
    candidates: Candidates | None


@dataclass(frozen=True, slots=True)
class RowPrompts:
    """A prompt for each row, by the row's number: several prompts, or none, in one batch."""

    prompts: Sequence[OnePrompt | None]


class PromptedModel:
    """The backbone with one prompt, or with none; frozen, but for values of its own that a copy may train.

    Meets `core.contracts.Trainee` and `core.contracts.Scorer`.

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
        self.backbone, self.cache, self.max_tokens = backbone, cache, max_tokens
        self.prompt = _placed(prompt, backbone.device)

    @property
    def inputs(self) -> Inputs:
        """What texts give by themselves."""
        return Inputs(self.backbone, self.cache, self.max_tokens)

    # -- what the prompt is

    def injections(self, rows: Sequence[Encoded]) -> list[Injection | None]:
        """The prompt's values now, for each row."""
        if isinstance(self.prompt, RowPrompts):
            return [self._injections_of(self._prompt_of(row), [row])[0] for row in rows]
        return self._injections_of(self.prompt, rows)

    def _injections_of(self, prompt: OnePrompt | None, rows: Sequence[Encoded]) -> list[Injection | None]:
        if prompt is None or isinstance(prompt, Injection):
            return [prompt] * len(rows)
        if isinstance(prompt, RowMethod):
            return list(prompt.injections(self._features(rows)))
        # Made once a pass: a method may compute it, and its gradient is shared by all rows.
        return [prompt.injection()] * len(rows)

    def _parts(self, rows: Sequence[Encoded]) -> list[Injection | None]:
        """As `injections` in all but the values: each prompt is made for one row only, however many there are."""
        known: dict[int, Injection | None] = {}
        for row in rows:
            prompt = self._prompt_of(row)
            if id(prompt) not in known:
                known[id(prompt)] = self._injections_of(prompt, [row])[0]
        return [known[id(self._prompt_of(row))] for row in rows]

    def _prompt_of(self, row: Encoded) -> OnePrompt | None:
        return self.prompt.prompts[row.row] if isinstance(self.prompt, RowPrompts) else self.prompt

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
        return found_losses.new_zeros(len(rows)).index_put((sent(at, found_losses.device),), found_losses)

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
                places = [index for row, index, _ in layout.targets if row == number]
                yield Said(hidden[number, sent(places, hidden.device, torch.long)])
            return
        if rows[0].marks is not None:
            logits = self._mark_logits(rows, injections, hidden, layout)
            for number, (row, own) in enumerate(zip(rows, logits, strict=True)):
                marked = sent(mark_places(row, layout, number), hidden.device, torch.long)
                yield Said(hidden[number, marked], mark_shares(row, own))
            return
        ends, scores = _read(rows, hidden, layout), self._scores(rows, injections, hidden, layout)
        yield from (Said(end[None], own[None]) for end, own in zip(ends, scores, strict=True))

    def _losses(self, rows: Sequence[Encoded], injections: Injections, with_targets: bool) -> Tensor:
        hidden, layout = self._forward(rows, injections)
        if rows[0].marks is not None:
            losses = mark_losses(rows, self._mark_logits(rows, injections, hidden, layout))
        elif rows[0].shares is not None:
            scores = self._scores(rows, injections, hidden, layout)
            losses = -(sent([row.shares for row in rows], scores.device, scores.dtype) * scores).sum(1)
        elif rows[0].candidates is not None:
            scores = self._scores(rows, injections, hidden, layout)
            gold = sent([row.label for row in rows], scores.device)
            losses = torch.nn.functional.nll_loss(scores, gold, reduction="none")
        else:
            row, index, gold = sent(layout.targets, hidden.device).T
            each = torch.nn.functional.cross_entropy(self.backbone.head(hidden[row, index]), gold, reduction="none")
            losses = each.new_zeros(len(rows)).index_add(0, row, each)
        return losses + self._targets_losses(hidden, layout, injections) if with_targets else losses

    def _targets_losses(self, hidden: Tensor, layout: Layout, injections: Injections) -> Tensor | float:
        """What vectors must predict themselves, [B]; before the text they are the same in every row of a prompt."""
        known: dict[int, Tensor] = {}
        for number, found in enumerate(injections):
            targets = found.vectors.targets if found and found.vectors else ()
            if targets and id(found) not in known:
                where = layout.lines[number].is_vector
                at = [index for index, is_vector in enumerate(where) if is_vector]
                own = hidden[number, sent([at[target.index] for target in targets], hidden.device)]
                logits = self.backbone.head(own)
                gold = sent([target.token for target in targets], hidden.device)
                weights = sent([target.weight for target in targets], logits.device, logits.dtype)
                known[id(found)] = (weights * torch.nn.functional.cross_entropy(logits, gold, reduction="none")).sum()
        if not known:
            return 0.0
        none = hidden.new_zeros(())
        return torch.stack([known.get(id(found), none) for found in injections])

    def weight(self, rows: Sequence[Encoded]) -> float:
        """Rows for label tasks, tokens for tags, answer tokens for free text."""
        if rows[0].marks is not None:
            return sum(map(mark_weight, rows))
        return float(len(rows) if rows[0].candidates is not None else sum(len(row.answer_ids or ()) for row in rows))

    @torch.no_grad()
    def label_scores(self, rows: Sequence[Encoded]) -> Tensor:
        """Log-probabilities of the labels, [B, C], normalised over them; a label's words add up.

        Rows with choices of their own have -inf behind their last one.
        """
        return side_by_side(self.label_scores_under(rows, self.injections(rows)))

    @torch.no_grad()
    def mark_scores(self, rows: Sequence[Encoded]) -> list[Tensor]:
        """Logits of the labels at each row's marks, [n, C]."""
        return self.mark_scores_under(rows, self.injections(rows))

    @torch.no_grad()
    def mark_scores_under(self, rows: Sequence[Encoded], injections: Injections) -> list[Tensor]:
        """As `mark_scores`, each row under the prompt that is given for it; on the CPU."""
        scored: dict[int, Tensor] = {}
        for index, part, found in self._alike(rows, injections):
            hidden, layout = self._forward(part, found)
            logits = self._mark_logits(part, found, hidden, layout)
            scored |= zip(index, (own.cpu() for own in logits), strict=True)
        return [scored[index] for index in range(len(rows))]

    def _mark_logits(
        self, rows: Sequence[Encoded], injections: Injections, hidden: Tensor, layout: Layout
    ) -> list[Tensor]:
        labels = [found.labels for found in injections if found is not None and found.labels is not None]
        return mark_logits(rows, self.backbone.transformed(hidden), layout, labels)

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
            # Few rows: in half precision the logits of like labels would often be the same number.
            ends = self.backbone.transformed(ends)
            ends = ends.to(torch.promote_types(ends.dtype, torch.float32))
            each = torch.stack([own.to(ends.dtype) for own in labels if own is not None])
            return torch.einsum("bd,bcd->bc", ends, each).log_softmax(dim=1)
        if candidates.is_own:
            return self._choice_scores(rows, hidden, ends, layout)
        return self._word_scores(candidates, hidden, ends, layout)

    def _choice_scores(self, rows: Sequence[Encoded], hidden: Tensor, ends: Tensor, layout: Layout) -> Tensor:
        """Scores of words that differ from row to row; here the vocabulary's normaliser counts."""
        own = [row.candidates for row in rows if row.candidates is not None]
        most = max(len(candidates.words) for candidates in own)
        shares = self.backbone.head(ends)
        shares = shares.to(torch.promote_types(shares.dtype, torch.float32)).log_softmax(dim=-1)
        first = sent([[word[0] for word in c.words] + [0] * (most - len(c.words)) for c in own], hidden.device)
        scores = shares.gather(1, first)
        if layout.targets:
            scores = scores + self._following(hidden, layout, scores.shape).to(scores.dtype)
        return side_by_side([_choice_shares(scores[number], candidates) for number, candidates in enumerate(own)])

    def _word_scores(self, candidates: Candidates, hidden: Tensor, ends: Tensor, layout: Layout) -> Tensor:
        # The vocabulary's normaliser at the place that is read is the same for all, so only the words' rows are needed.
        first = sent([word[0] for word in candidates.words], hidden.device)
        scores = self.backbone.head(ends, first)
        if layout.targets:
            scores = scores + self._following(hidden, layout, scores.shape)
        words_of: list[list[int]] = [[] for _ in candidates.labels]
        for word, label in enumerate(candidates.label_of):
            words_of[label].append(word)
        per_label = [scores[:, sent(words, scores.device, torch.long)].logsumexp(1) for words in words_of]
        return torch.stack(per_label, dim=1).log_softmax(dim=1)

    def _following(self, hidden: Tensor, layout: Layout, shape: torch.Size) -> Tensor:
        """Log-likelihood of each word's tokens after the first, [B, W]."""
        row, index, token = sent(layout.targets, hidden.device).T
        logits = self.backbone.head(hidden[row, index]).log_softmax(dim=-1)
        values = logits.gather(1, token[:, None])[:, 0]
        words = sent(layout.words, hidden.device)
        return torch.zeros(shape, device=hidden.device, dtype=values.dtype).index_put((row, words), values, True)

    @torch.no_grad()
    def features(self, rows: Sequence[Encoded]) -> Tensor:
        """Hidden states that labels are read from, [B, D]; rows are read all as a mean, or none."""
        bare = [replace(row, candidates=None, answer_ids=None) for row in rows]
        # Nothing is kept: what ran before has no part in a mean.
        prompts = self.injections(rows)
        if self.backbone.encoder and rows[0].read == "mean":
            # Of a text's tokens the encoder has the states.
            own: Sequence[Encoded] = bare
            inputs = Inputs(self.backbone.encoder, None, self.max_tokens)
            parts: Injections = [seq2seq.in_encoder(found) for found in prompts]
        else:
            inputs, own, parts = self._decoding(bare, prompts, Inputs(self.backbone, None, self.max_tokens))
        one = prepared(inputs, own, parts, answer_layout)
        return _read(rows, inputs.backbone.run(one.live, one.step, one.layer), one.layout)

    # -- the forward pass

    def _forward(self, rows: Sequence[Encoded], injections: Injections) -> tuple[Tensor, Layout]:
        """Hidden states of the live tokens, [B, S, D], and their layout."""
        inputs, rows, injections = self._decoding(rows, injections)
        one = prepared(inputs, rows, injections, _make_of(rows, injections))
        return inputs.backbone.run(one.live, one.step, one.layer), one.layout

    def _decoding(
        self, rows: Sequence[Encoded], injections: Injections, inputs: Inputs | None = None
    ) -> tuple[Inputs, Sequence[Encoded], Injections]:
        """What reads the rows from left to right: the model, or an encoder-decoder's decoder."""
        inputs = inputs or self.inputs
        return seq2seq.decoding(inputs, rows, injections) if self.backbone.encoder else (inputs, rows, injections)

    def kind(self, row: Encoded, injection: Injection | None) -> PassKey:
        """Which passes a row can be in under a prompt.

        Raises:
            BackboneError: the model cannot answer such a row.
        """
        check_reading(self.backbone, row, injection)
        # What a row chooses from is its own: such rows share a pass all the same.
        own = _OWN if row.candidates and row.candidates.is_own else row.candidates
        heads = (injection.labels is not None) + (injection.head is not None) if injection else 0
        return PassKey(injection.layer if injection else 0, heads, row.read == "mean", row.marks is not None, own)

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
        alike: dict[tuple[PassKey, bool], list[int]] = {}
        for number, each in enumerate(zip(rows, injections, strict=True)):
            kind = self.kind(*each)
            # Free text shares no pass with labels, whichever they are.
            key = kind if with_labels else kind._replace(candidates=None)
            alike.setdefault((key, kind.candidates is None), []).append(number)
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
        for _, part, injections in self._alike(rows, self._parts(rows)):
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
        return [found.text for found in self.answer_under(rows, injections, max_new_tokens, stop)]

    @torch.no_grad()
    def answer(
        self, rows: Sequence[Encoded], max_new_tokens: int, stop: Sequence[str], decoding: Decoding = GREEDY
    ) -> list[Written]:
        """Answers by any decoding, within what each row allows.

        Args:
            rows: their answers, if known, are not looked at.
            max_new_tokens: at most so many tokens.
            stop: the answer ends before the first of these texts.
            decoding: greedy, by chance, or beam search.

        Raises:
            BackboneError: the model is an encoder.
        """
        return self.answer_under(rows, self.injections(rows), max_new_tokens, stop, decoding)

    @torch.no_grad()
    def answer_under(
        self,
        rows: Sequence[Encoded],
        injections: Injections,
        max_new_tokens: int,
        stop: Sequence[str],
        decoding: Decoding = GREEDY,
    ) -> list[Written]:
        """As `answer`, each row under the prompt that is given for it."""
        check_writing(self.backbone)
        answers: dict[int, Written] = {}
        for index, part, found in self._alike(rows, injections):
            inputs, own, parts = self._decoding(part, found)
            answers |= zip(index, written(inputs, own, parts, max_new_tokens, stop, decoding, part), strict=True)
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


def _placed(prompt: OnePrompt | RowPrompts | None, device: torch.device) -> OnePrompt | RowPrompts | None:
    """A prompt whose values lie where the model's do; methods are moved in place, and trained values stay the same."""
    if isinstance(prompt, RowPrompts):
        # A prompt that several rows share is still one.
        there = {id(each): _placed(each, device) for each in prompt.prompts}
        return RowPrompts([there[id(each)] for each in prompt.prompts])  # type: ignore[misc]
    if isinstance(prompt, Injection):
        return prompt.map(lambda tensor: moved(tensor, device))
    if isinstance(prompt, torch.nn.Module):
        prompt.to(device)
    return prompt


def side_by_side(scores: Sequence[Tensor]) -> Tensor:
    """Rows of scores with -inf behind shorter ones."""
    return torch.nn.utils.rnn.pad_sequence(list(scores), batch_first=True, padding_value=float("-inf"))


def _choice_shares(scores: Tensor, candidates: Candidates) -> Tensor:
    """Log-probabilities of one row's choices from their log-likelihoods, [C]."""
    own = scores[: len(candidates.words)]
    if candidates.is_mean:
        own = own / sent([len(word) for word in candidates.words], own.device, own.dtype)
    return own.log_softmax(dim=0)


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
