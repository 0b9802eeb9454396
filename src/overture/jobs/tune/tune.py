"""Tune a prompt, measure it against the model without one and with examples, keep it."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from overture.baseline.in_context import in_context_prompt
from overture.core.contracts import Scorer
from overture.core.errors import BackboneError
from overture.core.meter import Meter
from overture.core.records.events import Listener, NormChange, NormsEvent, StageEvent, as_notices, ignore
from overture.core.records.tune import Controls, Measured, SeedResult, StoppedRun, TuneResult
from overture.core.sealed import write_sealed
from overture.engine.backbone import Backbone
from overture.engine.prompted import PromptedModel
from overture.evaluate.history import overfitting
from overture.evaluate.scoring import Scored
from overture.evaluate.source import prompt_source
from overture.jobs.run.request import TuneConfig, settled
from overture.jobs.run.resumed import resumed
from overture.jobs.run.tracked import tracked
from overture.jobs.run.work import SPLITS, Member, Work, begun_run, metrics_of, read_material, taken_up, work_on
from overture.jobs.tune.adapted import Tuned, tuned_alone, tuned_with_adapter
from overture.jobs.tune.ladder import PROBE, chosen_probe, facts_of, has_ladder, prompt_of, with_read_layer
from overture.jobs.tune.plan import plan_of
from overture.jobs.tune.result import finished, seed_file
from overture.prompt.captions import zero_shot
from overture.prompt.labels import label_start, with_labels
from overture.prompt.methods import CAPTION
from overture.prompt.pack import ADAPTER, prompt_tensors
from overture.prompt.registry import check_effect, method_of
from overture.store.runs import Run
from overture.store.store import Store
from overture.train.fit import FitResult

_CONTROLS = "controls.json"


def tune(
    config: TuneConfig,
    store: Store,
    listener: Listener = ignore,
    is_stop_asked: Callable[[], bool] = lambda: False,
    backbone: Backbone | None = None,
    file: str = "TASK.yaml",
) -> TuneResult | StoppedRun:
    """Tune a prompt, measure it against its controls, keep it.

    Args:
        config: the request.
        store: where the prompt and the run's folder go.
        listener: called with every event.
        is_stop_asked: looked at after each step; the run can be resumed.
        backbone: a loaded model; loaded by the task's name when None.
        file: the task file, for commands that use it again.

    Returns:
        The result as ``--json`` prints it; `StoppedRun` where it was stopped before any seed was measured.

    Raises:
        UserError: task, data, model or options are wrong.
        Diverged: no seed gave a finite prompt.
        DiskFull: the run can be resumed when there is room.
    """
    check_effect(config.prompt)
    config = settled(config, store, backbone)
    material = read_material(config, as_notices(listener), backbone)
    run = begun_run(store, config.task.name, config, material, listener, "tune", file)

    def begun() -> TuneResult | StoppedRun:
        return _result(work_on(run, material, store, is_stop_asked))

    return tracked(run, config, lambda: run.carried_out(begun, is_new=True))


def resume(
    ref: str,
    store: Store,
    listener: Listener = ignore,
    is_stop_asked: Callable[[], bool] = lambda: False,
    backbone: Backbone | None = None,
    settings: Sequence[str] = (),
) -> TuneResult | StoppedRun:
    """Go on with a stopped run, as if it had never stopped; a finished run gives its result again.

    Args:
        ref: the run's name or folder.
        store: where the prompt goes.
        listener: called with every event.
        is_stop_asked: looked at after each step; the run can be resumed.
        backbone: a loaded model; loaded by the task's name when None.
        settings: where data files lie now: ``data.train=rows.jsonl``.

    Raises:
        StoreError: there is no such run, or another process works on it.
        ConfigError: a setting is no data file's.
        DataError: the rows have changed since the run began.
        ArtifactError: the model has changed since the run began, or a file of the run is damaged.
    """

    def go_on(run: Run, config: TuneConfig) -> TuneResult | StoppedRun:
        def work() -> TuneResult | StoppedRun:
            taken = taken_up(run, config, store, is_stop_asked, backbone)
            run.keep_config(config.model_dump(mode="json"))
            return _result(taken)

        return tracked(run, config, lambda: run.carried_out(work))

    return resumed(ref, store, listener, settings, TuneConfig, TuneResult, go_on)


def _result(work: Work) -> TuneResult | StoppedRun:
    """Train and measure the seeds, measure the controls, keep the best; parts that the run's folder has are read."""
    run, candidates = work.run, work.encoder.candidates
    prompt = with_read_layer(work.config.prompt, work.backbone, work.cache, work.rows, candidates)
    work.config = config = work.config.model_copy(update={"prompt": prompt})
    with work.backbone.checkpointing(config.train.gradient_checkpointing):
        # A prompt that cannot be built, or that the model cannot answer with, is refused before anything is run.
        model = work.built(work.config.prompt, work.config.seed)
        work.check(model)
        controls = run.read(_CONTROLS, Controls)
        is_measured = controls is not None or not config.baselines
        run.event(plan_of(work, model, is_measured))
        run.event(StageEvent(number=1))
        seeds = _seed_results(work, model)
        if not is_measured and not any(seed.status == "interrupted" for seed in seeds):
            run.event(StageEvent(number=2))
            no_prompt = _beside_probe(work) if has_ladder(work) else Controls(no_prompt=_without_prompt(work))
            if config.shots:
                run.event(StageEvent(number=3))
            controls = no_prompt.model_copy(update={"in_context": _in_context(work)})
            run.write(_CONTROLS, controls)
    return finished(work, controls or Controls(), seeds)


