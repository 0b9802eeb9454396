"""A trained head alone: a vector for each label on the frozen model, by gradient and without any prompt.

What a prompt must beat where labels stand on words or ends of answers: a head over tags for tagging, a span head for
questions, both on an encoder. `linear` is the same for one label a row, solved instead of stepped.
Trained values: C D.

Source: Devlin et al. 2019, "BERT", section 5.3 (features without fine-tuning); the start from label words:
Hambardzumyan et al. 2021, "WARP", section 3.
"""

from pydantic import Field

from overture.baseline.base import Baseline, Built, Request, trained
from overture.core.config import Config
from overture.engine import PromptedModel
from overture.evaluate.source import prompt_source
from overture.prompt import PromptConfig
from overture.prompt.labels import label_start, with_labels
from overture.prompt.registry import wants_label_vectors


class Options(Config):
    """Options of the head."""

    label_rate: float = Field(1.0, gt=0, description="Factor on the learning rate of the label vectors.")


def build(request: Request) -> Built:
    """Label vectors at their words' start, nothing beside them.

    Raises:
        ConfigError: the task has no labels.
    """
    options: Options = request.options
    source = prompt_source(request.backbone, request.encoder, request.rows["train"])
    wants_label_vectors(PromptConfig(labels="vectors"), source)
    labels = with_labels(None, label_start(source), options.label_rate).to(request.backbone.device)
    return trained(PromptedModel(request.backbone, labels, request.cache), request.rows)


BASELINE = Baseline(
    title="a vector for each label, no prompt",
    source="Devlin et al. 2019",
    options=Options,
    build=build,
    learning_rate=1e-2,
    rates=(3e-3, 1e-2, 3e-2, 1e-1),
)
