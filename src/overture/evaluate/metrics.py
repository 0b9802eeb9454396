"""Metrics: one number for gold and predicted answers, and the same number for many weightings of the rows at once.

A resample of the rows is a vector of weights. Rows that are alike share one weight, so a bootstrap costs what the
distinct (gold, predicted) pairs cost, however many rows there are.

Shape letters: B rows, U distinct outcomes, R weightings, K labels.
"""

import difflib
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from overture.core.errors import ConfigError, DataError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

Answers = Sequence[Hashable]


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric.

    Args:
        name: as options and reports name it.
        is_right: whether one row is right, for metrics that are the share of right rows; None for the others.
        weighted: the metric for R weightings of U outcomes: (gold, predicted, weights [R, U]) -> [R].
    """

    name: str
    is_right: Callable[[Hashable, Hashable], bool] | None
    weighted: "Callable[[Answers, Answers, Floats], Floats]"

    def __call__(self, gold: Answers, predicted: Answers) -> float:
        """The metric over all rows, each of weight 1."""
        import numpy as np

        check_rows(gold, predicted)
        return float(self.weighted(gold, predicted, np.ones((1, len(gold))))[0])

    def rows(self, gold: Answers, predicted: Answers) -> tuple[bool, ...]:
        """Whether each row is right: by this metric where it is a share, by equality where not."""
        check_rows(gold, predicted)
        is_right = self.is_right or _is_equal
        return tuple(is_right(g, p) for g, p in zip(gold, predicted, strict=True))


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


def accuracy(gold: Answers, predicted: Answers) -> float:
    """The share of rows whose predicted label is the gold label."""
    return METRICS["accuracy"](gold, predicted)


def exact_match(gold: Sequence[str], predicted: Sequence[str]) -> float:
    """The share of rows whose text is the gold text, but for case and white space."""
    return METRICS["exact_match"](gold, predicted)


def macro_f1(gold: Answers, predicted: Answers) -> float:
    """The mean over labels of F1, each label counting alike however rare.

    Labels are those that occur in gold or predicted; a label without a right row counts 0, as scikit-learn's
    ``f1_score(average="macro", zero_division=0)`` has it.
    """
    return METRICS["macro_f1"](gold, predicted)


def metric_named(name: str) -> Metric:
    """A metric by its name.

    Raises:
        ConfigError: there is none; the nearest is told.
    """
    if name not in METRICS:
        near = difflib.get_close_matches(name, METRICS, 1)
        fix = f"did you mean {near[0]!r}?" if near else ""
        raise ConfigError("no such metric", got=f"{name!r:.80}", wanted=", ".join(METRICS), fix=fix)
    return METRICS[name]


def _is_equal(gold: Hashable, predicted: Hashable) -> bool:
    return gold == predicted


def _is_same_text(gold: Hashable, predicted: Hashable) -> bool:
    return _plain(gold) == _plain(predicted)


def _plain(text: Any) -> str:
    return " ".join(str(text).split()).casefold()


def _share_of(is_right: Callable[[Hashable, Hashable], bool]) -> "Callable[[Answers, Answers, Floats], Floats]":
    def weighted(gold: Answers, predicted: Answers, weights_RU: "Floats") -> "Floats":
        import numpy as np

        right_U = np.array([is_right(g, p) for g, p in zip(gold, predicted, strict=True)], dtype=np.float64)
        share_R: Floats = weights_RU @ right_U / weights_RU.sum(axis=1)
        return share_R

    return weighted


def _macro_f1(gold: Answers, predicted: Answers, weights_RU: "Floats") -> "Floats":
    """2 TP / (2 TP + FP + FN) per label, and the mean over the labels that occur in the weighting."""
    import numpy as np

    codes = {label: code for code, label in enumerate(dict.fromkeys([*gold, *predicted]))}
    gold_UK = np.eye(len(codes))[[codes[label] for label in gold]]
    predicted_UK = np.eye(len(codes))[[codes[label] for label in predicted]]
    twice_hits_RK = 2 * weights_RU @ (gold_UK * predicted_UK)
    occurs_RK = weights_RU @ (gold_UK + predicted_UK)
    f1_RK = np.divide(twice_hits_RK, occurs_RK, out=np.zeros_like(occurs_RK), where=occurs_RK > 0)
    mean_R: Floats = f1_RK.sum(axis=1) / (occurs_RK > 0).sum(axis=1)
    return mean_R


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("accuracy", _is_equal, _share_of(_is_equal)),
        Metric("macro_f1", None, _macro_f1),
        Metric("exact_match", _is_same_text, _share_of(_is_same_text)),
    )
}
