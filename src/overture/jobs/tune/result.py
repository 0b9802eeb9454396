"""The result of a run: the best seed, its comparison with the controls, the stored prompt."""

import statistics
from collections.abc import Mapping, Sequence

import torch

from overture.core.errors import Diverged
from overture.core.records.base import Options
from overture.core.records.events import EndEvent
from overture.core.records.prompt import Lineage, PromptScores
from overture.core.records.scores import Comparison, Mistakes, WrongRows
from overture.core.records.tune import Controls, Measured, SeedResult, SeedScore, SeedSpread, StoppedRun, TuneResult
from overture.core.sealed import read_sealed
from overture.evaluate.intervals import paired_test
from overture.evaluate.metric import Answers
from overture.evaluate.over_seeds import resampled, spread_over_seeds
from overture.evaluate.wrong import all_mistakes
from overture.exchange.export import peft_gap
from overture.jobs.run.keep import made_with, new_manifest
from overture.jobs.run.work import Work
from overture.jobs.tune.ladder import PROBE, config_of_probe, kept_of
from overture.prompt.registry import open_gates
from overture.store.manifest import Manifest
from overture.store.names import ref_of
from overture.store.runs import RESULT, WRONG_ROWS


def finished(work: Work, controls: Controls, seeds: Sequence[SeedResult]) -> TuneResult | StoppedRun:
    """The result of a run; the prompt of a run whose seeds all ended is kept in the store.

    Raises:
        Diverged: no seed gave a finite prompt.
    """
    is_stopped = any(seed.status == "interrupted" for seed in seeds)
    usable = [seed for seed in seeds if seed.metrics]
    if not usable and is_stopped:
        return StoppedRun(run=work.run.name)
    if not usable:
        raise Diverged(
            "the loss became NaN or infinite before the first validation",
            where=str(work.run.folder),
            fix="a smaller learning rate: --set train.lr=0.001",
        )
    metric = work.task.metric

    def score_and_loss(seed: SeedResult) -> tuple[float, float]:
        validation = seed.metrics["validation"]
        return validation[metric].value, -(validation.loss or 0.0)

    best = max(usable, key=score_and_loss)
    result, all_wrong = _summary(work, controls, usable, best)
    if is_stopped:
        return result

    choice = kept_of(work, controls, best)
    if choice:
        work.notice(choice.why)
        result = result.model_copy(update={"kept": choice, "notices": work.notices})
    is_probe = choice is not None and choice.what == "probe"
    path = work.run.folder / (PROBE if is_probe else seed_file(best.seed))
    again = f"delete {path} and controls.json beside it" if is_probe else f"delete the folder {path.parent}"
    tensors, _ = read_sealed(path, f"{again}, and resume the run: it is made again")
    manifest = _manifest(work, result, best, tensors)
    if is_probe:
        manifest = _probe_manifest(work, manifest, controls, tensors)
        mistakes, all_wrong = _mistakes_of_probe(work, controls)
        result = result.model_copy(update=dict(mistakes))
    folder = work.run.keep(work.store, manifest, tensors)
    result = result.model_copy(
        update={
            # A diverged seed ends the run all the same: its last good values are kept, and its status says so.
            "status": "diverged" if best.status == "diverged" else "finished",
            "gates": manifest.lineage.gates,
            "peft_gap": peft_gap(manifest, tensors) or None,
            "prompt": str(ref_of(folder)),
            "folder": str(folder),
        }
    )
    work.run.write(WRONG_ROWS, all_wrong)
    work.run.write(RESULT, result)
    work.run.event(EndEvent(prompt=result.prompt))
    return result


def _probe_manifest(work: Work, manifest: Manifest, controls: Controls, tensors: dict[str, torch.Tensor]) -> Manifest:
    """The manifest of the linear probe, a prompt of length 0, in place of the prompt's."""
    probe, no_prompt = controls.probe, controls.no_prompt
    assert probe is not None
    assert no_prompt is not None
    return manifest.model_copy(
        update={
            "length": 0,
            "options": made_with(config_of_probe(work.config.prompt, probe)),
            "metrics": PromptScores(**no_prompt.metrics),
            "lineage": manifest.lineage.model_copy(update={"gates": None}),
            "trainable": sum(tensor.numel() for tensor in tensors.values()),
            "seconds": no_prompt.seconds,
            "shares": controls.probe_shares,
        }
    )


