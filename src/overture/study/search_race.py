"""The race of a search: the best candidates on fresh seeds, the model without a prompt beside them."""

import math
from collections.abc import Sequence
from typing import Any

from overture.core.errors import Diverged
from overture.prompt import method_of
from overture.study.members import Histories, Member, fit_cohort, is_done
from overture.study.race import Lane, drop_worse
from overture.study.search_state import Shared, Trial
from overture.study.work import Work
from overture.train import FitResult


def raced(shared: Shared, plain: Sequence[dict[str, Any]]) -> tuple[list[Lane], dict[str, float]]:
    """Race what was found.

    Args:
        shared: the search, its candidates tried.
        plain: the model without a prompt, in every wording; empty where it cannot answer.

    Returns:
        The lanes, and each one's p-value beside the leader.

    Raises:
        Diverged: there is nothing to race.
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
        gold = self._gold()
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
                    lane.predicted.append(of_lane["predicted"])
            p_values |= drop_worse(everybody, gold, self.shared.whole.task.metric, self.shared.asked.alpha)
        if any(not lane.scores for lane in lanes) or not lanes:
            self.shared.whole.notice("the budget allowed no fresh seed: the seed that found the winner also judged it")
            everybody = [*self._unraced(), *self._plain_lane(plain)]
            if not everybody:
                raise Diverged("no candidate gave a finite prompt", where=str(self.shared.run.folder))
            p_values = drop_worse(everybody, gold, self.shared.whole.task.metric, self.shared.asked.alpha)
        return everybody, p_values

    def _plain_lane(self, plain: Sequence[dict[str, Any]]) -> list[Lane]:
        if not plain:
            return []
        best = max(plain, key=lambda one: (one["score"], -one["loss"]))
        return [Lane(f"none {best['wording']}", (0, 0.0), [best["predicted"]], [best["score"]])]

    def _race_plan(self) -> dict[str, Any]:
        """As many candidates and seeds as the budget has room for, two candidates at least; of equal work more seeds.

        The task file's own setting races however it did: few steps favour high rates, and people compare with it.
        """
        best = self._finalists()
        ways = [(k, s) for k in range(1, len(best) + 1) for s in range(1, self.shared.asked.race_seeds + 1)]
        for k, s in sorted(ways, key=lambda way: (min(way[0], 2), way[0] * way[1], way[1]), reverse=True):
            tokens = sum(self._tune_tokens(trial) for trial in best[:k]) * s
            if self.shared.spending.share + self.shared.spending.share_of(tokens) <= 1:
                return {"trials": [trial.number for trial in best[:k]], "seeds": s}
        return {"trials": [], "seeds": 0}

    def _finalists(self) -> list[Trial]:
        """The best, the task file's own setting, and who comes next."""
        ranked, own = self.shared.ranked(), self.shared.space.own_params()
        if own is None or not ranked:
            return ranked[: self.shared.asked.finalists]
        rate = self.shared.whole.config.train.lr or method_of(self.shared.own).learning_rate[self.shared.own.place]
        is_own = [
            trial
            for trial in ranked
            if trial.setting.prompt == self.shared.own
            and trial.setting.wording == 0
            and trial.setting.train.epochs == self.shared.whole.config.train.epochs
            and math.isclose(trial.setting.train.lr or 0.0, rate, rel_tol=1e-6)
        ]
        found = [ranked[0], *is_own[:1], *ranked[1:]]
        return list({trial.number: trial for trial in found}.values())[: max(2, self.shared.asked.finalists)]

    def _tune_tokens(self, trial: Trial) -> float:
        # And the validation rows once more, for its predictions.
        rows = self.shared.work(trial.setting.wording).rows
        share = len(rows["validation"]) / (len(rows["train"]) + len(rows["validation"]))
        return trial.cost.epoch_tokens * (trial.setting.train.epochs + share)

    def _lane(self, number: int) -> Lane:
        trial = self.shared.of(number)
        return Lane(trial.key, (trial.cost.serving, trial.cost.epoch_tokens * trial.setting.train.epochs))

    def _raced(self, turn: int, lanes: Sequence[Lane]) -> dict[str, Any]:
        """One fresh seed of every lane that runs; only lanes that came to their end are in it."""
        seed = self.shared.whole.config.seed + 1 + turn
        trials = [self.shared.of(int(lane.key.split()[1])) for lane in lanes]
        found: dict[str, Any] = {}
        for wording in sorted({trial.setting.wording for trial in trials}):
            work, own = self.shared.work(wording), [trial for trial in trials if trial.setting.wording == wording]
            counted = {trial.key: 0 for trial in own}

            def decide(histories: Histories, own: list[Trial] = own, counted: dict[str, int] = counted) -> set[str]:
                for trial in own:
                    epochs = len(histories.get(trial.key, ()))
                    self.shared.spending.tokens += trial.cost.epoch_tokens * max(0, epochs - counted[trial.key])
                    counted[trial.key] = max(epochs, counted[trial.key])
                self.shared.save_spent()
                return set() if self.shared.spending.share >= 1 else set(histories)

            members = [trial.member(seed) for trial in own]
            results = fit_cohort(work, members, decide, self.shared.run.folder / f"race-{turn}" / f"wording-{wording}")
            self.shared.check_stop()
            decide({key: result.progress.history for key, result in results.items()})
            for member, trial in zip(members, own, strict=True):
                if (result := results.get(member.key)) and result.best and is_done(result):
                    path = f"race-{turn}/{member.key}.prompt.safetensors"
                    found[member.key] = self._scored(work, member, result, path)
                    self.shared.spending.tokens += (
                        self._tune_tokens(trial) - trial.cost.epoch_tokens * member.train.epochs
                    )
        if len(found) == len(lanes):
            self.shared.run.write(f"race-{turn}.json", found)
        self.shared.save_spent()
        return found

    def _unraced(self) -> list[Lane]:
        """The best candidate that came to its end, judged by the seed that found it."""
        for trial in self.shared.ranked():
            for path in self.shared.run.folder.glob(f"cohort-*/{trial.key}.prompt.safetensors"):
                work = self.shared.work(trial.setting.wording)
                model = self.shared.loaded(work, trial.setting, path)
                scored = work.score(model, "validation", f"{trial.key}: scoring validation")
                lane = self._lane(trial.number)
                lane.predicted, lane.scores = [list(scored.predicted)], [scored.value(work.task)]
                return [lane]
        return []

    def _scored(self, work: Work, member: Member, result: FitResult, path: str) -> dict[str, Any]:
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

    def _gold(self) -> list[str]:
        work = self.shared.work(0)
        if not work.task.labels:
            return work.answers("validation")
        candidates = work.encoder.candidates
        assert candidates is not None
        return [candidates.labels[row.label or 0] for row in work.rows["validation"]]
