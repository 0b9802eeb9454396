"""Prune a prompt of vectors: find what it can do without, and train the rest again from where it began.

    importance of token i   = E |d loss / d m_i|      at m = 1, over the training rows
    importance of its piece j = E |d loss / d m_ij|   with V_i = m_i * [m_i1 V_i1; ...; m_ik V_ik]

First whole tokens go, then pieces of those that are left; validation rows choose how much. Each candidate is trained
from the run's own starting values ("rewinding"), with its seed, batches and options.

Source: Ma et al. 2022, "XPrompt: Exploring the Extreme of Prompt Tuning", section 4. Deviations: both levels are scored
in one pass over the whole trained prompt; the best share of tokens is fixed before shares of pieces are tried; a token
without any piece left is dropped instead of standing there as zeros.

Shape letters: B rows, P prompt length, D width, k pieces of a vector.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from overture.core.errors import ConfigError, Diverged
from overture.core.injection import Injection, Vectors
from overture.core.records.events import Listener, ignore
from overture.core.records.prompt import Lineage, PromptScores
from overture.data.batches import scoring_batches
from overture.engine.backbone import Backbone
from overture.engine.prompted import PromptedModel
from overture.evaluate.facts import backbone_ref
from overture.evaluate.intervals import paired_test
from overture.jobs.distil.options import PruneConfig
from overture.jobs.run.again import request_again
from overture.jobs.run.keep import made_with, new_manifest
from overture.jobs.run.work import SPLITS, Work, metrics_of, prepared
from overture.prompt.config import PromptConfig
from overture.prompt.methods import METHODS
from overture.prompt.pack import prompt_from, prompt_tensors
from overture.prompt.registry import pruned_method
from overture.store.artifact import load_artifact
from overture.store.manifest import Manifest, check_fingerprint
from overture.store.names import checked_name, ref_of
from overture.store.runs import Run
from overture.store.store import Store
from overture.train.options import TrainConfig


@dataclass(slots=True)
class Candidate:
    """What is left of a prompt, trained again.

    Args:
        level: tokens or pieces.
        share: of the level's units that were kept.
        tokens: indices of the kept tokens.
        masks: of their pieces; empty when all are kept.
        config: the prompt.
        tensors: its values at the best epoch; none when its loss diverged.
        score: on validation rows.
        loss: on validation rows.
        trainable: trained values.
        seconds: of training.
    """

    level: str
    share: float
    tokens: list[int]
    masks: list[str]
    config: PromptConfig
    tensors: dict[str, Tensor]
    score: float
    loss: float
    trainable: int
    seconds: float

    def facts(self) -> dict[str, Any]:
        """What the result tells of it."""
        names = ("level", "share", "tokens", "masks", "score", "loss", "trainable", "seconds")
        found = {name: getattr(self, name) for name in names}
        # A loss that is no number has no form in JSON.
        return found if self.tensors else {**found, "score": None, "loss": None}


def prune(
    ref: str | Path,
    store: Store,
    config: PruneConfig | None = None,
    *,
    task: str | Path | None = None,
    name: str | None = None,
    listener: Listener = ignore,
    backbone: Backbone | None = None,
) -> dict[str, Any]:
    """Prune a stored prompt of vectors, measure what is left, keep it beside the whole.

    Args:
        ref: ``name``, ``name@2``, or a prompt's folder.
        store: where it is, and where the pruned one is kept.
        config: how much is tried.
        task: a task file that says where the rows are; the prompt's run says it when None.
        name: the pruned prompt's name; the whole one's with ``-pruned`` when None.
        listener: told of every event.
        backbone: a loaded model; loaded as the prompt names it when None.

    Returns:
        What ``overture prune --json`` prints: scores before and after, each candidate, importances.

    Raises:
        StoreError: no such prompt, its run is gone, or the name is wrong.
        ConfigError: the prompt is not of the method `vectors`, or cannot be cut so.
        DataError: the rows cannot be used.
        Diverged: no candidate had a finite loss.
    """
    config = config or PruneConfig()
    store.check_writable()
    manifest, tensors = load_artifact(store.get(ref))
    _check(manifest, config)
    chosen = checked_name(name or f"{manifest.name}-pruned")
    request = request_again(manifest, store, Path(task) if task else None)
    with TemporaryDirectory() as folder:
        # Nothing of this goes on after a stop, so the run leaves nothing behind.
        work = prepared(Run(Path(folder), listener), request, store, lambda: False, backbone)
        check_fingerprint(manifest.backbone, backbone_ref(work.backbone))
        with work.backbone.checkpointing(request.train.gradient_checkpointing):
            own = {name: value.to(work.backbone.device) for name, value in tensors.items()}
            whole = prompt_from(own, work.config.prompt)
            assert isinstance(whole, Injection)
            return _pruned(work, config, manifest, whole, chosen)


def _check(manifest: Manifest, config: PruneConfig) -> None:
    if pruned_method(manifest.method, manifest.place) is None:
        able = [(name, place) for name, one in METHODS.items() for place in one.places if pruned_method(name, place)]
        raise ConfigError(
            "this prompt cannot be pruned",
            where=manifest.name,
            got=f"method {manifest.method} at {manifest.place}",
            wanted=" or ".join(f"{name} at {place}" for name, place in able)
            + "; the template fixes how many stand in its slots",
        )
    if max(1, round(min(config.keep) * manifest.length)) >= manifest.length:
        raise ConfigError(
            "no token would be dropped",
            where=manifest.name,
            got=f"{manifest.length} tokens, of which {min(config.keep):.0%} are all",
            wanted="at least 2 tokens, and a share that leaves one out",
            fix="a smaller share: --keep 0.25",
        )
    width = manifest.backbone.hidden_size
    if width % config.pieces:
        near = [count for count in range(1, config.pieces + 1) if width % count == 0][-1]
        raise ConfigError(
            "the vectors cannot be cut into so many equal pieces",
            where="pieces",
            got=str(config.pieces),
            wanted=f"a divisor of {width}",
            fix=f"--pieces {near}",
        )


# -- importance


class _Masked:
    """A prompt with masks of its own for each row, so that one pass gives every row's gradient.

    Meets `core.contracts.RowMethod`.
    """

    def __init__(self, whole: Injection, num_pieces: int) -> None:
        self.whole, self.vectors = whole, _vectors_of(whole)
        self.pieces = self.vectors.values.view(self.vectors.length, num_pieces, -1)
        self.masks = self.pieces.new_ones(0)

    def injections(self, features: Tensor) -> list[Injection]:
        """The prompt under new masks of one, for each row."""
        self.masks = self.pieces.new_ones(len(features), *self.pieces.shape[:2]).requires_grad_()
        values = (self.pieces * self.masks[..., None]).flatten(2)
        return [replace(self.whole, vectors=replace(self.vectors, values=own)) for own in values]

    def rates(self) -> dict[str, float]:
        """Nothing is trained."""
        return {}

    def trainable(self) -> dict[str, Tensor]:
        """Nothing is trained."""
        return {}


def _vectors_of(whole: Injection) -> Vectors:
    """The vectors of a prompt of vectors."""
    assert whole.vectors is not None
    return whole.vectors


def importances(work: Work, whole: Injection, num_pieces: int) -> tuple[Tensor, Tensor]:
    """Mean size of the loss's gradient by the masks, over training rows.

    Args:
        work: model and rows.
        whole: the trained prompt; label vectors beside it are not masked.
        num_pieces: k.

    Returns:
        For tokens [P] and for pieces [P, k], on the CPU.
    """
    masked, length = _Masked(whole, num_pieces), _vectors_of(whole).length
    model = PromptedModel(work.backbone, masked, work.cache)
    rows, tell = work.rows["train"], work.progress("measuring importance")
    pieces, done = torch.zeros(length, num_pieces), 0
    tokens = torch.zeros(length)
    for batch in scoring_batches(rows, work.config.train.max_tokens):
        (gradient,) = torch.autograd.grad(model.loss(batch), masked.masks)
        pieces += gradient.abs().sum(0).float().cpu()
        # The chain rule: a token's mask scales all its pieces.
        tokens += gradient.sum(-1).abs().sum(0).float().cpu()
        done += len(batch)
        tell(done, len(rows))
    return tokens / len(rows), pieces / len(rows)


# -- candidates


def best_indices(scores: Tensor, share: float) -> list[int]:
    """Indices of the highest scores, in order; one at least, and of equals the first."""
    count = max(1, round(share * scores.numel()))
    order = scores.flatten().sort(descending=True, stable=True).indices
    return sorted(order[:count].tolist())


def kept_pieces(scores_Pk: Tensor, tokens: Sequence[int], share: float) -> tuple[list[int], list[str]]:
    """The best pieces of some tokens: the tokens that keep any, and their masks."""
    num_pieces = scores_Pk.shape[1]
    kept = set(best_indices(scores_Pk[list(tokens)], share))
    masks = ["".join("01"[row * num_pieces + j in kept] for j in range(num_pieces)) for row in range(len(tokens))]
    left = [(token, mask) for token, mask in zip(tokens, masks, strict=True) if "1" in mask]
    return [token for token, _ in left], [mask for _, mask in left]


def _trained(work: Work, level: str, share: float, tokens: list[int], masks: list[str]) -> Candidate:
    """What is left, from its starting values to its best epoch."""
    options = {"tokens": tokens, "masks": masks}
    whole = work.config.prompt
    method = pruned_method(whole.method, whole.place)
    config = whole.model_copy(update={"method": method, "options": options})
    model = work.fresh(config, work.config.seed)
    who = f"{share:.0%} of the {level}"
    result = work.fit(model, work.config.train, work.config.seed, who=who)
    history, best = result.progress.history, result.progress.best_epoch
    score, loss = (history[best].validation_score, history[best].validation_loss) if result.best else (-1.0, math.inf)
    return Candidate(
        level,
        share,
        tokens,
        masks,
        config,
        prompt_tensors(model.prompt) if result.best else {},
        score,
        loss,
        sum(value.numel() for value in model.trainable().values()),
        result.progress.seconds,
    )


def _best(candidates: Sequence[Candidate]) -> Candidate:
    """The best on validation rows; of equals the one with fewer values.

    Raises:
        Diverged: none had a finite loss.
    """
    usable = [one for one in candidates if one.tensors]
    if not usable:
        raise Diverged(
            "the loss of every pruned prompt became NaN or infinite", fix="tune the whole prompt with a smaller rate"
        )
    return max(usable, key=lambda one: (one.score, -one.loss, -one.trainable))


def _candidates(work: Work, config: PruneConfig, tokens_P: Tensor, pieces_Pk: Tensor) -> list[Candidate]:
    """Every share of tokens, then every share of the best one's pieces."""
    found: list[Candidate] = []
    for share in config.keep:
        kept = best_indices(tokens_P, share)
        if len(kept) < len(tokens_P) and all(one.tokens != kept for one in found):
            found.append(_trained(work, "tokens", share, kept, []))
    if config.pieces == 1:
        return found
    tokens = _best(found).tokens
    for share in config.keep:
        kept, masks = kept_pieces(pieces_Pk, tokens, share)
        is_new = all((one.tokens, one.masks) != (kept, masks) for one in found)
        if is_new and (any("0" in mask for mask in masks) or len(kept) < len(tokens)):
            found.append(_trained(work, "pieces", share, kept, masks))
    return found


