"""Linear head on frozen features: logistic regression on the hidden state that the label is read from.

    p(c | x) = softmax_c(w_c . (h(x) - m) / s + b_c),   m and s the training rows' mean and deviation of each feature

The features are computed once; the strength of the L2 penalty is chosen on validation rows. Trained values: C D + C.

Source: Alain and Bengio 2017, "Understanding intermediate layers using linear classifier probes"; the way of choosing
the penalty: Radford et al. 2021, "Learning Transferable Visual Models From Natural Language Supervision", appendix A.3.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from overture.baseline.base import Built, Request
from overture.baseline.features import features_of
from overture.baseline.options import LinearOptions
from overture.core.contracts import LabelScores, Question, T
from overture.core.errors import DataError
from overture.core.rows import Encoded
from overture.engine.backbone import Backbone

_NEVER = -1e4
"""Logit of a label that no training row has."""


class LinearHead:
    """A linear map on frozen features; meets `core.contracts.Scorer`.

    Args:
        backbone: the frozen model.
        weight: of the labels, [C, D].
        bias: [C].
        is_mean: which features.
    """

    def __init__(self, backbone: Backbone, weight: Tensor, bias: Tensor, is_mean: bool) -> None:
        self.backbone, self.values, self.is_mean = backbone, {"weight": weight, "bias": bias}, is_mean

    def ask(self, rows: Sequence[Encoded], question: Question[T]) -> list[T]:
        """Label scores; a linear head has no other replies.

        Raises:
            DataError: something else is asked.
        """
        if not isinstance(question, LabelScores):
            raise DataError(
                "a linear head answers with one label alone",
                got=type(question).__name__,
                fix="choose another baseline for this kind of task",
            )
        scores = self.scores_of(features_of(self.backbone, rows, self.is_mean))
        return list(scores)

    def scores_of(self, features: Tensor) -> Tensor:
        """Log-probabilities of the labels, [B, C], from features [B, D]."""
        return torch.nn.functional.linear(features, self.values["weight"], self.values["bias"]).log_softmax(dim=1)


def build(request: Request) -> Built:
    """The head with the best penalty on validation rows; features are computed once.

    Raises:
        DataError: all training rows have one label.
    """
    options: LinearOptions = request.options
    is_mean = options.features == "mean"
    features = {
        name: features_of(request.backbone, request.rows[name], is_mean).double() for name in ("train", "validation")
    }
    gold = {name: torch.tensor([row.label for row in request.rows[name]]) for name in features}
    if len(set(gold["train"].tolist())) < 2:
        raise DataError("a linear head needs training rows of two labels", got="rows of one label")
    heads = [_fitted(request, options, features["train"], gold["train"], penalty) for penalty in options.penalties]
    quality = [_quality(head, features["validation"], gold["validation"]) for head in heads]
    best = max(range(len(heads)), key=quality.__getitem__)
    head = heads[best]
    values = head.values
    return Built(
        head,
        request.rows,
        num_trainable=sum(value.numel() for value in values.values()),
        stored_bytes=sum(value.numel() * value.element_size() for value in values.values()),
        facts={"penalty": options.penalties[best], "features": options.features},
    )


def _fitted(request: Request, options: LinearOptions, features: Tensor, gold: Tensor, penalty: float) -> LinearHead:
    """The head whose map holds mean and deviation of the features already."""
    from sklearn.linear_model import LogisticRegression

    mean, deviation = features.mean(0), features.std(0, correction=0).clamp_min(1e-6)
    solver = LogisticRegression(C=penalty, max_iter=10_000)
    weights = [row.target.weight for row in request.rows["train"]]
    solver.fit(((features - mean) / deviation).numpy(), gold.numpy(), sample_weight=weights)
    coefficients, intercepts = solver.coef_, solver.intercept_
    if len(solver.classes_) == 2:
        # One logit for two labels: the first one's is zero.
        coefficients = np.concatenate([np.zeros_like(coefficients), coefficients])
        intercepts = np.concatenate([np.zeros_like(intercepts), intercepts])
    num_labels = len(request.task.words)
    weight = features.new_zeros(num_labels, features.shape[1])
    bias = features.new_full((num_labels,), _NEVER)
    weight[solver.classes_] = torch.as_tensor(coefficients) / deviation
    bias[solver.classes_] = torch.as_tensor(intercepts) - weight[solver.classes_] @ mean
    return LinearHead(request.backbone, weight.float(), bias.float(), options.features == "mean")


def _quality(head: LinearHead, features: Tensor, gold: Tensor) -> tuple[float, float]:
    """Accuracy, then the likelihood, on validation rows."""
    scores = head.scores_of(features.float())
    is_right = scores.argmax(1) == gold
    return float(is_right.float().mean()), float(scores.gather(1, gold[:, None]).mean())
