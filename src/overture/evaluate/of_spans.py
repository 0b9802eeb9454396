"""Metrics of spans: (type, start, end) in a text, right only if all three are.

Source: CoNLL-2003's evaluation, and seqeval's strict mode with IOB2.
"""

from typing import TYPE_CHECKING

from overture.evaluate.metric import Answers, Metric, from_sums, ratio

if TYPE_CHECKING:
    from overture.evaluate.metric import Floats


def _counts(gold: Answers, predicted: Answers) -> "Floats":
    """Numbers of right, gold and predicted spans: [U, 3]."""
    import numpy as np

    counts = []
    for gold_answer, answer in zip(gold, predicted, strict=True):
        assert isinstance(gold_answer, tuple)
        assert isinstance(answer, tuple)
        gold_spans, predicted_spans = set(gold_answer), set(answer)
        counts.append((len(gold_spans & predicted_spans), len(gold_spans), len(predicted_spans)))
    return np.array(counts, dtype=np.float64)


def _f1(sums_RS: "Floats") -> "Floats":
    return ratio(2 * sums_RS[:, 0], sums_RS[:, 1] + sums_RS[:, 2])


def _precision(sums_RS: "Floats") -> "Floats":
    return ratio(sums_RS[:, 0], sums_RS[:, 2])


def _recall(sums_RS: "Floats") -> "Floats":
    return ratio(sums_RS[:, 0], sums_RS[:, 1])


METRICS_OF_SPANS = tuple(
    Metric(name, "spans", None, from_sums(_counts, finish))
    for name, finish in (("entity_f1", _f1), ("entity_precision", _precision), ("entity_recall", _recall))
)
