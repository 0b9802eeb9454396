"""Reads replies from the model's hidden states: one class for each kind of target and of head.

`reader_of` chooses the class; nothing else in the engine asks for the kind of a row's target. Readers are equal when
their rows can share a pass.

Shape letters: B rows, S live tokens, D width, W label words, C labels, n marks of a row, R places that are predicted.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from overture.core.contracts import Readout
from overture.core.injection import Injection, Pooled, ReadAt
from overture.core.rows import AtMarks, Candidates, Encoded, OneOf, Target
from overture.engine.backbone import Backbone
from overture.engine.layout import Layout, answer_layout, label_layout
from overture.engine.passes import Injections, Make
from overture.engine.transfer import sent


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows of one pass with their last hidden states.

    Args:
        backbone: its head makes logits.
        rows: B of them.
        injections: each row's prompt.
        hidden: last hidden states of the live tokens, [B, S, D].
        layout: where each token stands.
    """

    backbone: Backbone
    rows: Sequence[Encoded]
    injections: Injections
    hidden: Tensor
    layout: Layout


class OneState(NamedTuple):
    """The one state of a row that is read.

    Args:
        layer: number of layers that have run; None for all, with the norm behind them.
        is_mean: it is the mean of the row's states.
    """

    layer: int | None
    is_mean: bool


class Reader(ABC):
    """Reads one kind of target."""

    has_words: ClassVar[bool] = False
    """Whether label words are laid out behind the rows."""

    @property
    def end_layer(self) -> int | None:
        """Number of layers that run before something is read; None for all."""
        return None

    @property
    def one_state(self) -> OneState | None:
        """The state, if labels are read from one state without words behind it; else None."""
        return None

    def distances(self, batch: Batch, states: Tensor) -> Tensor:
        """Distance of each row from its prompt's teacher, [B]."""
        raise TypeError(f"row {batch.rows[0].row} is compared with no texts")

    @property
    def reads_images(self) -> bool:
        """Whether images are compared with texts in their common space."""
        return False

    @property
    def make(self) -> Make:
        """The function that lays out the rows with label words, or an answer, behind them."""
        return label_layout if self.has_words else answer_layout

    def only(self, layout: Layout) -> Tensor | None:
        """Index of the one live token of each row that is read, [B]; None where more of them are."""
        return None

    @abstractmethod
    def losses(self, batch: Batch) -> Tensor:
        """Negative log-likelihood of each row's right label or answer, [B]."""

    @abstractmethod
    def readouts(self, batch: Batch) -> list[Readout]:
        """States and scores where predictions count."""

    def label_scores(self, batch: Batch) -> list[Tensor]:
        """Log-probabilities of each row's labels, [C]."""
        raise TypeError(f"row {batch.rows[0].row} has no label that is read at one place")

    def mark_scores(self, batch: Batch) -> list[Tensor]:
        """Logits of the labels at each row's marks, [n, C]."""
        raise TypeError(f"row {batch.rows[0].row} has no marks")


def reader_of(target: Target, injection: Injection | None) -> Reader:
    """The reader of a target under a prompt."""
    if isinstance(target, AtMarks):
        return _AtMarks()
    if not isinstance(target, OneOf):
        return _Answers()
    candidates, is_mean, has_shares = target.candidates, target.read == "mean", target.shares is not None
    if injection is not None and injection.head is not None and injection.head.weight is not None:
        return _Classifier(candidates, is_mean, has_shares)
    if injection is not None and injection.is_matched:
        return _Texts(candidates, is_mean, has_shares)
    if injection is not None and injection.labels is not None:
        return _LabelVectors(candidates, is_mean, has_shares, injection.read_at)
    # Rows with choices of their own share a pass all the same.
    return _Choices(None, is_mean, has_shares) if candidates.is_own else _LabelWords(candidates, is_mean, has_shares)


