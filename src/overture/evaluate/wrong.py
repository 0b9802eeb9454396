"""Which rows went wrong, the worst first."""

from collections.abc import Sequence

from pydantic import Field

from overture.core.config import Config
from overture.evaluate.metric import Metric
from overture.evaluate.metrics import Answers, check_rows, metric_named


class WrongRow(Config):
    """One row that was answered wrongly."""

    where: str = Field(description="file and line")
    text: str = Field(description="what the model was shown, shortened")
    gold: str = Field(description="the right answer")
    predicted: str = Field(description="the answer given")
    score: float | None = Field(description="the metric on this row alone; none for metrics that need several rows")


def wrong_rows(
    metric: str,
    gold: Answers,
    predicted: Answers,
    shown: Sequence[tuple[str, str]],
    max_rows: int = 20,
    max_characters: int = 200,
) -> list[WrongRow]:
    """The rows with the worst answers.

    Args:
        metric: a name in `METRICS`.
        gold: the right answers.
        predicted: the answers given.
        shown: where each row stands, and its text.
        max_rows: how many are told.
        max_characters: how much of a text is told.

    Raises:
        DataError: no rows, or not as many predictions as rows.
    """
    check_rows(gold, predicted, shown)
    measure = metric_named(metric)
    scores = _scores(measure, gold, predicted)
    is_right = measure.rows(gold, predicted)
    # What differs from the right answer may still have the full score: an article more, in SQuAD's.
    is_full = [right or (measure.of != "numbers" and scores[row] >= 1) for row, right in enumerate(is_right)]
    wrong = sorted((row for row, full in enumerate(is_full) if not full), key=lambda row: (scores[row], row))
    return [
        WrongRow(
            where=shown[row][0],
            text=_cut(shown[row][1], max_characters),
            gold=_cut(_text(gold[row]), max_characters),
            predicted=_cut(_text(predicted[row]), max_characters),
            score=None if measure.of == "numbers" else scores[row],
        )
        for row in wrong[:max_rows]
    ]


def _scores(measure: Metric, gold: Answers, predicted: Answers) -> list[float]:
    """Each row's own score: the metric of that row alone, or how far off a number is."""
    import numpy as np

    if measure.of == "numbers":
        pairs = np.array([gold, predicted], dtype=np.float64)
        found: list[float] = (-abs(pairs[0] - pairs[1])).tolist()
        return found
    alone: list[float] = measure.weighted(gold, predicted, np.eye(len(gold))).tolist()
    return alone


def _text(answer: object) -> str:
    """An answer for people: spans and lists with commas between."""
    if not isinstance(answer, tuple):
        return str(answer)
    if all(isinstance(part, tuple) for part in answer):
        return "; ".join(" ".join(map(str, part)) for part in answer if isinstance(part, tuple))
    return " | ".join(map(str, answer))


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 3] + "..."
