"""Search: which prompt, where, how long, how trained and how worded, chosen by measurement under a budget.

Length 0 is measured first. Candidates are asked of Optuna's TPE (Bergstra et al. 2011) in groups that train side by
side; at the first rung (`halving`), after 2, 4, 8, ... times as many epochs, the better half goes on (successive
halving: Jamieson and Talwalkar 2016). The task file's own setting is in the first group and is never dropped. It and
the best race on fresh seeds (`search_race`). Validation rows alone choose; the winner is scored on test rows once, at
the end.

In the run's folder: ``search.db`` the trials (Optuna, SQLite), ``plain.json`` the model without a prompt,
``cohort-N.json`` who trains and how far they came, ``race.json`` and ``race-N.json`` the race, ``spent.json``.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from overture.core.config import validated
from overture.core.errors import BackboneError, ConfigError, Stopped
from overture.core.records.events import Listener, ignore
from overture.core.records.training import EpochRecord
from overture.core.seeds import derived_seed
from overture.engine.backbone import Backbone
from overture.engine.prompted import PromptedModel
from overture.jobs.run.members import Histories, fit_settings, is_done, num_epochs_of
from overture.jobs.run.request import check_no_adapter, settled
from overture.jobs.run.work import Work, prepared
from overture.jobs.search.halving import first_rung, halving_tokens, is_rung, num_after
from overture.jobs.search.lr import find_rate
from overture.jobs.search.options import LrConfig, SearchRequest
from overture.jobs.search.racing import raced
from overture.jobs.search.result import result_of
from overture.jobs.search.space import Pair, Setting, Space, asked_pairs, options_of, wordings
from overture.jobs.search.spending import cost_of
from overture.jobs.search.state import Shared, Trial
from overture.prompt.config import PromptConfig
from overture.store.runs import Run
from overture.store.store import Store
from overture.train.options import TrainConfig

if TYPE_CHECKING:
    import optuna

KIND = "search"
_AFFORDABLE_RATE_TEST = 0.05
_TRIES = 4


def search(
    config: SearchRequest,
    store: Store,
    listener: Listener = ignore,
    is_stop_asked: Callable[[], bool] = lambda: False,
    backbone: Backbone | None = None,
    file: str = "TASK.yaml",
) -> dict[str, Any]:
    """Choose a setting by measurement, keep its prompt.

    Args:
        config: the request; ``search`` says what may be chosen and spent.
        store: where the prompt and the run's folder go.
        listener: told of every event.
        is_stop_asked: looked at after each step; the run can be resumed.
        backbone: a loaded model; loaded by the task's name when None.
        file: the task file, for the command that repeats the winner.

    Returns:
        The result as ``--json`` prints it.

    Raises:
        UserError: task, data, model or options are wrong.
        Diverged: no candidate gave a finite prompt, and the model cannot answer without one.
        DiskFull: the run can be resumed when there is room.
    """
    check_no_adapter(config, "search")
    config = settled(config, store, backbone)
    asked_pairs(config)
    wordings(config)
    name = f"{config.name or config.task.name}-{KIND}"
    run = Run.create(store.runs, name, config.model_dump(mode="json"), listener, KIND)
    run.write("file.json", {"file": file})
    return _execute(run, config, store, is_stop_asked, backbone)


def resume_search(
    ref: str,
    store: Store,
    listener: Listener = ignore,
    is_stop_asked: Callable[[], bool] = lambda: False,
    backbone: Backbone | None = None,
) -> dict[str, Any]:
    """Go on with a stopped search; finished trials are not repeated, a finished search gives its result again.

    Raises:
        StoreError: there is no such run, or another process works on it.
    """
    run = Run.open(store.runs, ref, listener)
    done = run.read("result.json")
    if done:
        return done
    return _execute(run, validated(SearchRequest, run.config(), str(run.folder)), store, is_stop_asked, backbone)


def _execute(
    run: Run, config: SearchRequest, store: Store, is_stop_asked: Callable[[], bool], backbone: Backbone | None
) -> dict[str, Any]:
    def searched() -> dict[str, Any]:
        try:
            work = prepared(run, _with_room(config), store, is_stop_asked, backbone)
            with work.backbone.checkpointing(config.train.gradient_checkpointing):
                return _Search(replace(work, config=config)).run()
        except Stopped:
            return {"status": "interrupted", "run": run.name, "prompt": None, "metrics": {}}

    return run.carried_out(searched)


def _with_room(config: SearchRequest) -> SearchRequest:
    """The request with room for the longest prompt, so that all candidates see the same rows."""
    room = Space(config, (), 1, 1).room
    return config.model_copy(update={"prompt": config.prompt.model_copy(update={"length": room})})


class _Search:
    """One search, from the first measurement to the race."""

    def __init__(self, work: Work) -> None:
        self.shared = Shared(work)
        num_steps = work.config.train.warmup_steps + self.shared.asked.min_steps
        self.first_rung = first_rung(self.shared.space.min_batches, num_steps)

    def run(self) -> dict[str, Any]:
        """Everything in turn."""
        plain = self._plain()
        rates = self._rates()
        if rates:
            self.shared.set_rates(rates)
        self._explore(self._study(), plain)
        lanes, p_values = raced(self.shared, plain)
        return result_of(self.shared, plain, lanes, p_values)

    # -- length 0

    def _plain(self) -> list[dict[str, Any]]:
        """The model without a prompt, in every wording; empty where it cannot answer."""
        saved = self.shared.run.read("plain.json")
        if saved:
            return list(saved["wordings"])
        found: list[dict[str, Any]] = []
        for wording in range(len(self.shared.space.wordings)):
            work = self.shared.work(wording)
            model = PromptedModel(work.backbone, None)
            try:
                model.check(work.rows["train"][:1])
            except BackboneError as error:
                self.shared.whole.notice(f"the model without a prompt could not be measured: {error.what}")
                break
            scored = work.score(model, "validation", "scoring no prompt, validation")
            cost = cost_of(model, work.rows["train"][:1], work.rows["validation"])
            self.shared.spending.count(f"none {wording}", cost.epoch_tokens)
            score = scored.value(work.task)
            found.append({"wording": wording, "score": score, "loss": scored.loss, "predicted": list(scored.predicted)})
            self.shared.check_stop()
        self.shared.run.write("plain.json", {"wordings": found})
        self.shared.save_spent()
        return found

    # -- learning rates

    def _rates(self) -> dict[Pair, float]:
        """Each pair's rate by a range test, where that costs little."""
        if self.shared.asked.lr:
            return {}
        saved = self.shared.run.read("rates.json") or {}
        for method, place in self.shared.space.pairs:
            key = f"{method} {place}"
            if key not in saved and (found := self._rate_of(method, place)):
                saved[key] = found
                self.shared.run.write("rates.json", saved)
        found_pairs = {pair: saved.get(" ".join(pair), {}).get("lr") for pair in self.shared.space.pairs}
        return {pair: rate for pair, rate in found_pairs.items() if rate}

    def _rate_of(self, method: str, place: Any) -> dict[str, Any] | None:
        shared = self.shared
        own, work = shared.own, shared.work(0)
        options = options_of(own, method, shared.space.layers[len(shared.space.layers) // 2])
        prompt = own.model_copy(update={"method": method, "place": place, "options": options})
        test, train = LrConfig(), shared.space.own().train
        cost = shared.cost(Setting(prompt, train))
        num_rows = len(work.rows["train"]) * train.num_passes + len(work.rows["validation"])
        tokens = cost.epoch_tokens / num_rows * test.steps * train.batch_size
        affordable = _AFFORDABLE_RATE_TEST / len(shared.space.pairs)
        if shared.spending.share_of(tokens) > affordable:
            return None
        self.shared.read_inputs(cost, 0)
        found = find_rate(work, prompt, train, work.config.seed, test)
        self.shared.check_stop()
        self.shared.spending.count(f"rate {method} {place}", tokens)
        self.shared.save_spent()
        return {"lr": found.suggested}

    # -- exploring

    def _study(self) -> "optuna.Study":
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        path = (self.shared.run.folder / "search.db").resolve()
        study = optuna.create_study(
            storage=f"sqlite:///{path}", study_name=self.shared.run.name, direction="maximize", load_if_exists=True
        )
        planned = {
            trial["number"]
            for path in self.shared.run.folder.glob("cohort-*.json")
            for trial in self._cohort(path)["trials"]
        }
        for trial in study.get_trials(deepcopy=False):
            # Asked for, and the process ended before it was planned.
            if trial.state == optuna.trial.TrialState.RUNNING and trial.number not in planned:
                study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
        return study

    def _cohort(self, path: Path) -> dict[str, Any]:
        return self.shared.run.read(path.name) or {"trials": []}

    def _explore(self, study: "optuna.Study", plain: Sequence[dict[str, Any]]) -> None:
        """Groups of candidates until the budget's first part is spent."""
        first = sorted(plain, key=lambda one: (one["wording"] != 0, -one["score"], one["loss"]))
        order = [one["wording"] for one in first] or list(range(len(self.shared.space.wordings)))
        number = 0
        while True:
            state = self.shared.run.read(f"cohort-{number}.json") or self._planned(study, number, order)
            if not state["trials"]:
                return
            group = [self._trial(one) for one in state["trials"]]
            self.shared.trials += group
            if not state["is_done"]:
                self._train(number, state, group)
            self._tell(study, group)
            number += 1

    def _planned(self, study: "optuna.Study", number: int, order: Sequence[int]) -> dict[str, Any]:
        """The next group: as many as there is budget for, all in one wording; the task file's own setting is first."""
        import optuna

        shared = self.shared
        wording = order[number] if number < len(order) else shared.ranked()[0].setting.wording
        size = shared.asked.cohort if len(order) == 1 else max(2, shared.asked.cohort // len(order))
        # A fresh sampler for each group: a resumed search asks what an uninterrupted one would.
        study.sampler = optuna.samplers.TPESampler(
            seed=derived_seed(shared.whole.config.seed, "ask", number) % 2**32, n_startup_trials=shared.asked.cohort
        )
        own = self._asked_own(study) if number == 0 else []
        asked = [*own]
        for _ in range(_TRIES * size if shared.space.lengths else 0):
            if len(asked) >= size:
                break
            trial = study.ask()
            asked.append((trial, shared.space.setting(trial, wording)))
            if not self._is_affordable([setting for _, setting in asked], len(own)):
                asked.pop()
                study.tell(trial, state=optuna.trial.TrialState.FAIL)
        found = []
        for trial, setting in asked:
            assert setting.prompt is not None
            trial.set_user_attr("wording", wording)
            trial.set_user_attr("epoch_tokens", shared.cost(setting).epoch_tokens)
            facts = {"number": trial.number, "wording": wording, "is_own": (trial, setting) in own}
            dumped = {"prompt": setting.prompt.model_dump(mode="json"), "train": setting.train.model_dump()}
            found.append({**facts, **dumped, "history": [], "seconds": 0.0})
        state = {"trials": found, "epoch": 0, "alive": [f"trial {one['number']}" for one in found], "is_done": False}
        shared.run.write(f"cohort-{number}.json", state)
        return state

    def _asked_own(self, study: "optuna.Study") -> list[tuple["optuna.Trial", Setting]]:
        """The task file's own setting; nothing where it cannot be trained, or all is spent already."""
        shared = self.shared
        try:
            shared.whole.built(shared.own, shared.whole.config.seed).check(shared.whole.rows["train"][:1])
        except (BackboneError, ConfigError) as error:
            shared.whole.notice(f"the task file's own setting is left out: {error.what}")
            return []
        if shared.spending.share >= 1:
            return []
        if params := shared.space.own_params():
            study.enqueue_trial(params)
        trial = study.ask()
        if params:
            shared.space.setting(trial, 0)
        return [(trial, shared.space.own())]

    def _is_affordable(self, settings: Sequence[Setting], num_spared: int) -> bool:
        """Whether the first part of the budget has room for such a group."""
        shared = self.shared
        costs = [shared.cost(one).epoch_tokens for one in settings]
        epochs = max(one.train.num_epochs for one in settings)
        planned = halving_tokens(costs, epochs, self.first_rung, num_spared)
        return shared.spending.share + shared.spending.share_of(planned) <= 1 - shared.asked.race_share

    def _trial(self, saved: dict[str, Any]) -> Trial:
        where = str(self.shared.run.folder)
        prompt = validated(PromptConfig, saved["prompt"], where)
        setting = Setting(prompt, validated(TrainConfig, saved["train"], where), saved["wording"])
        return Trial(
            saved["number"],
            setting,
            self.shared.cost(setting),
            saved["is_own"],
            [EpochRecord.model_validate(epoch) for epoch in saved["history"]],
            saved["seconds"],
        )

    def _train(self, number: int, state: dict[str, Any], group: list[Trial]) -> None:
        """Train one group from where it stands, halving it on the way."""
        name, by_key = f"cohort-{number}", {trial.key: trial for trial in group}
        limit = 1 - self.shared.asked.race_share

        def count(histories: Histories) -> None:
            for key, history in histories.items():
                by_key[key].history = list(history)
                by_key[key].seconds = history[-1].seconds if history else 0.0
                self.shared.spending.count(key, by_key[key].tokens)
            for saved, trial in zip(state["trials"], group, strict=True):
                saved.update(history=[epoch.dump() for epoch in trial.history], seconds=trial.seconds)
            self.shared.save_spent()

        def decide(histories: Histories) -> Collection[str]:
            epoch = max((len(history) for history in histories.values()), default=0)
            if epoch <= state["epoch"]:
                return set(state["alive"])
            count(histories)
            alive = [by_key[key] for key in histories]
            going: list[Trial] = alive
            if self.shared.spending.share >= limit:
                going = []
            elif is_rung(epoch, self.first_rung):
                going = sorted(alive, key=self.shared.worth, reverse=True)[: num_after(len(alive))]
            # What the others are held against comes to its end, if need be on the race's share of the budget.
            spared = [trial.key for trial in alive if trial.is_own and self.shared.spending.share < 1]
            state.update(epoch=epoch, alive=list(dict.fromkeys([*spared, *(trial.key for trial in going)])))
            self.shared.run.write(f"{name}.json", state)
            return set(state["alive"])

        alive = [trial for trial in group if trial.key in state["alive"]]
        if alive:
            work = self.shared.work(alive[0].setting.wording)
            for trial in alive:
                self.shared.read_inputs(trial.cost, trial.setting.wording)
            results = fit_settings(
                work, [t.seeded(work.config.seed) for t in alive], decide, self.shared.run.folder / name
            )
            self.shared.check_stop()
            # What diverges before its first validation spends too, or there might be no end of such candidates.
            for trial in alive:
                self.shared.spending.count(trial.key, trial.cost.epoch_tokens * num_epochs_of(results[trial.key]))
            count({key: result.progress.history for key, result in results.items()})
            for trial in alive:
                if (found := results[trial.key]).best and is_done(found):
                    self.shared.keep(
                        work, trial.seeded(work.config.seed), found, f"{name}/{trial.key}.prompt.safetensors"
                    )
        state["is_done"] = True
        self.shared.run.write(f"{name}.json", state)

    def _tell(self, study: "optuna.Study", group: Sequence[Trial]) -> None:
        # A candidate that was dropped tells what it had reached; one whose loss diverged at once, the worst so far.
        worths = {trial.number: self.shared.worth(trial)[0] for trial in self.shared.trials if trial.history}
        worst = min((self.shared.unanswered()[1], *worths.values()))
        for trial in group:
            worth = worths.get(trial.number, worst)
            study.tell(trial.number, worth, skip_if_finished=True)