def read_states(hidden: Tensor, layout: Layout, is_mean: bool) -> Tensor:
    """Hidden states that labels are read from, [B, D]; the prompt's own vectors have no part in a mean."""
    if is_mean:
        is_text = (layout.trunk_index >= 0)[:, :, None]
        return hidden.masked_fill(~is_text, 0.0).sum(1) / is_text.sum(1)
    return hidden[torch.arange(len(hidden), device=hidden.device), layout.read]


def _as_float(values: Tensor) -> Tensor:
    """Values in float32 or wider: in half precision the logits of similar labels are often equal."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


# -- one label of several


@dataclass(frozen=True, slots=True)
class _OneOf(Reader):
    """Reads one label of a row from one state.

    Args:
        candidates: the labels; None where each row has its own.
        is_mean: the state is the mean of the row's tokens.
        has_shares: the target is a share for each label.
    """

    candidates: Candidates | None
    is_mean: bool
    has_shares: bool

    @abstractmethod
    def scores(self, batch: Batch, ends: Tensor) -> Tensor:
        """Log-probabilities of the labels, [B, C], from the states that are read, [B, D]."""

    def only(self, layout: Layout) -> Tensor | None:
        """The token that the label is read from, unless it is a mean, or words go on in branches behind it."""
        return None if self.is_mean or layout.targets else layout.read

    def _ends(self, batch: Batch) -> Tensor:
        """The states that are read, [B, D]."""
        return read_states(batch.hidden, batch.layout, self.is_mean)

    def _scores(self, batch: Batch) -> tuple[Tensor, Tensor]:
        ends = self._ends(batch)
        return ends, self.scores(batch, ends)

    def losses(self, batch: Batch) -> Tensor:
        """Loss of the right label, or of all labels by their shares."""
        _, scores = self._scores(batch)
        targets = [_one_of(row) for row in batch.rows]
        if self.has_shares:
            return -(sent([target.shares for target in targets], scores.device, scores.dtype) * scores).sum(1)
        gold = sent([target.label for target in targets], scores.device)
        losses = torch.nn.functional.nll_loss(scores, gold, reduction="none")
        factors = [target.factor for target in targets]
        return losses if set(factors) == {1.0} else losses * sent(factors, scores.device, scores.dtype)

    def readouts(self, batch: Batch) -> list[Readout]:
        """One state and its scores for each row."""
        return [Readout(end[None], scores[None]) for end, scores in zip(*self._scores(batch), strict=True)]

    def label_scores(self, batch: Batch) -> list[Tensor]:
        """Scores of the row's own labels, without padding."""
        _, scores = self._scores(batch)
        counts = [len(_one_of(row).candidates.labels) for row in batch.rows]
        return [row_scores[:count] for row_scores, count in zip(scores, counts, strict=True)]


def _one_of(row: Encoded) -> OneOf:
    assert isinstance(row.target, OneOf)
    return row.target


class _LabelWords(_OneOf):
    """The likelihood of the labels' words, by the model's own head."""

    __slots__ = ()
    has_words: ClassVar[bool] = True

    def scores(self, batch: Batch, ends: Tensor) -> Tensor:
        """A label's probability is the sum over its words."""
        candidates, layout = self.candidates, batch.layout
        assert candidates is not None
        # The vocabulary's normaliser at the place that is read is the same for all: only the words' rows are needed.
        first_tokens = sent([word[0] for word in candidates.words], batch.hidden.device)
        scores = batch.backbone.head(ends, first_tokens)
        if layout.targets:
            scores = scores + _of_later_tokens(batch, scores.shape)
        words_of: list[list[int]] = [[] for _ in candidates.labels]
        for word, label in enumerate(candidates.label_of):
            words_of[label].append(word)
        per_label = [scores[:, sent(words, scores.device, torch.long)].logsumexp(1) for words in words_of]
        return torch.stack(per_label, dim=1).log_softmax(dim=1)


