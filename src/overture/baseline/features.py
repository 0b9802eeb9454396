"""Features of rows from the frozen model, computed once."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from overture.core.contracts import Features
from overture.core.rows import Encoded
from overture.data.batches import scoring_batches
from overture.engine.backbone import Backbone
from overture.engine.prompted import PromptedModel

_MAX_TOKENS = 4096
"""Padded tokens of one forward pass."""


def features_of(backbone: Backbone, rows: Sequence[Encoded], is_mean: bool = False) -> Tensor:
    """Hidden states of the last layer, float32 [B, D], on the CPU.

    Args:
        backbone: the frozen model.
        rows: encoded rows.
        is_mean: the mean over a row's tokens, instead of the state that its label is read from.
    """
    model = PromptedModel(backbone)
    numbered = [replace(row, row=index) for index, row in enumerate(rows)]
    features = torch.empty(len(rows), backbone.info.hidden_size)
    for batch in scoring_batches(numbered, _MAX_TOKENS):
        features[[row.row for row in batch]] = torch.stack(model.ask(batch, Features(is_mean))).float().cpu()
    return features
