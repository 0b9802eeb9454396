"""The differences between two prompts, for people who ask why one is better."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from overture.core.records.base import Record, optional
from overture.store.artifact import load_artifact
from overture.store.manifest import Manifest

if TYPE_CHECKING:
    import torch

_NOT_CONFIG = {"format_version", "metrics", "tensors_sha256", "manifest_sha256", "created", "seconds", "shares"}


class ValuePair(Record):
    """An option of both prompts."""

    a: Any = Field(description="the first prompt's; none where it has no such option")
    b: Any = Field(description="the second prompt's")


class ScorePair(Record):
    """A score of both prompts."""

    a: float | None = Field(description="the first prompt's; none where it was not measured")
    b: float | None = Field(description="the second prompt's")
    difference: float | None = optional("the second minus the first, where both were measured")


class TensorFacts(Record):
    """Shape and length of a tensor."""

    shape: list[int] = Field(description="its shape")
    norm: float = Field(description="its Euclidean norm")


class TensorPair(Record):
    """A tensor of both prompts."""

    a: TensorFacts | None = Field(description="the first prompt's; none where it has no such tensor")
    b: TensorFacts | None = Field(description="the second prompt's")
    max_difference: float | None = optional("largest absolute difference, where the shapes are equal")
    cosine: float | None = optional("cosine of the two, where the shapes are equal and neither is zero")


class PromptDiff(Record):
    """Two prompts side by side."""

    a: str = Field(description="the first prompt")
    b: str = Field(description="the second prompt")
    config: dict[str, ValuePair] = Field(description="dotted option -> the two values, where they differ")
    metrics: dict[str, ScorePair] = Field(description="dotted score -> the two values")
    tensors: dict[str, TensorPair] = Field(description="tensor -> the two")
    is_same_prompt: bool = Field(description="whether the tensors are bit-equal")


def difference(a: Path, b: Path) -> PromptDiff:
    """Two prompt folders side by side.

    Raises:
        ArtifactError: one of them cannot be read.
    """
    (manifest_a, tensors_a), (manifest_b, tensors_b) = (load_artifact(folder, may_draw=True) for folder in (a, b))
    config_a, config_b = _config(manifest_a), _config(manifest_b)
    scores_a, scores_b = ({name: value for name, value, _ in m.metrics.named()} for m in (manifest_a, manifest_b))
    return PromptDiff(
        a=f"{manifest_a.name}@{manifest_a.version}",
        b=f"{manifest_b.name}@{manifest_b.version}",
        config={
            name: ValuePair(a=config_a.get(name), b=config_b.get(name))
            for name in config_a | config_b
            if config_a.get(name) != config_b.get(name)
        },
        metrics={name: _scores(scores_a.get(name), scores_b.get(name)) for name in scores_a | scores_b},
        tensors={
            name: _tensors(tensors_a.get(name), tensors_b.get(name))
            for name in sorted(tensors_a.keys() | tensors_b.keys())
        },
        is_same_prompt=manifest_a.tensors_sha256 == manifest_b.tensors_sha256,
    )


def _config(manifest: Manifest) -> dict[str, Any]:
    return _flat(manifest.model_dump(mode="json", exclude=_NOT_CONFIG))


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return flat


def _scores(a: float | None, b: float | None) -> ScorePair:
    return ScorePair(a=a, b=b, difference=None if a is None or b is None else b - a)


def _tensors(a: "torch.Tensor | None", b: "torch.Tensor | None") -> TensorPair:
    side_a, side_b = (
        None if tensor is None else TensorFacts(shape=list(tensor.shape), norm=float(tensor.double().norm()))
        for tensor in (a, b)
    )
    if a is None or b is None or a.shape != b.shape:
        return TensorPair(a=side_a, b=side_b)
    flat_a, flat_b = a.double().flatten(), b.double().flatten()
    norms = float(flat_a.norm() * flat_b.norm())
    return TensorPair(
        a=side_a,
        b=side_b,
        max_difference=float((flat_a - flat_b).abs().max()),
        # The angle to a tensor of zeros does not exist.
        cosine=float(flat_a @ flat_b) / norms if norms else None,
    )
