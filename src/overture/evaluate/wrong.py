"""Rows that were answered wrongly, the worst first."""

from collections.abc import Callable, Collection, Hashable, Sequence
from typing import Any

from overture.core.records.scores import WrongRow
from overture.data.rows import ShownRow
from overture.evaluate.metric import Metric
from overture.evaluate.metrics import Answers, check_rows, metric_named


def wrong_rows(
    metric: str,
    gold: Answers,
    predicted: Answers,
    shown: Sequence[ShownRow],
    max_rows: int = 20,
    max_characters: int = 200,
) -> list[WrongRow]:
    """The rows with the worst answers.

    Args:
        metric: a name in `METRICS`.
        gold: the right answers.
        predicted: the answers given.
        shown: place and text of each row, and how parts of its answers are written.
        max_rows: number of rows in the result.
        max_characters: length to which texts are shortened.

    Raises:
        DataError: no rows, or not as many predictions as rows.
    """
    check_rows(gold, predicted, shown)
    measure = metric_named(metric)
    scores = _scores(measure, gold, predicted)
    is_right = measure.rows(gold, predicted)
    # An answer that differs from the right one may still have the full score: one more article, in SQuAD's.
    is_full = [right or (measure.of != "numbers" and scores[row] >= 1) for row, right in enumerate(is_right)]
    wrong = sorted((row for row, full in enumerate(is_full) if not full), key=lambda row: (scores[row], row))

    def wrong_row(row: int) -> WrongRow:
        part, right, given = shown[row].part, gold[row], predicted[row]
        return WrongRow(
            where=shown[row].where,
            text=_cut(shown[row].text, max_characters),
            gold=_cut(_text(right, part), max_characters),
            predicted=_cut(_text(given, part), max_characters),
            missed=[_cut(text, max_characters) for text in _left(right, given, part)],
            made_up=[_cut(text, max_characters) for text in _left(given, right, part)],
            score=None if measure.of == "numbers" else scores[row],
        )

    return [wrong_row(row) for row in wrong[:max_rows]]


def _scores(measure: Metric, gold: Answers, predicted: Answers) -> list[float]:
    """Each row's own score: the metric of that row alone, or how far off a number is."""
    import numpy as np

    if measure.of == "numbers":
        pairs = np.array([gold, predicted], dtype=np.float64)
        distances: list[float] = (-abs(pairs[0] - pairs[1])).tolist()
        return distances
    alone: list[float] = measure.weighted(gold, predicted, np.eye(len(gold))).tolist()
    return alone


def _text(answer: object, part: Callable[[Any], str] | None) -> str:
    """An answer for people: parts of one with semicolons between, several answers with bars."""
    if not isinstance(answer, tuple):
        return str(answer)
    if part:
        return "; ".join(map(part, answer)) or "none"
    return " | ".join(map(str, answer))


def _left(these: Hashable, those: Hashable, part: Callable[[Any], str] | None) -> list[str]:
    """Parts of the first answer that the second lacks."""
    if not part or not isinstance(these, tuple) or not isinstance(those, Collection):
        return []
    return [part(piece) for piece in these if piece not in those]


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 3] + "..."
