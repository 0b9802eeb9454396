"""One loaded model that answers questions about rows, each under a prompt of its own or none.

Rows that enter the model's layers alike and are read alike share a forward pass; others come in passes of their own.

Shape letters: B rows, S live tokens, D width.
"""

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from overture.core.capabilities import Capabilities
from overture.core.contracts import (
    Answers,
    Continuations,
    Features,
    LabelScores,
    Likelihoods,
    Losses,
    MarkScores,
    Question,
    Readout,
    Readouts,
    TokenShares,
)
from overture.core.injection import Injection
from overture.core.rows import Answer, Encoded, Likelihood, OneOf, ScoredToken, Written
from overture.engine import seq2seq
from overture.engine.backbone import Backbone
from overture.engine.captions import CaptionTower
from overture.engine.generate import greedy_tokens, written_answers
from overture.engine.inputs import Inputs, Progress, groups
from overture.engine.layout import Layout, answer_layout, label_layout, single_layout
from overture.engine.likelihood import token_shares, word_likelihoods
from overture.engine.passes import Injections, Make, kept_input, prepared, text_layout
from overture.engine.readers import Batch, Reader, read_states, reader_of
from overture.engine.states import pooled_by_layer, pooled_images
from overture.engine.texts import Texts
from overture.engine.transfer import moved, sent

T = TypeVar("T")


class PassKey(NamedTuple):
    """The facts that rows of one pass have in common.

    Args:
        layer: at which prompts enter.
        reader: reads their targets.
    """

    layer: int
    reader: Reader


@dataclass(frozen=True, slots=True)
class _Part:
    """Rows that share a forward pass, with their indices among all rows of the question and their prompts."""

    numbers: list[int]
    rows: list[Encoded]
    injections: list[Injection | None]


