"""Measures how well one prompt's answers repeat another's.

Shape letters: B rows, C labels, R resamples.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from overture.core.records.hard import Fidelity
from overture.core.records.prompt import TextPrompt
from overture.core.records.scores import LEVEL, Interval
from overture.evaluate.intervals import paired_test, wilson

_RESAMPLES = 2000
_SURE = 0.05


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


@dataclass(frozen=True, slots=True)
class Measure:
    """Answers of the soft prompt and of the model without one on rows with known labels.

    Args:
        labels: their names.
        gold: each row's right label.
        soft_BC: log-probabilities under the soft prompt.
        none_BC: the same without a prompt.
        seed: of resamplings.
    """

    labels: Sequence[str]
    gold: Sequence[str]
    soft_BC: Tensor
    none_BC: Tensor
    seed: int

    def said(self, scores_BC: Tensor) -> list[str]:
        """The likeliest label of each row."""
        return [self.labels[index] for index in scores_BC.argmax(1).tolist()]

    @property
    def soft(self) -> list[str]:
        """The soft prompt's answers."""
        return self.said(self.soft_BC)

    @property
    def none(self) -> list[str]:
        """The answers without a prompt."""
        return self.said(self.none_BC)

    @property
    def is_gain_shown(self) -> bool:
        """Whether the soft prompt is better than none, by a paired test."""
        gain = paired_test(self.gold, self.soft, self.none, "accuracy")
        return gain.p_value < _SURE and gain.difference.value > 0

    def accuracy(self, answers: Sequence[str]) -> Interval:
        """Share of right answers."""
        return share([answer == gold for answer, gold in zip(answers, self.gold, strict=True)])

    def of(self, what: str, text: TextPrompt, scores_BC: Tensor, perplexity: float | None) -> Fidelity:
        """How well a text repeats the soft prompt."""
        answers, soft, none = self.said(scores_BC), self.soft, self.none
        of_text_B, of_none_B = (divergences(self.soft_BC, scores) for scores in (scores_BC, self.none_BC))
        repeats = [a == s for a, s, n in zip(answers, soft, none, strict=True) if s != n]
        accuracy, of_soft, of_none = (self.accuracy(answers_given).value for answers_given in (answers, soft, none))
        return Fidelity(
            what=what,
            text=text.before + text.after,
            tokens=len(text.ids),
            kl=float(of_text_B.mean()),
            explained=explained(of_text_B, of_none_B, self.seed),
            agreement=share([a == s for a, s in zip(answers, soft, strict=True)]),
            agreement_where_changed=share(repeats) if repeats else None,
            accuracy=self.accuracy(answers),
            accuracy_kept=(accuracy - of_none) / (of_soft - of_none) if self.is_gain_shown else None,
            perplexity=perplexity,
        )
