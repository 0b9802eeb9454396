"""Contextual calibration: label scores divided by what the model says of texts without content.

    q(c | x) = p(c | x) / p_cf(c), normalised over the labels;   p_cf: mean of p(c | x) over the texts without content

It works on any scorer of a label task: no prompt, examples, tuned prompts, adapters.

Source: Zhao et al. 2021, "Calibrate Before Use: Improving Few-Shot Performance of Language Models", section 4 (W =
diag(p_cf)^-1, b = 0). Deviation: their third text, the empty one, is left out, since rows must hold text; the mean is
of probabilities over the labels, as there.
"""

from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor

from overture.core.errors import ConfigError
from overture.core.types import Encoded, Scorer
from overture.data import Encoder
from overture.data.rows import Row

CONTENT_FREE = ("N/A", "[MASK]")
"""What stands in every field of a row without content."""


class Calibrated:
    """A scorer whose label scores are calibrated; meets `core.types.Scorer`.

    Args:
        scorer: the model, with or without a prompt.
        content_free: rows without content, encoded as the scorer's rows are.

    Raises:
        ConfigError: the rows are of a free-text task.
    """

    def __init__(self, scorer: Scorer, content_free: Sequence[Encoded]) -> None:
        if not content_free or content_free[0].candidates is None:
            raise ConfigError("calibration needs labels", where="calibrated", got="a free-text task")
        self.scorer, self.content_free = scorer, content_free

    @cached_property
    def bias(self) -> Tensor:
        """Logarithm of what the model says of texts without content, [C]; computed once."""
        scores = self.scorer.label_scores(self.content_free)
        return scores.logsumexp(0) - torch.tensor(float(len(scores))).log()

    def label_scores(self, rows: Sequence[Encoded]) -> Tensor:
        """Calibrated log-probabilities of the labels, [B, C], normalised over them."""
        return (self.scorer.label_scores(rows) - self.bias).log_softmax(dim=1)

    def log_loss(self, rows: Sequence[Encoded]) -> Tensor:
        """Sum of the rows' negative log-likelihoods."""
        scores = self.label_scores(rows)
        gold = torch.tensor([row.label for row in rows], device=scores.device)
        return torch.nn.functional.nll_loss(scores, gold, reduction="sum")

    def weight(self, rows: Sequence[Encoded]) -> float:
        """As the scorer's."""
        return self.scorer.weight(rows)

    def generate(self, rows: Sequence[Encoded], max_new_tokens: int, stop: Sequence[str]) -> list[str]:
        """As the scorer's."""
        return self.scorer.generate(rows, max_new_tokens, stop)


def calibrated(scorer: Scorer, encoder: Encoder, bos: bool = True) -> Calibrated:
    """A scorer calibrated on the task's own template with texts without content.

    Args:
        scorer: the model.
        encoder: of its rows.
        bos: as the scorer's rows are encoded; False behind in-context examples.
    """
    fields = [dict.fromkeys(encoder.task.fields, text) for text in CONTENT_FREE]
    rows = [Row(dict(values), number, "content-free") for number, values in enumerate(fields, 1)]
    return Calibrated(scorer, encoder.encode(rows, with_answer=False, bos=bos))