def _beside_probe(work: Work) -> Controls:
    """A model without words under its best linear probe, whose values the run keeps."""
    assert work.encoder.candidates is not None
    probe = chosen_probe(work.backbone, work.cache, work.rows, len(work.encoder.candidates.labels))
    prompt = prompt_of(probe)
    write_sealed(work.run.folder / PROBE, prompt_tensors(prompt))
    work.notice("without a prompt the model answers by a linear probe, whose layer was chosen on validation rows")
    meter, scored = Meter(work.backbone.device.type), _scored(work, PromptedModel(work.backbone, prompt), "probe")
    return Controls(
        no_prompt=_measured_of(work, scored, meter),
        probe=facts_of(probe, work.backbone.info.num_layers),
        probe_shares=scored["validation"].kept_shares(work.task, "validation"),
    )


def _without_prompt(work: Work) -> Measured | None:
    """The model as it is; None where it cannot answer such rows without a prompt.

    A model without words is measured under a linear probe of the training rows, from which label vectors start too, or
    with captions written by hand where the prompt stands in such captions.
    """
    # The model alone fills and uses the cache when the prompt will use it too; else it would only cost memory.
    cache = work.cache if work.config.prompt.place == "after" else None
    plain = PromptedModel(work.backbone, None, cache)
    if method_of(work.config.prompt).in_captions:
        source = prompt_source(work.backbone, work.encoder)
        plain = PromptedModel(work.backbone, zero_shot(source), work.cache)
        work.notice(f"without a prompt the model compares images with captions written by hand: {CAPTION!r}")
    elif not work.backbone.family.has_words and work.encoder.candidates:
        source = prompt_source(work.backbone, work.encoder, work.rows["train"], cache=work.cache)
        labels, bias = label_start(source)
        plain = PromptedModel(work.backbone, with_labels(None, labels, bias=bias), cache)
        work.notice(
            "without a prompt the model answers by a linear probe of the training rows, where the prompt started"
        )
    try:
        work.check(plain)
    except BackboneError as error:
        work.notice(f"the model without a prompt could not be measured: {error.what}")
        return None
    work.warm(plain)
    return _measured(work, plain, "no-prompt", Meter(work.backbone.device.type))


def _in_context(work: Work) -> Measured | None:
    """The model with examples in front of each row; None where it was not asked for or cannot be."""
    shots, kind = work.config.shots, work.backbone.family.kind
    if not shots:
        return None
    if kind != "decoder":
        work.notice(f"an {kind} keeps no examples in memory, so there is no comparison with in-context examples")
        return None
    if not work.task.has_shots:
        what = work.task.input if work.task.media else work.task.kind
        work.notice(f"rows of kind {what} cannot be shown as examples, so none are compared with")
        return None
    meter = Meter(work.backbone.device.type)
    scored_rows = [row for name in SPLITS for row in getattr(work.splits, name)]
    memory, encoder, count = in_context_prompt(
        work.backbone, work.task, work.splits.train, scored_rows, shots, work.config.seed
    )
    if count < shots:
        work.notice(f"only {count} of {shots} in-context examples fit in front of the longest row")
    rows = {name: encoder.encode(getattr(work.splits, name), bos=False) for name in SPLITS}
    behind_examples = replace(work, encoder=encoder, rows=rows)
    model = PromptedModel(work.backbone, memory)
    return _measured(behind_examples, model, f"{count} examples", meter, shots=count)


