"""The baselines by name: facts and options, without their code. A new one is a new file and one record here.

It imports no torch; a baseline's file is imported when it is built.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import import_module
from typing import TYPE_CHECKING, Any

from overture.baseline.options import (
    BitFitOptions,
    FullOptions,
    HeadOptions,
    InContextOptions,
    LinearOptions,
    LoraBaselineOptions,
    PlainOptions,
    TextOptions,
)
from overture.core.config import Config, validated
from overture.core.errors import ConfigError

if TYPE_CHECKING:
    from overture.baseline.base import Built, Request


@dataclass(frozen=True, slots=True)
class Baseline:
    """One entry of the registry.

    Args:
        maker: the function of this package that makes it, as ``module.function``; it raises `ConfigError` or
            `BackboneError` where it does not fit model or task.
        title: one line for people.
        source: author and year.
        options: class of its options.
        learning_rate: the default (see docs/log.md); None when nothing is trained.
        rates: the few learning rates worth trying on validation rows.
        is_for_encoders: it runs on encoders too.
        needs_labels: it runs on tasks with labels only.
    """

    maker: str
    title: str
    source: str
    options: type[Config]
    learning_rate: float | None = None
    rates: tuple[float, ...] = ()
    is_for_encoders: bool = True
    needs_labels: bool = False


BASELINES: dict[str, Baseline] = {
    "none": Baseline(
        "plain.build",
        title="the template alone",
        source="Brown et al. 2020 (zero-shot)",
        options=PlainOptions,
    ),
    "text": Baseline(
        "plain.build_text",
        title="a text written by hand in front of the template",
        source="Schick and Schuetze 2021 (patterns)",
        options=TextOptions,
    ),
    "in_context": Baseline(
        "in_context.build",
        title="training rows with their answers in front of each row",
        source="Brown et al. 2020; Liu et al. 2022 (KATE); Lu et al. 2022 (orders)",
        options=InContextOptions,
        is_for_encoders=False,
    ),
    "linear": Baseline(
        "linear.build",
        title="logistic regression on frozen features",
        source="Alain and Bengio 2017",
        options=LinearOptions,
        needs_labels=True,
    ),
    "head": Baseline(
        "head.build",
        title="a vector for each label, no prompt",
        source="Devlin et al. 2019",
        options=HeadOptions,
        learning_rate=1e-2,
        rates=(3e-3, 1e-2, 3e-2, 1e-1),
    ),
    "bitfit": Baseline(
        "bitfit.build",
        title="the biases",
        source="Ben Zaken et al. 2022 (BitFit)",
        options=BitFitOptions,
        learning_rate=1e-3,
        rates=(3e-4, 1e-3, 3e-3, 1e-2),
    ),
    "lora": Baseline(
        "lora.build",
        title="low-rank changes of the linear maps",
        source="Hu et al. 2022 (LoRA)",
        options=LoraBaselineOptions,
        learning_rate=1e-3,
        rates=(5e-4, 1e-3, 2e-3, 4e-3),
    ),
    "full": Baseline(
        "full.build",
        title="all weights, or those of the highest layers",
        source="Devlin et al. 2019",
        options=FullOptions,
        learning_rate=5e-5,
        rates=(1e-5, 2e-5, 5e-5, 1e-4, 2e-4),
    ),
}


def baseline_of(name: str) -> Baseline:
    """The baseline of a name.

    Raises:
        ConfigError: there is none.
    """
    if name not in BASELINES:
        raise ConfigError("no such baseline", where="baseline", got=name, wanted=", ".join(BASELINES))
    return BASELINES[name]


def build_baseline(name: str, options: Mapping[str, Any], request: "Request") -> "Built":
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
    module, function = baseline.maker.split(".")
    baseline_model: Built = getattr(import_module(f"overture.baseline.{module}"), function)(
        replace(request, options=checked)
    )
    return baseline_model
