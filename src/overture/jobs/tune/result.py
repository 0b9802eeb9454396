"""The result of a run: the best seed, its comparison with the controls, the stored prompt."""

import statistics
from pathlib import Path
from typing import Any

import torch

from overture.core.errors import Diverged
from overture.core.records.events import EndEvent
from overture.core.records.prompt import Lineage, PromptScores
from overture.core.records.scores import WrongRow
from overture.data.rows import shown_rows
from overture.evaluate.intervals import across_seeds, paired_test
from overture.evaluate.metrics import as_answers, metric_named
from overture.evaluate.wrong import wrong_rows
from overture.jobs.run.keep import made_with, new_manifest
from overture.jobs.run.work import SPLITS, Work
from overture.prompt.registry import open_gates
from overture.store.names import ref_of


def finished(work: Work, controls: dict[str, Any], seeds: list[dict[str, Any]]) -> dict[str, Any]:
    """What a run gives; a run that is done is kept in the store.

    Raises:
        Diverged: no seed gave a finite prompt.
    """
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
        from safetensors.torch import load_file

        # A diverged seed ends the run all the same: its last good values are kept, and its status says so.
        result["status"] = "diverged" if best["status"] == "diverged" else "finished"
        tensors = load_file(work.run.folder / f"seed-{best['seed']}" / "prompt.safetensors")
        if gates := open_gates(work.config.prompt.method, tensors):
            result["gates"] = gates.dump()
        folder = _stored(work, result, best, tensors)
        result |= {"prompt": str(ref_of(folder)), "folder": str(folder)}
        work.run.write("result.json", result)
        work.run.event(EndEvent(prompt=result["prompt"]))
    return result


def _summary(work: Work, controls: dict[str, Any], seeds: list[dict[str, Any]], best: dict[str, Any]) -> dict[str, Any]:
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
        **({"adapter": work.config.adapter.model_dump(mode="json")} if work.config.adapter else {}),
        "rows": {name: len(rows) for name, rows in work.rows.items()},
        **without(best),
        # The run's, not the best seed's: a later seed may have been stopped.
        "status": "interrupted",
        **{name: without(found) for name, found in controls.items()},
        "wrong": [row.model_dump() for row in _wrong(work, best)],
        "compared": _compared(work, controls, best),
        "seeds": _spread(work.task.metric, seeds),
        "total_seconds": sum(seed["seconds"] for seed in seeds),
        "notices": work.notices,
    }


def _wrong(work: Work, best: dict[str, Any]) -> list[WrongRow]:
    split = "test" if work.rows["test"] else "validation"
    shown = shown_rows(work.task, getattr(work.splits, split))
    return wrong_rows(work.task.metric, work.answers(split), as_answers(best["predicted"][split]), shown)


def _compared(work: Work, controls: dict[str, Any], best: dict[str, Any]) -> dict[str, Any]:
    """Paired tests of the tuned prompt against each control, on test rows, or on validation when there are none."""
    split = "test" if work.rows["test"] else "validation"
    gold = work.answers(split)
    return {
        name: {
            "split": split,
            **paired_test(
                gold, as_answers(best["predicted"][split]), as_answers(found["predicted"][split]), work.task.metric
            ).model_dump(),
        }
        for name, found in controls.items()
    }


def _spread(metric: str, seeds: list[dict[str, Any]]) -> dict[str, Any]:
    names = [name for name in SPLITS if name in seeds[0]["metrics"]]
    values = {name: [s["metrics"][name][metric]["value"] for s in seeds] for name in names}
    bounds = metric_named(metric).bounds
    spread = {name: across_seeds(each, bounds=bounds).model_dump() for name, each in values.items()}
    each = [
        {"seed": s["seed"], "status": s["status"], **{n: s["metrics"][n][metric]["value"] for n in names}}
        for s in seeds
    ]
    return {**spread, "each": each, "mean_seconds": statistics.fmean(s["seconds"] for s in seeds)}


def _stored(work: Work, result: dict[str, Any], best: dict[str, Any], tensors: dict[str, torch.Tensor]) -> Path:
    config = work.config
    manifest = new_manifest(
        config.name or work.task.name,
        work.backbone,
        work.task,
        method=config.prompt.method,
        place=config.prompt.place,
        length=_length(tensors, config.prompt.length),
        options=made_with(
            config.prompt,
            config.train.model_copy(update={"lr": best["lr"]}),
            config.adapter.model_dump(mode="json") if config.adapter else None,
        ),
        metrics=PromptScores.model_validate({**best["metrics"], **_of_control(result)}),
        lineage=Lineage(
            run=work.run.name,
            seed=best["seed"],
            train_rows=len(work.rows["train"]),
            gates=open_gates(config.prompt.method, tensors),
        ),
        trainable=best["trainable"],
        seconds=best["seconds"],
    )
    return work.store.add(manifest, tensors)


def _of_control(result: dict[str, Any]) -> dict[str, Any]:
    """Scores of the model without a prompt, where it could be measured."""
    return {"no_prompt": result["no_prompt"]["metrics"]} if "no_prompt" in result else {}


def _length(tensors: dict[str, torch.Tensor], asked: int) -> int:
    """A prompt of examples may be shorter than what was asked for."""
    return int(tensors["vectors"].shape[0]) if "vectors" in tensors else asked
