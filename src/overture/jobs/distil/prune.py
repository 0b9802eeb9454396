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
from typing import Literal

import torch
from torch import Tensor

from overture.core.errors import ConfigError, Diverged
from overture.core.injection import Injection, Vectors
from overture.core.records.distil import Importance, Kept, PrunedCandidate, PruneResult, Whole
from overture.core.records.events import Listener, ignore
from overture.core.records.prompt import Lineage, PromptScores
from overture.core.records.scores import Comparison
from overture.data.batches import scoring_batches
from overture.engine.backbone import Backbone
from overture.engine.prompted import PromptedModel
from overture.evaluate.facts import check_backbone
from overture.evaluate.intervals import paired_test
from overture.evaluate.source import prompt_source
from overture.jobs.distil.options import PruneConfig
from overture.jobs.run.again import request_again
from overture.jobs.run.keep import made_with, new_manifest
from overture.jobs.run.work import SPLITS, Work, metrics_of, prepared
from overture.prompt.config import PromptConfig
from overture.prompt.methods import METHODS
from overture.prompt.pack import prompt_from, prompt_tensors
from overture.prompt.registry import pruned_method
from overture.store.artifact import load_artifact
from overture.store.manifest import Manifest
from overture.store.names import ref_of
from overture.store.runs import Run, run_of
from overture.store.store import Store


@dataclass(frozen=True, slots=True)
class Candidate:
    """A part of a prompt, trained again.

    Args:
        level: what was dropped, tokens or pieces.
        share: share of the level's units that were kept.
        tokens: indices of the kept tokens.
        masks: masks of their pieces; empty when all are kept.
        config: the prompt.
        tensors: its values at the best epoch; empty when its loss diverged.
        score: on validation rows.
        loss: on validation rows.
        trainable: number of trained values.
        seconds: of training.
    """

    level: Literal["tokens", "pieces"]
    share: float
    tokens: list[int]
    masks: list[str]
    config: PromptConfig
    tensors: dict[str, Tensor]
    score: float
    loss: float
    trainable: int
    seconds: float

    def record(self) -> PrunedCandidate:
        """Its facts, for the result."""
        return PrunedCandidate(
            level=self.level,
            share=self.share,
            tokens=self.tokens,
            masks=self.masks,
            score=self.score if self.tensors else None,
            loss=self.loss if self.tensors else None,
            trainable=self.trainable,
            seconds=self.seconds,
        )


def prune(
    ref: str | Path,
    store: Store,
    config: PruneConfig | None = None,
    *,
    task: str | Path | None = None,
    name: str | None = None,
    listener: Listener = ignore,
    backbone: Backbone | None = None,
) -> PruneResult:
    """Prune a stored prompt of vectors, measure the rest, and keep it beside the whole prompt.

    Args:
        ref: ``name``, ``name@2``, or a prompt's folder.
        store: where it is, and where the pruned one is kept.
        config: shares to keep, and the number of pieces.
        task: a task file that says where the rows are; the prompt's run says it when None.
        name: the pruned prompt's name; the whole one's with ``-pruned`` when None.
        listener: called with each event.
        backbone: a loaded model; loaded as the prompt names it when None.

    Raises:
        StoreError: no such prompt, its run is gone, or the name is wrong.
        ConfigError: the prompt is not of the method `vectors`, or cannot be cut so.
        DataError: the rows cannot be used.
        Diverged: no candidate had a finite loss.
    """
    config = config or PruneConfig()
    manifest, tensors = load_artifact(store.get(ref))
    _check(manifest, config)
    pruned_name = name or f"{manifest.name}-pruned"
    store.check_can_add(pruned_name)
    request = request_again(manifest, store, Path(task) if task else None)
    # Rows of a named task file may be others; rows of the prompt's own run must be unchanged.
    run_request = None if task else run_of(store, manifest, "").request()
    with TemporaryDirectory() as folder:
        # A stopped run cannot be resumed, so its folder need not stay.
        work = prepared(Run(Path(folder), listener), request, store, lambda: False, backbone, run_request)
        for text in check_backbone(manifest.backbone, work.backbone):
            work.notice(f"{manifest.ref}: {text}")
        with work.backbone.checkpointing(request.train.gradient_checkpointing):
            on_device = {name: value.to(work.backbone.device) for name, value in tensors.items()}
            source = prompt_source(work.backbone, work.encoder, work.rows["train"], store)
            whole = prompt_from(on_device, work.config.prompt, source)
            assert isinstance(whole, Injection)
            return _pruned(work, config, manifest, whole, pruned_name)


