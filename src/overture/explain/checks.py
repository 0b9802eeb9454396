"""Checks of an explanation, run by default: it must depend on the model and on the training."""

from collections.abc import Sequence
from random import Random
from statistics import fmean

import torch

from overture.core.injection import Injection
from overture.core.records.explain import Check
from overture.core.rows import Encoded
from overture.engine.answerer import LocalAnswerer
from overture.explain.gradients import Integrated
from overture.explain.parts import changes_of, mean_of, scores_without

_ORDERS = 5
_RESIDUAL = 0.01
_LIKE = 0.5
_UNLIKE = 0.5


def completeness(gradients: Integrated) -> Check:
    """Check that integrated gradients add up to the prompt's whole effect."""
    text = f"integrated gradients miss {gradients.residual:.2%} of the prompt's effect; wanted: at most {_RESIDUAL:.0%}"
    return Check(name="completeness", passed=gradients.residual <= _RESIDUAL, value=gradients.residual, text=text)


def deletion(
    answerer: LocalAnswerer, prompts: Sequence[Injection], rows: Sequence[Encoded], changes: Sequence[float], seed: int
) -> Check:
    """Check on held-out rows that dropping columns by importance changes answers more than random orders do.

    Args:
        answerer: the model.
        prompts: one for all rows, or one for each.
        rows: rows that the importance was not measured on.
        changes: importance of each column.
        seed: of the random orders.
    """
    length = len(changes)
    if length < 2 or len(rows) < 2:
        return Check(name="deletion", passed=None, text="a prompt of one column, or too few rows")
    random = Random(seed)
    ranked = sorted(range(length), key=lambda number: -changes[number])
    orders = [ranked, *(random.sample(range(length), length) for _ in range(_ORDERS))]
    depths = sorted({max(1, round(length * share)) for share in (0.1, 0.2, 0.3, 0.5)} - {length})
    left_out = [order[:depth] for order in orders for depth in depths]
    changes_JB = changes_of(scores_without(answerer, prompts, rows, [[], *left_out]))
    changes_OB = changes_JB.view(len(orders), len(depths), len(rows)).mean(1)
    gain = mean_of((changes_OB[0] - changes_OB[1:].mean(0)).tolist())
    text = (
        f"dropping columns by importance changes answers by {gain.value:.3f} nats more a row "
        f"({gain.low:.3f} to {gain.high:.3f}) than {_ORDERS} random orders do, on {gain.n} other rows; wanted: above 0"
    )
    return Check(name="deletion", passed=gain.low > 0, value=gain.value, text=text)


def randomisation(
    answerer: LocalAnswerer, prompt: Injection, rows: Sequence[Encoded], changes: Sequence[float], seed: int
) -> Check:
    """Check that a random prompt of the same size has another explanation (Adebayo et al. 2018)."""
    if len(changes) < 4:
        return Check(name="randomisation", passed=None, text="too few columns for a rank correlation")
    generator = torch.Generator().manual_seed(seed)

    def redrawn(value: torch.Tensor) -> torch.Tensor:
        noise = torch.randn(value.shape, generator=generator, dtype=value.dtype)
        return noise * float(value.norm() / noise.norm())

    split = prompt.vectors.split if prompt.vectors else None
    redrawn_prompt = prompt.map(lambda value: value if value is split else redrawn(value))
    columns = [[number] for number in range(len(changes))]
    changes_PB = changes_of(scores_without(answerer, [redrawn_prompt], rows, [[], *columns]))
    likeness = rank_correlation(changes, changes_PB.mean(1).tolist())
    text = f"rank correlation with a random prompt of the same size: {likeness:.2f}; wanted: below {_UNLIKE}"
    return Check(name="randomisation", passed=likeness < _UNLIKE, value=likeness, text=text)


def agreement(drops: Sequence[float], gradients: Integrated) -> Check:
    """Check that ablation and integrated gradients rank the columns alike."""
    if len(drops) < 4:
        return Check(name="agreement", passed=None, text="too few columns for a rank correlation")
    likeness = rank_correlation(drops, gradients.columns)
    text = f"rank correlation of ablation and integrated gradients: {likeness:.2f}; wanted: at least {_LIKE}"
    return Check(name="agreement", passed=likeness >= _LIKE, value=likeness, text=text)


def seed_stability(likenesses: Sequence[float]) -> Check:
    """Check that prompts of the same run's other seeds shift the vocabulary alike."""
    likeness = fmean(likenesses)
    text = (
        f"rank correlation of the vocabulary's shift with that of {len(likenesses)} other seeds: {likeness:.2f}; "
        f"wanted: at least {_LIKE}"
    )
    return Check(name="seeds", passed=likeness >= _LIKE, value=likeness, text=text)


def rank_correlation(values: Sequence[float], other_values: Sequence[float]) -> float:
    """Spearman's rank correlation; 0 where one side is constant."""
    from scipy.stats import spearmanr

    if len(set(values)) < 2 or len(set(other_values)) < 2:
        return 0.0
    return float(spearmanr(values, other_values).statistic)
