"""Linear probes: multinomial logistic regression on frozen features, and the features themselves.

    p(c | x) = softmax_c(w_c . (h(x) - m) / s + b_c),   m and s the training rows' mean and deviation of each feature

Mean and deviation are folded into the weights, so that a probe is C vectors and C biases for features as they are.

Shape letters: B rows, D width, C labels.

Source: Alain and Bengio 2017, "Understanding intermediate layers using linear classifier probes".
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from overture.core.rows import Encoded
from overture.data.batches import scoring_batches
from overture.engine.inputs import Inputs
from overture.engine.states import pooled_by_layer

NEVER = -1e4
"""Logit of a label that no training row has."""
PENALTIES = (0.01, 0.1, 1.0)
"""Inverse strengths of the penalty that `start_of_head` chooses from."""
_FOLDS = 4
_MAX_TOKENS = 4096
"""Padded tokens of one forward pass."""
Weights = tuple[Tensor, Tensor]
"""Weight [C, D] and bias [C]."""


def fitted(features: Tensor, gold: Tensor, factors: Sequence[float], num_labels: int, penalty: float) -> Weights:
    """The probe of some rows, float32.

    Args:
        features: float64 [B, D].
        gold: indices of the right labels, at least two of them, [B].
        factors: how much each row counts.
        num_labels: C.
        penalty: inverse strength of the L2 penalty, scikit-learn's C.
    """
    from sklearn.linear_model import LogisticRegression

    mean, deviation = features.mean(0), features.std(0, correction=0).clamp_min(1e-6)
    solver = LogisticRegression(C=penalty, max_iter=10_000)
    solver.fit(((features - mean) / deviation).numpy(), gold.numpy(), sample_weight=list(factors))
    coefficients, intercepts = solver.coef_, solver.intercept_
    if len(solver.classes_) == 2:
        # One logit for two labels: the first one's is zero.
        coefficients = np.concatenate([np.zeros_like(coefficients), coefficients])
        intercepts = np.concatenate([np.zeros_like(intercepts), intercepts])
    weight = features.new_zeros(num_labels, features.shape[1])
    bias = features.new_full((num_labels,), NEVER)
    weight[solver.classes_] = torch.as_tensor(coefficients) / deviation
    bias[solver.classes_] = torch.as_tensor(intercepts) - weight[solver.classes_] @ mean
    return weight.float(), bias.float()


def pooled_features(inputs: Inputs, rows: Sequence[Encoded], layers: tuple[int, ...]) -> Tensor:
    """Each row's read state and mean state in some layers, float32 [B, n, 2, D], on the CPU."""
    numbered = [replace(row, row=index) for index, row in enumerate(rows)]
    features = torch.empty(len(rows), len(layers), 2, inputs.backbone.info.hidden_size)
    for batch in scoring_batches(numbered, _MAX_TOKENS):
        features[[row.row for row in batch]] = torch.stack(pooled_by_layer(inputs, batch, layers)).float().cpu()
    return features


def start_of_head(inputs: Inputs, rows: Sequence[Encoded], num_labels: int) -> Weights:
    """Where label vectors begin that have no words to begin at: a probe of the last states of the training rows.

    The penalty is chosen by folds of the training rows. Without rows of two labels all labels begin alike.

    Args:
        inputs: of the model.
        rows: training rows; those whose label is unknown are left out.
        num_labels: C.
    """
    known = [row for row in rows if row.label is not None]
    gold = torch.tensor([row.label for row in known], dtype=torch.long)
    if len(set(gold.tolist())) < 2:
        return torch.zeros(num_labels, inputs.backbone.info.hidden_size), torch.zeros(num_labels)
    is_mean = int(getattr(known[0].target, "read", None) == "mean")
    layers = (inputs.backbone.info.num_layers,)
    features, factors = pooled_features(inputs, known, layers)[:, 0, is_mean].double(), [r.target.weight for r in known]
    folds = torch.zeros(len(gold), dtype=torch.long)
    for label in set(gold.tolist()):
        of_label = gold == label
        folds[of_label] = torch.arange(int(of_label.sum())) % _FOLDS
    losses = []
    for penalty in PENALTIES if int(gold.bincount().max()) > 1 else PENALTIES[1:2]:
        loss = 0.0
        for fold in range(_FOLDS):
            outside = folds != fold
            if len(set(gold[outside].tolist())) < 2 or bool(outside.all()):
                continue
            kept = [factor for factor, is_out in zip(factors, outside.tolist(), strict=True) if is_out]
            weight, bias = fitted(features[outside], gold[outside], kept, num_labels, penalty)
            scores = (features[~outside].float() @ weight.T + bias).log_softmax(1)
            loss -= float(scores.gather(1, gold[~outside][:, None]).sum())
        losses.append((loss, penalty))
    return fitted(features, gold, factors, num_labels, min(losses)[1])
