"""Tune a prompt, measure it against the model without one and with examples, keep it."""

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from pydantic import Field

from overture.baseline.in_context import in_context_prompt
from overture.core.config import Config, overridden, read_yaml, validated
from overture.core.errors import DataError, Diverged
from overture.core.meter import Meter
from overture.core.types import Encoded
from overture.data import Encoder, Splits, Task, load_splits
from overture.data.rows import answers_of
from overture.data.task import with_paths_from
from overture.engine import Backbone, InputCache, PromptedModel, load_backbone
from overture.engine.cache import default_budget_bytes
from overture.evaluate import across_seeds, paired_test
from overture.evaluate.scoring import Scored, score
from overture.evaluate.tuned import backbone_ref
from overture.prompt import PromptConfig, PromptSource, build_prompt, injection_tensors, method_of
from overture.store import Manifest, Store
from overture.study.run import Run, versions
from overture.train import Fit, FitResult, TrainConfig, Validation

SPLITS = ("validation", "test")


class TuneConfig(Config):
    """Everything that decides a run."""

    task: Task = Field(description="The task; its keys may also stand at the top of the file.")
    name: str = Field("", description="Name of the prompt in the store; the task's name when empty.")
    prompt: PromptConfig = Field(PromptConfig(), description="What prompt, and where it enters.")
    train: TrainConfig = Field(TrainConfig(), description="How it is trained.")
    seeds: int = Field(1, ge=1, le=100, description="How many seeds are tuned; the best on validation is kept.")
    seed: int = Field(0, ge=0, description="The first seed.")
    shots: int = Field(8, ge=0, description="In-context examples to compare with; 0 leaves the comparison out.")
    cache_gb: float | None = Field(
        None, ge=0, description="Memory for kept inputs, GB; a quarter of the free when empty."
    )
    device: str = Field("auto", description="cpu, cuda, or auto.")
    dtype: str = Field("auto", description="float32, bfloat16, or auto.")
    revision: str | None = Field(None, description="Branch, tag or commit of a Hub model.")


def tune_config(path: Path, assignments: Sequence[str] = ()) -> TuneConfig:
    """A request from a task file and settings: default < file < settings.

    Args:
        path: the task file; keys of `TuneConfig` may stand beside the task's.
        assignments: ``train.lr=0.01``, ``prompt.length=20``, ``data.train_rows=64``.

    Raises:
        ConfigError: every mistake, with the nearest known key.
    """
    values = overridden(with_paths_from(Path(path).parent, read_yaml(path)), list(assignments))
    own = {
        key: values.pop(key) for key in list(values) if key in TuneConfig.model_fields and key not in ("name", "task")
    }
    task = validated(Task, values, str(path))
    return validated(TuneConfig, {**own, "task": task}, str(path))


@dataclass(slots=True)
class _Work:
    """What all parts of one run share."""

    config: TuneConfig
    run: Run
    backbone: Backbone
    encoder: Encoder
    splits: Splits
    rows: dict[str, list[Encoded]]
    cache: InputCache
    is_stop_asked: Callable[[], bool]
    notices: list[str] = field(default_factory=list)

    @property
    def task(self) -> Task:
        return self.config.task

    def progress(self, what: str) -> Callable[[int, int], None]:
        return lambda done, total: self.run.event({"event": "progress", "what": what, "done": done, "total": total})

    def notice(self, text: str) -> None:
        if text not in self.notices:
            self.notices.append(text)
            self.run.event({"event": "notice", "text": text})

    def answers(self, split: str) -> list[str]:
        if self.task.labels:
            return []
        return [answers_of(self.task, row)[0] for row in getattr(self.splits, split)]

    def score(self, model: PromptedModel, split: str, what: str) -> Scored:
        max_tokens = self.config.train.max_tokens
        return score(model, self.rows[split], self.task, self.answers(split), max_tokens, self.progress(what))


