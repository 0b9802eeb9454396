"""Soft label words: prompt vectors, and one trained vector for each label in place of the label words.

    p(c | x) = softmax_c(v_c . h),   h what enters the head at the end of [P; X] (or of [X; P; anchor], or slots)

with P [P, D] and v [C, D]. A label's vector starts as the mean of the head's rows of its words' first tokens, so the
prompt begins next to the hard label words. Trainable values: P D + C D.

Source: Hambardzumyan, Khachatrian and May 2021, "WARP: Word-level Adversarial ReProgramming", section 3.
Deviations: the paper reads a masked model's [MASK] position; so do we where the template has one, but also an encoder's
first token or its mean (the task's `read`), and the last token of a causal model. The head's bias and the squashing of
its logits, where a family has them, do not apply to label vectors. Without a head they start as the words' embeddings.
"""

import torch
from pydantic import Field
from torch import Tensor

from overture.core.config import Config
from overture.core.types import Injection, Place, Vectors
from overture.prompt.method import Method, PromptModule, Request, Shape
from overture.prompt.source import PromptSource

PLACES: tuple[Place, ...] = ("before", "after", "slots")


class Options(Config):
    """Options of soft label words."""

    label_rate: float = Field(1.0, gt=0, description="Factor on the learning rate of the label vectors.")


class SoftLabels(PromptModule):
    """Trainable vectors [P, D] and label vectors [C, D]."""

    def __init__(self, start: Tensor, labels: Tensor, place: Place, label_rate: float) -> None:
        super().__init__()
        self.place, self.label_rate = place, label_rate
        self.values = torch.nn.Parameter(start.clone())
        self.labels = torch.nn.Parameter(labels)

    def rates(self) -> dict[str, float]:
        """The label vectors have a rate of their own."""
        return {"labels": self.label_rate}

    def injection(self) -> Injection:
        """Both as they are."""
        return Injection(Vectors(self.values, self.place), labels=self.labels)


def label_start(source: PromptSource) -> Tensor:
    """For each label the mean of the head's rows of its words' first tokens, float32 [C, D]."""
    candidates = source.candidates
    assert candidates is not None
    rows = source.head_rows([word[0] for word in candidates.words]).detach().float()
    label_of = torch.tensor(candidates.label_of, device=rows.device)
    return torch.stack([rows[label_of == label].mean(0) for label in range(len(candidates.labels))])


def build(request: Request) -> SoftLabels:
    """Vectors and label vectors at their start."""
    options: Options = request.options
    return SoftLabels(request.start, label_start(request.source), request.place, options.label_rate)


def num_trainable(options: Options, shape: Shape) -> int:
    """P D + C D."""
    del options
    return (shape.length + shape.num_labels) * shape.hidden_size


METHOD = Method(
    title="vectors among the live tokens, and one for each label",
    source="Hambardzumyan et al. 2021 (WARP)",
    options=Options,
    places=PLACES,
    learning_rate={"before": 3e-2, "after": 3e-2, "slots": 3e-2},
    build=build,
    num_trainable=num_trainable,
    formula="P D + C D",
    needs_labels=True,
)