class _Choices(_OneOf):
    """The likelihood of words that differ from row to row; here the vocabulary's normaliser counts."""

    __slots__ = ()
    has_words: ClassVar[bool] = True

    def scores(self, batch: Batch, ends: Tensor) -> Tensor:
        """Scores of each row's choices, with -inf behind its last one."""
        candidates = [_one_of(row).candidates for row in batch.rows]
        most = max(len(choices.words) for choices in candidates)
        firsts = [[word[0] for word in choices.words] + [0] * (most - len(choices.words)) for choices in candidates]
        scores = _as_float(batch.backbone.head(ends)).log_softmax(dim=-1).gather(1, sent(firsts, ends.device))
        if batch.layout.targets:
            scores = scores + _of_later_tokens(batch, scores.shape).to(scores.dtype)
        normalised = []
        for row_scores, choices in zip(scores, candidates, strict=True):
            likelihoods = row_scores[: len(choices.words)]
            if choices.is_mean:
                lengths = [len(word) for word in choices.words]
                likelihoods = likelihoods / sent(lengths, likelihoods.device, likelihoods.dtype)
            normalised.append(likelihoods.log_softmax(dim=0))
        return side_by_side(normalised)


@dataclass(frozen=True, slots=True)
class _LabelVectors(_OneOf):
    """A vector for each label in place of the head's rows.

    Args:
        read_at: layer and place that they read, if other than the target's.
    """

    read_at: ReadAt | None = None

    @property
    def end_layer(self) -> int | None:
        """Layers above the one that is read are not run."""
        return self.read_at.layer if self.read_at else None

    @property
    def _features(self) -> Pooled:
        default: Pooled = "mean" if self.is_mean else "read"
        return default if self.read_at is None else self.read_at.features or default

    @property
    def one_state(self) -> OneState | None:
        """The state in the layer that is read; None where two states stand side by side."""
        features = self._features
        return None if features == "read+mean" else OneState(self.end_layer, features == "mean")

    def only(self, layout: Layout) -> Tensor | None:
        """The token that the target names, unless a mean is read."""
        return layout.read if self._features == "read" else None

    def _ends(self, batch: Batch) -> Tensor:
        """The states that are read, side by side where there are two, [B, D or 2 D]."""
        is_mean = {"read": (False,), "mean": (True,), "read+mean": (False, True)}[self._features]
        return torch.cat([read_states(batch.hidden, batch.layout, mean) for mean in is_mean], dim=1)

    def scores(self, batch: Batch, ends: Tensor) -> Tensor:
        """Products with each row's own label vectors."""
        # A masked language model's map in front of its head is made for the last states.
        ends = _as_float(ends if self.read_at else batch.backbone.transformed(ends))
        labels = [injection.labels for injection in batch.injections if injection is not None]
        vectors = torch.stack([label_vectors.to(ends.dtype) for label_vectors in labels if label_vectors is not None])
        scores = torch.einsum("bd,bcd->bc", ends, vectors)
        if any(injection.head for injection in batch.injections if injection is not None):
            scores = scores + torch.stack(
                [_label_bias(injection, row) for injection, row in zip(batch.injections, scores, strict=True)]
            )
        return scores.log_softmax(dim=1)


def _label_bias(injection: Injection | None, scores: Tensor) -> Tensor:
    """The bias of each label, [C]; zero where a prompt has none."""
    head = injection.head if injection is not None else None
    return torch.zeros_like(scores) if head is None else head.label_bias.to(scores)


