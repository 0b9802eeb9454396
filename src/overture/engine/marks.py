"""Labels at many tokens of an encoder's row: a head of one vector for each label, [C, D].

Shape letters: B rows, S live tokens, D width, C labels, n marks of a row.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from overture.core.types import Encoded
from overture.engine.layout import Layout


def mark_logits(rows: Sequence[Encoded], hidden: Tensor, layout: Layout, labels: Sequence[Tensor]) -> list[Tensor]:
    """Logits of each row's marks, [n, C]; float32 at least.

    Args:
        rows: rows with marks.
        hidden: what enters the head, [B, S, D].
        layout: where the text's tokens stand.
        labels: each row's label vectors, [C, D].
    """
    found = []
    for number, (row, own) in enumerate(zip(rows, labels, strict=True)):
        assert row.marks is not None
        where = {text: live for live, text in enumerate(layout.trunk_index[number].tolist()) if text >= 0}
        at = torch.tensor([where[index] for index in row.marks.at], device=hidden.device, dtype=torch.long)
        dtype = torch.promote_types(hidden.dtype, torch.float32)
        found.append(hidden[number, at].to(dtype) @ own.to(dtype).T)
    return found


def mark_losses(rows: Sequence[Encoded], logits: Sequence[Tensor]) -> Tensor:
    """Negative log-likelihoods of what is right at each row's marks, [B].

    A token's label among the labels; a label's token among the tokens; of labels that may all apply, whether each does.
    """
    return torch.stack([_row_loss(row, own) for row, own in zip(rows, logits, strict=True)])


def _row_loss(row: Encoded, logits: Tensor) -> Tensor:
    marks = row.marks
    assert marks is not None
    assert marks.gold is not None
    gold = torch.tensor(marks.gold, device=logits.device, dtype=torch.long)
    if marks.over == "each":
        applies = torch.zeros_like(logits[0]).index_fill(0, gold, 1.0)
        return torch.nn.functional.binary_cross_entropy_with_logits(logits[0], applies, reduction="sum")
    if not len(logits):
        return logits.sum()
    by_token = logits if marks.over == "labels" else logits.T
    return torch.nn.functional.cross_entropy(by_token, gold, reduction="sum")


def mark_weight(row: Encoded) -> float:
    """What a row's loss is divided by: its tokens where each has a label, else one."""
    assert row.marks is not None
    return float(len(row.marks.at)) if row.marks.over == "labels" else 1.0
