"""Metrics of labels: one label a row, several labels a row, and calibration.

Shape letters: U distinct outcomes, R weightings, S statistics of a row, K labels.
"""

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING

from overture.evaluate.metric import Answers, Metric, from_sums, is_equal, ratio, share

if TYPE_CHECKING:
    from overture.evaluate.metric import Floats

_NUM_BINS = 15


def _counts(gold: "Sequence[Sequence[Hashable]]", predicted: "Sequence[Sequence[Hashable]]") -> "Floats":
    """For each label twice the hits, and how often it occurs in gold and predicted: [U, 2 K]."""
    import numpy as np

    codes = {label: code for code, label in enumerate(dict.fromkeys(x for row in (*gold, *predicted) for x in row))}

    def table(rows: "Sequence[Sequence[Hashable]]") -> "Floats":
        has_label_UK = np.zeros((len(rows), len(codes)))
        for number, row in enumerate(rows):
            has_label_UK[number, [codes[label] for label in row]] = 1
        return has_label_UK

    gold_UK, predicted_UK = table(gold), table(predicted)
    return np.concatenate([2 * gold_UK * predicted_UK, gold_UK + predicted_UK], axis=1)


def _of_one(gold: Answers, predicted: Answers) -> "Floats":
    return _counts([(label,) for label in gold], [(label,) for label in predicted])


def _of_sets(gold: Answers, predicted: Answers) -> "Floats":
    return _counts([_set(labels) for labels in gold], [_set(labels) for labels in predicted])


def _set(labels: Hashable) -> tuple[Hashable, ...]:
    return labels if isinstance(labels, tuple) else (labels,)


def _macro(sums_RS: "Floats") -> "Floats":
    """2 TP / (2 TP + FP + FN) per label, and the mean over the labels that occur in the weighting."""
    num_labels = sums_RS.shape[1] // 2
    twice_hits_RK, occurs_RK = sums_RS[:, :num_labels], sums_RS[:, num_labels:]
    return ratio(ratio(twice_hits_RK, occurs_RK).sum(axis=1), (occurs_RK > 0).sum(axis=1))


def _micro(sums_RS: "Floats") -> "Floats":
    """The same over all labels at once."""
    num_labels = sums_RS.shape[1] // 2
    return ratio(sums_RS[:, :num_labels].sum(axis=1), sums_RS[:, num_labels:].sum(axis=1))


def _is_same_set(gold: Hashable, predicted: Hashable) -> bool:
    return set(_set(gold)) == set(_set(predicted))


def _bins(gold: Answers, predicted: Answers) -> "Floats":
    """For each bin of confidence the surplus of confidence over right rows, and the row itself: [U, bins + 1]."""
    import numpy as np

    sums_US = np.zeros((len(gold), _NUM_BINS + 1))
    for number, (gold_label, answer) in enumerate(zip(gold, predicted, strict=True)):
        assert isinstance(answer, tuple)
        label, confidence = answer
        # Bins are open on the left: (0, 1/15], (1/15, 2/15], ...
        bin_index = min(max(int(np.ceil(confidence * _NUM_BINS)) - 1, 0), _NUM_BINS - 1)
        sums_US[number, bin_index] = confidence - (label == gold_label)
        sums_US[number, -1] = 1
    return sums_US


def _calibration_error(sums_RS: "Floats") -> "Floats":
    """Sum over bins of |confidence - accuracy|, each weighted by its share of rows.

    Source: Guo et al. 2017, "On Calibration of Modern Neural Networks", equation 3, with 15 bins as there.
    """
    return ratio(abs(sums_RS[:, :-1]).sum(axis=1), sums_RS[:, -1])


METRICS_OF_LABELS = (
    share("accuracy", "labels", is_equal),
    Metric("macro_f1", "labels", None, from_sums(_of_one, _macro)),
    Metric("ece", "confidences", None, from_sums(_bins, _calibration_error), is_error=True, is_distance=True),
    Metric("multilabel_micro_f1", "sets", None, from_sums(_of_sets, _micro)),
    Metric("multilabel_macro_f1", "sets", None, from_sums(_of_sets, _macro)),
    share("subset_accuracy", "sets", _is_same_set),
)
