"""Tune a prompt, measure it against the model without one and with examples, keep it."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from overture.baseline.in_context import in_context_prompt
from overture.core.config import validated
from overture.core.contracts import Scorer
from overture.core.errors import BackboneError
from overture.core.meter import Meter
from overture.core.records.events import Listener, NormChange, NormsEvent, ignore
from overture.engine.backbone import Backbone
from overture.engine.cache import InputCache
from overture.engine.prompted import PromptedModel
from overture.evaluate.history import overfitting
from overture.jobs.run.request import TuneConfig, settled
from overture.jobs.run.work import SPLITS, Member, Work, metrics_of, prepared
from overture.jobs.tune.adapted import Tuned, tuned_alone, tuned_with_adapter
from overture.jobs.tune.result import finished
from overture.prompt.pack import ADAPTER, prompt_tensors
from overture.prompt.registry import check_effect
from overture.store.runs import Run
from overture.store.store import Store
from overture.train.fit import FitResult


def tune(
    config: TuneConfig,
    store: Store,
    listener: Listener = ignore,
    is_stop_asked: Callable[[], bool] = lambda: False,
    backbone: Backbone | None = None,
) -> dict[str, Any]:
    """Tune, measure, keep.

    Args:
        config: the request.
        store: where the prompt and the run's folder go.
        listener: told of every event.
        is_stop_asked: looked at after each step; the run can be resumed.
        backbone: a loaded model; loaded by the task's name when None.

    Returns:
        The result as ``--json`` prints it.

    Raises:
        UserError: task, data, model or options are wrong.
        Diverged: no seed gave a finite prompt.
        DiskFull: the run can be resumed when there is room.
    """
    check_effect(config.prompt)
    config = settled(config, store, backbone)
    run = Run.create(store.runs, config.name or config.task.name, config.model_dump(mode="json"), listener)
    return _execute(run, config, store, is_stop_asked, backbone)


def resume(
    ref: str,
    store: Store,
    listener: Listener = ignore,
    is_stop_asked: Callable[[], bool] = lambda: False,
    backbone: Backbone | None = None,
) -> dict[str, Any]:
    """Go on with a stopped run, as if it had never stopped; a finished run gives its result again.

    Raises:
        StoreError: there is no such run, or another process works on it.
    """
    run = Run.open(store.runs, ref, listener)
    done = run.read("result.json")
    if done:
        return done
    return _execute(run, validated(TuneConfig, run.config(), str(run.folder)), store, is_stop_asked, backbone)


def _execute(
    run: Run, config: TuneConfig, store: Store, is_stop_asked: Callable[[], bool], backbone: Backbone | None
) -> dict[str, Any]:
    return run.carried_out(lambda: _stages(run, config, store, is_stop_asked, backbone))


def _stages(
    run: Run, config: TuneConfig, store: Store, is_stop_asked: Callable[[], bool], backbone: Backbone | None
) -> dict[str, Any]:
    work = prepared(run, config, store, is_stop_asked, backbone)
    with work.backbone.checkpointing(config.train.gradient_checkpointing):
        controls = run.read("controls.json")
        if controls is None:
            _check_prompt(work)
            controls = _controls(work)
        seeds = _tuned_seeds(work)
    return finished(work, controls, seeds)


def _check_prompt(work: Work) -> None:
    """Whether the model can answer the task's rows under such a prompt at all.

    Raises:
        UserError: it cannot, or the prompt cannot be built.
    """
    work.built(work.config.prompt, work.config.seed).check(work.rows["train"][:1])


def _controls(work: Work) -> dict[str, Any]:
    """The model as it is, and with examples in front: predictions and scores on the same rows."""
    plain = PromptedModel(work.backbone, None, _cache_if_used(work))
    found: dict[str, Any] = {}
    try:
        plain.check(work.rows["train"][:1])
    except BackboneError as error:
        work.notice(f"the model without a prompt could not be measured: {error.what}")
    else:
        work.warm(plain)
        found["no_prompt"] = _measured(work, plain, "no prompt", Meter(work.backbone.device.type), {})
    kind = work.backbone.family.kind
    if work.config.shots and kind != "decoder":
        work.notice(f"an {kind} keeps no examples in memory, so there is no comparison with in-context examples")
    elif work.config.shots and not work.task.spec.has_shots:
        work.notice(f"rows of kind {work.task.kind} cannot be shown as examples, so none are compared with")
    elif work.config.shots:
        found["in_context"] = _in_context(work, Meter(work.backbone.device.type))
    work.run.write("controls.json", found)
    return found


def _cache_if_used(work: Work) -> InputCache | None:
    # The model alone fills and uses the cache when the prompt will use it too; else it would only cost memory.
    return work.cache if work.config.prompt.place == "after" else None


def _in_context(work: Work, meter: Meter) -> dict[str, Any]:
    scored = [row for name in SPLITS for row in getattr(work.splits, name)]
    memory, encoder, count = in_context_prompt(
        work.backbone, work.task, work.splits.train, scored, work.config.shots, work.config.seed
    )
    if count < work.config.shots:
        work.notice(f"only {count} of {work.config.shots} in-context examples fit in front of the longest row")
    rows = {name: encoder.encode(getattr(work.splits, name), bos=False) for name in SPLITS}
    model = PromptedModel(work.backbone, memory)
    following = replace(work, encoder=encoder, rows=rows)
    return _measured(following, model, f"{count} examples", meter, {"shots": count})


def _measured(work: Work, model: PromptedModel, what: str, meter: Meter, facts: dict[str, Any]) -> dict[str, Any]:
    scored = {name: work.score(model, name, f"scoring {what}, {name}") for name in SPLITS if work.rows[name]}
    return {
        **facts,
        "metrics": metrics_of(work.task, scored),
        "trainable": 0,
        "seconds": meter.seconds,
        "peak_bytes": meter.peak_bytes,
        "predicted": {name: list(found.predicted) for name, found in scored.items()},
    }


def _tuned_seeds(work: Work) -> list[dict[str, Any]]:
    """Train all seeds together to their ends, or to where they were stopped, and score them; done ones are read."""
    config = work.config
    seeds = range(config.seed, config.seed + config.seeds)
    known = {seed: work.run.read(f"seed-{seed}/result.json") for seed in seeds}
    left = [seed for seed in seeds if known[seed] is None]
    rate = config.prompt_rate
    found = _with_adapter(work, left, rate) if config.adapter else _together(work, left, rate)
    return [each for each in (known | found).values() if each is not None]


def _together(work: Work, seeds: Sequence[int], rate: float) -> dict[int, dict[str, Any]]:
    """Seeds in shared forward passes."""
    config = work.config
    train = config.train.model_copy(update={"lr": rate})
    members = [Member(str(seed), work.fresh(config.prompt, seed), train, seed) for seed in seeds]
    starts = {member.seed: _values(member.model) for member in members}
    meter = Meter(work.backbone.device.type)
    results = work.fit_cohort(members, work.run.folder / "checkpoint.safetensors") if members else []
    done = [(member, result) for member, result in zip(members, results, strict=True) if _is_usable(result)]
    scorers = work.scorers([member.model for member, _ in done]) if done else []
    by_key = {member.key: scorer for (member, _), scorer in zip(done, scorers, strict=True)}
    found = {}
    for member, result in zip(members, results, strict=True):
        _tell_norms(work, member.model, starts[member.seed], member.seed, rate)
        tuned = tuned_alone(member.model, result)
        found[member.seed] = _kept_seed(work, member.seed, tuned, by_key.get(member.key), rate, meter)
    return found


def _with_adapter(work: Work, seeds: Sequence[int], rate: float) -> dict[int, dict[str, Any]]:
    """Seeds one by one: each has a copy of the model with an adapter of its own."""
    adapter = work.config.adapter
    assert adapter is not None
    found = {}
    for seed in seeds:
        meter = Meter(work.backbone.device.type)
        start = _values(work.built(work.config.prompt, seed))
        tuned = tuned_with_adapter(work, adapter, seed, rate, work.run.folder / f"seed-{seed}")
        scorer = tuned.model if _is_usable(tuned.result) else None
        if scorer:
            _tell_norms(work, scorer, start, seed, rate)
        found[seed] = _kept_seed(work, seed, tuned, scorer, rate, meter)
        if tuned.result.status == "interrupted":
            break
    return found


def _is_usable(result: FitResult) -> bool:
    return result.status != "interrupted" and bool(result.best)


def _kept_seed(work: Work, seed: int, tuned: Tuned, scorer: Scorer | None, rate: float, meter: Meter) -> dict[str, Any]:
    model, result = tuned.model, tuned.result
    history = result.progress.history
    facts: dict[str, Any] = {
        "seed": seed,
        "status": result.status,
        "lr": rate,
        "trainable": tuned.trainable,
        "seconds": tuned.seconds,
        "peak_bytes": meter.peak_bytes,
        "best_epoch": result.progress.best_epoch,
        "history": [epoch.dump() for epoch in history],
    }
    if scorer is None:
        return {**facts, "metrics": {}}
    if figures := overfitting(history):
        work.notice(f"seed {seed}: overfitting: {figures}; the best epoch by score was kept")
    scored = {name: work.score(scorer, name, f"seed {seed}: scoring {name}") for name in SPLITS if work.rows[name]}
    _save_values(work.run.folder / f"seed-{seed}" / "prompt.safetensors", model)
    found = {
        **facts,
        "metrics": metrics_of(work.task, scored),
        "predicted": {name: list(value.predicted) for name, value in scored.items()},
    }
    work.run.write(f"seed-{seed}/result.json", found)
    return found


def _values(model: PromptedModel) -> dict[str, torch.Tensor]:
    """The prompt's values as they are now."""
    return {name: value.clone() for name, value in prompt_tensors(model.prompt).items()}


