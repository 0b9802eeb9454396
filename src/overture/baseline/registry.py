"""The baselines by name. A new one is a new file and one line in `BASELINES`."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from overture.baseline import bitfit, full, head, in_context, linear, lora, plain
from overture.baseline.base import Baseline, Built, Request
from overture.core.config import validated
from overture.core.errors import ConfigError

BASELINES: dict[str, Baseline] = {
    "none": plain.BASELINE,
    "text": plain.TEXT_BASELINE,
    "in_context": in_context.BASELINE,
    "linear": linear.BASELINE,
    "head": head.BASELINE,
    "bitfit": bitfit.BASELINE,
    "lora": lora.BASELINE,
    "full": full.BASELINE,
}


def baseline_of(name: str) -> Baseline:
    """The baseline of a name.

    Raises:
        ConfigError: there is none.
    """
    if name not in BASELINES:
        raise ConfigError("no such baseline", where="baseline", got=name, wanted=", ".join(BASELINES))
    return BASELINES[name]


def build_baseline(name: str, options: Mapping[str, Any], request: Request) -> Built:
    """A baseline on a task, ready to train or to score.

    Args:
        name: of the baseline.
        options: its own, by name.
        request: model, rows and seed; its options are replaced.

    Raises:
        ConfigError: no such baseline, or its options do not fit model or task.
        BackboneError: the model cannot answer this way, or a package is missing.
        DataError: the rows do not suit it.
    """
    baseline = baseline_of(name)
    if baseline.needs_labels:
        request.need_labels(f"baseline {name!r}")
    if not baseline.is_for_encoders:
        request.need_decoder(f"baseline {name!r}")
    checked = validated(baseline.options, dict(options), f"baseline {name}")
    return baseline.build(replace(request, options=checked))
