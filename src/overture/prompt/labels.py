"""Label vectors: one trained vector for each label in place of the label words, beside any prompt or alone.

    p(c | x) = softmax_c(v_c . h),   h the state that enters the head where the label is read

with v [C, D]. A label's vector starts as the mean of the head's rows of its words' first tokens, so a prompt begins
next to the hard label words; without a head, as the words' embeddings. A model without words has no such rows: there
the vectors and a bias for each label, b [C], start at a linear probe of the training rows, v_c . h + b_c. Trained
values: the prompt's and C D, with a bias C D + C.

Source: Hambardzumyan, Khachatrian and May 2021, "WARP: Word-level Adversarial ReProgramming", section 3.
Deviations: the paper reads a masked model's [MASK] position; so do we where the template has one, but also an encoder's
first token or its mean (the task's `read`), and the last token of a causal model; and any method may make the prompt.
The head's bias and the squashing of its logits, where a family has them, do not apply to label vectors.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from overture.core.averaging import Averaging
from overture.core.contracts import PromptMethod, RowMethod
from overture.core.injection import Injection, LabelHead, ReadAt
from overture.prompt.module import Built, PromptModule
from overture.prompt.source import PromptSource

LABEL_RATE = 0.01
"""Learning rate of label vectors beside a prompt that learns at its method's rate. At the method's rate, 0.1 for a
prefix, they leave their start within an epoch and overfit the training rows. Vectors of tags and of ends of answers
have to move and score lower at 0.01 (docs/log.md, 1 December 2026)."""
_INNER = "method."


class _WithLabels(PromptModule):
    """A method, or none, and label vectors [C, D] with a bias for each, [C], or without."""

    def __init__(
        self, method: Built | None, labels: Tensor, label_rate: float, bias: Tensor | None, read_at: ReadAt | None
    ) -> None:
        super().__init__()
        self.method, self.label_rate, self.read_at = method, label_rate, read_at
        self.labels = torch.nn.Parameter(labels)
        self.label_bias = None if bias is None else torch.nn.Parameter(bias)

    def with_labels(self, injection: Injection) -> Injection:
        """A prompt with the label vectors beside it."""
        head = None if self.label_bias is None else LabelHead(self.label_bias)
        return replace(injection, labels=self.labels, head=head, read_at=self.read_at)

    def _label_values(self) -> dict[str, Tensor]:
        values: dict[str, Tensor] = {"labels": self.labels}
        return values if self.label_bias is None else values | {"label_bias": self.label_bias}

    def trainable(self) -> dict[str, Tensor]:
        """The method's values, the label vectors and their biases."""
        inner = self.method.trainable() if self.method else {}
        return {**self._label_values(), **{_INNER + name: value for name, value in inner.items()}}

    def rates(self) -> dict[str, float]:
        """The method's, and the label vectors' own."""
        inner = self.method.rates() if self.method else {}
        rates = dict.fromkeys(self._label_values(), self.label_rate)
        return rates | {_INNER + name: rate for name, rate in inner.items()}

    def averaging(self) -> Averaging | None:
        """The method's."""
        return self.method.averaging() if isinstance(self.method, PromptModule) else None


class LabelVectors(_WithLabels):
    """Beside one prompt for all rows, or alone."""

    def injection(self) -> Injection:
        """The prompt with label vectors."""
        if self.method is None:
            return self.with_labels(Injection())
        assert isinstance(self.method, PromptMethod)
        return self.with_labels(self.method.injection())


class RowLabelVectors(_WithLabels):
    """Beside prompts that depend on the row."""

    def injections(self, features: Tensor) -> Sequence[Injection]:
        """Each row's prompt with the same label vectors."""
        assert isinstance(self.method, RowMethod)
        return [self.with_labels(injection) for injection in self.method.injections(features)]


def with_labels(
    method: Built | None,
    labels: Tensor,
    label_rate: float = 1.0,
    bias: Tensor | None = None,
    read_at: ReadAt | None = None,
) -> LabelVectors | RowLabelVectors:
    """A prompt with label vectors beside it.

    Args:
        method: makes the prompt; label vectors alone when None.
        labels: where they start, [C, D].
        label_rate: factor on their learning rate.
        bias: where a bias for each label starts, [C]; they have none when None.
        read_at: where they read a row.
    """
    kind = RowLabelVectors if isinstance(method, RowMethod) else LabelVectors
    return kind(method, labels, label_rate, bias, read_at)


def method_inside(prompt: PromptModule) -> PromptModule:
    """The method that label vectors stand beside; the prompt itself where there are none."""
    inner = prompt.method if isinstance(prompt, _WithLabels) else None
    return inner if isinstance(inner, PromptModule) else prompt


def label_start(source: PromptSource, read_at: ReadAt | None = None) -> tuple[Tensor, Tensor | None]:
    """Label vectors, float32 [C, D], and the labels' biases, [C].

    The mean of the head's rows of each label's words' first tokens, without biases; for a model without words, and
    where other states than the last are read, a linear probe of the training rows.
    """
    candidates = source.candidates
    assert candidates is not None
    if read_at is not None or not source.has_words:
        return source.probe(read_at)
    rows = source.head_rows([word[0] for word in candidates.words]).detach().float()
    label_of = torch.tensor(candidates.label_of, device=rows.device)
    return torch.stack([rows[label_of == label].mean(0) for label in range(len(candidates.labels))]), None


def has_inner_method(names: Sequence[str]) -> bool:
    """Whether a state's names are those of a method with label vectors beside it."""
    return any(name.startswith(_INNER) for name in names)
