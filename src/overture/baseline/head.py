"""A trained head alone: a vector for each label on the frozen model, by gradient and without any prompt.

The baseline of prompts for labels at words or ends of answers: a head over tags for tagging, a span head for questions,
both on an encoder. `linear` is the same for one label a row, fitted by logistic regression.
Trained values: C D.

Source: Devlin et al. 2019, "BERT", section 5.3 (features without fine-tuning); the start from label words:
Hambardzumyan et al. 2021, "WARP", section 3.
"""

from overture.baseline.base import Built, Request, trained
from overture.engine.prompted import PromptedModel


def build(request: Request) -> Built:
    """Label vectors that start at the embeddings of their words.

    Raises:
        ConfigError: the task has no labels.
    """
    return trained(PromptedModel(request.backbone, request.label_vectors(), request.cache), request.rows)