class LocalAnswerer:
    """Meets `core.contracts.Answerer`.

    Args:
        backbone: the model.
        cache: keeps what texts give where no prompt can change it; None runs them each time. While values inside the
            backbone are trained nothing is kept.
        max_tokens: live tokens of one forward pass while a cache is filled.
    """

    def __init__(self, backbone: Backbone, cache: Texts | None = None, max_tokens: int = 2048) -> None:
        self.backbone, self.cache, self.max_tokens = backbone, cache, max_tokens

    @property
    def inputs(self) -> Inputs:
        """Computes and caches what depends on the texts only."""
        return Inputs(self.backbone, self.cache, self.max_tokens)

    @property
    def capabilities(self) -> Capabilities:
        """The model's capabilities."""
        info = self.backbone.info
        return Capabilities(
            name=info.id,
            kind=self.backbone.family.kind,
            max_length=info.max_length,
            model_type=info.model_type,
            num_start=len(info.start_ids),
            has_head=self.backbone.has_head,
            encodes_words=self.backbone.encoder is None or self.backbone.encoder.family.has_words,
            compares_texts=self.backbone.captions is not None,
            modalities=self.backbone.modalities,
            leaves_inputs=self.backbone.reader is not self.backbone,
        )

    def ask(self, pairs: Sequence[tuple[Encoded, Injection | None]], question: Question[T]) -> list[T]:
        """A reply for each pair, in order.

        Raises:
            BackboneError: the model cannot answer such rows under such prompts.
        """
        rows, injections = [row for row, _ in pairs], [injection for _, injection in pairs]
        if isinstance(question, Losses):
            return list(self.losses(rows, injections, question.with_vector_targets))
        self.capabilities.check(pairs, question)
        key_of, replies_of = _PLANS[type(question)]
        replies: dict[int, T] = {}
        with recording(question):
            for part in self._parts(rows, injections, key_of(question)):
                replies |= zip(part.numbers, replies_of(self, part, question), strict=True)
        return [replies[index] for index in range(len(pairs))]

    def losses(self, rows: Sequence[Encoded], injections: Injections, with_vector_targets: bool = True) -> Tensor:
        """Each row's loss under its prompt, [B]; see `core.contracts.Losses`.

        Raises:
            BackboneError: the model cannot answer such rows under such prompts.
        """
        self.capabilities.check(list(zip(rows, injections, strict=True)), Losses())
        numbers: list[int] = []
        losses: list[Tensor] = []
        for part in self._parts(rows, injections, pass_key):
            numbers += part.numbers
            batch, reader = self._batch_of(part)
            part_losses = reader.losses(batch)
            if with_vector_targets:
                part_losses = part_losses + _prompt_losses(batch)
                if _has_teacher(part):
                    states, _ = self._kept_states(part)
                    part_losses = part_losses + reader.distances(batch, states[:, 0])
            losses.append(part_losses)
        losses_by_pass = torch.cat(losses)
        return losses_by_pass.new_zeros(len(rows)).index_put((sent(numbers, losses_by_pass.device),), losses_by_pass)

    @torch.no_grad()
    def warm(self, rows: Sequence[Encoded], injections: Injections, progress: Progress | None = None) -> None:
        """Fill the cache with what the rows' texts give, in an order that depends on the rows alone.

        Args:
            rows: all rows of a split, so that a resumed run computes in the same groups, bit for bit.
            injections: each row's prompt; its values do not matter.
            progress: called with (done, all).
        """
        inputs = self.inputs
        if inputs.cache is None:
            return
        for part in self._parts(rows, injections, pass_key):
            if self.backbone.encoder:
                seq2seq.warm(inputs, part.rows, part.injections, progress)
                continue
            if self._has_kept_states(part) or _has_teacher(part):
                distinct = list({row.input_elements[:1]: row for row in part.rows}.values())
                for num_batches, batch in enumerate(groups(distinct, lambda row: row.num_text, self.max_tokens), 1):
                    self._kept_states(replace(part, rows=batch))
                    if progress:
                        progress(min(num_batches * len(batch), len(distinct)), len(distinct))
                continue
            if layer := part.injections[0].layer if part.injections[0] else 0:
                make = reader_of(part.rows[0].target, part.injections[0]).make
                by_length = sorted(part.rows, key=lambda row: (row.num_tokens, row.row))
                batches = groups(by_length, lambda row: row.num_tokens, self.max_tokens)
                layouts = [text_layout(batch, make, self.backbone) for batch in batches]
                inputs.warm_hidden(layer, layouts, progress)
                continue
            texts = [kept_input(*pair, inputs) for pair in zip(part.rows, part.injections, strict=True)]
            inputs.warm_columns([ids for ids in texts if ids is not None], progress)

    def _parts(
        self,
        rows: Sequence[Encoded],
        injections: Injections,
        key_of: Callable[[Encoded, Injection | None], Hashable],
    ) -> Iterator[_Part]:
        alike: dict[Hashable, list[int]] = {}
        for number, pair in enumerate(zip(rows, injections, strict=True)):
            alike.setdefault(key_of(*pair), []).append(number)
        for numbers in alike.values():
            yield _Part(numbers, [rows[number] for number in numbers], [injections[number] for number in numbers])

    # -- the forward pass

    def _batch_of(self, part: _Part) -> tuple[Batch, Reader]:
        reader = reader_of(part.rows[0].target, part.injections[0])
        if self._has_kept_states(part):
            hidden, layout = self._kept_states(part)
        else:
            hidden, layout = self._forward(part, reader.make, reader)
            if tower := self._pooling(reader):
                hidden = tower.pooled(hidden, layout.trunk_index >= 0)[:, None]
                layout = single_layout(len(part.rows), self.backbone.device)
        return Batch(self.backbone, part.rows, part.injections, hidden, layout), reader

    def _forward(self, part: _Part, make: Make, reader: Reader | None = None) -> tuple[Tensor, Layout]:
        """Hidden states of the live tokens, [B, S, D], and their layout; S is 1 where an encoder's reader reads one."""
        inputs, rows, injections = self._decoding(part)
        prepared_pass = prepared(inputs, rows, injections, make)
        backbone, live, step, layout = inputs.backbone, prepared_pass.live, prepared_pass.step, prepared_pass.layout
        reads_one = reader and backbone.family.kind == "encoder" and not self._pooling(reader)
        only = reader.only(layout) if reader and reads_one else None
        end = reader.end_layer if reader and reader.end_layer != len(backbone.layers) else None
        if only is None or any(
            injection and injection.vectors and injection.vectors.targets for injection in injections
        ):
            return backbone.run(live, step, prepared_pass.layer, end), layout
        hidden = backbone.run_to(live, step, only, prepared_pass.layer, end)
        return hidden, replace(layout, read=torch.zeros_like(layout.read))

    def _pooling(self, reader: Reader) -> CaptionTower | None:
        """The tower of texts whose images are read from all of their states; None where one state is read."""
        tower = self.backbone.captions
        return tower if reader.reads_images and tower is not None and tower.pools else None

    def _has_kept_states(self, part: _Part) -> bool:
        """Whether the states that are read are the model's own, of images or sounds, and can be kept."""
        if self.inputs.cache is None or self.backbone.family.has_words:
            return False
        reader = reader_of(part.rows[0].target, part.injections[0])
        return bool(reader.one_state) and all(injection and injection.leaves_states for injection in part.injections)

    def _kept_states(self, part: _Part) -> tuple[Tensor, Layout]:
        """The state that each row's label is read from without a prompt, [B, 1, D], as a row of one token."""
        reader = reader_of(part.rows[0].target, part.injections[0])
        one_state = reader.one_state
        assert one_state is not None
        if tower := self._pooling(reader):
            states = pooled_images(self.inputs, part.rows, tower.pooled)
            return moved(states[:, None], self.backbone.device), single_layout(len(part.rows), self.backbone.device)
        layer = self.backbone.info.num_layers if one_state.layer is None else one_state.layer
        pooled = pooled_by_layer(self.inputs, part.rows, (layer,))
        hidden = torch.stack([entry[0, int(one_state.is_mean)] for entry in pooled])[:, None]
        return moved(hidden, self.backbone.device), single_layout(len(part.rows), self.backbone.device)

    def _decoding(self, part: _Part) -> tuple[Inputs, Sequence[Encoded], Injections]:
        """The stack that reads rows from left to right: the model, or an encoder-decoder's decoder."""
        if self.backbone.encoder:
            return seq2seq.decoding(self.inputs, part.rows, part.injections)
        return self.inputs, part.rows, part.injections

    # -- replies to each question about rows that share a pass

    def _label_scores(self, part: _Part, question: LabelScores) -> list[Tensor]:
        batch, reader = self._batch_of(part)
        return [scores.cpu() for scores in reader.label_scores(batch)]

    def _mark_scores(self, part: _Part, question: MarkScores) -> list[Tensor]:
        batch, reader = self._batch_of(part)
        return [logits.cpu() for logits in reader.mark_scores(batch)]

    def _readouts(self, part: _Part, question: Readouts) -> list[Readout]:
        batch, reader = self._batch_of(part)
        return reader.readouts(batch)

    def _likelihoods(self, part: _Part, question: Likelihoods) -> list[list[Likelihood]]:
        hidden, layout = self._forward(part, label_layout)
        return word_likelihoods(self.backbone, part.rows, hidden, layout)

    def _token_shares(self, part: _Part, question: TokenShares) -> list[list[ScoredToken]]:
        hidden, layout = self._forward(part, answer_layout)
        return token_shares(self.backbone, hidden, layout, question.num_top)

    def _answers(self, part: _Part, question: Answers) -> list[Written]:
        inputs, rows, injections = self._decoding(part)
        max_new_tokens, stop, decoding = question.max_new_tokens, question.stop, question.decoding
        return written_answers(inputs, rows, injections, max_new_tokens, stop, decoding, part.rows)

    def _continuations(self, part: _Part, question: Continuations) -> list[list[int]]:
        return greedy_tokens(*self._decoding(part), question.max_new_tokens, question.is_done)

    def _features(self, part: _Part, question: Features) -> list[Tensor]:
        is_mean = _is_mean(part.rows[0], question)
        bare = [row if isinstance(row.target, OneOf) else replace(row, target=Answer()) for row in part.rows]
        # Without a cache: cached texts are not among the live tokens, so a mean would lack them.
        inputs = Inputs(self.backbone, None, self.max_tokens)
        rows, injections = bare, list(part.injections)
        if self.backbone.encoder and is_mean:
            # The states of a text's tokens are the encoder's.
            inputs, rows, injections = seq2seq.encoding(inputs, bare, injections)
        elif self.backbone.encoder:
            inputs, rows, injections = seq2seq.decoding(inputs, bare, injections)
        features_pass = prepared(inputs, rows, injections, answer_layout, is_whole=is_mean)
        hidden = inputs.backbone.run(features_pass.live, features_pass.step, features_pass.layer)
        return list(read_states(hidden, features_pass.layout, is_mean))