def _mistakes_of_probe(work: Work, controls: Controls) -> tuple[Mistakes, WrongRows]:
    no_prompt, split = controls.no_prompt, "test" if work.rows["test"] else "validation"
    assert no_prompt is not None
    assert no_prompt.predicted is not None
    confidences = (no_prompt.confidences or {}).get(split, ())
    rows, gold, predicted = getattr(work.splits, split), work.answers(split), no_prompt.predicted[split]
    return all_mistakes(work.task, split, rows, gold, predicted, confidences)


RESULT_OF_SEED = "seed-{}/result.json"


def seed_file(seed: int) -> str:
    """A trained seed's values in the run's folder."""
    return f"seed-{seed}/prompt.safetensors"


def _summary(
    work: Work, controls: Controls, seeds: Sequence[SeedResult], best: SeedResult
) -> tuple[TuneResult, WrongRows]:
    """Everything but the stored prompt, as of a run that was stopped; and all rows that were answered wrongly."""
    assert best.predicted is not None, "a seed with metrics has predictions"
    metric, split = work.task.metric, "test" if work.rows["test"] else "validation"
    gold, predicted = work.answers(split), best.predicted[split]
    confidences = (best.confidences or {}).get(split, ())
    mistakes, all_wrong = all_mistakes(work.task, split, getattr(work.splits, split), gold, predicted, confidences)
    fields = [name for name in SeedResult.model_fields if name not in ("status", "predicted", "confidences", "shares")]
    result = TuneResult(
        run=work.run.name,
        task=work.task.name,
        metric=metric,
        method=work.config.prompt.method,
        place=work.config.prompt.place,
        length=work.config.prompt.length,
        adapter=_adapter_options(work),
        cache_dtype=_cache_dtype(work),
        rows={name: len(rows) for name, rows in work.rows.items()},
        **{name: getattr(best, name) for name in fields},
        # The run's, not the best seed's: a later seed may have been stopped.
        status="interrupted",
        **{
            name: control.model_copy(update={"predicted": None, "confidences": None})
            for name, control in controls.named()
        },
        **dict(mistakes),
        compared={name: _compared(gold, predicted, control, metric, split) for name, control in controls.named()},
        seeds=seed_spread(metric, seeds, {name: work.answers(name) for name in seeds[0].metrics}),
        total_seconds=sum(seed.seconds for seed in seeds),
        notices=work.notices,
    )
    return result, all_wrong


def _compared(gold: Answers, predicted: Answers, control: Measured, metric: str, split: str) -> Comparison:
    assert control.predicted is not None, "controls are kept with their predictions"
    test = paired_test(gold, predicted, control.predicted[split], metric)
    return Comparison(split=split, **test.model_dump())


def _cache_dtype(work: Work) -> str | None:
    return None if work.config.cache_dtype == "model" else work.config.cache_dtype


def _adapter_options(work: Work) -> Options | None:
    return work.config.adapter.model_dump(mode="json") if work.config.adapter else None


def seed_spread(metric: str, seeds: Sequence[SeedResult], gold: Mapping[str, Answers]) -> SeedSpread:
    """The scores of a run's seeds by the task's metric, and how they vary with the seeds and the rows.

    Args:
        metric: its name.
        seeds: with their answers.
        gold: split -> the right answers.
    """
    predicted = {name: [(seed.predicted or {})[name] for seed in seeds] for name in seeds[0].metrics}
    return SeedSpread(
        **{name: spread_over_seeds(resampled(metric, gold[name], answers)) for name, answers in predicted.items()},
        each=[
            SeedScore(
                seed=seed.seed, status=seed.status, **{name: seed.metrics[name][metric].value for name in seed.metrics}
            )
            for seed in seeds
        ],
        mean_seconds=statistics.fmean(seed.seconds for seed in seeds),
    )


def _manifest(work: Work, result: TuneResult, best: SeedResult, tensors: dict[str, torch.Tensor]) -> Manifest:
    config = work.config
    return new_manifest(
        work.task.name,
        work.backbone,
        work.task,
        method=config.prompt.method,
        place=config.prompt.place,
        # A prompt of examples may be shorter than what was asked for.
        length=int(tensors["vectors"].shape[0]) if "vectors" in tensors else config.prompt.length,
        options=made_with(
            config.prompt,
            config.train.model_copy(update={"lr": best.lr}),
            adapter=_adapter_options(work),
            cache_dtype=_cache_dtype(work),
        ),
        metrics=PromptScores(**best.metrics, no_prompt=result.no_prompt and result.no_prompt.metrics),
        lineage=Lineage(
            run=work.run.name,
            seed=best.seed,
            train_rows=len(work.rows["train"]),
            gates=open_gates(config.prompt.method, tensors),
        ),
        trainable=best.trainable,
        seconds=best.seconds,
        shares=best.shares,
    )
