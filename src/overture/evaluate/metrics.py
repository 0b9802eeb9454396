"""The metrics by name. What a metric is stands in `metric.py`; each family has a file of its own."""

import difflib
from collections.abc import Hashable

from overture.core.errors import ConfigError
from overture.evaluate.metric import Metric, Of
from overture.evaluate.of_labels import METRICS_OF_LABELS
from overture.evaluate.of_numbers import METRICS_OF_NUMBERS
from overture.evaluate.of_spans import METRICS_OF_SPANS
from overture.evaluate.of_texts import METRICS_OF_TEXTS

METRICS: dict[str, Metric] = {
    metric.name: metric for metric in (*METRICS_OF_LABELS, *METRICS_OF_TEXTS, *METRICS_OF_SPANS, *METRICS_OF_NUMBERS)
}


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
