"""Full fine-tuning: every weight is trained, or those of the highest layers, in a copy that leaves the model alone.

The copy has its own tensors only where it trains; the rest is shared. Nothing is dropped at random: the same loss, the
same deterministic passes as for prompts.
Trained values: all that the loss reaches, and C D where labels have vectors.

Source: Devlin et al. 2019, "BERT", section 4 and appendix A.3 (rates); Lee, Tang and Lin 2019, "What Would Elsa Do?
Freezing Layers During Transformer Fine-Tuning" (the highest layers). Deviation: no dropout.
"""

from overture.baseline.base import Built, Request, trained
from overture.baseline.options import FullOptions
from overture.core.errors import ConfigError
from overture.engine.backbone import Backbone
from overture.engine.parameters import head_names, idle_names, names_in, upper_names
from overture.engine.prompted import PromptedModel


def build(request: Request) -> Built:
    """The model's values as they are, ready to train in a copy.

    Raises:
        ConfigError: the model has fewer layers.
    """
    options: FullOptions = request.options
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
    all_names = names_in(backbone, [backbone.model]) - idle_names(backbone)
    names = all_names if layers is None else upper_names(backbone, layers) & all_names
    return names if with_words else names - head_names(backbone)