class _Texts(_OneOf):
    """A text for each label, in the space that images are mapped to; see `engine.captions`."""

    __slots__ = ()

    @property
    def reads_images(self) -> bool:
        """True: labels are read from images."""
        return True

    @property
    def one_state(self) -> OneState | None:
        """The last state that the target names."""
        return OneState(None, self.is_mean)

    def scores(self, batch: Batch, ends: Tensor) -> Tensor:
        """Scaled cosines of each row's image and its prompt's texts."""
        images = _unit_images(batch, ends)
        parts = [(injection.labels, injection.head) for injection in batch.injections if injection is not None]
        heads = [(texts, head) for texts, head in parts if texts is not None and head is not None]
        label_vectors: dict[int, Tensor] = {}
        for texts, head in heads:
            if id(texts) not in label_vectors:
                assert head.scale is not None
                label_vectors[id(texts)] = torch.nn.functional.normalize(texts.to(images), dim=-1) * head.scale.to(
                    images
                )
        if len(label_vectors) == 1:
            scores = images @ next(iter(label_vectors.values())).T
        else:
            scores = torch.einsum("be,bce->bc", images, torch.stack([label_vectors[id(texts)] for texts, _ in heads]))
        biases = [_label_bias(injection, row) for injection, row in zip(batch.injections, scores, strict=True)]
        return (scores + torch.stack(biases)).log_softmax(dim=1)

    def distances(self, batch: Batch, states: Tensor) -> Tensor:
        """Distance of each row from its prompt's teacher, [B]; see `core.injection.Teacher`.

        Args:
            batch: the rows under their prompts.
            states: the frozen model's states that the rows are read from, [B, D].
        """
        ends, scores = self._scores(batch)
        images, frozen_images = _unit_images(batch, ends), _unit_images(batch, states)
        distances = []
        for number, injection in enumerate(batch.injections):
            teacher, head = injection.teacher if injection else None, injection.head if injection else None
            if teacher is None or head is None:
                distances.append(scores.new_zeros(()))
                continue
            assert head.scale is not None
            frozen_scores = (head.scale.to(images) * (teacher.texts.to(images) @ frozen_images[number])).log_softmax(
                dim=0
            )
            divergence = torch.nn.functional.kl_div(
                scores[number], frozen_scores, reduction="none", log_target=True
            ).mean()
            image_distance = (images[number] - frozen_images[number]).abs().mean()
            distances.append(teacher.scores_weight * divergence + teacher.image_weight * image_distance)
        return torch.stack(distances)


def _unit_images(batch: Batch, states: Tensor) -> Tensor:
    """Unit vectors of images in the space of texts, [..., E], from the states that they are read from."""
    assert batch.backbone.captions is not None
    return torch.nn.functional.normalize(_as_float(batch.backbone.captions.images(states)), dim=-1)


class _Classifier(_OneOf):
    """A classifier's own map and its label vectors, read at the very first live token."""

    __slots__ = ()

    def only(self, layout: Layout) -> Tensor | None:
        """The first live token."""
        return torch.zeros_like(layout.read)

    def scores(self, batch: Batch, ends: Tensor) -> Tensor:
        """Scores of each row's own classifier."""
        first_states = batch.hidden[:, 0]
        parts = [(injection.labels, injection.head) for injection in batch.injections if injection is not None]
        heads = [(labels, head) for labels, head in parts if labels is not None and head is not None]
        weight = torch.stack([head.weight for _, head in heads if head.weight is not None]).to(first_states)
        bias = torch.stack([head.bias for _, head in heads if head.bias is not None]).to(first_states)
        inner = torch.tanh(torch.einsum("bd,bed->be", first_states, weight) + bias)
        scores = torch.stack(
            [
                labels.to(state) @ state + head.label_bias.to(state)
                for (labels, head), state in zip(heads, inner, strict=True)
            ]
        )
        return _as_float(scores).log_softmax(dim=1)


def _of_later_tokens(batch: Batch, shape: torch.Size) -> Tensor:
    """Log-likelihood of each word's tokens after the first, [B, W]."""
    hidden = batch.hidden
    row, index, token = sent(batch.layout.targets, hidden.device).T
    logits = batch.backbone.head(hidden[row, index]).log_softmax(dim=-1)
    values = logits.gather(1, token[:, None])[:, 0]
    words = sent(batch.layout.words, hidden.device)
    return torch.zeros(shape, device=hidden.device, dtype=values.dtype).index_put((row, words), values, True)


