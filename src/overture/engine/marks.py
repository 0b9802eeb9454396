"""Labels at many tokens of an encoder's row: a head of one vector for each label, [C, D].

Shape letters: B rows, S live tokens, D width, C labels, n marks of a row.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from overture.core.rows import Encoded
from overture.engine.layout import Layout
from overture.engine.transfer import sent


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
        dtype = torch.promote_types(hidden.dtype, torch.float32)
        found.append(
            hidden[number, sent(mark_places(row, layout, number), hidden.device, torch.long)].to(dtype)
            @ own.to(dtype).T
        )
    return found


def mark_places(row: Encoded, layout: Layout, number: int) -> list[int]:
    """The live tokens that are a row's marks; `number` is the row's in the layout."""
    assert row.marks is not None
    where = {text: live for live, text in enumerate(layout.lines[number].trunk_index) if text >= 0}
    return [where[index] for index in row.marks.at]


def mark_losses(rows: Sequence[Encoded], logits: Sequence[Tensor]) -> Tensor:
    """Negative log-likelihoods of what is right at each row's marks, [B]."""
    each = [
        torch.nn.functional.nll_loss(
            mark_shares(row, own), sent(mark_gold(row), own.device, torch.long), reduction="sum"
        )
        for row, own in zip(rows, logits, strict=True)
    ]
    return torch.stack(each)


def mark_shares(row: Encoded, logits: Tensor) -> Tensor:
    """Log-probabilities of whatever is decided at a row's marks, [R, V].

    A token's label among the labels; a label's token among the tokens; of labels that may all apply, whether each does.
    """
    assert row.marks is not None
    if row.marks.over == "each":
        return torch.nn.functional.logsigmoid(torch.stack([-logits[0], logits[0]], dim=1))
    if not row.marks.at:
        return logits
    return (logits if row.marks.over == "labels" else logits.T).log_softmax(dim=1)


def mark_gold(row: Encoded) -> list[int]:
    """What is right in each of `mark_shares`, R of them."""
    marks = row.marks
    assert marks is not None
    assert marks.gold is not None
    if marks.over != "each":
        return list(marks.gold) if marks.at else []
    assert row.candidates is not None
    return [int(label in marks.gold) for label in range(len(row.candidates.labels))]


def mark_weight(row: Encoded) -> float:
    """What a row's loss is divided by: its tokens where each has a label, else one."""
    assert row.marks is not None
    return float(len(row.marks.at)) if row.marks.over == "labels" else 1.0
