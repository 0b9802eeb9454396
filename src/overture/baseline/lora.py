"""LoRA: low-rank changes of the linear maps in the layers, trained on the same loss as prompts.

The maths, the sources and the deviations stand in `engine/lora.py`. It wants about ten times the learning rate of full
fine-tuning: Biderman et al. 2024, "LoRA Learns Less and Forgets Less".
Trained values: r (in + out) for each linear map, and C D where labels have vectors.
"""

from overture.baseline.base import Baseline, Built, LabelOptions, Request, trained
from overture.engine.lora import with_lora
from overture.engine.options import LoraOptions
from overture.engine.prompted import PromptedModel


class Options(LabelOptions, LoraOptions):
    """Options of LoRA as a baseline."""


def build(request: Request) -> Built:
    """An adapter that starts as zero, in a copy of the model that shares its weights."""
    options: Options = request.options
    lora = LoraOptions(**{name: getattr(options, name) for name in LoraOptions.model_fields})
    adapted = with_lora(request.backbone, lora, request.seed)
    return trained(PromptedModel(adapted, request.label_vectors()), request.rows)


BASELINE = Baseline(
    title="low-rank changes of the linear maps",
    source="Hu et al. 2022 (LoRA)",
    options=Options,
    build=build,
    learning_rate=1e-3,
    rates=(5e-4, 1e-3, 2e-3, 4e-3),
)
