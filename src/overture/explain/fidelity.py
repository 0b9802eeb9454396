"""How well one prompt's answers repeat another's.

Shape letters: B rows, C labels, R resamples.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from overture.core.records.scores import LEVEL, Interval
from overture.evaluate.intervals import wilson

_RESAMPLES = 2000


def divergences(target_BC: Tensor, scores_BC: Tensor) -> Tensor:
    """KL(target, other) of each row, [..., B], from log-probabilities; the other may have more dimensions in front."""
    return (target_BC.exp() * (target_BC - scores_BC)).sum(-1)


def explained(of_text_B: Tensor, of_none_B: Tensor, seed: int = 0) -> Interval:
    """1 - KL(soft, text) / KL(soft, none), with a bootstrap interval over rows.

    Args:
        of_text_B: divergence of the text's answers from the soft prompt's.
        of_none_B: the same of the model without a prompt.
        seed: of the resampling.
    """
    generator = torch.Generator().manual_seed(seed)
    n = len(of_text_B)
    drawn_RB = torch.randint(n, (_RESAMPLES, n), generator=generator)
    text, none = of_text_B.double(), of_none_B.double()
    values_R = 1 - text[drawn_RB].mean(1) / none[drawn_RB].mean(1).clamp_min(1e-12)
    low, high = torch.quantile(values_R, torch.tensor([(1 - LEVEL) / 2, (1 + LEVEL) / 2], dtype=torch.float64)).tolist()
    value = float(1 - text.mean() / none.mean().clamp_min(1e-12))
    return Interval(
        value=value,
        low=min(low, value),
        high=max(high, value),
        n=n,
        level=LEVEL,
        method="bootstrap percentile",
        seed=seed,
    )


def share(hits: Sequence[bool]) -> Interval:
    """A share of rows with Wilson's interval."""
    n = len(hits)
    low, high = wilson(sum(hits), n)
    return Interval(value=sum(hits) / n, low=low, high=high, n=n, level=LEVEL, method="Wilson", seed=0)
