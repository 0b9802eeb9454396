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
    """Log-probabilities of the labels, or of the whole vocabulary, [R, V]; -inf where a row has fewer labels.

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
    """Negative log-likelihood of each row's right labels or tokens, [B]."""
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
        teacher: the target predictions; no gradient reaches them.
        student: the predictions for the same rows.
        temperature: both are divided by it, and the sum is multiplied by its square (Hinton et al. 2015, section 2).
    """
    with torch.no_grad():
        teacher_logs = (log_probabilities(backbone, teacher) / temperature).log_softmax(-1)
    student_logs = (log_probabilities(backbone, student) / temperature).log_softmax(-1)
    # Choices that a row lacks have no probability under either.
    lacks = teacher_logs.isneginf()
    student_logs, teacher_logs = student_logs.masked_fill(lacks, 0.0), teacher_logs.masked_fill(lacks, 0.0)
    divergences = torch.nn.functional.kl_div(student_logs, teacher_logs, reduction="none", log_target=True).sum(1)
    return temperature**2 * _of_rows(divergences, student)


def distance(teacher: Sequence[Readout], student: Sequence[Readout]) -> Tensor:
    """Squared distance of the hidden states, a mean over the width and a sum over each row's places, [B]."""
    teacher_states, student_states = [
        torch.cat([readout.hidden for readout in side]).float() for side in (teacher, student)
    ]
    distances = (student_states - teacher_states).square().mean(-1)
    parts = torch.split(distances, [len(readout.hidden) for readout in student])
    return torch.stack([part.sum() for part in parts])


def _of_rows(values: Tensor, readouts: Sequence[Readout]) -> Tensor:
    """Sums over the places of each row that are predicted, [B]."""
    sizes = [len(readout.hidden if readout.scores is None else readout.scores) for readout in readouts]
    return torch.stack([part.sum() for part in torch.split(values, sizes)])