# -- the result


def _pruned(work: Work, config: PruneConfig, manifest: Manifest, prompt: Injection, name: str) -> dict[str, Any]:
    whole = PromptedModel(work.backbone, prompt, work.cache)
    work.warm(whole)
    tokens_P, pieces_Pk = importances(work, prompt, config.pieces)
    candidates = _candidates(work, config, tokens_P, pieces_Pk)
    best = _best(candidates)
    # Only now is a test row read.
    left = PromptedModel(work.backbone, prompt_from(best.tensors, best.config), work.cache)
    splits = [split for split in SPLITS if work.rows[split]]
    scored = {
        what: {split: work.score(model, split, f"scoring the {what} prompt, {split}") for split in splits}
        for what, model in (("whole", whole), ("pruned", left))
    }
    after, before = scored["pruned"], scored["whole"]
    split = splits[-1]
    if split == "validation":
        work.notice("there are no test rows: validation rows chose what is kept, so its score is too good")
    compared = paired_test(after[split].gold, after[split].predicted, before[split].predicted, work.task.metric)
    metrics = metrics_of(work.task, after)
    folder = work.store.add(_manifest(work, manifest, best, metrics, name), best.tensors)
    return {
        "prompt": str(ref_of(folder)),
        "folder": str(folder),
        "pruned_from": manifest.ref,
        "task": work.task.name,
        "metric": work.task.metric,
        "place": best.config.place,
        "length": len(best.tokens),
        "trainable": best.trainable,
        "metrics": metrics,
        "kept": {"tokens": best.tokens, "masks": best.masks, "level": best.level, "share": best.share},
        "whole": {
            "length": manifest.length,
            "trainable": manifest.trainable,
            "metrics": metrics_of(work.task, before),
        },
        "compared": {"whole": {"split": split, **compared.model_dump()}},
        "importance": {"tokens": tokens_P.tolist()},
        "candidates": [one.facts() for one in candidates],
        "seconds": sum(one.seconds for one in candidates),
        "notices": work.notices,
    }


def _manifest(work: Work, whole: Manifest, best: Candidate, metrics: dict[str, Any], name: str) -> Manifest:
    train: TrainConfig = work.config.train
    return new_manifest(
        name,
        work.backbone,
        work.task,
        method=best.config.method,
        place=best.config.place,
        length=len(best.tokens),
        options=made_with(best.config, train),
        metrics=PromptScores.model_validate(metrics),
        lineage=Lineage(
            pruned_from=whole.ref,
            run=whole.lineage.run,
            seed=work.config.seed,
            train_rows=len(work.rows["train"]),
        ),
        trainable=best.trainable,
        seconds=best.seconds,
    )