def side_by_side(scores: Sequence[Tensor]) -> Tensor:
    """Rows of scores with -inf behind shorter ones."""
    return torch.nn.utils.rnn.pad_sequence(list(scores), batch_first=True, padding_value=float("-inf"))


# -- labels at many tokens


@dataclass(frozen=True, slots=True)
class _AtMarks(Reader):
    """A head of one vector for each label, at several tokens of each row."""

    def mark_scores(self, batch: Batch) -> list[Tensor]:
        """Products with each row's own label vectors; float32 at least."""
        hidden = batch.backbone.transformed(batch.hidden)
        labels = [injection.labels for injection in batch.injections if injection is not None]
        dtype = torch.promote_types(hidden.dtype, torch.float32)
        logits = []
        for number, (row, vectors) in enumerate(zip(batch.rows, labels, strict=True)):
            assert vectors is not None
            places = sent(_places(row, batch.layout, number), hidden.device, torch.long)
            marks = hidden[number, places].to(dtype) @ vectors.to(dtype).T
            injection = batch.injections[number]
            has_bias = injection is not None and injection.head is not None
            logits.append(marks + _label_bias(injection, marks[0]) if has_bias and len(marks) else marks)
        return logits

    def losses(self, batch: Batch) -> Tensor:
        """Sum over the row's marks."""
        return torch.stack(
            [
                torch.nn.functional.nll_loss(
                    _decided(row, logits), sent(row.target.gold, logits.device, torch.long), reduction="sum"
                )
                for row, logits in zip(batch.rows, self.mark_scores(batch), strict=True)
            ]
        )

    def readouts(self, batch: Batch) -> list[Readout]:
        """The states of the marks, and the log-probabilities there."""
        readouts = []
        for number, (row, logits) in enumerate(zip(batch.rows, self.mark_scores(batch), strict=True)):
            places = sent(_places(row, batch.layout, number), batch.hidden.device, torch.long)
            readouts.append(Readout(batch.hidden[number, places], _decided(row, logits)))
        return readouts


def _places(row: Encoded, layout: Layout, number: int) -> list[int]:
    """The live tokens that are a row's marks; `number` is the row's in the layout."""
    assert isinstance(row.target, AtMarks)
    live_index = {text: live for live, text in enumerate(layout.lines[number].trunk_index) if text >= 0}
    return [live_index[index] for index in row.target.marks.at]


def _decided(row: Encoded, logits: Tensor) -> Tensor:
    """Log-probabilities at a row's marks, [R, C], by ``Marks.over``.

    They are over the labels of each token, over the tokens for each label, or over yes and no for each label where
    several may apply.
    """
    assert isinstance(row.target, AtMarks)
    marks = row.target.marks
    if marks.over == "each":
        return torch.nn.functional.logsigmoid(torch.stack([-logits[0], logits[0]], dim=1))
    if not marks.at:
        return logits
    return (logits if marks.over == "labels" else logits.T).log_softmax(dim=1)


# -- written answers


@dataclass(frozen=True, slots=True)
class _Answers(Reader):
    """The likelihood of a text behind the row."""

    def losses(self, batch: Batch) -> Tensor:
        """Sum over the answer's tokens."""
        row, index, gold = sent(batch.layout.targets, batch.hidden.device).T
        logits = batch.backbone.head(batch.hidden[row, index])
        token_losses = torch.nn.functional.cross_entropy(logits, gold, reduction="none")
        return token_losses.new_zeros(len(batch.rows)).index_add(0, row, token_losses)

    def readouts(self, batch: Batch) -> list[Readout]:
        """The states that predict the answer's tokens, without scores: the head computes them."""
        places: list[list[int]] = [[] for _ in batch.rows]
        for row, index, _ in batch.layout.targets:
            places[row].append(index)
        return [
            Readout(batch.hidden[number, sent(indices, batch.hidden.device, torch.long)])
            for number, indices in enumerate(places)
        ]
