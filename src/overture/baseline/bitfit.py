"""BitFit: only the biases are trained, or the norms' scales where a model has no biases.

Many decoders (Llama, Mistral) have no biases and are refused unless the option is `values: norms`. Training the scales
of their norms is the nearest method in the literature, but it is another one (LN-tuning), so it must be named.
Trained values: all biases of the model, and C D where labels have vectors.

Source: Ben Zaken, Goldberg and Ravfogel 2022, "BitFit: Simple Parameter-efficient Fine-tuning for Transformer-based
Masked Language-models", section 3; the norms: Qi et al. 2022, "Parameter-Efficient Tuning on Layer Normalization for
Pre-trained Language Models", section 3 (their scales and biases).
"""

from overture.baseline.base import Built, Request, trained
from overture.baseline.full import trained_names
from overture.baseline.options import BitFitOptions
from overture.core.errors import ConfigError
from overture.engine.parameters import names_in
from overture.engine.prompted import PromptedModel


def build(request: Request) -> Built:
    """The chosen values as they are, in a copy that shares the rest.

    Raises:
        ConfigError: the model has no biases.
    """
    options: BitFitOptions = request.options
    labels = request.label_vectors()
    reached = trained_names(request.backbone, None, with_words=labels is None)
    if options.values == "norms":
        norms = [m for m in request.backbone.model.modules() if type(m).__name__.endswith("Norm")]
        names = names_in(request.backbone, norms) & reached
    else:
        names = {name for name in reached if name.rsplit(".", 1)[-1] == "bias"}
    if not names:
        raise ConfigError(
            "this model has no biases to train",
            where="baseline bitfit",
            got=request.backbone.info.model_type,
            fix="options values=norms trains the scales of its norms instead (LN-tuning)",
        )
    return trained(PromptedModel(request.backbone.copied(names.__contains__), labels), request.rows)
