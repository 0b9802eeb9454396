"""What one prompt can learn from another, or from a text that it stands for: predictions and hidden states.

Shape letters: B rows, R places whose predictions count, D width, V vocabulary or labels.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from overture.core.rows import Encoded
from overture.engine.backbone import Backbone
from overture.engine.marks import mark_gold


@dataclass(frozen=True, slots=True)
class Said:
    """What a model says of a row where predictions count: where the label is read, or answer tokens are predicted.

    Args:
        hidden: the last hidden states there, [R, D].
        scores: log-probabilities of the labels, [1, V], or of all that is decided at a row's marks; None for free text,
            where the head has them.
    """

    hidden: Tensor
    scores: Tensor | None = None

    def kept(self) -> "Said":
        """The same as constants. A frozen head makes any logits again, so D numbers a token are kept, not V."""
        return Said(self.hidden.detach().clone(), None if self.scores is None else self.scores.detach().clone())


def log_probabilities(backbone: Backbone, said: Sequence[Said]) -> Tensor:
    """Of all that is decided, or of the whole vocabulary, [R, V]; -inf behind those that have fewer choices.

    Args:
        backbone: its head makes the logits.
        said: of rows of one task.
    """
    scores = [one.scores for one in said if one.scores is not None]
    if not scores:
        return backbone.head(torch.cat([one.hidden for one in said])).log_softmax(-1)
    most = max(own.shape[1] for own in scores)
    none = float("-inf")
    return torch.cat([torch.nn.functional.pad(own, (0, most - own.shape[1]), value=none) for own in scores])


def right(backbone: Backbone, said: Sequence[Said], rows: Sequence[Encoded]) -> Tensor:
    """Negative log-likelihood of each row's right label or answer, [B]."""
    found = log_probabilities(backbone, said)
    if rows[0].shares is not None:
        return -(found.new_tensor([row.shares for row in rows]) * found).sum(1)
    if rows[0].marks is not None:
        gold = [right_one for row in rows for right_one in mark_gold(row)]
    elif rows[0].candidates is not None:
        gold = [row.label or 0 for row in rows]
    else:
        gold = [token for row in rows for token in row.answer_ids or ()]
    each = torch.nn.functional.nll_loss(found, torch.tensor(gold, device=found.device), reduction="none")
    return _of_rows(each, said)


def divergence(
    backbone: Backbone, teacher: Sequence[Said], student: Sequence[Said], temperature: float = 1.0
) -> Tensor:
    """KL(teacher || student) over all labels or the whole vocabulary, added up over each row's places, [B].

    Args:
        backbone: its head makes the logits.
        teacher: what should be said; constants.
        student: what is said of the same rows.
        temperature: both are divided by it, and the sum is multiplied by its square (Hinton et al. 2015, section 2).
    """
    with torch.no_grad():
        wanted = (log_probabilities(backbone, teacher) / temperature).log_softmax(-1)
    found = (log_probabilities(backbone, student) / temperature).log_softmax(-1)
    # Choices that a row lacks have no probability under either.
    lacks = wanted.isneginf()
    found, wanted = found.masked_fill(lacks, 0.0), wanted.masked_fill(lacks, 0.0)
    each = torch.nn.functional.kl_div(found, wanted, reduction="none", log_target=True).sum(1)
    return temperature**2 * _of_rows(each, student)


def distance(teacher: Sequence[Said], student: Sequence[Said]) -> Tensor:
    """Squared distance of the hidden states, a mean over the width and a sum over each row's places, [B]."""
    wanted, found = [torch.cat([one.hidden for one in said]).float() for said in (teacher, student)]
    each = (found - wanted).square().mean(-1)
    return torch.stack([own.sum() for own in torch.split(each, [len(one.hidden) for one in student])])


def _of_rows(each: Tensor, said: Sequence[Said]) -> Tensor:
    """Sums over what is decided in each row, [B]."""
    sizes = [len(one.hidden if one.scores is None else one.scores) for one in said]
    return torch.stack([own.sum() for own in torch.split(each, sizes)])
