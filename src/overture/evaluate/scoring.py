"""Predictions of a model for rows, and their score; neither depends on the batches."""

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

from overture.core.contracts import Losses, Question, Scorer
from overture.core.records.scores import Interval, SplitScores
from overture.core.records.shares import KeptShares, kept_shares
from overture.core.room import Room
from overture.core.rows import Encoded, OneOf, Prediction
from overture.data.batches import micro_batches, num_padded, scoring_batches
from overture.data.task import Task
from overture.engine.prompted import PromptedModel
from overture.evaluate.intervals import bootstrap
from overture.evaluate.metric import Answers
from overture.evaluate.metrics import METRICS

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Scored:
    """Predictions with what was right, row by row.

    Args:
        gold: the right answers.
        predicted: those given.
        loss: mean negative log-likelihood of the right ones, per row, answer token or mark.
        confidence: probability of each given label; empty where there are none.
        predictions: all that was said.
    """

    gold: tuple[Hashable, ...]
    predicted: tuple[Hashable, ...]
    loss: float
    confidence: tuple[float, ...] = ()
    predictions: tuple[Prediction, ...] = ()

    def metrics(self, task: Task, seed: int = 0) -> dict[str, Interval]:
        """The task's metrics that fit its rows, with intervals; the one it is judged by comes first."""
        names = dict.fromkeys([task.metric, *task.spec.metrics, *task.spec.reported])
        replies = {name: self._answers(name) for name in names if METRICS[name].fits(self.gold)}
        return {name: bootstrap(name, self.gold, reply, seed) for name, reply in replies.items() if reply is not None}

    def split_scores(self, task: Task) -> SplitScores:
        """The task's metrics and the loss, as they are kept."""
        return SplitScores(scores=self.metrics(task), loss=self.loss)

    def kept_shares(self, task: Task, source: Literal["validation", "file"]) -> KeptShares | None:
        """The label shares of the rows, to be kept with a prompt; None where answers are not one of several labels."""
        pairs = [
            (prediction.labels.index(str(gold)), prediction.shares)
            for gold, prediction in zip(self.gold, self.predictions, strict=True)
            if prediction.confidence is not None and prediction.shares is not None and gold in prediction.labels
        ]
        if not task.spec.is_one_of or not all(math.isfinite(sum(shares)) for _, shares in pairs):
            return None
        return kept_shares(pairs, source, task.is_calibrated)

    def value(self, task: Task) -> float:
        """The task's metric alone."""
        return METRICS[task.metric](self.gold, self.predicted)

    def _answers(self, metric: str) -> Answers | None:
        if METRICS[metric].of != "confidences":
            return self.predicted
        return tuple(zip(self.predicted, self.confidence, strict=True)) if self.confidence else None


def grouped(rows: Sequence[Encoded]) -> list[list[Encoded]]:
    """Encoded rows with the parts of each row together."""
    groups: list[list[Encoded]] = []
    for row in rows:
        if row.part == 0 or not groups:
            groups.append([])
        groups[-1].append(row)
    return groups


def check_answerable(model: PromptedModel, rows: Sequence[Encoded], task: Task) -> None:
    """Whether the model can be trained on such rows under its prompt, and answer them; asked before anything runs.

    Raises:
        BackboneError: it cannot; of all rows the first and the longest are looked at.
    """
    for row in {id(row): row for row in (rows[0], max(rows, key=lambda row: row.num_tokens))}.values():
        model.check([row])
        model.check([row], task.spec.question(task, row))


def predict(
    scorer: Scorer,
    rows: Sequence[Encoded],
    task: Task,
    max_tokens: int = 4096,
    progress: Progress = lambda done, total: None,
) -> list[Prediction]:
    """Predict each row, in the rows' order; the parts of one row give one prediction.

    Args:
        scorer: the model under its prompt.
        rows: encoded rows; their labels are not looked at.
        task: its kind gives the question to the model.
        max_tokens: padded tokens of one forward pass.
        progress: called with (done, all).
    """
    return _merged(_of_parts(scorer, rows, task, max_tokens, progress), rows, task)


