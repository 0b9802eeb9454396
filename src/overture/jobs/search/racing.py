"""The race of a search: the best candidates on fresh seeds, the model without a prompt beside them."""

from collections.abc import Sequence
from typing import Any

from overture.core.errors import ConfigError, Diverged, OvertureError
from overture.evaluate.metrics import as_answers
from overture.jobs.run.members import Histories, SeededSetting, fit_settings, is_done, num_epochs_of
from overture.jobs.run.work import Work
from overture.jobs.search.race import Lane, drop_worse
from overture.jobs.search.state import Shared, Trial
from overture.train.fit import FitResult


def raced(shared: Shared, plain: Sequence[dict[str, Any]]) -> tuple[list[Lane], dict[str, float]]:
    """Race what was found.

    Args:
        shared: the search, its candidates tried.
        plain: the model without a prompt, in every wording; empty where it cannot answer.

    Returns:
        The lanes, and each one's p-value beside the leader.

    Raises:
        Diverged: no candidate gave a finite prompt, and the model cannot answer without one.
        ConfigError: the budget ended before any came to its end, and the model cannot answer without one.
    """
    return _Racing(shared).run(plain)


class _Racing:
    def __init__(self, shared: Shared) -> None:
        self.shared = shared

    def run(self, plain: Sequence[dict[str, Any]]) -> tuple[list[Lane], dict[str, float]]:
        """The best on fresh seeds, length 0 beside them."""
        plan = self.shared.run.read("race.json")
        if plan is None:
            plan = self._race_plan()
            self.shared.run.write("race.json", plan)
        lanes = [self._lane(number) for number in plan["trials"]]
        gold = self.shared.work(0).answers("validation")
        everybody = [*lanes, *self._plain_lane(plain)]
        p_values: dict[str, float] = {}
        for turn in range(plan["seeds"]):
            running = [lane for lane in lanes if lane.out_after is None]
            found = self.shared.run.read(f"race-{turn}.json") or self._raced(turn, running)
            if not all(lane.key in found for lane in running):
                self.shared.whole.notice("the budget ended within the race: its last seed does not count")
                break
            for lane in everybody:
                of_lane = found.get(lane.key) or {"score": lane.mean, "predicted": lane.predicted[0]}
                if lane.out_after is None and (lane.key in found or turn):
                    lane.scores.append(of_lane["score"])
                    lane.predicted.append(as_answers(of_lane["predicted"]))
            p_values |= drop_worse(everybody, gold, self.shared.whole.task.metric, self.shared.asked.alpha)
        if any(not lane.scores for lane in lanes) or not lanes:
            self.shared.whole.notice("the budget allowed no fresh seed: the seed that found the winner also judged it")
            everybody = [*self._unraced(), *self._plain_lane(plain)]
            if not everybody:
                raise self._nothing()
            p_values = drop_worse(everybody, gold, self.shared.whole.task.metric, self.shared.asked.alpha)
        return everybody, p_values

    def _nothing(self) -> OvertureError:
        where = str(self.shared.run.folder)
        if self.shared.ranked():
            return ConfigError(
                "no candidate came to its end", where=where, fix="allow a larger budget, such as --tunes 8"
            )
        return Diverged("no candidate gave a finite prompt", where=where)

    def _plain_lane(self, plain: Sequence[dict[str, Any]]) -> list[Lane]:
        if not plain:
            return []
        best = max(plain, key=lambda one: (one["score"], -one["loss"]))
        return [Lane(f"none {best['wording']}", (0, 0.0), [as_answers(best["predicted"])], [best["score"]])]

    def _race_plan(self) -> dict[str, Any]:
        """As many candidates and seeds as there is budget for; of equal work more seeds, but two candidates first."""
        best = self._finalists()
        ways = [(k, s) for k in range(1, len(best) + 1) for s in range(1, self.shared.asked.race_seeds + 1)]
        for k, s in sorted(ways, key=lambda way: (min(way[0], 2), way[0] * way[1], way[1]), reverse=True):
            if self._is_affordable(best[:k], s):
                return {"trials": [trial.number for trial in best[:k]], "seeds": s}
        return {"trials": [], "seeds": 0}

    def _finalists(self) -> list[Trial]:
        """The task file's own setting, however it did, and the best of those that the budget lets race beside it.

        Nobody races without it: people compare with it, and few steps favour high rates.
        """
        ranked, own = self.shared.ranked(), self.shared.own_trial
        if own is None or not own.history:
            return ranked[: self.shared.asked.finalists]
        others = [trial for trial in ranked if trial is not own]
        able = [trial for trial in others if self._is_affordable([own, trial], 1)]
        if others and others[0] not in able and self._is_affordable([own], 1):
            title = others[0].setting.title()
            self.shared.whole.notice(
                f"{title} did well, but the budget allows no race between it and the task file's own"
            )
        return [own, *able][: max(2, self.shared.asked.finalists)]

    def _is_affordable(self, trials: Sequence[Trial], num_seeds: int) -> bool:
        tokens = sum(self._tune_tokens(trial) for trial in trials) * num_seeds
        return self.shared.spending.share + self.shared.spending.share_of(tokens) <= 1

    def _count(self, turn: int, key: str, num_epochs: int, is_scored: bool = False) -> None:
        """Count what a candidate ran in a turn so far."""
        trial = self.shared.of(int(key.split()[1]))
        num = num_epochs + (self._validation_share(trial) if is_scored else 0)
        self.shared.spending.count(f"race-{turn} {key}", trial.cost.epoch_tokens * num)

    def _tune_tokens(self, trial: Trial) -> float:
        # And the validation rows once more, for its predictions.
        return trial.cost.epoch_tokens * (trial.setting.train.num_epochs + self._validation_share(trial))

    def _validation_share(self, trial: Trial) -> float:
        """The validation rows' share of an epoch."""
        work = self.shared.work(trial.setting.wording)
        train, num_validation = trial.setting.train, len(work.rows["validation"])
        return num_validation / (len(work.rows["train"]) * train.num_passes + num_validation)

    def _lane(self, number: int) -> Lane:
        trial = self.shared.of(number)
        cost = (trial.cost.serving, trial.cost.epoch_tokens * trial.setting.train.num_epochs)
        return Lane(trial.key, cost, is_default=trial.is_own)

    def _raced(self, turn: int, lanes: Sequence[Lane]) -> dict[str, Any]:
        """One fresh seed of every lane that runs; only lanes that came to their end are in it."""
        seed = self.shared.whole.config.seed + 1 + turn
        trials = [self.shared.of(int(lane.key.split()[1])) for lane in lanes]
        found: dict[str, Any] = {}
        for wording in sorted({trial.setting.wording for trial in trials}):
            work, own = self.shared.work(wording), [trial for trial in trials if trial.setting.wording == wording]

            def decide(histories: Histories) -> set[str]:
                for key, history in histories.items():
                    self._count(turn, key, len(history))
                self.shared.save_spent()
                return set() if self.shared.spending.share >= 1 else set(histories)

            members = [trial.seeded(seed) for trial in own]
            results = fit_settings(
                work, members, decide, self.shared.run.folder / f"race-{turn}" / f"wording-{wording}"
            )
            self.shared.check_stop()
            decide({key: result.progress.history for key, result in results.items()})
            for member in members:
                result = results[member.key]
                if not is_done(result):
                    continue
                self._count(turn, member.key, num_epochs_of(result), is_scored=bool(result.best))
                if not result.best:
                    found[member.key] = self._failed(member)
                else:
                    path = f"race-{turn}/{member.key}.prompt.safetensors"
                    found[member.key] = self._scored(work, member, result, path)
        if len(found) == len(lanes):
            self.shared.run.write(f"race-{turn}.json", found)
        self.shared.save_spent()
        return found

    def _unraced(self) -> list[Lane]:
        """The task file's own setting and the best that came to its end, judged by the seed that found them."""
        shared, own = self.shared, self.shared.own_trial
        ended = [trial for trial in shared.ranked() if shared.values_of(trial)]
        if own and own.history and own not in ended:
            shared.whole.notice("the budget ended before the task file's own setting: nothing can be held against it")
            return []
        chosen = {trial.number: trial for trial in [*(one for one in ended if one is own), *ended[:1]]}
        return [self._unraced_lane(trial) for trial in chosen.values()]

    def _unraced_lane(self, trial: Trial) -> Lane:
        path = self.shared.values_of(trial)
        assert path is not None
        work = self.shared.work(trial.setting.wording)
        model = self.shared.loaded(work, trial.setting, path)
        scored = work.score(model, "validation", f"{trial.key}: scoring validation")
        lane = self._lane(trial.number)
        lane.predicted, lane.scores = [list(scored.predicted)], [scored.value(work.task)]
        return lane

    def _scored(self, work: Work, member: SeededSetting, result: FitResult, path: str) -> dict[str, Any]:
        """A trained prompt's validation predictions; its values are kept."""
        model = self.shared.keep(work, member, result, path)
        scored = work.score(model, "validation", f"{member.key}, seed {member.seed}: scoring validation")
        return {
            "seed": member.seed,
            "score": scored.value(work.task),
            "loss": scored.loss,
            "predicted": list(scored.predicted),
            "path": path,
            "seconds": result.progress.seconds,
        }

    def _failed(self, member: SeededSetting) -> dict[str, Any]:
        """A seed whose loss was not finite from the start: it answers nothing."""
        predicted, score = self.shared.unanswered()
        self.shared.whole.notice(f"{member.key} diverged with seed {member.seed}, and counts as answering nothing")
        nothing = {"score": score, "loss": 0.0, "predicted": predicted}
        return {"seed": member.seed, **nothing, "path": "", "seconds": 0.0}