def tune(
    config: TuneConfig,
    store: Store,
    listener: Callable[[dict[str, Any]], None] = lambda event: None,
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
    method_of(config.prompt)
    if config.cache_gb is None:
        # Fixed now: a resumed run must keep the same inputs, whatever is free by then.
        config = config.model_copy(update={"cache_gb": default_budget_bytes() / 1e9})
    run = Run.create(store.runs, config.name or config.task.name, config.model_dump(mode="json"), listener)
    return _execute(run, config, store, is_stop_asked, backbone)


def resume(
    ref: str,
    store: Store,
    listener: Callable[[dict[str, Any]], None] = lambda event: None,
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
    with run.working():
        run.status("running")
        try:
            result = _stages(run, config, store, is_stop_asked, backbone)
        except BaseException as error:
            run.status("diverged" if isinstance(error, Diverged) else "stopped", why=f"{type(error).__name__}: {error}")
            raise
        run.status(result["status"])
        return result


def _stages(
    run: Run, config: TuneConfig, store: Store, is_stop_asked: Callable[[], bool], backbone: Backbone | None
) -> dict[str, Any]:
    run.event({"event": "start", "run": run.name, "folder": str(run.folder)})
    work = _prepared(run, config, is_stop_asked, backbone)
    with work.backbone.checkpointing(config.train.gradient_checkpointing):
        controls = run.read("controls.json") or _controls(work)
        seeds = []
        for seed in range(config.seed, config.seed + config.seeds):
            seeds.append(run.read(f"seed-{seed}/result.json") or _tuned_seed(work, seed))
            if seeds[-1]["status"] == "interrupted":
                break
    return _finished(work, store, controls, seeds)


def _prepared(run: Run, config: TuneConfig, is_stop_asked: Callable[[], bool], backbone: Backbone | None) -> _Work:
    task = config.task
    splits = load_splits(task)
    if not splits.validation:
        raise DataError(
            "tuning needs validation rows: they choose the best epoch",
            where="data",
            fix="set data.validation_share: 0.2",
        )

    def notify(text: str) -> None:
        run.event({"event": "notice", "text": text})

    backbone = backbone or load_backbone(
        task.backbone, revision=config.revision, device=config.device, dtype=config.dtype, notify=notify
    )
    encoder = Encoder(task, backbone.tokenizer, reserve=config.prompt.length)
    rows = {name: encoder.encode(getattr(splits, name)) for name in ("train", *SPLITS)}
    budget = None if config.cache_gb is None else int(config.cache_gb * 1e9)
    work = _Work(config, run, backbone, encoder, splits, rows, InputCache(budget, notify=notify), is_stop_asked)
    for text in (*splits.notices, *encoder.notices):
        work.notice(text)
    return work


def _controls(work: _Work) -> dict[str, Any]:
    """The model as it is, and with examples in front: predictions and scores on the same rows."""
    plain = PromptedModel(work.backbone, None, _cache_if_used(work))
    _warm(work, plain)
    found: dict[str, Any] = {"no_prompt": _measured(work, plain, "no prompt", Meter(work.backbone.device.type), {})}
    if work.config.shots:
        found["in_context"] = _in_context(work, Meter(work.backbone.device.type))
    work.run.write("controls.json", found)
    return found


def _cache_if_used(work: _Work) -> InputCache | None:
    # The model alone fills and uses the cache when the prompt will use it too; else it would only cost memory.
    return work.cache if work.config.prompt.place == "after" else None


def _in_context(work: _Work, meter: Meter) -> dict[str, Any]:
    scored = [row for name in SPLITS for row in getattr(work.splits, name)]
    memory, encoder, count = in_context_prompt(
        work.backbone, work.task, work.splits.train, scored, work.config.shots, work.config.seed
    )
    if count < work.config.shots:
        work.notice(f"only {count} of {work.config.shots} in-context examples fit in front of the longest row")
    rows = {name: encoder.encode(getattr(work.splits, name), bos=False) for name in SPLITS}
    model = PromptedModel(work.backbone, memory)
    following = _Work(
        work.config, work.run, work.backbone, encoder, work.splits, rows, work.cache, work.is_stop_asked, work.notices
    )
    return _measured(following, model, f"{count} examples", meter, {"shots": count})


def _measured(work: _Work, model: PromptedModel, what: str, meter: Meter, facts: dict[str, Any]) -> dict[str, Any]:
    scored = {name: work.score(model, name, f"scoring {what}, {name}") for name in SPLITS if work.rows[name]}
    return {
        **facts,
        "metrics": _metrics(work.task, scored),
        "trainable": 0,
        "seconds": meter.seconds,
        "peak_bytes": meter.peak_bytes,
        "predicted": {name: list(found.predicted) for name, found in scored.items()},
    }


def _metrics(task: Task, scored: dict[str, Scored]) -> dict[str, Any]:
    return {
        name: {**{key: value.model_dump() for key, value in found.metrics(task).items()}, "loss": found.loss}
        for name, found in scored.items()
    }


def _warm(work: _Work, model: PromptedModel) -> None:
    for name in ("train", *SPLITS):
        if work.rows[name]:
            model.warm(work.rows[name], work.progress(f"reading {name} inputs once"))


def _tuned_seed(work: _Work, seed: int) -> dict[str, Any]:
    """Train one seed to the end, or to where it was stopped, and score it."""
    config = work.config
    prompt = build_prompt(config.prompt, prompt_source(work.backbone, work.encoder), seed)
    model = PromptedModel(work.backbone, prompt, work.cache)
    _warm(work, model)
    folder = work.run.folder / f"seed-{seed}"
    meter = Meter(work.backbone.device.type)
    rate = config.train.lr or method_of(config.prompt).learning_rate[config.prompt.place]
    num_batches = math.ceil(len(work.rows["train"]) / config.train.batch_size)
    lengths = {"num_epochs": config.train.epochs, "num_steps": config.train.epochs * num_batches}
    fit = Fit(
        model,
        work.rows["train"],
        lambda: _validated(work, model, seed),
        config.train.model_copy(update={"lr": rate}),
        seed,
        folder / "checkpoint.safetensors",
        lambda event: work.run.event({**event, "seed": seed, **lengths}),
        work.is_stop_asked,
    )
    return _kept_seed(work, model, fit.run(), seed, rate, meter)


def _validated(work: _Work, model: PromptedModel, seed: int) -> Validation:
    found = work.score(model, "validation", f"seed {seed}: scoring validation")
    return Validation(found.value(work.task), found.loss)


def _kept_seed(
    work: _Work, model: PromptedModel, result: FitResult, seed: int, rate: float, meter: Meter
) -> dict[str, Any]:
    history = result.progress.history
    facts: dict[str, Any] = {
        "seed": seed,
        "status": result.status,
        "lr": rate,
        "trainable": sum(value.numel() for value in model.trainable().values()),
        "seconds": result.progress.seconds,
        "peak_bytes": meter.peak_bytes,
        "best_epoch": result.progress.best_epoch,
        "history": history,
    }
    if result.status == "interrupted" or not result.best:
        return {**facts, "metrics": {}}
    if note := _overfitting(history):
        work.notice(f"seed {seed}: {note}")
    scored = {name: work.score(model, name, f"seed {seed}: scoring {name}") for name in SPLITS if work.rows[name]}
    _save_values(work.run.folder / f"seed-{seed}" / "prompt.safetensors", model)
    found = {
        **facts,
        "metrics": _metrics(work.task, scored),
        "predicted": {name: list(value.predicted) for name, value in scored.items()},
    }
    work.run.write(f"seed-{seed}/result.json", found)
    return found


def _save_values(path: Path, model: PromptedModel) -> None:
    from safetensors.torch import save

    from overture.core.files import write_atomic

    injection = model.injection()
    assert injection is not None
    tensors = {name: value.cpu().contiguous() for name, value in injection_tensors(injection).items()}
    write_atomic(path, save(tensors))


def _overfitting(history: Sequence[dict[str, float]]) -> str:
    """A sentence when validation got worse while training got better, else nothing."""
    if len(history) < 2:
        return ""
    best = min(history, key=lambda entry: entry["validation_loss"])
    last = history[-1]
    if last["validation_loss"] < 1.1 * best["validation_loss"] or last["train_loss"] >= best["train_loss"]:
        return ""
    return (
        f"overfitting: from epoch {best['epoch'] + 1:.0f} to {last['epoch'] + 1:.0f} the validation loss rose from "
        f"{best['validation_loss']:.3f} to {last['validation_loss']:.3f} while the training loss fell from "
        f"{best['train_loss']:.3f} to {last['train_loss']:.3f}; the best epoch by score was kept"
    )


def prompt_source(backbone: Backbone, encoder: Encoder) -> PromptSource:
    """What a prompt method may ask of the model, and the task's label words."""
    tokenizer = backbone.tokenizer
    return PromptSource(
        hidden_size=backbone.info.hidden_size,
        embedding_norm=backbone.embedding_norm,
        embed=backbone.embed,
        memory_of=backbone.memory_of,
        encode=tokenizer.encode_plain,
        text_ids=[token for token in range(backbone.info.vocab_size) if token not in tokenizer.special_ids],
        candidates=encoder.candidates,
    )


def _finished(work: _Work, store: Store, controls: dict[str, Any], seeds: list[dict[str, Any]]) -> dict[str, Any]:
    usable = [seed for seed in seeds if seed["metrics"]]
    if any(seed["status"] == "interrupted" for seed in seeds) and not usable:
        return {"status": "interrupted", "run": work.run.name, "prompt": None, "metrics": {}}
    if not usable:
        raise Diverged(
            "the loss became NaN or infinite before the first validation",
            where=str(work.run.folder),
            fix="a smaller learning rate: --set train.lr=0.001",
        )
    metric = work.task.metric
    best = max(usable, key=lambda s: (s["metrics"]["validation"][metric]["value"], -s["metrics"]["validation"]["loss"]))
    result = _summary(work, controls, usable, best)
    if all(seed["status"] != "interrupted" for seed in seeds):
        # A diverged seed ends the run all the same: its last good values are kept, and its status says so.
        result["status"] = "diverged" if best["status"] == "diverged" else "finished"
        folder = _stored(work, store, result, best)
        result |= {"prompt": f"{folder.parent.name}@{folder.name.removeprefix('v')}", "folder": str(folder)}
        work.run.write("result.json", result)
        work.run.event({"event": "end", "prompt": result["prompt"]})
    return result


def _summary(
    work: _Work, controls: dict[str, Any], seeds: list[dict[str, Any]], best: dict[str, Any]
) -> dict[str, Any]:
    def without(found: dict[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in found.items() if key != "predicted"}

    return {
        "run": work.run.name,
        "prompt": None,
        "task": work.task.name,
        "metric": work.task.metric,
        "method": work.config.prompt.method,
        "place": work.config.prompt.place,
        "length": work.config.prompt.length,
        "rows": {name: len(rows) for name, rows in work.rows.items()},
        **without(best),
        # The run's, not the best seed's: a later seed may have been stopped.
        "status": "interrupted",
        **{name: without(found) for name, found in controls.items()},
        "compared": _compared(work, controls, best),
        "seeds": _spread(work.task.metric, seeds),
        "total_seconds": sum(seed["seconds"] for seed in seeds),
        "notices": work.notices,
    }


def _compared(work: _Work, controls: dict[str, Any], best: dict[str, Any]) -> dict[str, Any]:
    """Paired tests of the tuned prompt against each control, on test rows, or on validation when there are none."""
    split = "test" if work.rows["test"] else "validation"
    gold = _gold(work, split)
    return {
        name: {
            "split": split,
            **paired_test(gold, best["predicted"][split], found["predicted"][split], work.task.metric).model_dump(),
        }
        for name, found in controls.items()
    }


def _gold(work: _Work, split: str) -> list[str]:
    if not work.task.labels:
        return work.answers(split)
    candidates = work.encoder.candidates
    assert candidates is not None
    return [candidates.labels[row.label or 0] for row in work.rows[split]]


def _spread(metric: str, seeds: list[dict[str, Any]]) -> dict[str, Any]:
    names = [name for name in SPLITS if name in seeds[0]["metrics"]]
    spread = {name: across_seeds([s["metrics"][name][metric]["value"] for s in seeds]).model_dump() for name in names}
    each = [
        {"seed": s["seed"], "status": s["status"], **{n: s["metrics"][n][metric]["value"] for n in names}}
        for s in seeds
    ]
    return {**spread, "each": each, "mean_seconds": statistics.fmean(s["seconds"] for s in seeds)}


def _stored(work: _Work, store: Store, result: dict[str, Any], best: dict[str, Any]) -> Path:
    from safetensors.torch import load_file

    tensors: dict[str, torch.Tensor] = load_file(work.run.folder / f"seed-{best['seed']}" / "prompt.safetensors")
    config = work.config
    task = work.task.dump()
    # Paths of the machine that trained do not travel with the prompt.
    task["data"] = {
        key: Path(v).name if key in ("train", "validation", "test", "path") and v else v
        for key, v in task["data"].items()
    }
    manifest = Manifest(
        name=config.name or work.task.name,
        method=config.prompt.method,
        place=config.prompt.place,
        length=config.prompt.length,
        options={
            "prompt": config.prompt.model_dump(mode="json"),
            "train": {**config.train.model_dump(), "lr": best["lr"]},
        },
        backbone=backbone_ref(work.backbone),
        task=task,
        metrics={**best["metrics"], "no_prompt": result["no_prompt"]["metrics"]},
        lineage={"run": work.run.name, "seed": best["seed"], "train_rows": len(work.rows["train"])},
        versions=versions(),
        trainable=best["trainable"],
        seconds=best["seconds"],
    )
    return store.add(manifest, tensors)
