"""Full fine-tuning: every weight is trained, or those of the highest layers, in a copy that leaves the model alone.

The copy has its own tensors only where it trains; the rest is shared. Nothing is dropped at random: the same loss, the
same deterministic passes as for prompts.
Trained values: all that the loss reaches, and C D where labels have vectors.

Source: Devlin et al. 2019, "BERT", section 4 and appendix A.3 (rates); Lee, Tang and Lin 2019, "What Would Elsa Do?
Freezing Layers During Transformer Fine-Tuning" (the highest layers). Deviation: no dropout.
"""

from pydantic import Field

from overture.baseline.base import Baseline, Built, LabelOptions, Request, trained
from overture.core.errors import ConfigError
from overture.engine.backbone import Backbone
from overture.engine.prompted import PromptedModel


class Options(LabelOptions):
    """Options of full fine-tuning."""

    layers: int | None = Field(
        None, ge=1, description="Number of the highest layers that are trained, with all behind them; all when empty."
    )


def build(request: Request) -> Built:
    """The model's values as they are, ready to train in a copy.

    Raises:
        ConfigError: the model has fewer layers.
    """
    options: Options = request.options
    labels = request.label_vectors()
    names = trained_names(request.backbone, options.layers, with_words=labels is None)
    return trained(PromptedModel(request.backbone.copied(names.__contains__), labels), request.rows)


def trained_names(backbone: Backbone, layers: int | None, with_words: bool) -> set[str]:
    """Names of the parameters that the loss reaches.

    Args:
        backbone: the model.
        layers: how many of the highest layers; all, and the embeddings, when None.
        with_words: labels are compared with words, so the head has a part in the loss.

    Raises:
        ConfigError: the model has fewer layers.
    """
    if layers is not None and layers > backbone.info.num_layers:
        raise ConfigError(
            "the model has fewer layers", where="layers", got=str(layers), wanted=f"1 to {backbone.info.num_layers}"
        )
    every = backbone.names_in([backbone.model]) - backbone.idle
    names = every if layers is None else backbone.upper(layers) & every
    return names if with_words else names - backbone.of_head


BASELINE = Baseline(
    title="all weights, or those of the highest layers",
    source="Devlin et al. 2019",
    options=Options,
    build=build,
    learning_rate=5e-5,
    rates=(1e-5, 2e-5, 5e-5, 1e-4, 2e-4),
)
