"""Linear head on frozen features: logistic regression on the hidden state that the label is read from.

    p(c | x) = softmax_c(w_c . (h(x) - m) / s + b_c),   m and s the training rows' mean and deviation of each feature

The features are computed once; the strength of the L2 penalty is chosen on validation rows, and so are the layer and
what is read there, where they are searched: first by one penalty, then the best few by all. Trained values: C D + C,
with both states side by side 2 C D + C.

Source: Alain and Bengio 2017, "Understanding intermediate layers using linear classifier probes"; the way of choosing
the penalty: Radford et al. 2021, "Learning Transferable Visual Models From Natural Language Supervision", appendix A.3.
"""

from collections.abc import Sequence

import torch
from pydantic import JsonValue
from torch import Tensor

from overture.baseline.base import Built, Request
from overture.baseline.features import features_of
from overture.baseline.options import LinearOptions
from overture.core.contracts import LabelScores, Question, T
from overture.core.errors import ConfigError, DataError
from overture.core.injection import ReadAt
from overture.core.rows import Encoded
from overture.engine.backbone import Backbone
from overture.engine.cache import InputCache
from overture.engine.inputs import Inputs
from overture.evaluate.probe import Features, all_readings, best_probe, of_states, pooled_features, readings

_MAX_TOKENS = 4096


class LinearHead:
    """A linear map on frozen features; meets `core.contracts.Scorer`.

    Args:
        backbone: the frozen model.
        weight: of the labels, [C, D].
        bias: [C].
        read_at: which features; with a numbered layer.
        cache: of the rows' features; None computes them each time.
    """

    def __init__(
        self, backbone: Backbone, weight: Tensor, bias: Tensor, read_at: ReadAt, cache: InputCache | None = None
    ) -> None:
        self.backbone, self.values = backbone, {"weight": weight, "bias": bias}
        self.read_at, self.cache = read_at, cache

    def ask(self, rows: Sequence[Encoded], question: Question[T]) -> list[T]:
        """Label scores; a linear head has no other replies.

        Raises:
            DataError: it is another question.
        """
        if not isinstance(question, LabelScores):
            raise DataError(
                "a linear head answers with one label alone",
                got=type(question).__name__,
                fix="choose another baseline for this kind of task",
            )
        return list(self.scores_of(_features(self.backbone, self.cache, rows, self.read_at)))

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
    candidates = _candidates(request, _places_to_read(options, request.backbone))
    probe = best_probe(candidates, request.rows, len(request.task.words), options.penalties)
    head = LinearHead(request.backbone, probe.weight, probe.bias, probe.read_at, request.cache)
    values = head.values
    facts: dict[str, JsonValue] = {"penalty": probe.penalty, "features": probe.read_at.features}
    if options.layer != "last":
        facts["layer"] = probe.read_at.layer
    return Built(
        head,
        request.rows,
        num_trainable=sum(value.numel() for value in values.values()),
        stored_bytes=sum(value.numel() * value.element_size() for value in values.values()),
        facts=facts,
    )


def _places_to_read(options: LinearOptions, backbone: Backbone) -> list[ReadAt]:
    """The layers and features that the options allow."""
    num_layers = backbone.info.num_layers
    if isinstance(options.layer, int) and options.layer > num_layers:
        raise ConfigError(
            "the model has no such layer",
            where="layer",
            got=str(options.layer),
            wanted=f"0 to {num_layers}, last or search",
        )
    layer = num_layers if options.layer == "last" else options.layer
    return [
        read_at
        for read_at in all_readings(num_layers)
        if layer in (read_at.layer, "search") and options.features in (read_at.features, "search")
    ]


def _candidates(request: Request, places: Sequence[ReadAt]) -> dict[ReadAt, Features]:
    """Features of all readings; the model runs once."""
    if len(places) > 1:
        return readings(Inputs(request.backbone, request.cache, _MAX_TOKENS), request.rows, places)
    (read_at,) = places
    features = {
        name: _features(request.backbone, request.cache, request.rows[name], read_at).double()
        for name in ("train", "validation")
    }
    return {read_at: features}


def _features(backbone: Backbone, cache: InputCache | None, rows: Sequence[Encoded], read_at: ReadAt) -> Tensor:
    """Features of rows that the linear head classifies, float32."""
    assert read_at.layer is not None
    assert read_at.features is not None
    is_last = read_at.layer == backbone.info.num_layers
    if is_last and read_at.features != "read+mean" and backbone.family.has_words:
        return features_of(backbone, rows, read_at.features == "mean")
    pooled = pooled_features(Inputs(backbone, cache, _MAX_TOKENS), rows, (read_at.layer,))[:, 0]
    return of_states(pooled, read_at.features)
