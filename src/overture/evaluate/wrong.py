"""Rows that were answered wrongly, the worst first, and the scores of each label."""

from collections.abc import Callable, Collection, Hashable, Sequence
from typing import Any

from overture.core.records.scores import Mistakes, WrongRow, WrongRows
from overture.data.row import Row
from overture.data.rows import ShownRow, shown_rows
from overture.data.task import Task
from overture.evaluate.confusion import confusion, label_scores
from overture.evaluate.metric import Answers, Metric, answer_text, check_rows
from overture.evaluate.metrics import metric_named

_MAX_ROWS, _MAX_CHARACTERS = 20, 200


def all_mistakes(
    task: Task, split: str, rows: Sequence[Row], gold: Answers, predicted: Answers, confidences: Sequence[float] = ()
) -> tuple[Mistakes, WrongRows]:
    """The wrong answers: a summary with the worst answers, and all wrong answers in full.

    Args:
        task: of the rows; names the labels and the metric.
        split: name of the split, for the result.
        rows: the rows.
        gold: the right answers.
        predicted: the answers given.
        confidences: probability of each answer given; empty where there are none.

    Raises:
        DataError: no rows, or not as many predictions as rows.
    """
    wrong_answers = wrong_rows(task.metric, gold, predicted, shown_rows(task, rows), confidences)
    of, names = metric_named(task.metric).of, tuple(task.words)
    has_one_label = of == "labels" and bool(names)
    places = [row.where for row in rows]
    summary = Mistakes(
        num_wrong=len(wrong_answers),
        wrong=list(map(_shortened_row, wrong_answers[:_MAX_ROWS])),
        confusion=confusion(gold, predicted, places, names) if has_one_label else None,
        labels=label_scores(gold, predicted, of, names) if has_one_label or of in ("sets", "spans") else None,
    )
    return summary, WrongRows(split=split, num_rows=len(rows), wrong=wrong_answers)


def wrong_rows(
    metric: str,
    gold: Answers,
    predicted: Answers,
    views: Sequence[ShownRow],
    confidences: Sequence[float] = (),
) -> list[WrongRow]:
    """The rows with wrong answers, the worst first; of equally bad ones the one that the model was surest of.

    Args:
        metric: a name in `METRICS`.
        gold: the right answers.
        predicted: the answers given.
        views: place and text of each row, and how parts of its answers are written.
        confidences: probability of each answer given; empty where there are none.

    Raises:
        DataError: no rows, or not as many predictions as rows.
    """
    check_rows(gold, predicted, views)
    measure = metric_named(metric)
    scores = _scores(measure, gold, predicted)
    is_right = measure.rows(gold, predicted)
    # An answer that differs from the right one may still have the full score: one more article, in SQuAD's.
    is_full = [right or (measure.of != "numbers" and scores[row] >= 1) for row, right in enumerate(is_right)]
    wrong_indices = [row for row, full in enumerate(is_full) if not full]
    wrong_indices.sort(key=lambda row: (scores[row], -confidences[row] if confidences else 0.0, row))

    def wrong_row(row: int) -> WrongRow:
        part, gold_answer, answer = views[row].part, gold[row], predicted[row]
        return WrongRow(
            where=views[row].where,
            text=views[row].text,
            gold=answer_text(gold_answer, part),
            predicted=answer_text(answer, part),
            confidence=confidences[row] if confidences else None,
            missed=_missing_parts(gold_answer, answer, part),
            made_up=_missing_parts(answer, gold_answer, part),
            score=None if measure.of == "numbers" else scores[row],
        )

    return list(map(wrong_row, wrong_indices))


def _scores(measure: Metric, gold: Answers, predicted: Answers) -> list[float]:
    """Each row's own score: the metric of that row alone, or how far off a number is."""
    import numpy as np

    if measure.of == "numbers":
        pairs = np.array([gold, predicted], dtype=np.float64)
        distances: list[float] = (-abs(pairs[0] - pairs[1])).tolist()
        return distances
    alone: list[float] = measure.weighted(gold, predicted, np.eye(len(gold))).tolist()
    return alone


def _missing_parts(parts: Hashable, others: Hashable, part: Callable[[Any], str] | None) -> list[str]:
    """Parts of the first answer that the second lacks."""
    if not part or not isinstance(parts, tuple) or not isinstance(others, Collection):
        return []
    return [part(piece) for piece in parts if piece not in others]


def shortened(text: str, length: int = _MAX_CHARACTERS) -> str:
    """A text of so many characters at most."""
    return text if len(text) <= length else text[: length - 3] + "..."


def _shortened_row(row: WrongRow) -> WrongRow:
    return row.model_copy(
        update={
            **{name: shortened(getattr(row, name)) for name in ("text", "gold", "predicted")},
            **{name: list(map(shortened, getattr(row, name))) for name in ("missed", "made_up")},
        }
    )