def recording(question: Question[Any]) -> torch.set_grad_enabled:
    """Records gradients where they are recorded already and the question has a gradient."""
    return torch.set_grad_enabled(torch.is_grad_enabled() and question.has_gradient)


def _is_mean(row: Encoded, question: Features) -> bool:
    return question.is_mean or (isinstance(row.target, OneOf) and row.target.read == "mean")


def _layer(injection: Injection | None) -> int:
    return injection.layer if injection else 0


def pass_key(row: Encoded, injection: Injection | None) -> PassKey:
    """Rows with equal keys can share a pass, for all questions that read a row's target."""
    return PassKey(_layer(injection), reader_of(row.target, injection))


_KeyOf = Callable[[Encoded, Injection | None], Hashable]


def _read_key(question: Question[Any]) -> _KeyOf:
    return pass_key


def _layer_key(question: Question[Any]) -> _KeyOf:
    return lambda row, injection: _layer(injection)


def _features_key(question: Features) -> _KeyOf:
    return lambda row, injection: (_layer(injection), _is_mean(row, question))


_PLANS: dict[type[Question[Any]], tuple[Callable[[Any], _KeyOf], Callable[..., Sequence[Any]]]] = {
    LabelScores: (_read_key, LocalAnswerer._label_scores),
    MarkScores: (_read_key, LocalAnswerer._mark_scores),
    Readouts: (_read_key, LocalAnswerer._readouts),
    Likelihoods: (_layer_key, LocalAnswerer._likelihoods),
    TokenShares: (_layer_key, LocalAnswerer._token_shares),
    Answers: (_layer_key, LocalAnswerer._answers),
    Continuations: (_layer_key, LocalAnswerer._continuations),
    Features: (_features_key, LocalAnswerer._features),
}
"""For each question: the key that rows of one pass share, and the method that answers them."""


