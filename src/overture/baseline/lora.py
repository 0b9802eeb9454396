"""LoRA: low-rank changes of the linear maps in the layers, trained on the same loss as prompts.

The maths, the sources and the deviations stand in `engine/lora.py`. It wants about ten times the learning rate of full
fine-tuning: Biderman et al. 2024, "LoRA Learns Less and Forgets Less".
Trained values: r (in + out) for each linear map, and C D where labels have vectors.
"""

from overture.baseline.base import Built, Request, trained
from overture.baseline.options import LoraBaselineOptions
from overture.engine.cache import InputCache
from overture.engine.lora import with_lora
from overture.engine.options import LoraOptions
from overture.engine.prompted import PromptedModel


def build(request: Request) -> Built:
    """An adapter that starts as zero, in a copy of the model that shares its weights."""
    options: LoraBaselineOptions = request.options
    lora = LoraOptions(**{name: getattr(options, name) for name in LoraOptions.model_fields})
    adapted = with_lora(request.backbone, lora, request.seed)
    # Where the adapter leaves texts to the frozen model they run once.
    cache = InputCache() if adapted.reader is request.backbone else None
    return trained(PromptedModel(adapted, request.label_vectors(), cache), request.rows)