def _measured(work: Work, model: PromptedModel, what: str, meter: Meter, shots: int | None = None) -> Measured:
    return _measured_of(work, _scored(work, model, what), meter, shots)


def _scored(work: Work, model: PromptedModel, what: str) -> dict[str, Scored]:
    return {name: work.score(model, name, f"scoring {what}, {name}") for name in SPLITS if work.rows[name]}


def _measured_of(work: Work, scored: dict[str, Scored], meter: Meter, shots: int | None = None) -> Measured:
    return Measured(
        shots=shots,
        metrics=metrics_of(work.task, scored),
        trainable=0,
        seconds=meter.seconds,
        peak_bytes=meter.peak_bytes,
        predicted={name: rows.predicted for name, rows in scored.items()},
    )


def _seed_results(work: Work, first: PromptedModel) -> list[SeedResult]:
    """Train all seeds to their ends, or to where they were stopped, and score them; finished ones are read.

    Args:
        work: the run.
        first: the model under the untrained prompt of the first seed.
    """
    config = work.config
    seeds = range(config.seed, config.seed + config.seeds)
    results = {seed: work.run.read(f"seed-{seed}/result.json", SeedResult) for seed in seeds}
    left = [seed for seed in seeds if results[seed] is None]
    results |= _with_adapter(work, left) if config.adapter else _together(work, left, first)
    return [result for result in results.values() if result is not None]


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
    fitted = work.fit_cohort(members, work.run.folder / "checkpoint.safetensors")
    usable = [member for member, result in zip(members, fitted, strict=True) if _is_usable(result)]
    scorers = work.scorers([member.model for member in usable]) if usable else []
    scorer_of = {member.seed: scorer for member, scorer in zip(usable, scorers, strict=True)}
    results = {}
    for member, result in zip(members, fitted, strict=True):
        _report_norms(work, member.model, starts[member.seed], member.seed)
        tuned = tuned_alone(member.model, result)
        results[member.seed] = _seed_result(work, member.seed, tuned, scorer_of.get(member.seed), meter)
    return results


def _with_adapter(work: Work, seeds: Sequence[int]) -> dict[int, SeedResult]:
    """Train and score seeds one by one: each has a copy of the model with an adapter of its own."""
    adapter = work.config.adapter
    assert adapter is not None
    results = {}
    for seed in seeds:
        meter = Meter(work.backbone.device.type)
        start = _values(work.built(work.config.prompt, seed))
        tuned = tuned_with_adapter(work, adapter, seed, work.config.prompt_rate, work.run.folder / f"seed-{seed}")
        scorer = tuned.model if _is_usable(tuned.result) else None
        if scorer:
            _report_norms(work, scorer, start, seed)
        results[seed] = _seed_result(work, seed, tuned, scorer, meter)
        if tuned.result.status == "interrupted":
            break
    return results


def _is_usable(result: FitResult) -> bool:
    return result.status != "interrupted" and bool(result.best)


def _seed_result(work: Work, seed: int, tuned: Tuned, scorer: Scorer | None, meter: Meter) -> SeedResult:
    """Score a trained seed and keep its values and result; without a scorer it has no metrics and is not kept."""
    progress = tuned.result.progress
    result = SeedResult(
        seed=seed,
        status=tuned.result.status,
        lr=work.config.prompt_rate,
        metrics={},
        trainable=tuned.trainable,
        seconds=tuned.seconds,
        peak_bytes=meter.peak_bytes,
        best_epoch=progress.best_epoch,
        history=progress.history,
    )
    if scorer is None:
        return result
    if figures := overfitting(progress.history):
        work.notice(f"seed {seed}: overfitting: {figures}; the best epoch by score was kept")
    scored = {name: work.score(scorer, name, f"seed {seed}: scoring {name}") for name in SPLITS if work.rows[name]}
    values = prompt_tensors(tuned.model.prompt)
    values |= {ADAPTER + name: value for name, value in tuned.model.backbone.inner.items()}
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
    work.run.write(f"seed-{seed}/result.json", result)
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
    moved = sum(float((end[name].float() - value.float()).square().sum()) for name, value in start.items())
    is_finite = all(math.isfinite(length) for pair in lengths.values() for length in pair) and math.isfinite(moved)
    work.run.event(
        NormsEvent(
            seed=seed,
            lr=work.config.prompt_rate,
            lengths={name: NormChange(start=a, end=b) for name, (a, b) in lengths.items()} if is_finite else {},
            moved=math.sqrt(moved / square) if square and is_finite else None,
            embedding=work.backbone.embedding_norm,
        )
    )
