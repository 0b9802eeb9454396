"""The race of a search: the best candidates on fresh seeds, the model without a prompt beside them.

All are trained with the same fresh seeds. After each seed those that are worse than the leader by a paired test drop
out; at the end the cheapest of the leader's equals wins.

Source: dropping settings between seeds follows racing (Maron and Moore 1994; Birattari et al. 2002, F-race). No
correction for the number of comparisons: dropping too late costs seconds, and the last choice is by score.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean

from overture.core.errors import ConfigError, Diverged, OvertureError
from overture.core.records.base import read_record
from overture.core.records.search import PlainScore, RacePlan, RaceScore, RaceTurn
from overture.evaluate.intervals import permutation_test
from overture.evaluate.metric import Answers
from overture.jobs.run.members import Histories
from overture.jobs.search.groups import Group, Trainer
from overture.jobs.search.halving import next_decision
from overture.jobs.search.state import SearchState, Trial

_ROUNDING = 1e-9


@dataclass(slots=True)
class Lane:
    """One setting in the race.

    Args:
        key: names it.
        cost: its cost, compared from the first on: live tokens of a request, tokens of its training.
        predicted: answers on the validation rows, for each seed.
        scores: score of each seed.
        dropped_after: how many seeds it had when it was dropped; None while it runs.
        is_default: whether it is the task file's own setting, which is never dropped, and nobody below it wins.
        number: of its trial; None for the model without a prompt.
    """

    key: str
    cost: tuple[int, float]
    predicted: list[Answers] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    dropped_after: int | None = None
    is_default: bool = False
    number: int | None = None

    @property
    def mean(self) -> float:
        """Mean score over its seeds."""
        return fmean(self.scores)


def drop_worse(lanes: Sequence[Lane], gold: Answers, metric: str, alpha: float) -> dict[str, float]:
    """Drop lanes that are worse than the leader by the paired test; gives each running lane's p-value against it.

    The default stays, so that the others can be compared with it on all seeds.
    """
    running = [lane for lane in lanes if lane.dropped_after is None]
    leader = max(running, key=lambda lane: lane.mean)
    p_values = {}
    for lane in running:
        if lane is leader:
            continue
        p_values[lane.key] = permutation_test(gold, leader.predicted, lane.predicted, metric)
        if p_values[lane.key] < alpha and lane.mean < leader.mean and not lane.is_default:
            lane.dropped_after = len(lane.scores)
    return p_values


def winner_of(lanes: Sequence[Lane], p_values: Mapping[str, float], alpha: float, tolerance: float) -> Lane:
    """The leader, or the cheapest of its equals: not told apart by the test, and within the tolerance.

    The tolerance keeps few rows, on which no test can tell anything, from making everything equal to the cheapest. A
    lane that scored below the default is nobody's equal, however cheap.
    """
    running = [lane for lane in lanes if lane.dropped_after is None]
    leader = max(running, key=lambda lane: lane.mean)
    floor = max((lane.mean for lane in running if lane.is_default), default=-math.inf)
    equals = [
        lane
        for lane in running
        if lane is leader
        # Rounding must not decide where the difference is the tolerance itself.
        or (
            p_values.get(lane.key, 1.0) >= alpha
            and leader.mean - lane.mean <= tolerance + _ROUNDING
            and lane.mean >= floor - _ROUNDING
        )
    ]
    return min(equals, key=lambda lane: (lane.cost, -lane.mean))


class Race:
    """The race of one search; a resumed search goes on with it where it stood.

    Args:
        state: the search, its candidates explored.
        plain: the model without a prompt, in every wording; empty where it cannot answer.
        trainer: trains the lanes.
    """

    def __init__(self, state: SearchState, plain: Sequence[PlainScore], trainer: Trainer) -> None:
        self.state, self.budget, self.options, self.plain = state, state.budget, state.options, plain
        self.trainer = trainer
        self.lanes: list[Lane] = []
        self.p_values: dict[str, float] = {}

    @property
    def winner(self) -> Lane:
        """The lane that won."""
        return winner_of(self.lanes, self.p_values, self.options.alpha, self.options.tolerance)

    def run(self) -> None:
        """Race; fills the lanes and each one's p-value against the leader.

        Raises:
            Diverged: no candidate gave a finite prompt, and the model cannot answer without one.
            ConfigError: the budget ended before any came to its end, and the model cannot answer without one.
        """
        state = self.state
        plan = read_record(RacePlan, state.run.folder / "race.json")
        if plan is None:
            plan = self._plan()
            state.run.write("race.json", plan)
        trained_lanes = [self._lane(state.trial(number)) for number in plan.trials]
        self.lanes = [*trained_lanes, *self._plain_lanes()]
        for turn in range(plan.seeds):
            running = [lane for lane in trained_lanes if lane.dropped_after is None]
            scores = self.scores(turn) or self._trained(turn, running)
            if any(lane.key not in scores for lane in running):
                state.work.notice("the budget ended within the race: its last seed does not count")
                break
            for lane in self.lanes:
                if lane.dropped_after is not None:
                    continue
                if lane.key in scores:
                    lane.scores.append(scores[lane.key].score)
                    lane.predicted.append(scores[lane.key].predicted)
                elif turn:
                    # The model without a prompt answers the same whatever the seed.
                    lane.scores.append(lane.mean)
                    lane.predicted.append(lane.predicted[0])
            self._drop_worse()
        if not trained_lanes or any(not lane.scores for lane in trained_lanes):
            state.work.notice("the budget allowed no fresh seed: the seed that found the winner also judged it")
            self.lanes = [*self._explored_lanes(), *self._plain_lanes()]
            if not self.lanes:
                raise self._error()
            self.p_values = {}
            self._drop_worse()

    def scores(self, turn: int) -> dict[str, RaceScore]:
        """Each lane's score with the fresh seed of a turn; empty where the turn is not finished."""
        turn_record = self.state.run.read(f"race-{turn}.json", RaceTurn)
        return turn_record.root if turn_record else {}

    def _drop_worse(self) -> None:
        task, gold = self.state.work.task, self.state.in_wording(0).answers("validation")
        self.p_values |= drop_worse(self.lanes, gold, task.metric, self.options.alpha)

    def _error(self) -> OvertureError:
        where = str(self.state.run.folder)
        if self.state.ranked():
            return ConfigError(
                "no candidate came to its end", where=where, fix="allow a larger budget, such as --tunes 8"
            )
        return Diverged("no candidate gave a finite prompt", where=where)

    # -- who races

    def _plan(self) -> RacePlan:
        """As many candidates and seeds as there is budget for; of equal work more seeds, but two candidates first."""
        best = self._finalists()
        sizes = [(k, s) for k in range(1, len(best) + 1) for s in range(1, self.options.race_seeds + 1)]
        for k, s in sorted(sizes, key=lambda size: (min(size[0], 2), size[0] * size[1], size[1]), reverse=True):
            if self._is_affordable(best[:k], s):
                return RacePlan(trials=[trial.number for trial in best[:k]], seeds=s)
        return RacePlan(trials=[], seeds=0)

    def _finalists(self) -> list[Trial]:
        """The default, however well it did, and the best of those that the budget lets race beside it.

        Nobody races without it: people compare with it, and few steps favour high rates.
        """
        ranking, default = self.state.ranked(), self.state.default_trial
        if default is None or not default.history:
            return ranking[: self.options.finalists]
        rivals = [trial for trial in ranking if trial is not default]
        affordable = [trial for trial in rivals if self._is_affordable([default, trial], 1)]
        if rivals and rivals[0] not in affordable and self._is_affordable([default], 1):
            title = rivals[0].setting.title()
            self.state.work.notice(
                f"{title} did well, but the budget allows no race between it and the task file's own"
            )
        return [default, *affordable][: max(2, self.options.finalists)]

    def _is_affordable(self, trials: Sequence[Trial], num_seeds: int) -> bool:
        # Validation rows run once more for the predictions.
        tokens = sum(
            trial.cost.epoch_tokens * (trial.setting.train.num_epochs + self._validation_share(trial))
            for trial in trials
        )
        return self.budget.share + self.budget.share_of(tokens * num_seeds) <= 1

    def _validation_share(self, trial: Trial) -> float:
        """The validation rows' share of an epoch."""
        work = self.state.in_wording(trial.setting.wording)
        num_validation = len(work.rows["validation"])
        return num_validation / (len(work.rows["train"]) * trial.setting.train.num_passes + num_validation)

    def _lane(self, trial: Trial) -> Lane:
        cost = (trial.cost.serving, trial.cost.epoch_tokens * trial.setting.train.num_epochs)
        return Lane(trial.key, cost, is_default=trial.is_default, number=trial.number)

    def _plain_lanes(self) -> list[Lane]:
        """The model without a prompt, in its best wording; empty where it cannot answer."""
        if not self.plain:
            return []
        best = max(self.plain, key=lambda plain: (plain.score, -plain.loss))
        return [Lane(f"none {best.wording}", (0, 0.0), [best.predicted], [best.score])]

    # -- one fresh seed

    def _trained(self, turn: int, lanes: Sequence[Lane]) -> dict[str, RaceScore]:
        """Train the running lanes with one fresh seed; lanes that the budget did not let finish are left out."""
        state, seed = self.state, self.state.work.config.seed + 1 + turn
        trials = {lane.key: state.trial(lane.number) for lane in lanes if lane.number is not None}
        scores: dict[str, RaceScore] = {}

        def count(key: str, num_epochs: float) -> None:
            self.budget.count(f"race-{turn} {key}", trials[key].cost.epoch_tokens * num_epochs)

        def decide(histories: Histories) -> set[str]:
            for key, history in histories.items():
                count(key, len(history))
            self.budget.save()
            return set() if self.budget.share >= 1 else set(histories)

        def pause(epochs_done: int, keys: Sequence[str]) -> int:
            last = max(trials[key].setting.train.num_epochs for key in keys)
            epoch_share = self.budget.share_of(sum(trials[key].cost.epoch_tokens for key in keys))
            return next_decision(epochs_done, last, epoch_share, 1 - self.budget.share)

        for wording in sorted({trial.setting.wording for trial in trials.values()}):
            members = tuple(trial.seeded(seed) for trial in trials.values() if trial.setting.wording == wording)
            values = f"race-{turn}"
            group = Group(
                wording=wording, members=members, folder=f"{values}/wording-{wording}", values=values, is_scored=True
            )
            fits = self.trainer.train(group, decide, pause)
            decide({key: fit.history for key, fit in fits.items()})
            for key, fit in fits.items():
                if not fit.is_done:
                    continue
                count(key, fit.num_epochs + (self._validation_share(trials[key]) if fit.path else 0))
                if not fit.path:
                    predicted, score = state.empty_answers()
                    state.work.notice(f"{key} diverged with seed {seed}, and scores as a model that answers nothing")
                    scores[key] = RaceScore(seed=seed, score=score, loss=0.0, predicted=predicted, path="", seconds=0.0)
                    continue
                scores[key] = RaceScore(
                    seed=seed,
                    score=fit.score,
                    loss=fit.loss,
                    predicted=fit.predicted,
                    path=fit.path,
                    seconds=fit.seconds,
                )
        if len(scores) == len(lanes):
            state.run.write(f"race-{turn}.json", RaceTurn(scores))
        self.budget.save()
        return scores

    # -- no budget for a fresh seed

    def _explored_lanes(self) -> list[Lane]:
        """The default and the best candidate that came to its end, judged by the seed that found them."""
        state, default = self.state, self.state.default_trial
        complete = [trial for trial in state.ranked() if state.values_file(trial)]
        if default and default.history and default not in complete:
            state.work.notice(
                "the budget ended before the task file's own setting was trained: nothing is compared with it"
            )
            return []
        candidates = {
            trial.number: trial for trial in [*(trial for trial in complete if trial is default), *complete[:1]]
        }
        lanes = []
        for trial in candidates.values():
            path, work = state.values_file(trial), state.in_wording(trial.setting.wording)
            assert path is not None
            model = state.loaded(work, trial.setting, path)
            scored = work.score(model, "validation", f"{trial.key}: scoring validation")
            lane = self._lane(trial)
            lane.predicted, lane.scores = [list(scored.predicted)], [scored.value(work.task)]
            lanes.append(lane)
        return lanes
