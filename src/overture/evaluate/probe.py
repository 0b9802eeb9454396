"""Linear probes: multinomial logistic regression on frozen features, and the features themselves.

    p(c | x) = softmax_c(w_c . (h(x) - m) / s + b_c),   m and s the training rows' mean and deviation of each feature

Mean and deviation are folded into the weights, so that a probe is C vectors and C biases for features as they are.

Shape letters: B rows, D width, C labels.

Source: Alain and Bengio 2017, "Understanding intermediate layers using linear classifier probes".
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from overture.core.errors import DataError
from overture.core.injection import Pooled, ReadAt
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
_SEARCHED: tuple[Pooled, ...] = ("read", "mean", "read+mean")
_FIRST_PENALTY = 0.1
_FINALISTS = 3
Weights = tuple[Tensor, Tensor]
"""Weight [C, D] and bias [C]."""
Features = Mapping[str, Tensor]
"""Features of training and validation rows, float64 [B, D]."""


@dataclass(frozen=True, slots=True)
class Probe:
    """A linear probe that was chosen on validation rows.

    Args:
        read_at: its layer, as a number, and its features.
        weight: of the labels, [C, D], of both states side by side [C, 2 D].
        bias: [C].
        penalty: inverse strength of its L2 penalty.
        quality: accuracy on the validation rows, and their mean log-likelihood.
    """

    read_at: ReadAt
    weight: Tensor
    bias: Tensor
    penalty: float
    quality: tuple[float, float]


def all_readings(num_layers: int, lowest: int = 0) -> list[ReadAt]:
    """All that a probe may read: the states of each layer, after the last one with the norm behind it."""
    return [ReadAt(layer, features) for layer in range(lowest, num_layers + 1) for features in _SEARCHED]


def of_states(states: Tensor, features: Pooled) -> Tensor:
    """Features, [B, D] or [B, 2 D], of read states and means, [B, 2, D]."""
    return {"read": states[:, 0], "mean": states[:, 1], "read+mean": states.flatten(1)}[features]


def readings(inputs: Inputs, rows: Mapping[str, Sequence[Encoded]], places: Iterable[ReadAt]) -> dict[ReadAt, Features]:
    """Features of training and validation rows; the model runs once.

    Args:
        inputs: of the model.
        rows: split -> rows.
        places: layers, as numbers, and features.
    """
    places = list(places)
    layers = tuple(sorted({read_at.layer for read_at in places if read_at.layer is not None}))
    states = {name: pooled_features(inputs, rows[name], layers).double() for name in ("train", "validation")}
    return {
        read_at: {
            name: of_states(values[:, layers.index(read_at.layer or 0)], read_at.features or "read")
            for name, values in states.items()
        }
        for read_at in places
    }


def best_probe(
    candidates: Mapping[ReadAt, Features],
    rows: Mapping[str, Sequence[Encoded]],
    num_labels: int,
    penalties: Sequence[float],
) -> Probe:
    """The probe that is best on validation rows; of many readings the best few by one penalty are tried with all.

    Raises:
        DataError: all training rows have one label.
    """
    gold = {name: torch.tensor([row.label for row in rows[name]]) for name in ("train", "validation")}
    if len(set(gold["train"].tolist())) < 2:
        raise DataError("a linear probe needs training rows of two labels", got="rows of one label")
    factors = [row.target.weight for row in rows["train"]]

    def best(read_at: ReadAt, some_penalties: Sequence[float]) -> Probe:
        features, probes = candidates[read_at], []
        for penalty in some_penalties:
            weight, bias = fitted(features["train"], gold["train"], factors, num_labels, penalty)
            scores = torch.nn.functional.linear(features["validation"].float(), weight, bias).log_softmax(dim=1)
            is_right = (scores.argmax(1) == gold["validation"]).float()
            likelihood = float(scores.gather(1, gold["validation"][:, None]).mean())
            probes.append(Probe(read_at, weight, bias, penalty, (float(is_right.mean()), likelihood)))
        return max(probes, key=lambda probe: probe.quality)

    finalists = list(candidates)
    if len(finalists) > _FINALISTS:
        first = {read_at: best(read_at, (_FIRST_PENALTY,)) for read_at in finalists}
        finalists = sorted(finalists, key=lambda read_at: first[read_at].quality, reverse=True)[:_FINALISTS]
    return max((best(read_at, penalties) for read_at in finalists), key=lambda probe: probe.quality)


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
    numbered_rows = [replace(row, row=index) for index, row in enumerate(rows)]
    features = torch.empty(len(rows), len(layers), 2, inputs.backbone.info.hidden_size)
    for batch in scoring_batches(numbered_rows, _MAX_TOKENS):
        features[[row.row for row in batch]] = torch.stack(pooled_by_layer(inputs, batch, layers)).float().cpu()
    return features


def start_of_head(inputs: Inputs, rows: Sequence[Encoded], num_labels: int, read_at: ReadAt | None = None) -> Weights:
    """Where label vectors begin that have no words to begin at: a probe of states of the training rows.

    The penalty is chosen by folds of the training rows. Without rows of two labels all labels begin alike.

    Args:
        inputs: of the model.
        rows: training rows; those whose label is unknown are left out.
        num_labels: C.
        read_at: which states; the last, as the rows' targets say, when None.
    """
    labelled_rows = [row for row in rows if row.label is not None]
    gold = torch.tensor([row.label for row in labelled_rows], dtype=torch.long)
    if len(set(gold.tolist())) < 2:
        width = 2 if read_at and read_at.features == "read+mean" else 1
        return torch.zeros(num_labels, width * inputs.backbone.info.hidden_size), torch.zeros(num_labels)
    default: Pooled = "mean" if getattr(labelled_rows[0].target, "read", None) == "mean" else "read"
    layer = read_at.layer if read_at and read_at.layer is not None else inputs.backbone.info.num_layers
    states = pooled_features(inputs, labelled_rows, (layer,))[:, 0].double()
    features = of_states(states, read_at.features or default if read_at else default)
    factors = [row.target.weight for row in labelled_rows]
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
            fold_factors = [factor for factor, is_out in zip(factors, outside.tolist(), strict=True) if is_out]
            weight, bias = fitted(features[outside], gold[outside], fold_factors, num_labels, penalty)
            scores = (features[~outside].float() @ weight.T + bias).log_softmax(1)
            loss -= float(scores.gather(1, gold[~outside][:, None]).sum())
        losses.append((loss, penalty))
    return fitted(features, gold, factors, num_labels, min(losses)[1])
