"""Search: which prompt, where, how long, how trained and how worded, chosen by measurement under a budget.

Length 0 is measured first. Candidates are asked of Optuna's TPE (Bergstra et al. 2011) in groups that train side by
side; after 1, eta, eta squared, ... epochs one of eta goes on (successive halving: Jamieson and Talwalkar 2016). The
best race on fresh seeds (`race`). Validation rows alone choose; the winner is scored on test rows once, at the end.

In the run's folder: ``search.db`` the trials (Optuna, SQLite), ``plain.json`` the model without a prompt,
``cohort-N.json`` who trains and how far they came, ``race.json`` and ``race-N.json`` the race, ``spent.json``.
"""

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from overture.core.config import validated
from overture.core.errors import BackboneError, ConfigError, Diverged
from overture.core.seeds import derived_seed
from overture.data import Encoder
from overture.engine import Backbone, PromptedModel
from overture.engine.cache import default_budget_bytes
from overture.evaluate.facts import backbone_ref
from overture.prompt import PromptConfig, method_of, prompt_from, prompt_tensors
from overture.store import Manifest, Store
from overture.study.charts import save_chart
from overture.study.lr import LrConfig, find_rate
from overture.study.members import Histories, Member, fit_cohort, is_done
from overture.study.race import Lane, drop_worse, winner_of
from overture.study.request import TuneConfig, with_slots
from overture.study.result import portable
from overture.study.run import Run, versions
from overture.study.search_charts import frontier, pareto_chart
from overture.study.space import NUM_PAIRS, Pair, Setting, Space, asked_pairs, wordings
from overture.study.spending import Cost, Spending, cost_of
from overture.study.work import SPLITS, Work, metrics_of, prepared
from overture.train import FitResult, TrainConfig

if TYPE_CHECKING:
    import optuna

KIND = "search"
_AFFORDABLE_RATE_TEST = 0.05
_TRIES = 4


class _Stopped(Exception):
    """Somebody asked to stop; what was done is kept."""


