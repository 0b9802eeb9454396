"""Predictions of a model for rows, and their score; neither depends on the batches."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from overture.core.types import Encoded, Scorer
from overture.data.batches import scoring_batches
from overture.data.task import Task
from overture.evaluate.intervals import Interval, bootstrap
from overture.evaluate.metrics import METRICS

if TYPE_CHECKING:
    import torch

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Prediction:
    """What the model said of one row.

    Args:
        text: the label, or the answer.
        probabilities: of the labels, in the task's order; None for free text.
    """

    text: str
    probabilities: tuple[float, ...] | None = None


@dataclass(frozen=True, slots=True)
class Scored:
    """Predictions with what was right, row by row.

    Args:
        gold: the right labels or answers.
        predicted: those given.
        loss: mean negative log-likelihood of the right ones, per row or per answer token.
    """

    gold: tuple[str, ...]
    predicted: tuple[str, ...]
    loss: float

    def metrics(self, task: Task, seed: int = 0) -> dict[str, Interval]:
        """The task's metrics with intervals; the one it is judged by comes first."""
        names = dict.fromkeys([task.metric, *(("accuracy", "macro_f1") if task.labels else ("exact_match",))])
        return {name: bootstrap(name, self.gold, self.predicted, seed) for name in names}

    def value(self, task: Task) -> float:
        """The task's metric alone."""
        return METRICS[task.metric](self.gold, self.predicted)


def predict(
    scorer: Scorer,
    rows: Sequence[Encoded],
    task: Task,
    max_tokens: int = 4096,
    progress: Progress = lambda done, total: None,
) -> list[Prediction]:
    """What the model says of each row, in the rows' order.

    Args:
        scorer: the model under its prompt.
        rows: encoded rows; their labels are not looked at.
        task: labels, or how answers end.
        max_tokens: padded tokens of one forward pass.
        progress: called with (done, all).
    """
    found: dict[int, Prediction] = {}
    numbered = [replace(row, row=index) for index, row in enumerate(rows)]
    for batch in scoring_batches(numbered, max_tokens):
        if task.labels:
            answers = [_label_prediction(scores, batch[0]) for scores in scorer.label_scores(batch)]
        else:
            answers = [Prediction(text) for text in scorer.generate(batch, task.max_new_tokens, task.stop)]
        found.update((row.row, answer) for row, answer in zip(batch, answers, strict=True))
        progress(len(found), len(rows))
    return [found[index] for index in range(len(rows))]


def _label_prediction(scores: "torch.Tensor", row: Encoded) -> Prediction:
    assert row.candidates is not None
    return Prediction(row.candidates.labels[int(scores.argmax())], tuple(scores.exp().tolist()))


def score(
    scorer: Scorer,
    rows: Sequence[Encoded],
    task: Task,
    answers: Sequence[str] = (),
    max_tokens: int = 4096,
    progress: Progress = lambda done, total: None,
) -> Scored:
    """Predictions, what was right, and the loss.

    Args:
        scorer: the model under its prompt.
        rows: encoded rows with labels or answers.
        task: metric, labels, how answers end.
        answers: the right texts of free-text rows, in order; unused for labels.
        max_tokens: padded tokens of one forward pass.
        progress: called with (done, all).
    """
    said = predict(scorer, rows, task, max_tokens, progress)
    predicted = tuple(prediction.text for prediction in said)
    if task.labels:
        gold = tuple(_gold_label(row) for row in rows)
        return Scored(gold, predicted, _label_loss(said, rows))
    return Scored(tuple(answers), predicted, mean_loss(scorer, rows, max_tokens))


def _gold_label(row: Encoded) -> str:
    assert row.candidates is not None
    assert row.label is not None
    return row.candidates.labels[row.label]


def _label_loss(said: Sequence[Prediction], rows: Sequence[Encoded]) -> float:
    tiny = 1e-30
    given = [(prediction.probabilities or ())[row.label or 0] for prediction, row in zip(said, rows, strict=True)]
    # A probability that is not a number must stay one: it tells that training diverged.
    return -sum(math.nan if math.isnan(share) else math.log(max(share, tiny)) for share in given) / len(rows)


def mean_loss(scorer: Scorer, rows: Sequence[Encoded], max_tokens: int = 4096) -> float:
    """Mean negative log-likelihood per row, or per answer token."""
    import torch

    with torch.no_grad():
        batches = scoring_batches(rows, max_tokens)
        total = sum(float(scorer.log_loss(batch)) for batch in batches)
        return total / sum(scorer.weight(batch) for batch in batches)
