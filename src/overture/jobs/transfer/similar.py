"""Which stored prompts of the same model are like a given one: where to start when a task is new.

Source: Vu et al. 2022, "SPoT: Better Frozen Model Adaptation through Soft Prompt Transfer", section 3 (a prompt is its
task's embedding), with both of its measures. Keys and values are compared in the same two ways: keys with keys, values
with values, layer by layer, and the cosines averaged.

Shape letters: S slices that are compared with each other (one for vectors, each layer's keys and values for memory),
P prompt length, W width of what stands for a token.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from overture.core.errors import ArtifactError, ConfigError
from overture.engine.families import FAMILIES
from overture.store.artifact import load_artifact
from overture.store.manifest import Manifest
from overture.store.store import Entry, Store

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Points:
    """A prompt as points that can be compared.

    Args:
        kind: what the points are; only points of one kind can be compared.
        tokens: one point a token, float32 [S, P, W].
        weights: how much each token counts, [S, P].
    """

    kind: str
    tokens: Tensor
    weights: Tensor


def points_of(manifest: Manifest, tensors: dict[str, Tensor]) -> Points | None:
    """A prompt's points; none when it depends on the row."""
    if "vectors" in tensors:
        tokens = tensors["vectors"].float()[None]
        kind = f"vectors at layer {manifest.layer}{_side(manifest)}" if manifest.layer else "vectors"
        return Points(kind, tokens, torch.ones(tokens.shape[:2]))
    if "keys" not in tensors:
        return None
    # [N, H, P, K] each: a token is its heads' keys, or values, side by side.
    parts = [tensors[name].float().transpose(1, 2).flatten(2) for name in ("keys", "values")]
    own = tensors.get("weights")
    weights = torch.ones(parts[0].shape[:2]) if own is None else own.float()
    return Points(f"keys and values{_side(manifest)}", torch.cat(parts), torch.cat([weights, weights]))


def _side(manifest: Manifest) -> str:
    """Of which side of an encoder-decoder its layers are; nothing where there are no sides."""
    family = FAMILIES.get(manifest.backbone.model_type)
    if family is None or family.kind != "encoder-decoder":
        return ""
    return " of the decoder" if manifest.place == "after" else " of the encoder"


def average_cosine(a: Points, b: Points) -> float:
    """Cosine of the average tokens."""
    one, other = [(each.tokens * each.weights[..., None]).sum(1) for each in (a, b)]
    return float(torch.nn.functional.cosine_similarity(one, other, dim=-1).mean())


def pairwise_cosine(a: Points, b: Points) -> float:
    """Mean cosine over all pairs of a token of the one and a token of the other."""
    units = [torch.nn.functional.normalize(each.tokens, dim=-1) for each in (a, b)]
    cosines = units[0] @ units[1].transpose(1, 2)
    weights = a.weights[:, :, None] * b.weights[:, None, :]
    # A layer whose columns all weigh nothing has no say.
    total = weights.sum((1, 2))
    means = (cosines * weights).sum((1, 2))[total > 0] / total[total > 0]
    return float(means.mean())


def similar(ref: str | Path, store: Store, progress: Progress = lambda what, done, total: None) -> dict[str, Any]:
    """Stored prompts of the same model, the most similar first.

    Args:
        ref: ``name``, ``name@2``, or a prompt's folder.
        store: where the others are.
        progress: called with (what, done, all).

    Returns:
        What ``overture similar --json`` prints: the prompts with both similarities, and how many were left out and why.

    Raises:
        StoreError: no such prompt.
        ArtifactError: it is damaged.
        ConfigError: it depends on the row, so it is no point.
    """
    folder = store.get(ref)
    manifest, tensors = load_artifact(folder)
    own = points_of(manifest, tensors)
    if own is None:
        raise ConfigError(
            "a prompt that depends on the row cannot be compared",
            where=str(ref),
            got=f"method {manifest.method}",
            wanted="vectors, or keys and values",
        )
    left_out: Counter[str] = Counter()
    found: list[dict[str, Any]] = []
    entries = [entry for entry in store.list() if entry.folder.resolve() != folder.resolve()]
    for done, entry in enumerate(entries, 1):
        other = _compared(manifest, own, entry)
        if isinstance(other, str):
            left_out[other] += 1
        else:
            found.append(other)
        progress("comparing prompts", done, len(entries))
    return {
        "prompt": f"{manifest.name}@{manifest.version}" if manifest.version else manifest.name,
        "backbone": manifest.backbone.id,
        "kind": own.kind,
        "similar": sorted(found, key=lambda one: -one["average"]),
        "left_out": dict(left_out),
    }


def _compared(manifest: Manifest, own: Points, entry: Entry) -> dict[str, Any] | str:
    """A prompt beside the given one, or why it cannot be compared."""
    if entry.manifest is None:
        return "damaged"
    if entry.manifest.backbone.weights_sha256 != manifest.backbone.weights_sha256:
        return "of another model"
    try:
        points = points_of(*load_artifact(entry.folder))
    except ArtifactError:
        return "damaged"
    if points is None:
        return "depends on the row"
    if points.kind != own.kind:
        return points.kind
    return {
        "prompt": f"{entry.name}@{entry.version}",
        "task": entry.manifest.task.get("name", ""),
        "method": entry.manifest.method,
        "place": entry.manifest.place,
        "length": entry.manifest.length,
        "layer": entry.manifest.layer,
        "average": average_cosine(own, points),
        "pairs": pairwise_cosine(own, points),
    }