def search(
    config: TuneConfig,
    store: Store,
    listener: Callable[[dict[str, Any]], None] = lambda event: None,
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
    config = with_slots(config)
    method_of(config.prompt)
    asked_pairs(config)
    wordings(config)
    if config.cache_gb is None:
        config = config.model_copy(update={"cache_gb": default_budget_bytes() / 1e9})
    name = f"{config.name or config.task.name}-{KIND}"
    run = Run.create(store.runs, name, config.model_dump(mode="json"), listener, KIND)
    run.write("file.json", {"file": file})
    return _execute(run, config, store, is_stop_asked, backbone)


def resume_search(
    ref: str,
    store: Store,
    listener: Callable[[dict[str, Any]], None] = lambda event: None,
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
    return _execute(run, validated(TuneConfig, run.config(), str(run.folder)), store, is_stop_asked, backbone)


def _execute(
    run: Run, config: TuneConfig, store: Store, is_stop_asked: Callable[[], bool], backbone: Backbone | None
) -> dict[str, Any]:
    with run.working():
        run.status("running")
        try:
            run.event({"event": "start", "run": run.name, "folder": str(run.folder)})
            work = prepared(run, _with_room(config), store, is_stop_asked, backbone)
            with work.backbone.checkpointing(config.train.gradient_checkpointing):
                result = _Search(replace(work, config=config)).run()
        except _Stopped:
            result = {"status": "interrupted", "run": run.name, "prompt": None, "metrics": {}}
        except BaseException as error:
            run.status("diverged" if isinstance(error, Diverged) else "stopped", why=f"{type(error).__name__}: {error}")
            raise
        run.status(result["status"])
        return result


def _with_room(config: TuneConfig) -> TuneConfig:
    """The request with room for the longest prompt, so that all candidates see the same rows."""
    longest = max(Space(config, (), 1).lengths, default=config.prompt.length)
    return config.model_copy(update={"prompt": config.prompt.model_copy(update={"length": longest})})


@dataclass(slots=True)
class Trial:
    """One candidate and what became of it.

    Args:
        number: in the study.
        setting: the candidate.
        cost: of it.
        history: its epochs.
        seconds: of its training.
    """

    number: int
    setting: Setting
    cost: Cost
    history: list[dict[str, float]] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def key(self) -> str:
        """Its name in groups and files."""
        return f"trial {self.number}"

    @property
    def best(self) -> dict[str, float] | None:
        """Its best epoch by score, then by loss."""
        return max(self.history, key=lambda e: (e["validation_score"], -e["validation_loss"]), default=None)

    @property
    def tokens(self) -> float:
        """Live tokens that it ran."""
        return self.cost.epoch_tokens * len(self.history)


class _Search:
    """One search, from the first measurement to the result; every part that is done is read back from its file."""

    def __init__(self, work: Work) -> None:
        self.whole, self.asked, self.run_ = work, work.config.search, work.run
        # What chooses never sees a test row.
        self.works = {0: replace(work, rows={**work.rows, "test": []})}
        self.costs: dict[Any, Cost] = {}
        self.trials: list[Trial] = []
        self.read_wordings: set[int] = set()
        self.space = Space(work.config, self._pairs(), work.backbone.info.num_layers)
        self.own_cost = self._cost(self._own(), 0)
        # A tune reads its inputs too.
        read = self._input_tokens(0) if self.own_cost.is_input_kept else 0
        self.spending = Spending.of(self.asked, self.own_cost.epoch_tokens * work.config.train.epochs + read)
        spent = self.run_.read("spent.json") or {}
        self.spending.tokens, self.spending.seconds = spent.get("tokens", 0.0), spent.get("seconds", 0.0)
        self.read_wordings |= set(spent.get("read_wordings", ()))

    def run(self) -> dict[str, Any]:
        """Everything in turn."""
        plain = self._plain()
        rates = self._rates()
        if rates:
            self.space = Space(self.whole.config, self.space.pairs, self.whole.backbone.info.num_layers, rates)
        self._explore(self._study(), plain)
        lanes, p_values = self._race(plain)
        return self._result(plain, lanes, p_values)

    # -- what there is to choose from

    def _pairs(self) -> list[Pair]:
        """Methods and places that this model can answer with."""
        found: list[Pair] = []
        refused: list[BackboneError | ConfigError] = []
        is_default = not (self.asked.method or self.asked.place)
        for method, place in asked_pairs(self.whole.config):
            config = self.whole.config.prompt.model_copy(update={"method": method, "place": place})
            if method != self.whole.config.prompt.method:
                options = {"layer": 1} if "layer" in method_of(config).options.model_fields else {}
                config = config.model_copy(update={"options": options})
            try:
                self.whole.built(config, self.whole.config.seed).check(self.whole.rows["train"][:1])
            except (BackboneError, ConfigError) as error:
                refused.append(error)
                if not is_default:
                    self.whole.notice(f"{method} at {place} is left out: {error.what}")
            else:
                found.append((method, place))
        if not found:
            raise refused[0]
        return found[:NUM_PAIRS] if is_default else found

    def _own(self) -> PromptConfig:
        return self.whole.config.prompt

    def _work(self, wording: int) -> Work:
        """The rows in one wording."""
        if wording not in self.works:
            self.works[wording] = self._reworded(wording, ("train", "validation"))
        return self.works[wording]

    def _reworded(self, wording: int, splits: Sequence[str]) -> Work:
        work, task = self.whole, self.space.wordings[wording]
        encoder = Encoder(task, work.backbone.tokenizer, reserve=max(self.space.lengths))
        rows = {name: encoder.encode(getattr(work.splits, name)) if name in splits else [] for name in work.rows}
        for text in encoder.notices:
            work.notice(text)
        return replace(work, config=work.config.model_copy(update={"task": task}), encoder=encoder, rows=rows)

    def _cost(self, prompt: PromptConfig, wording: int) -> Cost:
        key = (prompt.method, prompt.place, prompt.length, str(prompt.options), wording)
        if key not in self.costs:
            work = self._work(wording)
            model = work.built(prompt, work.config.seed)
            self.costs[key] = cost_of(model, work.rows["train"], work.rows["validation"])
        return self.costs[key]

    # -- length 0

    def _plain(self) -> list[dict[str, Any]]:
        """The model without a prompt, in every wording; empty where it cannot answer."""
        saved = self.run_.read("plain.json")
        if saved:
            return list(saved["wordings"])
        found: list[dict[str, Any]] = []
        for wording in range(len(self.space.wordings)):
            work = self._work(wording)
            model = PromptedModel(work.backbone, None)
            try:
                model.check(work.rows["train"][:1])
            except BackboneError as error:
                self.whole.notice(f"the model without a prompt could not be measured: {error.what}")
                break
            scored = work.score(model, "validation", "scoring no prompt, validation")
            self.spending.tokens += cost_of(model, work.rows["train"][:1], work.rows["validation"]).epoch_tokens
            score = scored.value(work.task)
            found.append({"wording": wording, "score": score, "loss": scored.loss, "predicted": list(scored.predicted)})
            self._check_stop()
        self.run_.write("plain.json", {"wordings": found})
        self._save_spent()
        return found

    # -- learning rates

    def _rates(self) -> dict[Pair, float]:
        """Each pair's rate by a range test, where that was asked for or costs little."""
        if self.asked.lr or self.asked.find_lr is False:
            return {}
        saved = self.run_.read("rates.json") or {}
        for method, place in self.space.pairs:
            key = f"{method} {place}"
            if key not in saved and (found := self._rate_of(method, place)):
                saved[key] = found
                self.run_.write("rates.json", saved)
        found_pairs = {pair: saved.get(" ".join(pair), {}).get("lr") for pair in self.space.pairs}
        return {pair: rate for pair, rate in found_pairs.items() if rate}

    def _rate_of(self, method: str, place: Any) -> dict[str, Any] | None:
        own, work = self._own(), self._work(0)
        options = own.options if method == own.method else {}
        if (
            method != own.method
            and "layer" in method_of(own.model_copy(update={"method": method})).options.model_fields
        ):
            options = {"layer": self.space.layers[len(self.space.layers) // 2]}
        prompt = own.model_copy(update={"method": method, "place": place, "options": options})
        test = LrConfig()
        rows = len(work.rows["train"]) + len(work.rows["validation"])
        tokens = self._cost(prompt, 0).epoch_tokens / rows * test.steps * work.config.train.batch_size
        if not self.asked.find_lr and self.spending.share_of(tokens) > _AFFORDABLE_RATE_TEST / len(self.space.pairs):
            return None
        self._read_inputs(self._cost(prompt, 0), 0)
        found = find_rate(work, prompt, work.config.train, work.config.seed, test)
        self._check_stop()
        self.spending.tokens += tokens
        self._save_spent()
        return {"lr": found.suggested}

    # -- exploring

    def _study(self) -> "optuna.Study":
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        path = (self.run_.folder / "search.db").resolve()
        study = optuna.create_study(
            storage=f"sqlite:///{path}", study_name=self.run_.name, direction="maximize", load_if_exists=True
        )
        planned = {
            trial["number"] for path in self.run_.folder.glob("cohort-*.json") for trial in self._cohort(path)["trials"]
        }
        for trial in study.get_trials(deepcopy=False):
            # Asked for, and the process ended before it was planned.
            if trial.state == optuna.trial.TrialState.RUNNING and trial.number not in planned:
                study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
        return study

    def _cohort(self, path: Path) -> dict[str, Any]:
        return self.run_.read(path.name) or {"trials": []}

    def _explore(self, study: "optuna.Study", plain: Sequence[dict[str, Any]]) -> None:
        """Groups of candidates until the budget's first part is spent."""
        order = [one["wording"] for one in sorted(plain, key=lambda one: (-one["score"], one["loss"]))]
        order = order or list(range(len(self.space.wordings)))
        number = 0
        while True:
            state = self.run_.read(f"cohort-{number}.json") or self._planned(study, number, order)
            if not state["trials"]:
                return
            group = [self._trial(one) for one in state["trials"]]
            self.trials += group
            if not state["is_done"]:
                self._train(number, state, group)
            self._tell(study, group)
            number += 1

    def _planned(self, study: "optuna.Study", number: int, order: Sequence[int]) -> dict[str, Any]:
        """The next group: as many as there is budget for, all in one wording."""
        import optuna

        wording = order[number] if number < len(order) else self._ranked()[0].setting.wording
        size = self.asked.cohort if len(order) == 1 else max(2, self.asked.cohort // len(order))
        # A fresh sampler for each group: a resumed search asks what an uninterrupted one would.
        study.sampler = optuna.samplers.TPESampler(
            seed=derived_seed(self.whole.config.seed, "ask", number) % 2**32, n_startup_trials=self.asked.cohort
        )
        is_own_due = number == (order.index(0) if 0 in order else 0)
        own = self.space.own_params() if is_own_due else None
        if own:
            study.enqueue_trial(own)
        found: list[dict[str, Any]] = []
        costs: list[float] = []
        for _ in range(_TRIES * size):
            trial = study.ask()
            setting = self.space.setting(trial, wording)
            assert setting.prompt is not None
            cost = self._cost(setting.prompt, wording).epoch_tokens
            is_own = bool(own) and not found
            left = 1 - self.asked.race_share - self.spending.share
            planned = _halving_tokens([*costs, cost], setting.train.epochs, self.asked.eta)
            if self.spending.share_of(planned) > left and not (is_own and left > 0):
                study.tell(trial, state=optuna.trial.TrialState.FAIL)
                continue
            trial.set_user_attr("wording", wording)
            trial.set_user_attr("epoch_tokens", cost)
            costs.append(cost)
            dumped = {"prompt": setting.prompt.model_dump(mode="json"), "train": setting.train.model_dump()}
            found.append({"number": trial.number, "wording": wording, **dumped, "history": [], "seconds": 0.0})
            if len(found) == size:
                break
        state = {"trials": found, "epoch": 0, "alive": [f"trial {one['number']}" for one in found], "is_done": False}
        self.run_.write(f"cohort-{number}.json", state)
        return state

    def _trial(self, saved: dict[str, Any]) -> Trial:
        where = str(self.run_.folder)
        prompt = validated(PromptConfig, saved["prompt"], where)
        setting = Setting(prompt, validated(TrainConfig, saved["train"], where), saved["wording"])
        cost = self._cost(prompt, saved["wording"])
        return Trial(saved["number"], setting, cost, saved["history"], saved["seconds"])

    def _train(self, number: int, state: dict[str, Any], group: list[Trial]) -> None:
        """Train one group from where it stands, halving it on the way."""
        name, by_key = f"cohort-{number}", {trial.key: trial for trial in group}
        limit = 1 - self.asked.race_share

        def count(histories: Histories) -> None:
            for key, history in histories.items():
                self.spending.tokens += by_key[key].cost.epoch_tokens * max(0, len(history) - len(by_key[key].history))
                by_key[key].history = [dict(entry) for entry in history]
                by_key[key].seconds = history[-1]["seconds"] if history else 0.0
            for saved, trial in zip(state["trials"], group, strict=True):
                saved.update(history=trial.history, seconds=trial.seconds)
            self._save_spent()

        def decide(histories: Histories) -> Collection[str]:
            epoch = max((len(history) for history in histories.values()), default=0)
            if epoch <= state["epoch"]:
                return set(state["alive"])
            count(histories)
            alive = [by_key[key] for key in histories]
            if self.spending.share >= limit:
                alive = []
            elif _is_rung(epoch, self.asked.eta):
                alive = sorted(alive, key=self._worth, reverse=True)[: math.ceil(len(alive) / self.asked.eta)]
            state.update(epoch=epoch, alive=[trial.key for trial in alive])
            self.run_.write(f"{name}.json", state)
            return set(state["alive"])

        alive = [trial for trial in group if trial.key in state["alive"]]
        if alive:
            work = self._work(alive[0].setting.wording)
            for trial in alive:
                self._read_inputs(trial.cost, trial.setting.wording)
            results = fit_cohort(work, [_member(t, work.config.seed) for t in alive], decide, self.run_.folder / name)
            self._check_stop()
            count({key: result.progress.history for key, result in results.items()})
            for trial in alive:
                if (found := results[trial.key]).best and is_done(found):
                    self._keep(work, _member(trial, work.config.seed), found, f"{name}/{trial.key}.prompt.safetensors")
        state["is_done"] = True
        self.run_.write(f"{name}.json", state)

    def _tell(self, study: "optuna.Study", group: Sequence[Trial]) -> None:
        # A candidate that was dropped tells what it had reached; one whose loss diverged at once, the worst there is.
        for trial in group:
            worth = self._worth(trial)[0] if trial.history else 0.0
            study.tell(trial.number, worth, skip_if_finished=True)

    def _worth(self, trial: Trial) -> tuple[float, float]:
        """What candidates are compared by: the score less a little for what it costs, then the loss."""
        best = trial.best
        if best is None:
            return -math.inf, -math.inf
        times = max(trial.cost.epoch_tokens, 1.0) / max(self.own_cost.epoch_tokens, 1.0)
        return best["validation_score"] - self.asked.cost_weight * math.log10(times), -best["validation_loss"]

    def _ranked(self) -> list[Trial]:
        return sorted((trial for trial in self.trials if trial.history), key=self._worth, reverse=True)

    # -- the race

    def _race(self, plain: Sequence[dict[str, Any]]) -> tuple[list[Lane], dict[str, float]]:
        """The best on fresh seeds, length 0 beside them."""
        plan = self.run_.read("race.json")
        if plan is None:
            plan = self._race_plan()
            self.run_.write("race.json", plan)
        lanes = [self._lane(number) for number in plan["trials"]]
        gold = self._gold()
        everybody = [*lanes, *self._plain_lane(plain)]
        p_values: dict[str, float] = {}
        for turn in range(plan["seeds"]):
            running = [lane for lane in lanes if lane.out_after is None]
            found = self.run_.read(f"race-{turn}.json") or self._raced(turn, running)
            if not all(lane.key in found for lane in running):
                self.whole.notice("the budget ended within the race: its last seed does not count")
                break
            for lane in everybody:
                of_lane = found.get(lane.key) or {"score": lane.mean, "predicted": lane.predicted[0]}
                if lane.out_after is None and (lane.key in found or turn):
                    lane.scores.append(of_lane["score"])
                    lane.predicted.append(of_lane["predicted"])
            p_values |= drop_worse(everybody, gold, self.whole.task.metric, self.asked.alpha)
        if any(not lane.scores for lane in lanes) or not lanes:
            self.whole.notice("the budget allowed no fresh seed: the seed that found the winner also judged it")
            everybody = [*self._unraced(), *self._plain_lane(plain)]
            if not everybody:
                raise Diverged("no candidate gave a finite prompt", where=str(self.run_.folder))
            p_values = drop_worse(everybody, gold, self.whole.task.metric, self.asked.alpha)
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
        ways = [(k, s) for k in range(1, len(best) + 1) for s in range(1, self.asked.race_seeds + 1)]
        for k, s in sorted(ways, key=lambda way: (min(way[0], 2), way[0] * way[1], way[1]), reverse=True):
            tokens = sum(self._tune_tokens(trial) for trial in best[:k]) * s
            if self.spending.share + self.spending.share_of(tokens) <= 1:
                return {"trials": [trial.number for trial in best[:k]], "seeds": s}
        return {"trials": [], "seeds": 0}

    def _finalists(self) -> list[Trial]:
        """The best, the task file's own setting, and who comes next."""
        ranked, own = self._ranked(), self.space.own_params()
        if own is None or not ranked:
            return ranked[: self.asked.finalists]
        rate = self.whole.config.train.lr or method_of(self._own()).learning_rate[self._own().place]
        is_own = [
            trial
            for trial in ranked
            if trial.setting.prompt == self._own()
            and trial.setting.wording == 0
            and trial.setting.train.epochs == self.whole.config.train.epochs
            and math.isclose(trial.setting.train.lr or 0.0, rate, rel_tol=1e-6)
        ]
        found = [ranked[0], *is_own[:1], *ranked[1:]]
        return list({trial.number: trial for trial in found}.values())[: max(2, self.asked.finalists)]

    def _tune_tokens(self, trial: Trial) -> float:
        # And the validation rows once more, for its predictions.
        rows = self._work(trial.setting.wording).rows
        share = len(rows["validation"]) / (len(rows["train"]) + len(rows["validation"]))
        return trial.cost.epoch_tokens * (trial.setting.train.epochs + share)

    def _lane(self, number: int) -> Lane:
        trial = self._of(number)
        return Lane(trial.key, (trial.cost.serving, trial.cost.epoch_tokens * trial.setting.train.epochs))

    def _of(self, number: int) -> Trial:
        return next(trial for trial in self.trials if trial.number == number)

    def _raced(self, turn: int, lanes: Sequence[Lane]) -> dict[str, Any]:
        """One fresh seed of every lane that runs; only lanes that came to their end are in it."""
        seed = self.whole.config.seed + 1 + turn
        trials = [self._of(int(lane.key.split()[1])) for lane in lanes]
        found: dict[str, Any] = {}
        for wording in sorted({trial.setting.wording for trial in trials}):
            work, own = self._work(wording), [trial for trial in trials if trial.setting.wording == wording]
            counted = {trial.key: 0 for trial in own}

            def decide(histories: Histories, own: list[Trial] = own, counted: dict[str, int] = counted) -> set[str]:
                for trial in own:
                    epochs = len(histories.get(trial.key, ()))
                    self.spending.tokens += trial.cost.epoch_tokens * max(0, epochs - counted[trial.key])
                    counted[trial.key] = max(epochs, counted[trial.key])
                self._save_spent()
                return set() if self.spending.share >= 1 else set(histories)

            members = [_member(trial, seed) for trial in own]
            results = fit_cohort(work, members, decide, self.run_.folder / f"race-{turn}")
            self._check_stop()
            decide({key: result.progress.history for key, result in results.items()})
            for member, trial in zip(members, own, strict=True):
                if (result := results.get(member.key)) and result.best and is_done(result):
                    path = f"race-{turn}/{member.key}.prompt.safetensors"
                    found[member.key] = self._scored(work, member, result, path)
                    self.spending.tokens += self._tune_tokens(trial) - trial.cost.epoch_tokens * member.train.epochs
        if len(found) == len(lanes):
            self.run_.write(f"race-{turn}.json", found)
        self._save_spent()
        return found

    def _unraced(self) -> list[Lane]:
        """The best candidate that came to its end, judged by the seed that found it."""
        for trial in self._ranked():
            for path in self.run_.folder.glob(f"cohort-*/{trial.key}.prompt.safetensors"):
                work = self._work(trial.setting.wording)
                model = self._loaded(work, trial.setting, path)
                scored = work.score(model, "validation", f"{trial.key}: scoring validation")
                lane = self._lane(trial.number)
                lane.predicted, lane.scores = [list(scored.predicted)], [scored.value(work.task)]
                return [lane]
        return []

    # -- prompts in files

    def _scored(self, work: Work, member: Member, result: FitResult, path: str) -> dict[str, Any]:
        """A trained prompt's validation predictions; its values are kept."""
        model = self._keep(work, member, result, path)
        scored = work.score(model, "validation", f"{member.key}, seed {member.seed}: scoring validation")
        return {
            "seed": member.seed,
            "score": scored.value(work.task),
            "loss": scored.loss,
            "predicted": list(scored.predicted),
            "path": path,
            "seconds": result.progress.seconds,
        }

    def _keep(self, work: Work, member: Member, result: FitResult, path: str) -> PromptedModel:
        import torch
        from safetensors.torch import save

        from overture.core.files import write_atomic

        model = work.built(member.prompt, member.seed)
        with torch.no_grad():
            for name, value in model.trainable().items():
                value.copy_(result.best[name])
        tensors = {name: value.cpu().contiguous() for name, value in prompt_tensors(model.prompt).items()}
        write_atomic(self.run_.folder / path, save(tensors))
        return model

    def _loaded(self, work: Work, setting: Setting, path: Path) -> PromptedModel:
        from safetensors.torch import load_file

        from overture.evaluate.source import prompt_source

        assert setting.prompt is not None
        tensors = {name: value.to(work.backbone.device) for name, value in load_file(path).items()}
        source = prompt_source(work.backbone, work.encoder, work.rows["train"], work.store)
        return PromptedModel(work.backbone, prompt_from(tensors, setting.prompt, source), work.cache)

    # -- small things

    def _gold(self) -> list[str]:
        work = self._work(0)
        if not work.task.labels:
            return work.answers("validation")
        candidates = work.encoder.candidates
        assert candidates is not None
        return [candidates.labels[row.label or 0] for row in work.rows["validation"]]

    def _read_inputs(self, cost: Cost, wording: int) -> None:
        """Count the inputs that run once, the first time that somebody needs them."""
        if cost.is_input_kept and wording not in self.read_wordings:
            self.read_wordings.add(wording)
            self.spending.tokens += self._input_tokens(wording)

    def _input_tokens(self, wording: int) -> int:
        rows = self._work(wording).rows
        return sum(map(len, {row.input_ids for name in ("train", "validation") for row in rows[name]}))

    def _check_stop(self) -> None:
        if self.whole.is_stop_asked():
            self._save_spent()
            raise _Stopped

    def _save_spent(self) -> None:
        spent = self.spending
        facts = {"tokens": spent.tokens, "seconds": spent.all_seconds, "read_wordings": sorted(self.read_wordings)}
        self.run_.write("spent.json", facts)
        done = min(1000, round(1000 * spent.share))
        self.run_.event({"event": "progress", "what": "search, thousandths of the budget", "done": done, "total": 1000})

    # -- the result

    def _result(self, plain: Sequence[dict[str, Any]], lanes: list[Lane], p_values: dict[str, float]) -> dict[str, Any]:
        """The winner on test rows, once; its prompt kept; everything that was tried."""
        work, metric = self.whole, self.whole.task.metric
        lane = winner_of(lanes, p_values, self.asked.alpha, self.asked.tolerance)
        trials = self._facts(plain)
        won = self._won(lane)
        seen = self._reworded(won["setting"].wording, ("train", *SPLITS))
        model = self._loaded(seen, won["setting"], won["path"]) if won["path"] else PromptedModel(work.backbone, None)
        splits = [name for name in SPLITS if seen.rows[name]]
        if "test" not in splits:
            work.notice("there are no test rows: validation rows chose the winner, so its score is too good")
        scored = {name: seen.score(model, name, f"scoring the winner, {name}") for name in splits}
        chart = save_chart(pareto_chart(trials, metric), self.run_.folder / "pareto")
        result: dict[str, Any] = {
            "status": "finished",
            "run": self.run_.name,
            "prompt": None,
            "task": work.task.name,
            "metric": metric,
            "rows": {name: len(getattr(work.splits, name)) for name in ("train", *SPLITS)},
            "winner": {"key": lane.key, **won["setting"].facts(), "seed": won["seed"], "wording": won["words"]},
            "metrics": metrics_of(work.task, scored),
            "trials": trials,
            "race": [self._race_facts(one, lane, p_values) for one in lanes],
            "spent": self.spending.facts(),
            "command": self._command(won),
            "charts": chart,
            "notices": work.notices,
        }
        if won["path"]:
            folder = self._stored(seen, won, result["metrics"])
            result |= {"prompt": f"{folder.parent.name}@{folder.name.removeprefix('v')}", "folder": str(folder)}
        self.run_.write("result.json", result)
        self.run_.event({"event": "end", "prompt": result["prompt"]})
        return result

    def _won(self, lane: Lane) -> dict[str, Any]:
        """The winner's setting, and which of its seeds is kept: the best on validation rows, as `tune` does it."""
        kind, number = lane.key.split()
        if kind == "none":
            setting = Setting(None, self.whole.config.train, int(number))
            return {"setting": setting, "path": None, "seed": None, "seconds": 0.0, "words": self._words(int(number))}
        trial = self._of(int(number))
        found = [
            (turn, of_turn[lane.key])
            for turn in range(len(lane.scores))
            if lane.key in (of_turn := self.run_.read(f"race-{turn}.json") or {})
        ]
        words = self._words(trial.setting.wording)
        if found:
            _, best = max(found, key=lambda one: (one[1]["score"], -one[1]["loss"]))
            path = self.run_.folder / best["path"]
            seed, seconds = best["seed"], best["seconds"]
        else:
            path = next(iter(self.run_.folder.glob(f"cohort-*/{lane.key}.prompt.safetensors")))
            seed, seconds = self.whole.config.seed, trial.seconds
        return {"setting": trial.setting, "path": path, "seed": seed, "seconds": seconds, "words": words}

    def _words(self, wording: int) -> dict[str, Any]:
        """What a wording changes in the task file."""
        own, task = (self.space.wordings[number].dump() for number in (0, wording))
        return {name: task[name] for name in ("template", "labels") if task[name] != own[name]}

    def _facts(self, plain: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        found = [self._plain_facts(one) for one in plain] + [self._trial_facts(trial) for trial in self.trials]
        usable = [one for one in found if one["score"] is not None]
        are_best = frontier([(one["tokens"], one["score"]) for one in usable])
        for one, is_best in zip(usable, are_best, strict=True):
            one["is_frontier"] = is_best
        return found

    def _plain_facts(self, one: dict[str, Any]) -> dict[str, Any]:
        setting = Setting(None, self.whole.config.train, one["wording"])
        spent = {"tokens": 0.0, "seconds": 0.0, "serving": 0, "epochs_done": 0, "is_frontier": False}
        own = {"key": f"none {one['wording']}", "title": setting.title(), "wording": one["wording"]}
        return {**own, **setting.facts(), "score": one["score"], "loss": one["loss"], **spent}

    def _trial_facts(self, trial: Trial) -> dict[str, Any]:
        best = trial.best or {}
        return {
            "key": trial.key,
            "title": trial.setting.title(),
            "wording": trial.setting.wording,
            **trial.setting.facts(),
            "score": best.get("validation_score"),
            "loss": best.get("validation_loss"),
            "tokens": trial.tokens,
            "seconds": trial.seconds,
            "serving": trial.cost.serving,
            "epochs_done": len(trial.history),
            "is_frontier": False,
        }

    def _race_facts(self, lane: Lane, winner: Lane, p_values: dict[str, float]) -> dict[str, Any]:
        kind, number = lane.key.split()
        title = "no prompt" if kind == "none" else self._of(int(number)).setting.title()
        return {
            "key": lane.key,
            "title": title,
            "mean": lane.mean,
            "scores": lane.scores,
            "serving": lane.cost[0],
            "tune_tokens": lane.cost[1],
            "p_value": p_values.get(lane.key),
            "dropped_after": lane.out_after,
            "is_winner": lane is winner,
        }

    def _command(self, won: dict[str, Any]) -> str:
        """The command that repeats the winner; none for length 0."""
        if not won["path"]:
            return ""
        file = (self.run_.read("file.json") or {}).get("file", "TASK.yaml")
        return " ".join(["overture tune", file, *self.space.assignments(won["setting"], won["seed"])])

    def _stored(self, work: Work, won: dict[str, Any], metrics: dict[str, Any]) -> Path:
        from safetensors.torch import load_file

        setting, tensors = won["setting"], load_file(won["path"])
        prompt: PromptConfig = setting.prompt
        trained = work.built(prompt, won["seed"]).trainable().values()
        manifest = Manifest(
            name=work.config.name or work.task.name,
            method=prompt.method,
            place=prompt.place,
            length=int(tensors["vectors"].shape[0]) if "vectors" in tensors else prompt.length,
            options={"prompt": prompt.model_dump(mode="json"), "train": setting.train.model_dump()},
            backbone=backbone_ref(work.backbone),
            task=portable(work.task),
            metrics=metrics,
            lineage={"run": self.run_.name, "seed": won["seed"], "train_rows": len(work.rows["train"])},
            versions=versions(),
            trainable=sum(value.numel() for value in trained),
            seconds=won["seconds"],
        )
        return work.store.add(manifest, tensors)


def _member(trial: Trial, seed: int) -> Member:
    assert trial.setting.prompt is not None
    return Member(trial.key, trial.setting.prompt, trial.setting.train, seed)


def _is_rung(epoch: int, eta: int) -> bool:
    """Whether a group is halved after this epoch: the first, eta, eta squared, ..."""
    while epoch > 1 and epoch % eta == 0:
        epoch //= eta
    return epoch == 1


def _halving_tokens(epoch_tokens: Sequence[float], epochs: int, eta: int) -> float:
    """Tokens that a group will run, if what is dropped costs as much as what goes on."""
    alive, total = len(epoch_tokens), 0.0
    for epoch in range(1, epochs + 1):
        total += alive
        if _is_rung(epoch, eta):
            alive = math.ceil(alive / eta)
    return total * sum(epoch_tokens) / len(epoch_tokens)