def _has_teacher(part: _Part) -> bool:
    """Whether some prompt of a pass adds a distance from the frozen model to its loss."""
    return any(injection is not None and injection.teacher is not None for injection in part.injections)


def _prompt_losses(batch: Batch) -> Tensor | float:
    """The prompts' own terms of the loss, [B]: their penalties, and the tokens that their vectors must predict."""
    losses = _vector_losses(batch)
    penalties = [injection.penalty if injection else None for injection in batch.injections]
    if all(penalty is None for penalty in penalties):
        return losses
    zero = batch.hidden.new_zeros(())
    return losses + torch.stack([zero if penalty is None else penalty.to(zero) for penalty in penalties])


def _vector_losses(batch: Batch) -> Tensor | float:
    """Losses of the tokens that prompt vectors must predict, [B]; equal in every row of a prompt."""
    loss_of: dict[int, Tensor] = {}
    for number, injection in enumerate(batch.injections):
        targets = injection.vectors.targets if injection and injection.vectors else ()
        if targets and id(injection) not in loss_of:
            vector_places = [n for n, is_vector in enumerate(batch.layout.lines[number].is_vector) if is_vector]
            places = sent([vector_places[target.index] for target in targets], batch.hidden.device)
            logits = batch.backbone.head(batch.hidden[number, places])
            gold = sent([target.token for target in targets], logits.device)
            weights = sent([target.weight for target in targets], logits.device, logits.dtype)
            losses = torch.nn.functional.cross_entropy(logits, gold, reduction="none")
            loss_of[id(injection)] = (weights * losses).sum()
    if not loss_of:
        return 0.0
    zero = batch.hidden.new_zeros(())
    return torch.stack([loss_of.get(id(injection), zero) for injection in batch.injections])
