"""Recycle a prompt: map its vectors to another model by the vectors that both models have for the same tokens.

    W = argmin |X W - Y|^2 + r |W|^2,   X [n, D] and Y [n, E] the two models' vectors of n common tokens
    p' = p W, as long in units of the new model's mean token vector as p was in the old one's

The ridge r is the one of a few that maps every tenth common token best when fitted on the others.

Source: Lester et al. 2022, "Reducing Retraining by Recycling Parameter-Efficient Prompts", of its recyclers from
vocabulary to vocabulary the linear one, v2v-lin. Deviations: the ridge, the lengths, and tokens matched by their text
between tokenizers, where the paper's models share one.

Shape letters: P prompt length, D width of the old model, E width of the new one, n common tokens.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from overture.core.config import validated
from overture.core.errors import ConfigError, DataError
from overture.core.records.events import Listener, as_notices, as_progress, ignore
from overture.core.records.prompt import Lineage, MadeWith, PromptScores
from overture.core.records.transfer import MapFit, RecycleResult
from overture.data.row import Row
from overture.data.splits import load_splits
from overture.data.task import Task
from overture.engine.backbone import Backbone
from overture.engine.load import load_backbone
from overture.evaluate.facts import backbone_ref, check_backbone
from overture.evaluate.host import Host
from overture.evaluate.measure import measured
from overture.jobs.run.again import task_with_data_of
from overture.jobs.run.keep import new_manifest
from overture.jobs.transfer.options import FEWEST, RecycleConfig, check_recyclable, same_model
from overture.store.artifact import load_artifact, save_artifact
from overture.store.manifest import Manifest
from overture.store.names import ref_of
from overture.store.store import Store

_RIDGES = (1e-8, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
_HELD_OUT_EVERY = 10


@dataclass(frozen=True, slots=True)
class Map:
    """A linear map from one model's token vectors to another's.

    Args:
        matrix: [D, E], float64.
        scale: how many times longer the other model's token vectors are.
        num_tokens: common tokens that it was fitted on.
        ridge: in units of the mean squared length of the old model's token vectors.
        cosine: mean over held-out tokens, between their mapped and their real vectors.
    """

    matrix: Tensor
    scale: float
    num_tokens: int
    ridge: float
    cosine: float

    def of(self, vectors_PD: Tensor) -> Tensor:
        """Vectors in the other model, float32 [P, E]; lengths stay the same in units of a model's mean token vector."""
        before = vectors_PD.double()
        after = before @ self.matrix
        lengths = after.norm(dim=1, keepdim=True).clamp_min(1e-12)
        scaled_PE: Tensor = after / lengths * before.norm(dim=1, keepdim=True) * self.scale
        return scaled_PE.float()


def plain_texts(backbone: Backbone) -> dict[str, int]:
    """Text of each token that is printable ASCII, with a space where a word begins, and the token.

    Tokenizers write other tokens in different ways, and those are not needed.
    """
    tokenizer = backbone.text.tokenizer
    vocabulary = sorted(tokenizer.inner.get_vocab().items(), key=lambda item: item[1])
    special = tokenizer.special_ids
    is_wordpiece = any(text.startswith("##") and len(text) > 2 for text, _ in vocabulary) and not any(
        text.startswith(("\u0120", "\u2581")) for text, _ in vocabulary
    )
    tokens: dict[str, int] = {}
    for text, token in vocabulary:
        if is_wordpiece:
            plain = text.removeprefix("##") if text.startswith("##") else f" {text}"
        else:
            # A space before a word: as byte-level tokenizers write it, and as SentencePiece does.
            plain = text.replace("\u0120", " ").replace("\u2581", " ")
        if token not in special and token < backbone.info.vocab_size and plain.isascii() and plain.isprintable():
            tokens.setdefault(plain, token)
    return tokens


def common_vectors(source: Backbone, target: Backbone, most: int) -> tuple[Tensor, Tensor]:
    """Both models' vectors of common tokens, float64 [n, D] and [n, E] on the CPU, most frequent first.

    Raises:
        ConfigError: the vocabularies have too few tokens in common.
    """
    source_tokens, target_tokens = plain_texts(source), plain_texts(target)
    # A tokenizer numbers its tokens by frequency.
    texts = [text for text in source_tokens if text in target_tokens][:most]
    if len(texts) < FEWEST:
        raise ConfigError(
            "the two models have too few tokens in common",
            where="backbone",
            got=f"{len(texts)} tokens of {source.info.id} and {target.info.id}",
            wanted=f"at least {FEWEST}",
            fix="choose a model with a tokenizer for the same languages",
        )
    source_nD = source.embed([source_tokens[text] for text in texts]).double().cpu()
    target_nE = target.embed([target_tokens[text] for text in texts]).double().cpu()
    return source_nD, target_nE


def fitted_map(source_nD: Tensor, target_nE: Tensor) -> Map:
    """The map that takes the old model's vectors closest to the new one's."""
    is_held_out = torch.arange(len(source_nD)) % _HELD_OUT_EVERY == 0
    cosines = {}
    for ridge, matrix in _solutions(source_nD[~is_held_out], target_nE[~is_held_out]):
        mapped_nE = source_nD[is_held_out] @ matrix
        cosines[ridge] = float(torch.cosine_similarity(mapped_nE, target_nE[is_held_out], dim=1).mean())
    best = max(cosines, key=lambda ridge: cosines[ridge])
    matrix = dict(_solutions(source_nD, target_nE))[best]
    scale = float(target_nE.norm(dim=1).mean() / source_nD.norm(dim=1).mean())
    return Map(matrix, scale, len(source_nD), best, cosines[best])


