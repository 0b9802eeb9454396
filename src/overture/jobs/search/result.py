"""The result of a search: the winner on test rows, once; its prompt in the store; everything that was tried."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from overture.core.errors import Diverged
from overture.core.records.events import EndEvent
from overture.core.records.prompt import Lineage, PromptScores
from overture.engine.prompted import PromptedModel
from overture.jobs.run.keep import made_with, new_manifest
from overture.jobs.run.work import SPLITS, Work, metrics_of
from overture.jobs.search.race import Lane, winner_of
from overture.jobs.search.space import Setting
from overture.jobs.search.state import Shared, Trial
from overture.prompt.config import PromptConfig
from overture.prompt.registry import open_gates
from overture.report.charts import save_chart
from overture.report.search_charts import frontier, pareto_chart
from overture.store.names import ref_of


def result_of(
    shared: Shared, plain: Sequence[dict[str, Any]], lanes: list[Lane], p_values: dict[str, float]
) -> dict[str, Any]:
    """The winner on test rows, once; its prompt kept; everything that was tried."""
    work, metric = shared.whole, shared.whole.task.metric
    lane = winner_of(lanes, p_values, shared.asked.alpha, shared.asked.tolerance)
    trials = _facts(shared, plain)
    won = _won(shared, lane)
    seen = shared.reworded(won["setting"].wording, ("train", *SPLITS))
    model = shared.loaded(seen, won["setting"], won["path"]) if won["path"] else PromptedModel(work.backbone, None)
    splits = [name for name in SPLITS if seen.rows[name]]
    if "test" not in splits:
        work.notice("there are no test rows: validation rows chose the winner, so its score is too good")
    scored = {name: seen.score(model, name, f"scoring the winner, {name}") for name in splits}
    chart = save_chart(pareto_chart(trials, metric), shared.run.folder / "pareto")
    result: dict[str, Any] = {
        "status": "finished",
        "run": shared.run.name,
        "prompt": None,
        "task": work.task.name,
        "metric": metric,
        "rows": {name: len(getattr(work.splits, name)) for name in ("train", *SPLITS)},
        "winner": {"key": lane.key, **won["setting"].facts(), "seed": won["seed"], "wording": won["words"]},
        "metrics": metrics_of(work.task, scored),
        "trials": trials,
        "race": [_race_facts(shared, one, lane, p_values) for one in lanes],
        "spent": shared.spending.facts(),
        "command": _command(shared, won),
        "charts": chart,
        "notices": work.notices,
    }
    if won["path"]:
        folder = _stored(shared, seen, won, result["metrics"])
        result |= {"prompt": str(ref_of(folder)), "folder": str(folder)}
    shared.run.write("result.json", result)
    shared.run.event(EndEvent(prompt=result["prompt"]))
    return result


def _won(shared: Shared, lane: Lane) -> dict[str, Any]:
    """The winner's setting, and which of its seeds is kept: the best on validation rows, as `tune` does it."""
    kind, number = lane.key.split()
    if kind == "none":
        setting = Setting(None, shared.whole.config.train, int(number))
        return {"setting": setting, "path": None, "seed": None, "seconds": 0.0, "words": _words(shared, int(number))}
    trial = shared.of(int(number))
    found = [
        (turn, of_turn[lane.key])
        for turn in range(len(lane.scores))
        if (of_turn := shared.run.read(f"race-{turn}.json") or {}).get(lane.key, {}).get("path")
    ]
    words = _words(shared, trial.setting.wording)
    if found:
        _, best = max(found, key=lambda one: (one[1]["score"], -one[1]["loss"]))
        path = shared.run.folder / best["path"]
        seed, seconds = best["seed"], best["seconds"]
    else:
        path = shared.values_of(trial)
        if path is None:
            raise Diverged(f"{trial.setting.title()} won, and every seed of it diverged", where=str(shared.run.folder))
        seed, seconds = shared.whole.config.seed, trial.seconds
    return {"setting": trial.setting, "path": path, "seed": seed, "seconds": seconds, "words": words}


def _words(shared: Shared, wording: int) -> dict[str, Any]:
    """What a wording changes in the task file."""
    own, task = (shared.space.wordings[number].dump() for number in (0, wording))
    return {name: task[name] for name in ("template", "labels") if task[name] != own[name]}


def _facts(shared: Shared, plain: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    found = [_plain_facts(shared, one) for one in plain] + [_trial_facts(trial) for trial in shared.trials]
    usable = [one for one in found if one["score"] is not None]
    are_best = frontier([(one["tokens"], one["score"]) for one in usable])
    for one, is_best in zip(usable, are_best, strict=True):
        one["is_frontier"] = is_best
    return found


def _plain_facts(shared: Shared, one: dict[str, Any]) -> dict[str, Any]:
    setting = Setting(None, shared.whole.config.train, one["wording"])
    spent = {"tokens": 0.0, "seconds": 0.0, "serving": 0, "epochs_done": 0, "is_frontier": False}
    own = {"key": f"none {one['wording']}", "title": setting.title(), "wording": one["wording"]}
    return {**own, **setting.facts(), "score": one["score"], "loss": one["loss"], **spent}


def _trial_facts(trial: Trial) -> dict[str, Any]:
    best = trial.best
    return {
        "key": trial.key,
        "title": trial.setting.title(),
        "wording": trial.setting.wording,
        **trial.setting.facts(),
        "score": best and best.validation_score,
        "loss": best and best.validation_loss,
        "tokens": trial.tokens,
        "seconds": trial.seconds,
        "serving": trial.cost.serving,
        "epochs_done": len(trial.history),
        "is_frontier": False,
    }


def _race_facts(shared: Shared, lane: Lane, winner: Lane, p_values: dict[str, float]) -> dict[str, Any]:
    kind, number = lane.key.split()
    title = "no prompt" if kind == "none" else shared.of(int(number)).setting.title()
    return {
        "key": lane.key,
        "title": title,
        "mean": lane.mean,
        "scores": lane.scores,
        "serving": lane.cost[0],
        "tune_tokens": lane.cost[1],
        "p_value": p_values.get(lane.key),
        "dropped_after": lane.out_after,
        "is_default": lane.is_default,
        "is_winner": lane is winner,
    }


def _command(shared: Shared, won: dict[str, Any]) -> str:
    """The command that repeats the winner; none for length 0."""
    if not won["path"]:
        return ""
    file = (shared.run.read("file.json") or {}).get("file", "TASK.yaml")
    return " ".join(["overture tune", file, *shared.space.assignments(won["setting"], won["seed"])])


def _stored(shared: Shared, work: Work, won: dict[str, Any], metrics: dict[str, Any]) -> Path:
    from safetensors.torch import load_file

    setting, tensors = won["setting"], load_file(won["path"])
    prompt: PromptConfig = setting.prompt
    trained = work.built(prompt, won["seed"]).trainable().values()
    manifest = new_manifest(
        work.config.name or work.task.name,
        work.backbone,
        work.task,
        method=prompt.method,
        place=prompt.place,
        length=int(tensors["vectors"].shape[0]) if "vectors" in tensors else prompt.length,
        options=made_with(prompt, setting.train),
        metrics=PromptScores.model_validate(metrics),
        lineage=Lineage(
            run=shared.run.name,
            seed=won["seed"],
            train_rows=len(work.rows["train"]),
            gates=open_gates(prompt.method, tensors),
        ),
        trainable=sum(value.numel() for value in trained),
        seconds=won["seconds"],
    )
    return work.store.add(manifest, tensors)
