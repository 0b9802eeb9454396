"""Seeds of one run: trained together or one by one, scored, and kept in the run's folder."""

import math
from collections.abc import Sequence

import torch

from overture.core.contracts import Scorer
from overture.core.meter import Meter
from overture.core.records.events import NormChange, NormsEvent
from overture.core.records.tune import SeedResult
from overture.core.sealed import write_sealed
from overture.engine.prompted import PromptedModel
from overture.evaluate.history import overfitting
from overture.jobs.run.samples import SampleRows
from overture.jobs.run.work import SPLITS, Member, Work, metrics_of
from overture.jobs.tune.adapted import Tuned, tuned_alone, tuned_with_adapter
from overture.jobs.tune.result import RESULT_OF_SEED, seed_file
from overture.prompt.pack import ADAPTER, prompt_tensors
from overture.train.fit import FitResult


def seed_results(work: Work, seeds: Sequence[int], first: PromptedModel) -> dict[int, SeedResult]:
    """Train seeds to their ends, or to where they were stopped, and score them; finished ones are read.

    Args:
        work: the run.
        seeds: of the run's.
        first: the model under the untrained prompt of the run's first seed.
    """
    if not work.sample_rows:
        work.sample_rows = SampleRows.of(work.task, work.splits.validation, work.answers("validation"))
    results = {seed: work.run.read(RESULT_OF_SEED.format(seed), SeedResult) for seed in seeds}
    missing_seeds = [seed for seed in seeds if results[seed] is None]
    results |= _with_adapter(work, missing_seeds) if work.config.adapter else _together(work, missing_seeds, first)
    return {seed: result for seed, result in results.items() if result is not None}


def _together(work: Work, seeds: Sequence[int], first: PromptedModel) -> dict[int, SeedResult]:
    """Train and score seeds in shared forward passes."""
    if not seeds:
        return {}
    config = work.config
    models = {seed: first if seed == config.seed else work.built(config.prompt, seed) for seed in seeds}
    for model in models.values():
        work.warm(model)
    train = config.train.model_copy(update={"lr": config.prompt_rate})
    members = [Member(str(seed), model, train, seed) for seed, model in models.items()]
    starts = {member.seed: _values(member.model) for member in members}
    meter = Meter(work.backbone.device.type)
    fits = work.fit_cohort(members, work.run.folder / "checkpoint.safetensors")
    usable = [member for member, result in zip(members, fits, strict=True) if _is_usable(result)]
    scorers = work.scorers([member.model for member in usable]) if usable else []
    scorer_of = {member.seed: scorer for member, scorer in zip(usable, scorers, strict=True)}
    results = {}
    for member, result in zip(members, fits, strict=True):
        _report_norms(work, member.model, starts[member.seed], member.seed)
        outcome = tuned_alone(member.model, result)
        results[member.seed] = _seed_result(work, member.seed, outcome, scorer_of.get(member.seed), meter)
    return results


def _with_adapter(work: Work, seeds: Sequence[int]) -> dict[int, SeedResult]:
    """Train and score seeds one by one: each has a copy of the model with an adapter of its own."""
    adapter = work.config.adapter
    assert adapter is not None
    results = {}
    for seed in seeds:
        meter = Meter(work.backbone.device.type)
        start = _values(work.built(work.config.prompt, seed))
        outcome = tuned_with_adapter(work, adapter, seed, work.config.prompt_rate, work.run.folder / f"seed-{seed}")
        scorer = outcome.model if _is_usable(outcome.result) else None
        if scorer:
            _report_norms(work, scorer, start, seed)
        results[seed] = _seed_result(work, seed, outcome, scorer, meter)
        if outcome.result.status == "interrupted":
            break
    return results


def _is_usable(result: FitResult) -> bool:
    return result.status != "interrupted" and bool(result.best)


def _seed_result(work: Work, seed: int, outcome: Tuned, scorer: Scorer | None, meter: Meter) -> SeedResult:
    """Score a trained seed and keep its values and result; without a scorer it has no metrics and is not kept."""
    progress = outcome.result.progress
    result = SeedResult(
        seed=seed,
        status=outcome.result.status,
        lr=work.config.prompt_rate,
        metrics={},
        trainable=outcome.trainable,
        seconds=outcome.seconds,
        peak_bytes=meter.peak_bytes,
        best_epoch=progress.best_epoch,
        history=progress.history,
    )
    if scorer is None:
        return result
    if figures := overfitting(progress.history):
        work.notice(f"seed {seed}: overfitting: {figures}; the best epoch by score was kept")
    scored = {name: work.score(scorer, name, f"seed {seed}: scoring {name}") for name in SPLITS if work.rows[name]}
    values = prompt_tensors(outcome.model.prompt)
    values |= {ADAPTER + name: value for name, value in outcome.model.backbone.inner.items()}
    write_sealed(work.run.folder / seed_file(seed), values)
    predicted = {name: rows.predicted for name, rows in scored.items()}
    confidences = {name: rows.confidence for name, rows in scored.items() if rows.confidence} or None
    facts = {
        "metrics": metrics_of(work.task, scored),
        "predicted": predicted,
        "confidences": confidences,
        "shares": scored["validation"].kept_shares(work.task, "validation") if "validation" in scored else None,
    }
    result = result.model_copy(update=facts)
    work.run.write(RESULT_OF_SEED.format(seed), result)
    return result


def _values(model: PromptedModel) -> dict[str, torch.Tensor]:
    """The prompt's values as they are now."""
    return {name: value.clone() for name, value in prompt_tensors(model.prompt).items()}


def _report_norms(work: Work, model: PromptedModel, start: dict[str, torch.Tensor], seed: int) -> None:
    """Report how long the prompt's vectors are beside the vocabulary's, and how far training moved them."""
    end = prompt_tensors(model.prompt)
    lengths = {
        name: (float(start[name].float().norm(dim=-1).mean()), float(value.float().norm(dim=-1).mean()))
        for name, value in end.items()
        if value.ndim > 1
    }
    square = sum(float(value.float().square().sum()) for value in start.values())
    shift = sum(float((end[name].float() - value.float()).square().sum()) for name, value in start.items())
    is_finite = all(math.isfinite(length) for pair in lengths.values() for length in pair) and math.isfinite(shift)
    work.run.event(
        NormsEvent(
            seed=seed,
            lr=work.config.prompt_rate,
            lengths={name: NormChange(start=a, end=b) for name, (a, b) in lengths.items()} if is_finite else {},
            moved=math.sqrt(shift / square) if square and is_finite else None,
            embedding=work.backbone.embedding_norm,
        )
    )
