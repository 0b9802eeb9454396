"""The metrics by name. What a metric is stands in `metric.py`; each family has a file of its own."""

import difflib
from collections.abc import Hashable, Sequence
from typing import Any

from overture.core.errors import ConfigError
from overture.evaluate.metric import Answers, Metric, Of, check_rows
from overture.evaluate.of_labels import METRICS_OF_LABELS
from overture.evaluate.of_numbers import METRICS_OF_NUMBERS
from overture.evaluate.of_spans import METRICS_OF_SPANS
from overture.evaluate.of_texts import METRICS_OF_TEXTS

__all__ = [
    "METRICS",
    "NOTHING",
    "Answers",
    "Metric",
    "accuracy",
    "as_answers",
    "check_rows",
    "exact_match",
    "macro_f1",
    "metric_named",
]


METRICS: dict[str, Metric] = {
    metric.name: metric for metric in (*METRICS_OF_LABELS, *METRICS_OF_TEXTS, *METRICS_OF_SPANS, *METRICS_OF_NUMBERS)
}


def accuracy(gold: Answers, predicted: Answers) -> float:
    """The share of rows whose predicted label is the gold label."""
    return METRICS["accuracy"](gold, predicted)


def exact_match(gold: Answers, predicted: Sequence[str]) -> float:
    """The share of rows whose text is a right text, but for case and white space."""
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
        ConfigError: there is none; the error names the nearest.
    """
    if name not in METRICS:
        near = difflib.get_close_matches(name, METRICS, 1)
        fix = f"did you mean {near[0]!r}?" if near else ""
        raise ConfigError("no such metric", got=f"{name!r:.80}", wanted=", ".join(METRICS), fix=fix)
    return METRICS[name]


NOTHING: dict[Of, Hashable] = {
    "labels": "",
    "confidences": "",
    "sets": (),
    "texts": "",
    "spans": (),
    "numbers": 0.0,
}
"""The answer of a model that does not answer, by what a metric compares."""


def as_answers(values: Sequence[Any]) -> tuple[Hashable, ...]:
    """Answers as they were before JSON made lists of their tuples."""
    return tuple(_frozen(value) for value in values)


def _frozen(value: Any) -> Hashable:
    return tuple(_frozen(part) for part in value) if isinstance(value, list | tuple) else value