def _tell_norms(work: Work, model: PromptedModel, start: dict[str, torch.Tensor], seed: int, rate: float) -> None:
    """Report how long the prompt's vectors are beside the vocabulary's, and how far training moved them."""
    end = prompt_tensors(model.prompt)
    lengths = {
        name: (float(start[name].float().norm(dim=-1).mean()), float(value.float().norm(dim=-1).mean()))
        for name, value in end.items()
        if value.ndim > 1
    }
    square = sum(float(value.float().square().sum()) for value in start.values())
    moved = sum(float((end[name].float() - value.float()).square().sum()) for name, value in start.items())
    is_finite = all(math.isfinite(length) for pair in lengths.values() for length in pair) and math.isfinite(moved)
    work.run.event(
        NormsEvent(
            seed=seed,
            lr=rate,
            lengths={name: NormChange(start=a, end=b) for name, (a, b) in lengths.items()} if is_finite else {},
            moved=math.sqrt(moved / square) if square and is_finite else None,
            embedding=work.backbone.embedding_norm,
        )
    )


def _save_values(path: Path, model: PromptedModel) -> None:
    from safetensors.torch import save

    from overture.core.files import write_atomic

    found = prompt_tensors(model.prompt) | {ADAPTER + name: value for name, value in model.backbone.inner.items()}
    tensors = {name: value.detach().cpu().contiguous() for name, value in found.items()}
    write_atomic(path, save(tensors))
