"""What one prompt can learn from another, or from a text that it stands for: predictions and hidden states.

Shape letters: R places whose predictions count, D width, V vocabulary or labels.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from overture.core.types import Encoded
from overture.engine.backbone import Backbone


@dataclass(frozen=True, slots=True)
class Said:
    """What a model says of a row where predictions count: where the label is read, or answer tokens are predicted.

    Args:
        hidden: the last hidden states there, [R, D].
        scores: log-probabilities of the labels, [1, V]; None for free text, where the head has them.
    """

    hidden: Tensor
    scores: Tensor | None = None

    def kept(self) -> "Said":
        """The same as constants. A frozen head makes any logits again, so D numbers a token are kept, not V."""
        return Said(self.hidden.detach().clone(), None if self.scores is None else self.scores.detach().clone())


def log_probabilities(backbone: Backbone, said: Sequence[Said]) -> Tensor:
    """Of the labels, or of the whole vocabulary, [R, V]; rows of one task."""
    scores = [one.scores for one in said if one.scores is not None]
    if scores:
        return torch.cat(scores)
    return backbone.head(torch.cat([one.hidden for one in said])).log_softmax(-1)


def right(backbone: Backbone, said: Sequence[Said], rows: Sequence[Encoded]) -> Tensor:
    """Negative log-likelihood of the right labels or answers, added up."""
    if rows[0].candidates is not None:
        gold = [row.label for row in rows]
    else:
        gold = [token for row in rows for token in row.answer_ids or ()]
    found = log_probabilities(backbone, said)
    return torch.nn.functional.nll_loss(found, torch.tensor(gold, device=found.device), reduction="sum")


def divergence(
    backbone: Backbone, teacher: Sequence[Said], student: Sequence[Said], temperature: float = 1.0
) -> Tensor:
    """KL(teacher || student) over all labels or the whole vocabulary, added up over the places.

    Args:
        backbone: its head makes the logits.
        teacher: what should be said; constants.
        student: what is said of the same rows.
        temperature: both are divided by it, and the sum is multiplied by its square (Hinton et al. 2015, section 2).
    """
    with torch.no_grad():
        wanted = (log_probabilities(backbone, teacher) / temperature).log_softmax(-1)
    found = (log_probabilities(backbone, student) / temperature).log_softmax(-1)
    return temperature**2 * torch.nn.functional.kl_div(found, wanted, reduction="sum", log_target=True)


def distance(teacher: Sequence[Said], student: Sequence[Said]) -> Tensor:
    """Squared distance of the hidden states, a mean over the width and a sum over the places."""
    wanted, found = [torch.cat([one.hidden for one in said]).float() for said in (teacher, student)]
    return (found - wanted).square().mean(-1).sum()
