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

import torch
from torch import Tensor

from overture.core.errors import ArtifactError, ConfigError
from overture.core.records.transfer import SimilarPrompt, SimilarResult
from overture.engine.families import FAMILIES
from overture.store.artifact import load_artifact
from overture.store.manifest import Manifest
from overture.store.store import Entry, Store

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Points:
    """A prompt as points that can be compared.

    Args:
        kind: vectors, or keys and values, and of which layers; only points of one kind can be compared.
        tokens: one point for each token, float32 [S, P, W].
        weights: how much each token counts, [S, P].
    """

    kind: str
    tokens: Tensor
    weights: Tensor


def points_of(manifest: Manifest, tensors: dict[str, Tensor]) -> Points | None:
    """A prompt's points; None when it depends on the row."""
    if "vectors" in tensors:
        tokens = tensors["vectors"].float()[None]
        kind = f"vectors at layer {manifest.layer}{_side(manifest)}" if manifest.layer else "vectors"
        return Points(kind, tokens, torch.ones(tokens.shape[:2]))
    if "keys" not in tensors:
        return None
    # [N, H, P, K] each: a token is its heads' keys, or values, side by side.
    parts = [tensors[name].float().transpose(1, 2).flatten(2) for name in ("keys", "values")]
    weights = tensors["weights"].float() if "weights" in tensors else torch.ones(parts[0].shape[:2])
    return Points(f"keys and values{_side(manifest)}", torch.cat(parts), torch.cat([weights, weights]))


def _side(manifest: Manifest) -> str:
    """The side of an encoder-decoder that its layers are on; empty for other models."""
    family = FAMILIES.get(manifest.backbone.model_type)
    if family is None or family.kind != "encoder-decoder":
        return ""
    return " of the decoder" if manifest.place == "after" else " of the encoder"


def average_cosine(a: Points, b: Points) -> float:
    """Cosine of the average tokens."""
    sum_a, sum_b = [(points.tokens * points.weights[..., None]).sum(1) for points in (a, b)]
    return float(torch.nn.functional.cosine_similarity(sum_a, sum_b, dim=-1).mean())


def pairwise_cosine(a: Points, b: Points) -> float:
    """Mean cosine over all pairs of a token of one prompt and a token of the other."""
    units_a, units_b = [torch.nn.functional.normalize(points.tokens, dim=-1) for points in (a, b)]
    cosines = units_a @ units_b.transpose(1, 2)
    weights = a.weights[:, :, None] * b.weights[:, None, :]
    # A layer whose columns all have weight 0 does not count.
    total = weights.sum((1, 2))
    means = (cosines * weights).sum((1, 2))[total > 0] / total[total > 0]
    return float(means.mean())


def similar(ref: str | Path, store: Store, progress: Progress = lambda what, done, total: None) -> SimilarResult:
    """Compare a prompt with the stored prompts of the same model; gives the most similar first.

    Args:
        ref: ``name``, ``name@2``, or a prompt's folder.
        store: where the others are.
        progress: called with (what, done, all).

    Raises:
        StoreError: no such prompt.
        ArtifactError: it is damaged.
        ConfigError: it depends on the row, so it is no point.
    """
    folder = store.get(ref)
    manifest, tensors = load_artifact(folder)
    if manifest.text:
        raise ConfigError(
            "a prompt of words has no points to compare",
            where=str(ref),
            wanted="vectors, or keys and values",
            fix=f"overture diff {ref} OTHER shows both texts",
        )
    points = points_of(manifest, tensors)
    if points is None:
        raise ConfigError(
            "a prompt that depends on the row cannot be compared",
            where=str(ref),
            got=f"method {manifest.method}",
            wanted="vectors, or keys and values",
        )
    left_out: Counter[str] = Counter()
    prompts: list[SimilarPrompt] = []
    entries = [entry for entry in store.list() if entry.folder.resolve() != folder.resolve()]
    for done, entry in enumerate(entries, 1):
        similarity = _compared(manifest, points, entry)
        if isinstance(similarity, str):
            left_out[similarity] += 1
        else:
            prompts.append(similarity)
        progress("comparing prompts", done, len(entries))
    return SimilarResult(
        prompt=f"{manifest.name}@{manifest.version}" if manifest.version else manifest.name,
        backbone=manifest.backbone.id,
        kind=points.kind,
        similar=sorted(prompts, key=lambda prompt: -prompt.average),
        left_out=dict(left_out),
    )


def _compared(manifest: Manifest, points: Points, entry: Entry) -> SimilarPrompt | str:
    """A stored prompt beside the given one, or why the two cannot be compared."""
    if entry.manifest is None:
        return "damaged"
    if entry.manifest.backbone.weights_sha256 != manifest.backbone.weights_sha256:
        return "of another model"
    try:
        entry_points = points_of(*load_artifact(entry.folder))
    except ArtifactError:
        return "damaged"
    if entry_points is None:
        return "made of words" if entry.manifest.text else "depends on the row"
    if entry_points.kind != points.kind:
        return entry_points.kind
    return SimilarPrompt(
        prompt=f"{entry.name}@{entry.version}",
        task=entry.manifest.task.get("name", ""),
        method=entry.manifest.method,
        place=entry.manifest.place,
        length=entry.manifest.length,
        layer=entry.manifest.layer,
        average=average_cosine(points, entry_points),
        pairs=pairwise_cosine(points, entry_points),
    )
