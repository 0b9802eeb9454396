"""Linear head on frozen features: logistic regression on the hidden state that the label is read from.

    p(c | x) = softmax_c(w_c . (h(x) - m) / s + b_c),   m and s the training rows' mean and deviation of each feature

The features are computed once; the strength of the L2 penalty is chosen on validation rows, and so are the layer and
what is read there, where they are searched: first by one penalty, then the best few by all. Trained values: C D + C,
with both states side by side 2 C D + C.

Source: Alain and Bengio 2017, "Understanding intermediate layers using linear classifier probes"; the way of choosing
the penalty: Radford et al. 2021, "Learning Transferable Visual Models From Natural Language Supervision", appendix A.3.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from pydantic import JsonValue
from torch import Tensor

from overture.baseline.base import Built, Request
from overture.baseline.features import features_of
from overture.baseline.options import LinearOptions
from overture.core.contracts import LabelScores, Question, T
from overture.core.errors import ConfigError, DataError
from overture.core.rows import Encoded
from overture.engine.backbone import Backbone
from overture.engine.cache import InputCache
from overture.engine.inputs import Inputs
from overture.evaluate.probe import fitted, pooled_features

_MAX_TOKENS = 4096
_SEARCHED = ("read", "mean", "read+mean")
_FIRST_PENALTY = 0.1
_FINALISTS = 3


@dataclass(frozen=True, slots=True)
class Reading:
    """What a linear head reads of a row.

    Args:
        features: the state that the label is read from, the mean, or both.
        layer: how many layers they have passed.
        is_last: all of them, and the norm behind them.
    """

    features: str
    layer: int
    is_last: bool

    def of(self, pooled: Tensor) -> Tensor:
        """The features, [B, D] or [B, 2 D], of read state and mean, [B, 2, D]."""
        parts = {"read": pooled[:, 0], "mean": pooled[:, 1], "read+mean": pooled.flatten(1)}
        return parts[self.features]


class LinearHead:
    """A linear map on frozen features; meets `core.contracts.Scorer`.

    Args:
        backbone: the frozen model.
        weight: of the labels, [C, D].
        bias: [C].
        reading: which features.
        cache: keeps what rows give; None computes it each time.
    """

    def __init__(
        self, backbone: Backbone, weight: Tensor, bias: Tensor, reading: Reading, cache: InputCache | None = None
    ) -> None:
        self.backbone, self.values = backbone, {"weight": weight, "bias": bias}
        self.reading, self.cache = reading, cache

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
        return list(self.scores_of(_features(self.backbone, self.cache, rows, self.reading)))

    def scores_of(self, features: Tensor) -> Tensor:
        """Log-probabilities of the labels, [B, C], from features [B, D]."""
        return torch.nn.functional.linear(features, self.values["weight"], self.values["bias"]).log_softmax(dim=1)


def build(request: Request) -> Built:
    """The head that is best on validation rows; features are computed once.

    Raises:
        ConfigError: the model has no such layer.
        DataError: all training rows have one label.
    """
    options: LinearOptions = request.options
    gold = {name: torch.tensor([row.label for row in request.rows[name]]) for name in ("train", "validation")}
    if len(set(gold["train"].tolist())) < 2:
        raise DataError("a linear head needs training rows of two labels", got="rows of one label")
    candidates = _candidates(request, _readings(options, request.backbone))
    if len(candidates) > _FINALISTS:
        first = {
            reading: _best(request, features, gold, reading, (_FIRST_PENALTY,))
            for reading, features in candidates.items()
        }
        finalists = sorted(candidates, key=lambda reading: first[reading][0], reverse=True)[:_FINALISTS]
        candidates = {reading: candidates[reading] for reading in finalists}
    choices = [_best(request, features, gold, reading, options.penalties) for reading, features in candidates.items()]
    _, head, penalty = max(choices, key=lambda choice: choice[0])
    values = head.values
    facts: dict[str, JsonValue] = {"penalty": penalty, "features": head.reading.features}
    if options.layer != "last":
        facts["layer"] = head.reading.layer
    return Built(
        head,
        request.rows,
        num_trainable=sum(value.numel() for value in values.values()),
        stored_bytes=sum(value.numel() * value.element_size() for value in values.values()),
        facts=facts,
    )


def _readings(options: LinearOptions, backbone: Backbone) -> list[Reading]:
    """All that may be read."""
    num_layers = backbone.info.num_layers
    if isinstance(options.layer, int) and options.layer > num_layers:
        raise ConfigError(
            "the model has no such layer",
            where="layer",
            got=str(options.layer),
            wanted=f"0 to {num_layers}, last or search",
        )
    layers = [num_layers] if options.layer == "last" else [options.layer]
    searched = range(num_layers + 1) if options.layer == "search" else layers
    features = _SEARCHED if options.features == "search" else (options.features,)
    return [Reading(name, int(layer), layer == num_layers) for layer in searched for name in features]


Features = Mapping[str, Tensor]
"""Features by split, float64."""


def _candidates(request: Request, readings: Sequence[Reading]) -> dict[Reading, Features]:
    """Features of all readings; the model runs once."""
    backbone, splits = request.backbone, ("train", "validation")
    if len(readings) == 1:
        (reading,) = readings
        return {
            reading: {name: _features(backbone, request.cache, request.rows[name], reading).double() for name in splits}
        }
    layers = tuple(sorted({reading.layer for reading in readings}))
    inputs = Inputs(backbone, request.cache, _MAX_TOKENS)
    pooled = {name: pooled_features(inputs, request.rows[name], layers) for name in splits}
    return {
        reading: {name: reading.of(pooled[name][:, layers.index(reading.layer)]).double() for name in splits}
        for reading in readings
    }


def _features(backbone: Backbone, cache: InputCache | None, rows: Sequence[Encoded], reading: Reading) -> Tensor:
    """What a head reads of rows, float32."""
    if reading.is_last and reading.features != "read+mean" and backbone.family.has_words:
        return features_of(backbone, rows, reading.features == "mean")
    return reading.of(pooled_features(Inputs(backbone, cache, _MAX_TOKENS), rows, (reading.layer,))[:, 0])


def _best(
    request: Request, features: Features, gold: Mapping[str, Tensor], reading: Reading, penalties: Sequence[float]
) -> tuple[tuple[float, float], LinearHead, float]:
    """The best of several penalties: its quality on validation rows, the head, the penalty."""
    factors = [row.target.weight for row in request.rows["train"]]
    num_labels, choices = len(request.task.words), []
    for penalty in penalties:
        weight, bias = fitted(features["train"], gold["train"], factors, num_labels, penalty)
        head = LinearHead(request.backbone, weight, bias, reading, request.cache)
        choices.append((_quality(head, features["validation"], gold["validation"]), head, penalty))
    return max(choices, key=lambda choice: choice[0])


def _quality(head: LinearHead, features: Tensor, gold: Tensor) -> tuple[float, float]:
    """Accuracy, then the likelihood, on validation rows."""
    scores = head.scores_of(features.float())
    is_right = scores.argmax(1) == gold
    return float(is_right.float().mean()), float(scores.gather(1, gold[:, None]).mean())