def _of_parts(
    scorer: Scorer, rows: Sequence[Encoded], task: Task, max_tokens: int, progress: Progress
) -> list[Prediction]:
    predictions: dict[int, Prediction] = {}
    numbered_rows = [replace(row, row=index) for index, row in enumerate(rows)]
    room = Room(max_tokens)

    def predicted(batches: Sequence[list[Encoded]]) -> list[Prediction]:
        return [prediction for batch in batches for prediction in _predicted(scorer, batch, task)]

    for batch in scoring_batches(numbered_rows, max_tokens):
        batch_predictions = room.run(partial(micro_batches, batch), predicted, num_padded)
        predictions.update((row.row, prediction) for row, prediction in zip(batch, batch_predictions, strict=True))
        progress(len(predictions), len(rows))
    return [predictions[index] for index in range(len(rows))]


def _predicted(scorer: Scorer, rows: Sequence[Encoded], task: Task) -> list[Prediction]:
    """Rows that the model is asked the same are asked together, and so are the blanks that rows share."""
    kind = task.spec
    questions: dict[Question[Any], list[int]] = {}
    for index, row in enumerate(rows):
        questions.setdefault(kind.question(task, row), []).append(index)
    replies: dict[int, Any] = {}
    for question, indices in questions.items():
        replies |= zip(indices, scorer.ask([rows[index] for index in indices], question), strict=True)
    blank_replies: dict[tuple[Encoded, ...], list[Any]] = {(): []}
    for row in rows:
        if row.blanks not in blank_replies:
            blank_replies[row.blanks] = scorer.ask(row.blanks, kind.question(task, row.blanks[0]))
    return [kind.read(task, row, replies[index], blank_replies[row.blanks]) for index, row in enumerate(rows)]


def _merged(parts: Sequence[Prediction], rows: Sequence[Encoded], task: Task) -> list[Prediction]:
    remaining = iter(parts)
    groups = [[next(remaining) for _ in group] for group in grouped(rows)]
    return [group[0] if len(group) == 1 else task.spec.merged(task, group) for group in groups]


def score(
    scorer: Scorer,
    rows: Sequence[Encoded],
    task: Task,
    answers: Answers = (),
    max_tokens: int = 4096,
    progress: Progress = lambda done, total: None,
) -> Scored:
    """Predictions, what was right, and the loss.

    Args:
        scorer: the model under its prompt.
        rows: encoded rows with labels or answers.
        task: has the metric, and the kind that gives the question to the model.
        answers: the right answers, in order, as `gold_of` has them; those of rows with labels may be left out.
        max_tokens: padded tokens of one forward pass.
        progress: called with (done, all).
    """
    parts = _of_parts(scorer, rows, task, max_tokens, progress)
    predictions = _merged(parts, rows, task)
    gold = tuple(answers) or tuple(_gold_label(row) for row in rows)
    has_labels = all(row.label is not None for row in rows)
    loss = _label_loss(parts, rows) if has_labels else mean_loss(scorer, rows, max_tokens)
    confidence = tuple(max(prediction.shares) for prediction in predictions if prediction.shares) if has_labels else ()
    return Scored(gold, tuple(prediction.said for prediction in predictions), loss, confidence, tuple(predictions))


def _gold_label(row: Encoded) -> str:
    assert isinstance(row.target, OneOf)
    assert row.target.label is not None
    return row.target.candidates.labels[row.target.label]


def _label_loss(predictions: Sequence[Prediction], rows: Sequence[Encoded]) -> float:
    tiny = 1e-30
    shares = [(prediction.shares or ())[row.label or 0] for prediction, row in zip(predictions, rows, strict=True)]
    # A probability that is not a number must stay one: it tells that training diverged.
    return -sum(math.nan if math.isnan(share) else math.log(max(share, tiny)) for share in shares) / len(rows)


def mean_loss(scorer: Scorer, rows: Sequence[Encoded], max_tokens: int = 4096) -> float:
    """Mean negative log-likelihood per row, or per answer token."""
    import torch

    with torch.no_grad():
        known_rows = [row for row in rows if row.target.is_known]
        batches, room = scoring_batches(known_rows, max_tokens), Room(max_tokens)

        def loss(parts: Sequence[list[Encoded]]) -> float:
            return sum(float(torch.stack(scorer.ask(part, Losses(with_vector_targets=False))).sum()) for part in parts)

        total = sum(room.run(partial(micro_batches, batch), loss, num_padded) for batch in batches)
        return total / max(sum(row.target.weight for row in known_rows), 1.0)
