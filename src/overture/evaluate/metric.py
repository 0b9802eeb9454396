"""Metrics: one number for gold and predicted answers, and the same number for many weightings of the rows.

A resample of the rows is a vector of weights. Rows that are alike share one weight, so a bootstrap costs what the
distinct (gold, predicted) pairs cost, however many rows there are. Most metrics are functions of sums over rows: what
one row adds is found once, and a weighting is a product of matrices.

Shape letters: B rows, U distinct outcomes, R weightings, S statistics of a row.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from overture.core.errors import DataError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

Answers = Sequence[Hashable]
Of = Literal["labels", "confidences", "sets", "texts", "spans", "numbers"]


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric; a larger value is better unless `is_error`.

    Args:
        name: as options and reports name it.
        of: what it compares. labels: one hashable each. confidences: a label, and (label, probability). sets: tuples
            of labels. texts: a text or a tuple of texts that count as right, and a text. spans: tuples of (type,
            start, end). numbers: floats.
        is_right: whether one row is right, for metrics that are the share of right rows; None for the others.
        prepared: (gold, predicted), U outcomes of each -> the metric as a function of weights [R, U] -> [R].
        is_error: a smaller value is better; such a metric is reported and chooses nothing.
        bounds: the smallest and the largest value that it can have.
        is_distance: it sums absolute values, so chance makes it larger, and a bootstrap sample larger still.
        counts: which rows it is about, by their right answers; None for all. Such a metric is reported where there are
            rows of both sorts, and chooses nothing.
        tokenizer: how it cuts texts into words; empty where it does not.
    """

    name: str
    of: Of
    is_right: Callable[[Hashable, Hashable], bool] | None
    prepared: "Callable[[Answers, Answers], Callable[[Floats], Floats]]"
    is_error: bool = False
    bounds: tuple[float, float] = (0.0, 1.0)
    is_distance: bool = False
    counts: Callable[[Hashable], bool] | None = None
    tokenizer: str = ""

    def __call__(self, gold: Answers, predicted: Answers) -> float:
        """The metric over all rows, each of weight 1."""
        import numpy as np

        check_rows(gold, predicted)
        return float(self.weighted(gold, predicted, np.ones((1, len(gold))))[0])

    def weighted(self, gold: Answers, predicted: Answers, weights_RU: "Floats") -> "Floats":
        """The metric for each weighting, [R]."""
        return self.prepared(gold, predicted)(weights_RU)

    def fits(self, gold: Answers) -> bool:
        """Whether some but not all of the right answers are those that the metric is about."""
        return self.counts is None or len({self.counts(right) for right in gold}) == 2

    def rows(self, gold: Answers, predicted: Answers) -> tuple[bool, ...]:
        """Whether each row is right: by this metric where it is a share, by equality where not."""
        check_rows(gold, predicted)
        is_right = self.is_right or is_equal
        return tuple(is_right(g, p) for g, p in zip(gold, predicted, strict=True))


def answer_text(answer: object, part: Callable[[Any], str] | None = None) -> str:
    """An answer for people: six digits of a number, parts with semicolons between, several answers with bars."""
    if not isinstance(answer, tuple):
        return f"{answer:.6g}" if isinstance(answer, float) else str(answer)
    if part:
        return "; ".join(map(part, answer)) or "none"
    # Without the row's text a span is written as its label and its places.
    return " | ".join(" ".join(map(str, p)) if isinstance(p, tuple) else str(p) for p in answer) or "none"


def check_rows(gold: Answers, *predicted: Answers) -> None:
    """Refuse answers that cannot be compared row by row.

    Raises:
        DataError: no rows, or not as many answers as rows.
    """
    if not gold:
        raise DataError("there are no rows to score", wanted="at least one")
    for answers in predicted:
        if len(answers) != len(gold):
            raise DataError("gold and predicted answers do not pair up", got=str(len(answers)), wanted=str(len(gold)))


def is_equal(gold: Hashable, predicted: Hashable) -> bool:
    """Whether an answer is the right one, or one of several texts that are right."""
    return gold == predicted or (isinstance(gold, tuple) and isinstance(predicted, str) and predicted in gold)


def share(name: str, of: Of, is_right: Callable[[Hashable, Hashable], bool], tokenizer: str = "") -> Metric:
    """The share of right rows."""
    value = mean_of(lambda gold, predicted: float(is_right(gold, predicted)))
    return Metric(name, of, is_right, value, tokenizer=tokenizer)


def mean_of(
    value: Callable[[Hashable, Hashable], float], counts: Callable[[Hashable], bool] = lambda gold: True
) -> "Callable[[Answers, Answers], Callable[[Floats], Floats]]":
    """The mean of a value that each row has, over the rows whose right answer counts."""

    def statistics(gold: Answers, predicted: Answers) -> "Floats":
        import numpy as np

        rows = [(value(g, p), 1.0) if counts(g) else (0.0, 0.0) for g, p in zip(gold, predicted, strict=True)]
        return np.array(rows, dtype=np.float64)

    return from_sums(statistics, lambda sums_RS: ratio(sums_RS[:, 0], sums_RS[:, 1]))


def mean_of_part(
    name: str, value: Callable[[Hashable, Hashable], float], counts: Callable[[Hashable], bool], tokenizer: str
) -> Metric:
    """The mean of a value of texts over the rows whose right answer counts; 0 where none does."""
    return Metric(name, "texts", None, mean_of(value, counts), counts=counts, tokenizer=tokenizer)


def from_sums(
    statistics: "Callable[[Answers, Answers], Floats]", finish: "Callable[[Floats], Floats]"
) -> "Callable[[Answers, Answers], Callable[[Floats], Floats]]":
    """A metric that is a function of sums over rows.

    Args:
        statistics: what each row adds, [U, S].
        finish: the metric of the weighted sums, [R, S] -> [R].
    """

    def prepared(gold: Answers, predicted: Answers) -> "Callable[[Floats], Floats]":
        statistics_US = statistics(gold, predicted)
        return lambda weights_RU: finish(weights_RU @ statistics_US)

    return prepared


def ratio(above: "Floats", below: "Floats") -> "Floats":
    """Quotients; 0 where the divisor is 0."""
    import numpy as np

    quotients: Floats = np.divide(above, below, out=np.zeros(np.broadcast(above, below).shape), where=below > 0)
    return quotients