def _check(manifest: Manifest, config: PruneConfig) -> None:
    if pruned_method(manifest.method, manifest.place) is None:
        able = [
            f"{name} at {place}"
            for name, method in METHODS.items()
            for place in method.places
            if pruned_method(name, place)
        ]
        raise ConfigError(
            "this prompt cannot be pruned",
            where=manifest.name,
            got=f"method {manifest.method} at {manifest.place}",
            wanted=f"{' or '.join(able)}; the template fixes the number of vectors in its slots",
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
        values_BPD = (self.pieces * self.masks[..., None]).flatten(2)
        return [replace(self.whole, vectors=replace(self.vectors, values=values_PD)) for values_PD in values_BPD]

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
    masked_prompt, length = _Masked(whole, num_pieces), _vectors_of(whole).length
    model = PromptedModel(work.backbone, masked_prompt, work.cache)
    rows, tell = work.rows["train"], work.progress("measuring importance")
    pieces, num_rows = torch.zeros(length, num_pieces), 0
    tokens = torch.zeros(length)
    for batch in scoring_batches(rows, work.config.train.max_tokens):
        (gradient,) = torch.autograd.grad(model.loss(batch), masked_prompt.masks)
        pieces += gradient.abs().sum(0).float().cpu()
        # The chain rule: a token's mask scales all its pieces.
        tokens += gradient.sum(-1).abs().sum(0).float().cpu()
        num_rows += len(batch)
        tell(num_rows, len(rows))
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
    indices = set(best_indices(scores_Pk[list(tokens)], share))
    masks = ["".join("01"[row * num_pieces + j in indices] for j in range(num_pieces)) for row in range(len(tokens))]
    pairs = [(token, mask) for token, mask in zip(tokens, masks, strict=True) if "1" in mask]
    return [token for token, _ in pairs], [mask for _, mask in pairs]


def _trained(
    work: Work, level: Literal["tokens", "pieces"], share: float, tokens: list[int], masks: list[str]
) -> Candidate:
    """Train what is kept, from its starting values to its best epoch."""
    whole = work.config.prompt
    method = pruned_method(whole.method, whole.place)
    config = whole.model_copy(update={"method": method, "options": {"tokens": tokens, "masks": masks}})
    model = work.fresh(config, work.config.seed)
    result = work.fit(model, work.config.train, work.config.seed, who=f"{share:.0%} of the {level}")
    best = result.progress.history[result.progress.best_epoch] if result.best else None
    return Candidate(
        level,
        share,
        tokens,
        masks,
        config,
        prompt_tensors(model.prompt) if best else {},
        best.validation_score if best else -1.0,
        best.validation_loss if best else math.inf,
        sum(value.numel() for value in model.trainable().values()),
        result.progress.seconds,
    )


def _best(candidates: Sequence[Candidate]) -> Candidate:
    """The best on validation rows; of equals the one with fewer values.

    Raises:
        Diverged: none had a finite loss.
    """
    finite = [candidate for candidate in candidates if candidate.tensors]
    if not finite:
        raise Diverged(
            "the loss of every pruned prompt became NaN or infinite", fix="tune the whole prompt with a smaller rate"
        )
    return max(finite, key=lambda candidate: (candidate.score, -candidate.loss, -candidate.trainable))


def _candidates(work: Work, config: PruneConfig, tokens_P: Tensor, pieces_Pk: Tensor) -> list[Candidate]:
    """Train every share of tokens, then every share of the best one's pieces."""
    candidates: list[Candidate] = []
    for share in config.keep:
        best_tokens = best_indices(tokens_P, share)
        is_new = all(candidate.tokens != best_tokens for candidate in candidates)
        if is_new and len(best_tokens) < len(tokens_P):
            candidates.append(_trained(work, "tokens", share, best_tokens, []))
    if config.pieces == 1:
        return candidates
    tokens = _best(candidates).tokens
    for share in config.keep:
        best_tokens, masks = kept_pieces(pieces_Pk, tokens, share)
        is_new = all((candidate.tokens, candidate.masks) != (best_tokens, masks) for candidate in candidates)
        if is_new and (any("0" in mask for mask in masks) or len(best_tokens) < len(tokens)):
            candidates.append(_trained(work, "pieces", share, best_tokens, masks))
    return candidates


# -- the result


def _pruned(work: Work, config: PruneConfig, manifest: Manifest, prompt: Injection, name: str) -> PruneResult:
    """Find what is important, train candidates, measure the best, keep it."""
    whole = PromptedModel(work.backbone, prompt, work.cache)
    work.warm(whole)
    tokens_P, pieces_Pk = importances(work, prompt, config.pieces)
    candidates = _candidates(work, config, tokens_P, pieces_Pk)
    best = _best(candidates)

    # No test row is read before this line.
    pruned_model = PromptedModel(work.backbone, prompt_from(best.tensors, best.config), work.cache)
    splits = [split for split in SPLITS if work.rows[split]]
    before = {split: work.score(whole, split, f"scoring the whole prompt, {split}") for split in splits}
    after = {split: work.score(pruned_model, split, f"scoring the pruned prompt, {split}") for split in splits}
    split = splits[-1]
    if split == "validation":
        work.notice("there are no test rows: validation rows chose what is kept, so its score is too good")
    test = paired_test(after[split].gold, after[split].predicted, before[split].predicted, work.task.metric)
    metrics = metrics_of(work.task, after)

    pruned_manifest = new_manifest(
        name,
        work.backbone,
        work.task,
        method=best.config.method,
        place=best.config.place,
        length=len(best.tokens),
        options=made_with(best.config, work.config.train),
        metrics=PromptScores(**metrics),
        lineage=Lineage(
            pruned_from=manifest.ref,
            run=manifest.lineage.run,
            seed=work.config.seed,
            train_rows=len(work.rows["train"]),
        ),
        trainable=best.trainable,
        seconds=best.seconds,
    )
    folder = work.store.add(pruned_manifest, best.tensors)
    return PruneResult(
        prompt=str(ref_of(folder)),
        folder=str(folder),
        pruned_from=manifest.ref,
        task=work.task.name,
        metric=work.task.metric,
        place=best.config.place,
        length=len(best.tokens),
        trainable=best.trainable,
        metrics=metrics,
        kept=Kept(tokens=best.tokens, masks=best.masks, level=best.level, share=best.share),
        whole=Whole(length=manifest.length, trainable=manifest.trainable, metrics=metrics_of(work.task, before)),
        compared={"whole": Comparison(**dict(test), split=split)},
        importance=Importance(tokens=tokens_P.tolist()),
        candidates=[candidate.record() for candidate in candidates],
        seconds=sum(candidate.seconds for candidate in candidates),
        notices=work.notices,
    )
