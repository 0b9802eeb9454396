"""The result of a search: the winner on test rows, once; its prompt in the store; everything that was tried."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from overture.core.errors import Diverged
from overture.core.records.events import EndEvent
from overture.core.records.prompt import Lineage, PromptScores
from overture.core.records.scores import SplitScores
from overture.core.records.search import LaneResult, PlainScore, SearchResult, TrialResult, Winner
from overture.core.records.shares import KeptShares
from overture.engine.prompted import PromptedModel
from overture.jobs.run.keep import made_with, new_manifest
from overture.jobs.run.work import SPLITS, Work, metrics_of
from overture.jobs.search.race import Lane, Race
from overture.jobs.search.space import Setting
from overture.jobs.search.state import SearchState
from overture.prompt.registry import open_gates
from overture.report.search_charts import frontier
from overture.store.names import ref_of
from overture.store.runs import RESULT


@dataclass(frozen=True, slots=True)
class KeptSeed:
    """The winner's prompt of one seed.

    Args:
        path: its values.
        seed: the seed.
        seconds: of its training.
    """

    path: Path
    seed: int
    seconds: float


def result_of(state: SearchState, plain: Sequence[PlainScore], race: Race) -> SearchResult:
    """Score the winner on test rows, keep its prompt, and tell everything that was tried."""
    work, metric, winner = state.work, state.work.task.metric, race.winner
    if winner.number is None:
        setting, best = Setting(None, work.config.train, int(winner.key.split()[1])), None
    else:
        setting = state.trial(winner.number).setting
        best = _best_seed(state, race, winner)
    wording_work = state.reworded(setting.wording, ("train", *SPLITS))
    model = state.loaded(wording_work, setting, best.path) if best else PromptedModel(work.backbone, None)
    splits = [name for name in SPLITS if wording_work.rows[name]]
    if "test" not in splits:
        work.notice("there are no test rows: validation rows chose the winner, so its score is too good")
    default = state.default_trial
    if default and all(trial is default for trial in state.trials) and state.values_file(default):
        work.notice(
            "the budget was enough to train the task file's own setting alone, so no other was tried: "
            "raise --tunes, --seconds, --tokens or --money"
        )
    scored = {name: wording_work.score(model, name, f"scoring the winner, {name}") for name in splits}
    metrics = metrics_of(work.task, scored)
    trials = _trial_results(state, plain)
    first, wording = (state.space.wordings[number].dump() for number in (0, setting.wording))
    folder, command = None, ""
    if best:
        command = " ".join(["overture tune", state.run.request().file, *state.space.assignments(setting, best.seed)])
        shares = scored["validation"].kept_shares(wording_work.task, "validation") if "validation" in scored else None
        folder = _stored(state, wording_work, setting, best, metrics, shares)
    result = SearchResult(
        run=state.run.name,
        prompt=str(ref_of(folder)) if folder else None,
        task=work.task.name,
        metric=metric,
        rows={name: len(getattr(work.splits, name)) for name in ("train", *SPLITS)},
        winner=Winner(
            key=winner.key,
            **dict(setting.choice()),
            seed=best.seed if best else None,
            wording={name: wording[name] for name in ("template", "labels") if wording[name] != first[name]},
        ),
        metrics=metrics,
        trials=trials,
        race=[_lane_result(state, lane, race) for lane in race.lanes],
        spent=state.budget.spent(),
        command=command,
        notices=work.notices,
        folder=str(folder) if folder else None,
    )
    state.run.write(RESULT, result)
    state.run.event(EndEvent(prompt=result.prompt))
    return result


def _best_seed(state: SearchState, race: Race, winner: Lane) -> KeptSeed:
    """The winner's seed that is best on validation rows, as `tune` chooses it; the exploring seed if none raced."""
    assert winner.number is not None
    trial = state.trial(winner.number)
    races = [scores[winner.key] for turn in range(len(winner.scores)) if winner.key in (scores := race.scores(turn))]
    if finite := [score for score in races if score.path]:
        best = max(finite, key=lambda score: (score.score, -score.loss))
        return KeptSeed(state.run.folder / best.path, best.seed, best.seconds)
    path = state.values_file(trial)
    if path is None:
        raise Diverged(f"{trial.setting.title()} won, and every seed of it diverged", where=str(state.run.folder))
    return KeptSeed(path, state.work.config.seed, trial.seconds)


def _trial_results(state: SearchState, plain: Sequence[PlainScore]) -> list[TrialResult]:
    trials = []
    for score in plain:
        setting = Setting(None, state.work.config.train, score.wording)
        trials.append(
            TrialResult(
                key=f"none {score.wording}",
                title=setting.title(),
                wording=score.wording,
                **dict(setting.choice()),
                score=score.score,
                loss=score.loss,
                tokens=0.0,
                seconds=0.0,
                serving=0,
                epochs_done=0,
            )
        )
    for trial in state.trials:
        best = trial.best
        trials.append(
            TrialResult(
                key=trial.key,
                title=trial.setting.title(),
                wording=trial.setting.wording,
                **dict(trial.setting.choice()),
                score=best.validation_score if best else None,
                loss=best.validation_loss if best else None,
                tokens=trial.tokens,
                seconds=trial.seconds,
                serving=trial.cost.serving,
                epochs_done=len(trial.history),
            )
        )
    points = {trial.key: (trial.tokens, trial.score) for trial in trials if trial.score is not None}
    best_keys = {key for key, is_best in zip(points, frontier(list(points.values())), strict=True) if is_best}
    return [trial.model_copy(update={"is_frontier": trial.key in best_keys}) for trial in trials]


def _lane_result(state: SearchState, lane: Lane, race: Race) -> LaneResult:
    return LaneResult(
        key=lane.key,
        title="no prompt" if lane.number is None else state.trial(lane.number).setting.title(),
        mean=lane.mean,
        scores=lane.scores,
        serving=lane.cost[0],
        tune_tokens=lane.cost[1],
        p_value=race.p_values.get(lane.key),
        dropped_after=lane.dropped_after,
        is_default=lane.is_default,
        is_winner=lane is race.winner,
    )


def _stored(
    state: SearchState,
    work: Work,
    setting: Setting,
    best_seed: KeptSeed,
    metrics: dict[str, SplitScores],
    shares: KeptShares | None,
) -> Path:
    prompt, tensors = setting.prompt, state.values(best_seed.path)
    assert prompt is not None
    trained_values = work.built(prompt, best_seed.seed).trainable().values()
    manifest = new_manifest(
        work.task.name,
        work.backbone,
        work.task,
        method=prompt.method,
        place=prompt.place,
        length=int(tensors["vectors"].shape[0]) if "vectors" in tensors else prompt.length,
        options=made_with(prompt, setting.train),
        metrics=PromptScores(**metrics),
        lineage=Lineage(
            run=state.run.name,
            seed=best_seed.seed,
            train_rows=len(work.rows["train"]),
            gates=open_gates(prompt.method, tensors),
        ),
        trainable=sum(value.numel() for value in trained_values),
        seconds=best_seed.seconds,
        shares=shares,
    )
    return state.run.keep(work.store, manifest, tensors)
