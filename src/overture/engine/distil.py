"""How far one prompt predicts from another, or from a text that it stands for: scores and hidden states.

Shape letters: B rows, R places whose predictions count, D width, V vocabulary or labels.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from overture.core.contracts import Readout
from overture.core.rows import Encoded, OneOf
from overture.engine.backbone import Backbone


def log_probabilities(backbone: Backbone, readouts: Sequence[Readout]) -> Tensor:
    """Of all that is decided, or of the whole vocabulary, [R, V]; -inf behind those that have fewer choices.

    Args:
        backbone: its head makes the logits.
        readouts: of rows of one task.
    """
    scores = [readout.scores for readout in readouts if readout.scores is not None]
    if not scores:
        return backbone.head(torch.cat([readout.hidden for readout in readouts])).log_softmax(-1)
    most = max(row_scores.shape[1] for row_scores in scores)
    pad = torch.nn.functional.pad
    return torch.cat([pad(row_scores, (0, most - row_scores.shape[1]), value=float("-inf")) for row_scores in scores])


def right(backbone: Backbone, readouts: Sequence[Readout], rows: Sequence[Encoded]) -> Tensor:
    """Negative log-likelihood of what is right in each row, [B]."""
    log_shares = log_probabilities(backbone, readouts)
    shares = [row.target.shares for row in rows if isinstance(row.target, OneOf) and row.target.shares is not None]
    if shares:
        return -(log_shares.new_tensor(shares) * log_shares).sum(1)
    gold = torch.tensor([choice for row in rows for choice in row.target.gold], device=log_shares.device)
    return _of_rows(torch.nn.functional.nll_loss(log_shares, gold, reduction="none"), readouts)


def divergence(
    backbone: Backbone, teacher: Sequence[Readout], student: Sequence[Readout], temperature: float = 1.0
) -> Tensor:
    """KL(teacher || student) over all labels or the whole vocabulary, added up over each row's places, [B].

    Args:
        backbone: its head makes the logits.
        teacher: what should be predicted; constants.
        student: what is predicted of the same rows.
        temperature: both are divided by it, and the sum is multiplied by its square (Hinton et al. 2015, section 2).
    """
    with torch.no_grad():
        wanted = (log_probabilities(backbone, teacher) / temperature).log_softmax(-1)
    predicted = (log_probabilities(backbone, student) / temperature).log_softmax(-1)
    # Choices that a row lacks have no probability under either.
    lacks = wanted.isneginf()
    predicted, wanted = predicted.masked_fill(lacks, 0.0), wanted.masked_fill(lacks, 0.0)
    divergences = torch.nn.functional.kl_div(predicted, wanted, reduction="none", log_target=True).sum(1)
    return temperature**2 * _of_rows(divergences, student)


def distance(teacher: Sequence[Readout], student: Sequence[Readout]) -> Tensor:
    """Squared distance of the hidden states, a mean over the width and a sum over each row's places, [B]."""
    wanted, reached = [torch.cat([readout.hidden for readout in side]).float() for side in (teacher, student)]
    distances = (reached - wanted).square().mean(-1)
    parts = torch.split(distances, [len(readout.hidden) for readout in student])
    return torch.stack([part.sum() for part in parts])


def _of_rows(values: Tensor, readouts: Sequence[Readout]) -> Tensor:
    """Sums over what is decided in each row, [B]."""
    sizes = [len(readout.hidden if readout.scores is None else readout.scores) for readout in readouts]
    return torch.stack([part.sum() for part in torch.split(values, sizes)])
