"""What differs between two prompts, for people who ask why one is better."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from overture.store.artifact import load_artifact
from overture.store.manifest import Manifest

if TYPE_CHECKING:
    import torch

_NOT_CONFIG = {"format_version", "metrics", "tensors_sha256", "created", "seconds"}


def difference(a: Path, b: Path) -> dict[str, Any]:
    """Two prompt folders side by side; the result can be written as JSON.

    Returns:
        ``config``: dotted option -> the two values, where they differ.
        ``metrics``: score -> the two values, and b minus a where both were measured.
        ``tensors``: name -> shapes and norms; largest difference and cosine where the shapes are equal.
        ``is_same_prompt``: whether the tensors are bit-equal.

    Raises:
        ArtifactError: one of them cannot be read.
    """
    (manifest_a, tensors_a), (manifest_b, tensors_b) = load_artifact(a), load_artifact(b)
    names = sorted(tensors_a.keys() | tensors_b.keys())
    return {
        "a": f"{manifest_a.name}@{manifest_a.version}",
        "b": f"{manifest_b.name}@{manifest_b.version}",
        "config": _unequal(_config(manifest_a), _config(manifest_b)),
        "metrics": _metrics(manifest_a, manifest_b),
        "tensors": {name: _tensors(tensors_a.get(name), tensors_b.get(name)) for name in names},
        "is_same_prompt": manifest_a.tensors_sha256 == manifest_b.tensors_sha256,
    }


def _config(manifest: Manifest) -> dict[str, Any]:
    return _flat(manifest.model_dump(mode="json", exclude=_NOT_CONFIG))


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in values.items():
        found |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return found


def _unequal(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, Any]:
    names = [*a, *(name for name in b if name not in a)]
    return {name: {"a": a.get(name), "b": b.get(name)} for name in names if a.get(name) != b.get(name)}


def _metrics(a: Manifest, b: Manifest) -> dict[str, Any]:
    values_a, values_b = ({name: value for name, value, _ in m.metrics.named()} for m in (a, b))
    found = {}
    for name in [*values_a, *(name for name in values_b if name not in values_a)]:
        pair = {"a": values_a.get(name), "b": values_b.get(name)}
        is_pair = name in values_a and name in values_b
        found[name] = {**pair, "difference": values_b[name] - values_a[name]} if is_pair else pair
    return found


def _tensors(a: "torch.Tensor | None", b: "torch.Tensor | None") -> dict[str, Any]:
    sides: dict[str, Any] = {
        side: None if tensor is None else {"shape": list(tensor.shape), "norm": float(tensor.double().norm())}
        for side, tensor in (("a", a), ("b", b))
    }
    if a is None or b is None or a.shape != b.shape:
        return sides
    flat_a, flat_b = a.double().flatten(), b.double().flatten()
    norms = float(flat_a.norm() * flat_b.norm())
    # The angle to a tensor of zeros does not exist.
    cosine = float(flat_a @ flat_b) / norms if norms else None
    return {**sides, "max_difference": float((flat_a - flat_b).abs().max()), "cosine": cosine}