def _solutions(source_nD: Tensor, target_nE: Tensor) -> list[tuple[float, Tensor]]:
    """The least squares solution for each ridge."""
    values, vectors = torch.linalg.eigh(source_nD.T @ source_nD)
    projection_DE = vectors.T @ (source_nD.T @ target_nE)
    mean = values.mean()
    return [(ridge, vectors @ (projection_DE / (values.clamp_min(0) + ridge * mean)[:, None])) for ridge in _RIDGES]


def recycle(
    ref: str | Path,
    store: Store,
    *,
    backbone: str | Backbone,
    name: str | None = None,
    task: str | Path | None = None,
    config: RecycleConfig | None = None,
    listener: Listener = ignore,
    source: Backbone | None = None,
) -> RecycleResult:
    """Keep a prompt of vectors as a prompt of another model, untrained there.

    Args:
        ref: ``name``, ``name@2``, or a prompt's folder.
        store: where it is, and where the new one is kept.
        backbone: the other model: a known name, a Hub id, a folder, a file, or a loaded one.
        name: the new prompt's name; the old one's with ``-recycled`` when None.
        task: a task file that says where rows are; the prompt is measured on them when given.
        config: how the map is fitted.
        listener: called with each event.
        source: the prompt's own model; loaded as the prompt names it when None.

    Raises:
        StoreError: no such prompt, or the name is wrong.
        ConfigError: the prompt is more than vectors, the model is its own, or the vocabularies do not meet.
        BackboneError: a model cannot be loaded, or cannot answer such rows.
        DataError: rows or template do not fit.
    """
    config = config or RecycleConfig()
    manifest, tensors = load_artifact(store.get(ref))
    check_recyclable(manifest, tensors)
    prompt_name = name or f"{manifest.name}-recycled"
    store.check_can_add(prompt_name)
    own_task = task_with_data_of(manifest, Path(task)) if task else validated(Task, manifest.task, manifest.ref)
    split, rows = _rows(own_task) if task else ("", [])
    notify, progress = as_notices(listener), as_progress(listener)
    source, target = _models(manifest, source, backbone, notify)
    vectors = common_vectors(source, target, config.tokens)
    progress("fitting the map", 0, 1)
    fit = fitted_map(*vectors)
    progress("fitting the map", 1, 1)
    notices = []
    if fit.num_tokens < 2 * len(fit.matrix):
        notices.append(
            f"only {fit.num_tokens} common tokens for vectors of width {len(fit.matrix)}: much of what a vector holds "
            "cannot be mapped from so few"
        )
    for text in notices:
        notify(text)

    values = {"vectors": fit.of(tensors["vectors"])}
    target_manifest = _target_manifest(prompt_name, target, own_task, manifest, fit)
    with TemporaryDirectory() as folder:
        # A prompt that could not be loaded again is not kept; the loaded prompt is the one that is measured.
        target_manifest = save_artifact(Path(folder) / "prompt", target_manifest, values)
        prompt = Host(target, notify=notify).open(Path(folder) / "prompt")
        evaluation = measured(prompt, rows, split, progress)[0] if rows else None
    metrics = PromptScores(**evaluation.metrics) if evaluation else PromptScores()
    prompt_folder = store.add(target_manifest.model_copy(update={"metrics": metrics}), values)
    return RecycleResult(
        prompt=str(ref_of(prompt_folder)),
        folder=str(prompt_folder),
        recycled_from=manifest.ref,
        old_backbone=source.info.id,
        backbone=target.info.id,
        place=target_manifest.place,
        length=target_manifest.length,
        map=MapFit(tokens=fit.num_tokens, ridge=fit.ridge, cosine=fit.cosine),
        notices=notices,
        evaluation=evaluation,
        old_metrics=manifest.metrics if manifest.metrics.dump() else None,
    )


def _target_manifest(name: str, target: Backbone, task: Task, manifest: Manifest, fit: Map) -> Manifest:
    """The manifest of the prompt on the other model, from that of the prompt on its own."""
    return new_manifest(
        name,
        target,
        task.model_copy(update={"backbone": target.info.id}),
        method="vectors",
        place=manifest.place,
        length=manifest.length,
        options=MadeWith(prompt={"method": "vectors", "place": manifest.place, "length": manifest.length}),
        lineage=Lineage(
            recycled_from=manifest.ref,
            recycled_backbone=manifest.backbone.id,
            common_tokens=fit.num_tokens,
            held_out_cosine=fit.cosine,
        ),
        # Nothing was trained for this model.
        trainable=0,
    )


def _models(
    manifest: Manifest, source: Backbone | None, backbone: str | Backbone, notify: Callable[[str], None]
) -> tuple[Backbone, Backbone]:
    """The prompt's own model, and the other one.

    Raises:
        ConfigError: the two are one.
        ArtifactError: the first is not the prompt's.
    """
    target = backbone if isinstance(backbone, Backbone) else load_backbone(backbone, notify=notify)
    if backbone_ref(target).weights_sha256 == manifest.backbone.weights_sha256:
        raise same_model(target.info.id)
    source = source or load_backbone(manifest.backbone.id, revision=manifest.backbone.revision, notify=notify)
    for text in check_backbone(manifest.backbone, source):
        notify(f"{manifest.ref}: {text}")
    return source, target


def _rows(task: Task) -> tuple[str, list[Row]]:
    """Rows to measure on: test rows, or validation rows when there are none; neither chose anything."""
    splits = load_splits(task)
    for name in ("test", "validation"):
        if rows := getattr(splits, name):
            return name, rows
    raise DataError("the task has no rows to measure on", where="data", wanted="test or validation rows")
