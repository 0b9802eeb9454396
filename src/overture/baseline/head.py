"""A trained head alone: a vector for each label on the frozen model, by gradient and without any prompt.

The baseline of prompts for labels at words or ends of answers: a head over tags for tagging, a span head for questions,
both on an encoder. `linear` is the same for one label a row, fitted by logistic regression.
Trained values: C D.

Source: Devlin et al. 2019, "BERT", section 5.3 (features without fine-tuning); the start from label words:
Hambardzumyan et al. 2021, "WARP", section 3.
"""

from typing import Literal

from pydantic import Field

from overture.baseline.base import Baseline, Built, LabelOptions, Request, trained
from overture.engine.prompted import PromptedModel


class Options(LabelOptions):
    """Options of the head."""

    labels: Literal["vectors"] = Field(
        "vectors", description="A trained vector for each label; a head has nothing else."
    )


def build(request: Request) -> Built:
    """Label vectors that start at the embeddings of their words.

    Raises:
        ConfigError: the task has no labels.
    """
    return trained(PromptedModel(request.backbone, request.label_vectors(), request.cache), request.rows)


BASELINE = Baseline(
    title="a vector for each label, no prompt",
    source="Devlin et al. 2019",
    options=Options,
    build=build,
    learning_rate=1e-2,
    rates=(3e-3, 1e-2, 3e-2, 1e-1),
)
