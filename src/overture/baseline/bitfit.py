"""BitFit: the biases alone are trained, or the norms' scales where a model has no biases.

Many decoders (Llama, Mistral) have not one bias, and are refused unless asked for `values: norms`: training the scales
of their norms is the nearest thing that the literature has for them, and another method (LN-tuning), so it is not
taken silently in BitFit's name.
Trained values: all biases of the model, and C D where labels have vectors.

Source: Ben Zaken, Goldberg and Ravfogel 2022, "BitFit: Simple Parameter-efficient Fine-tuning for Transformer-based
Masked Language-models", section 3; the norms: Qi et al. 2022, "Parameter-Efficient Tuning on Layer Normalization for
Pre-trained Language Models", section 3 (their scales and biases).
"""

from typing import Literal

import torch
from pydantic import Field

from overture.baseline.base import Baseline, Built, LabelOptions, Request, trained
from overture.baseline.full import trained_names
from overture.core.errors import ConfigError
from overture.engine.backbone import Backbone
from overture.engine.prompted import PromptedModel


class Options(LabelOptions):
    """Options of BitFit."""

    values: Literal["biases", "norms"] = Field(
        "biases", description="The biases, or the scales and biases of the norms (LN-tuning)."
    )


def build(request: Request) -> Built:
    """The chosen values as they are, in a copy that shares the rest.

    Raises:
        ConfigError: the model has no biases.
    """
    options: Options = request.options
    labels = request.label_vectors()
    every = trained_names(request.backbone, None, with_words=labels is None)
    names = _norms(request.backbone) & every if options.values == "norms" else {n for n in every if _is_bias(n)}
    if not names:
        raise ConfigError(
            "this model has no biases to train",
            where="baseline bitfit",
            got=request.backbone.info.model_type,
            fix="options values=norms trains the scales of its norms instead (LN-tuning)",
        )
    return trained(PromptedModel(request.backbone.copied(names.__contains__), labels), request.rows)


def _is_bias(name: str) -> bool:
    return name.rsplit(".", 1)[-1] == "bias"


def _norms(backbone: Backbone) -> set[str]:
    return backbone.names_in(m for m in backbone.model.modules() if _is_norm(m))


def _is_norm(module: torch.nn.Module) -> bool:
    return type(module).__name__.endswith("Norm")


BASELINE = Baseline(
    title="the biases",
    source="Ben Zaken et al. 2022 (BitFit)",
    options=Options,
    build=build,
    learning_rate=1e-3,
    rates=(3e-4, 1e-3, 3e-3, 1e-2),
)
