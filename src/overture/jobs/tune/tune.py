"""Tune a prompt, measure it against the model without one and with examples, keep it."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from pydantic import TypeAdapter

from overture.baseline.in_context import in_context_prompt
from overture.core.errors import BackboneError
from overture.core.meter import Meter
from overture.core.records.events import Listener, StageEvent, as_notices, ignore
from overture.core.records.tune import Controls, Measured, SeedResult, StoppedRun, TuneResult
from overture.core.sealed import write_sealed
from overture.engine.backbone import Backbone
from overture.engine.prompted import PromptedModel
from overture.evaluate.scoring import Scored
from overture.evaluate.source import prompt_source
from overture.jobs.run.request import TuneConfig
from overture.jobs.run.resumed import resumed
from overture.jobs.run.settled import settled
from overture.jobs.run.together import agreed, is_first, joined, losses_named, shared_run
from overture.jobs.run.tracked import tracked
from overture.jobs.run.where import HERE, Where
from overture.jobs.run.work import SPLITS, Work, metrics_of, new_run, read_material, taken_up, work_on
from overture.jobs.tune.ladder import PROBE, chosen_probe, facts_of, has_ladder, prompt_of, with_read_layer
from overture.jobs.tune.plan import compares_examples, plan_of
from overture.jobs.tune.result import finished
from overture.jobs.tune.seeds import seed_results
from overture.prompt.caption_options import CAPTION
from overture.prompt.captions import zero_shot
from overture.prompt.labels import label_start, with_labels
from overture.prompt.pack import prompt_tensors
from overture.prompt.registry import check_effect, method_of
from overture.store.runs import Run
from overture.store.store import Store

_CONTROLS = "controls.json"
_REQUEST = TypeAdapter(TuneConfig)
_RESULT: TypeAdapter[TuneResult | StoppedRun] = TypeAdapter(TuneResult | StoppedRun)


def tune(
    config: TuneConfig,
    store: Store,
    listener: Listener = ignore,
    is_stop_asked: Callable[[], bool] = lambda: False,
    backbone: Backbone | None = None,
    file: str = "TASK.yaml",
    where: Where = HERE,
) -> TuneResult | StoppedRun:
    """Tune a prompt, measure it against its controls, keep it.

    Args:
        config: the request.
        store: where the prompt and the run's folder go.
        listener: called with every event.
        is_stop_asked: looked at after each step; the run can be resumed.
        backbone: a loaded model; loaded by the task's name when None.
        file: the task file, for commands that use it again.
        where: where seeds are trained.

    Returns:
        The result as ``--json`` prints it; `StoppedRun` where it was stopped before any seed was measured.

    Raises:
        UserError: task, data, model or options are wrong.
        Diverged: no seed gave a finite prompt.
        LostProcess: another of the processes that train together ended.
        DiskFull: the run can be resumed when there is room.
    """
    check_effect(config.prompt)
    with joined(config) as ranks:
        request, listener = config, listener if is_first(ranks) else ignore
        config = agreed(ranks, _REQUEST, lambda: settled(request, store, backbone))
        material = read_material(config, as_notices(listener), backbone, ranks=ranks)

        def create_run() -> Run:
            return new_run(store, config.task.name, config, material, listener, "tune", file)

        with shared_run(ranks, create_run) as run:

            def work() -> TuneResult | StoppedRun:
                with losses_named(ranks):
                    return _result(work_on(run, material, store, is_stop_asked, ranks), where)

            return tracked(run, config, lambda: run.carried_out(work, is_new=True), is_first(ranks))


def resume(
    ref: str,
    store: Store,
    listener: Listener = ignore,
    is_stop_asked: Callable[[], bool] = lambda: False,
    backbone: Backbone | None = None,
    settings: Sequence[str] = (),
    where: Where = HERE,
) -> TuneResult | StoppedRun:
    """Go on with a stopped run, as if it had never stopped; a finished run gives its result again.

    Args:
        ref: the run's name or folder.
        store: where the prompt goes.
        listener: called with every event.
        is_stop_asked: looked at after each step; the run can be resumed.
        backbone: a loaded model; loaded by the task's name when None.
        settings: where data files lie now: ``data.train=rows.jsonl``; or other processes: ``tensor_parallel=2``.
        where: where seeds are trained.

    Raises:
        StoreError: there is no such run, or another process works on it.
        ConfigError: a setting is no data file's.
        DataError: the rows have changed since the run began.
        ArtifactError: the model has changed since the run began, or a file of the run is damaged.
    """

    def go_on(opened_run: Run, config: TuneConfig) -> TuneResult | StoppedRun:
        with joined(config) as ranks, shared_run(ranks, lambda: opened_run) as run:

            def work() -> TuneResult | StoppedRun:
                work_left = taken_up(run, config, store, is_stop_asked, backbone, ranks)
                run.keep_config(config.model_dump(mode="json"))
                with losses_named(ranks):
                    return _result(work_left, where)

            return tracked(run, config, lambda: run.carried_out(work), is_first(ranks))

    return resumed(ref, store, listener, settings, TuneConfig, TuneResult, go_on)


def _result(work: Work, where: Where) -> TuneResult | StoppedRun:
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
        seeds = _seeds(work, model, where)
        if not is_measured and not any(seed.status == "interrupted" for seed in seeds):
            run.event(StageEvent(number=2))
            no_prompt = _beside_probe(work) if has_ladder(work) else Controls(no_prompt=_without_prompt(work))
            if compares_examples(work):
                run.event(StageEvent(number=3))
            controls = no_prompt.model_copy(update={"in_context": _in_context(work)})
            run.write(_CONTROLS, controls)
    return agreed(work.ranks, _RESULT, lambda: finished(work, controls or Controls(), seeds))


def _beside_probe(work: Work) -> Controls:
    """A model without words under its best linear probe, whose values the run keeps."""
    assert work.encoder.candidates is not None
    probe = chosen_probe(work.backbone, work.cache, work.rows, len(work.encoder.candidates.labels))
    prompt = prompt_of(probe)
    tensors = prompt_tensors(prompt)
    write_sealed(work.run.folder / PROBE, tensors)
    work.notice("without a prompt the model answers by a linear probe, whose layer was chosen on validation rows")
    meter, scored = Meter(work.backbone.device.type), _scored(work, PromptedModel(work.backbone, prompt), "probe")
    return Controls(
        no_prompt=_measured_of(work, scored, meter, trainable=sum(tensor.numel() for tensor in tensors.values())),
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
    plain, num_trained = PromptedModel(work.backbone, None, cache), 0
    if method_of(work.config.prompt).in_captions:
        source = prompt_source(work.backbone, work.encoder)
        plain = PromptedModel(work.backbone, zero_shot(source), work.cache)
        work.notice(f"without a prompt the model compares images with captions written by hand: {CAPTION!r}")
    elif not work.backbone.family.has_words and work.encoder.candidates:
        source = prompt_source(work.backbone, work.encoder, work.rows["train"], cache=work.cache)
        labels, bias = label_start(source)
        plain = PromptedModel(work.backbone, with_labels(None, labels, bias=bias), cache)
        num_trained = labels.numel() + (0 if bias is None else bias.numel())
        work.notice(
            "without a prompt the model answers by a linear probe of the training rows, where the prompt started"
        )
    try:
        work.check(plain)
    except BackboneError as error:
        work.notice(f"the model without a prompt could not be measured: {error.what}")
        return None
    work.warm(plain)
    measured = _measured(work, plain, "no-prompt", Meter(work.backbone.device.type))
    return measured.model_copy(update={"trainable": num_trained})


def _in_context(work: Work) -> Measured | None:
    """The model with examples in front of each row; None where it was not asked for or cannot be."""
    shots, kind = work.config.shots, work.backbone.family.kind
    if not shots:
        return None
    if kind != "decoder":
        work.notice(f"an {kind} keeps no examples in memory, so there is no comparison with in-context examples")
        return None
    if not work.task.has_shots:
        kind_name = work.task.input if work.task.media else work.task.kind
        work.notice(f"rows of kind {kind_name} cannot be shown as examples, so none are compared with")
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


def _measured(work: Work, model: PromptedModel, model_name: str, meter: Meter, shots: int | None = None) -> Measured:
    return _measured_of(work, _scored(work, model, model_name), meter, shots)


def _scored(work: Work, model: PromptedModel, model_name: str) -> dict[str, Scored]:
    return {name: work.score(model, name, f"scoring {model_name}, {name}") for name in SPLITS if work.rows[name]}


def _measured_of(
    work: Work, scored: dict[str, Scored], meter: Meter, shots: int | None = None, trainable: int = 0
) -> Measured:
    return Measured(
        shots=shots,
        metrics=metrics_of(work.task, scored),
        trainable=trainable,
        seconds=meter.seconds,
        peak_bytes=meter.peak_bytes,
        predicted={name: rows.predicted for name, rows in scored.items()},
    )


def _seeds(work: Work, first: PromptedModel, where: Where) -> list[SeedResult]:
    """The results of all seeds of the run, trained here or by workers."""
    seeds = range(work.config.seed, work.config.seed + work.config.seeds)
    if not where.on:
        return list(seed_results(work, seeds, first).values())
    from overture.jobs.tune.elsewhere import seeds_elsewhere

    return seeds_elsewhere(work, seeds, where)
