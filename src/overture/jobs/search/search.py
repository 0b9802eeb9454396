"""Search: which prompt, where, how long, how trained and how worded, chosen by measurement under a budget.

The model without a prompt (length 0) is measured first. Optuna's TPE (Bergstra et al. 2011) proposes candidates in
groups that train side by side. At the first rung and at 2, 4, 8, ... times as many epochs the better half of a group
goes on (successive halving: Jamieson and Talwalkar 2016). The task file's own setting is in the first group and is
never dropped. It and the best candidates race on fresh seeds (`race`). Validation rows alone choose; the winner is
scored on test rows once, at the end.

In the run's folder: ``search.db`` the trials (Optuna, SQLite), ``plain.json`` the model without a prompt,
``rates.json`` learning rates that were found, ``cohort-N.json`` a group and how far it came, ``race.json`` and
``race-N.json`` the race, ``spent.json`` what was spent.
"""

import os
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from overture.core.errors import BackboneError, ConfigError, Stopped
from overture.core.files import TEMPORARY
from overture.core.records.base import Record, read_record
from overture.core.records.events import Listener, NoticeEvent, PlanEvent, PlanStep, as_notices, ignore
from overture.core.records.runs import RunKind
from overture.core.records.search import FoundRates, PlainScore, PlainScores, SearchResult
from overture.core.records.training import EpochRecord
from overture.core.records.tune import StoppedRun
from overture.core.seeds import derived_seed
from overture.engine.backbone import Backbone
from overture.engine.prompted import PromptedModel
from overture.jobs.run.members import Histories
from overture.jobs.run.request import check_no_adapter
from overture.jobs.run.resumed import resumed
from overture.jobs.run.settled import settled
from overture.jobs.run.tracked import tracked
from overture.jobs.run.where import HERE, Where
from overture.jobs.run.work import Work, new_run, read_material, taken_up, work_on
from overture.jobs.search.groups import Group, RateJob, Trainer, TrainerHere
from overture.jobs.search.halving import first_rung, halving_tokens, is_rung, next_decision, num_after
from overture.jobs.search.options import LrConfig, SearchRequest
from overture.jobs.search.race import Race
from overture.jobs.search.result import result_of
from overture.jobs.search.space import Pair, Setting, options_of, requested_pairs, wordings
from overture.jobs.search.state import Cost, SearchState, Trial, with_room
from overture.prompt.config import PromptConfig
from overture.store.runs import Run
from overture.store.store import Store
from overture.train.options import TrainConfig

if TYPE_CHECKING:
    import optuna

KIND: RunKind = "search"
_AFFORDABLE_RATE_TEST = 0.05
"""Share of the budget that range tests of all methods and places may take."""
_TRIES = 4
"""Proposals for each place in a group; those that the budget does not allow are not trained."""


class SavedTrial(Record):
    """A candidate of a group, and how far it came."""

    number: int = Field(description="its number in Optuna's study")
    wording: int = Field(description="number of its wording")
    is_own: bool = Field(description="whether it is the task file's own setting")
    prompt: PromptConfig
    train: TrainConfig
    history: list[EpochRecord] = Field([], description="its epochs so far")
    seconds: float = Field(0.0, description="seconds of its training")


class SavedGroup(Record):
    """``cohort-N.json``: candidates that train side by side."""

    trials: list[SavedTrial]
    epoch: int = Field(0, description="epochs after which it was last decided who goes on")
    alive: list[str] = Field(description="keys of the candidates that go on")
    is_done: bool = False
    num_asked: int = Field(0, description="proposals in Optuna's study once the group was planned")


def search(
    config: SearchRequest,
    store: Store,
    listener: Listener = ignore,
    is_stop_asked: Callable[[], bool] = lambda: False,
    backbone: Backbone | None = None,
    file: str = "TASK.yaml",
    where: Where = HERE,
) -> SearchResult | StoppedRun:
    """Choose a setting by measurement and store its prompt.

    Args:
        config: the request; ``search`` says what may be chosen and spent.
        store: where the prompt and the run's folder go.
        listener: called with each event.
        is_stop_asked: looked at after each step; the run can be resumed.
        backbone: a loaded model; loaded by the task's name when None.
        file: the task file, for the command that repeats the winner.
        where: where candidates are trained.

    Raises:
        UserError: task, data, model or options are wrong.
        Diverged: no candidate gave a finite prompt, and the model cannot answer without one.
        DiskFull: the run can be resumed when there is room.
    """
    check_no_adapter(config, "search")
    config = settled(config, store, backbone)
    # Both raise for what the task cannot have, before a run is made.
    requested_pairs(config)
    wordings(config)
    name = f"{config.task.name}-{KIND}"
    material = read_material(with_room(config), as_notices(listener), backbone)
    run = new_run(store, name, config, material, listener, KIND, file)
    return _carried_out(run, config, lambda: work_on(run, material, store, is_stop_asked), where, is_new=True)


def resume_search(
    ref: str,
    store: Store,
    listener: Listener = ignore,
    is_stop_asked: Callable[[], bool] = lambda: False,
    backbone: Backbone | None = None,
    settings: Sequence[str] = (),
    where: Where = HERE,
) -> SearchResult | StoppedRun:
    """Go on with a stopped search; finished trials are not repeated, a finished search gives its result again.

    Arguments and errors are those of `overture.jobs.tune.tune.resume`.
    """

    def go_on(run: Run, config: SearchRequest) -> SearchResult | StoppedRun:
        def prepare() -> Work:
            work = taken_up(run, with_room(config), store, is_stop_asked, backbone)
            run.keep_config(config.model_dump(mode="json"))
            return work

        return _carried_out(run, config, prepare, where)

    return resumed(ref, store, listener, settings, SearchRequest, SearchResult, go_on)


def _carried_out(
    run: Run, config: SearchRequest, prepare: Callable[[], Work], where: Where, is_new: bool = False
) -> SearchResult | StoppedRun:
    def searched() -> SearchResult | StoppedRun:
        try:
            work = prepare()
            with work.backbone.checkpointing(config.train.gradient_checkpointing):
                state = SearchState(replace(work, config=config))
                with _trainer(state, where) as trainer:
                    return _Search(state, trainer).run()
        except Stopped:
            return StoppedRun(run=run.name)

    return tracked(run, config, lambda: run.carried_out(searched, is_new))


@contextmanager
def _trainer(state: SearchState, where: Where) -> Iterator[Trainer]:
    if not where.on:
        yield TrainerHere(state)
        return
    from overture.jobs.search.elsewhere import trainer_on

    with trainer_on(where, state) as trainer:
        yield trainer


class _Search:
    """One search, from the first measurement to the race."""

    def __init__(self, state: SearchState, trainer: Trainer) -> None:
        self.state, self.trainer = state, trainer
        self.budget, self.options, self.folder = state.budget, state.options, state.run.folder
        num_steps = state.config.train.warmup_steps + self.options.min_steps
        self.first_rung = first_rung(self.state.space.min_batches, num_steps)

    def run(self) -> SearchResult:
        self._tell_plan()
        plain = self._plain_scores()
        if rates := self._found_rates():
            self.state.set_rates(rates)
        self._explore(plain)
        race = Race(self.state, plain, self.trainer)
        race.run()
        return result_of(self.state, plain, race)

    def _tell_plan(self) -> None:
        """Tell the steps; their time is known where the budget is one."""
        options, rows, limit = self.options, self.state.work.rows, self.budget.limit_seconds
        wordings = len(self.state.space.wordings)
        unit = "times the cost of tuning the task file's own setting"
        worth = "" if limit or options.tokens else f", for {1 - options.race_share:.0%} of {options.tunes:g} {unit}"
        seeds = f"{options.race_seeds} fresh seed{'s' if options.race_seeds > 1 else ''} each"
        parts = {
            f"score the model without a prompt in {wordings} wording{'s' if wordings > 1 else ''} on "
            f"{len(rows['validation'])} validation rows": 0.0,
            f"train candidates {options.cohort} at a time on {len(rows['train'])} rows{worth}": 1 - options.race_share,
            f"race up to {options.finalists} of them with {seeds}, and score the test rows": options.race_share,
        }
        steps = [PlanStep(what=what, seconds=share * limit if limit else None) for what, share in parts.items()]
        self.state.run.event(PlanEvent(steps=steps))

    # -- without a prompt

    def _plain_scores(self) -> list[PlainScore]:
        """Score the model without a prompt in every wording; empty where it cannot answer."""
        if record := read_record(PlainScores, self.folder / "plain.json"):
            return record.wordings
        scores: list[PlainScore] = []
        for wording in range(len(self.state.space.wordings)):
            work = self.state.in_wording(wording)
            model = PromptedModel(work.backbone, None)
            try:
                work.check(model)
            except BackboneError as error:
                self.state.work.notice(f"the model without a prompt could not be measured: {error.what}")
                break
            scored = work.score(model, "validation", "scoring no prompt, validation")
            cost = Cost.of(model, work.rows["train"][:1], work.rows["validation"])
            self.budget.count(f"none {wording}", cost.epoch_tokens)
            score = scored.value(work.task)
            scores.append(PlainScore(wording=wording, score=score, loss=scored.loss, predicted=scored.predicted))
            self.state.check_stop()
        self.state.run.write("plain.json", PlainScores(wordings=scores))
        self.budget.save()
        return scores

    # -- learning rates

    def _found_rates(self) -> dict[Pair, float]:
        """The learning rate of each method and place by a range test, where no range is given and tests cost little."""
        if self.options.lr:
            return {}
        state = self.state
        record = state.run.read("rates.json", FoundRates)
        rate_records, tokens = dict(record.root) if record else {}, dict[str, float]()

        def jobs() -> Iterator[RateJob]:
            for pair in state.space.pairs:
                job = self._rate_job(pair)
                if job.name not in rate_records and (num_tokens := self._affordable_tokens(job)):
                    tokens[job.name] = num_tokens
                    yield job

        for outcome in self.trainer.rates.map(jobs(), state.run.event):
            state.check_stop()
            name = outcome.job.name
            rate_records[name] = outcome.checked()
            state.run.write("rates.json", FoundRates(rate_records))
            self.budget.count(f"rate {name}", tokens[name])
            self.budget.save()
        names = {f"{method} {place}": (method, place) for method, place in state.space.pairs}
        return {pair: rate for name, pair in names.items() if name in rate_records and (rate := rate_records[name].lr)}

    def _rate_job(self, pair: Pair) -> RateJob:
        state, (method, place) = self.state, pair
        options = options_of(state.prompt, method, state.space.layers[len(state.space.layers) // 2])
        prompt = state.prompt.model_copy(update={"method": method, "place": place, "options": options})
        return RateJob(prompt=prompt, train=state.space.default().train, seed=state.work.config.seed)

    def _affordable_tokens(self, job: RateJob) -> float:
        """Tokens of a range test, its inputs counted already; none where it would cost too much."""
        state, train = self.state, job.train
        rows, cost = state.in_wording(0).rows, state.cost(Setting(job.prompt, train))
        num_rows = len(rows["train"]) * train.num_passes + len(rows["validation"])
        tokens = cost.epoch_tokens / num_rows * LrConfig().steps * train.batch_size
        if self.budget.share_of(tokens) > _AFFORDABLE_RATE_TEST / len(state.space.pairs):
            return 0.0
        state.count_inputs(cost, 0)
        return tokens

    # -- groups of candidates

    def _explore(self, plain: Sequence[PlainScore]) -> None:
        """Train groups of candidates until the budget's first part is spent."""
        study = self._study()
        best_first = sorted(plain, key=lambda score: (score.wording != 0, -score.score, score.loss))
        order = [score.wording for score in best_first] or list(range(len(self.state.space.wordings)))
        number = 0
        while True:
            file = f"cohort-{number}.json"
            group = read_record(SavedGroup, self.folder / file) or self._planned(study, number, order)
            if not group.trials:
                return
            trials = []
            for entry in group.trials:
                setting = Setting(entry.prompt, entry.train, entry.wording)
                cost = self.state.cost(setting)
                trials.append(Trial(entry.number, setting, cost, entry.is_own, list(entry.history), entry.seconds))
            self.state.trials += trials
            if not group.is_done:
                self._train(number, group, trials)
                if number == 0 and 0 < (share := self.budget.share) < 1:
                    minutes = self.budget.seconds * (1 - share) / share / 60
                    if minutes > 1:
                        text = f"about {minutes:.0f} more minutes, by the first group of candidates"
                        self.state.run.listener(NoticeEvent(text=text))
            self._tell(study, trials)
            number += 1

    def _study(self) -> "optuna.Study":
        """Optuna's study; proposals of a group whose planning did not come to its end are taken out of it.

        So a resumed search numbers its trials as an unbroken one does, and proposes the same.
        """
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        path, name = (self.folder / "search.db").resolve(), self.state.run.name

        def opened(path: Path) -> "optuna.Study":
            storage = f"sqlite:///{path}"
            return optuna.create_study(storage=storage, study_name=name, direction="maximize", load_if_exists=True)

        study = opened(path)
        groups = [read_record(SavedGroup, file) for file in self.folder.glob("cohort-*.json")]
        num_planned = max((group.num_asked for group in groups if group), default=0)
        trials = study.get_trials()
        if len(trials) <= num_planned:
            return study
        # Optuna deletes no trial: a second file gets those that stay, and takes the first one's place.
        replacement = path.with_name(f"{TEMPORARY}search.db")
        replacement.unlink(missing_ok=True)
        opened(replacement).add_trials(trials[:num_planned])
        os.replace(replacement, path)
        return opened(path)

    def _planned(self, study: "optuna.Study", number: int, order: Sequence[int]) -> SavedGroup:
        """Propose the next group: as many as there is budget for, all in one wording; the default is in the first."""
        import optuna

        state = self.state
        wording = order[number] if number < len(order) else state.ranked()[0].setting.wording
        size = self.options.cohort if len(order) == 1 else max(2, self.options.cohort // len(order))
        # A fresh sampler for each group: a resumed search proposes what an unbroken one would.
        study.sampler = optuna.samplers.TPESampler(
            seed=derived_seed(state.work.config.seed, "ask", number) % 2**32, n_startup_trials=self.options.cohort
        )
        proposals = self._proposed_default(study) if number == 0 else []
        num_default = len(proposals)
        for _ in range(_TRIES * size if state.space.lengths else 0):
            if len(proposals) >= size:
                break
            trial = study.ask()
            proposals.append((trial, state.space.setting(trial, wording)))
            if not self._is_affordable([setting for _, setting in proposals], num_default):
                proposals.pop()
                study.tell(trial, state=optuna.trial.TrialState.FAIL)
        trials = []
        for place, (trial, setting) in enumerate(proposals):
            assert setting.prompt is not None
            trial.set_user_attr("wording", wording)
            trial.set_user_attr("epoch_tokens", state.cost(setting).epoch_tokens)
            facts = {"number": trial.number, "wording": wording, "is_own": place < num_default}
            trials.append(SavedTrial(**facts, prompt=setting.prompt, train=setting.train))
        group = SavedGroup(
            trials=trials,
            alive=[f"trial {trial.number}" for trial in trials],
            num_asked=len(study.get_trials(deepcopy=False)),
        )
        state.run.write(f"cohort-{number}.json", group)
        return group

    def _proposed_default(self, study: "optuna.Study") -> list[tuple["optuna.Trial", Setting]]:
        """The task file's own setting; empty where it cannot be trained, or all is spent already."""
        state = self.state
        try:
            state.work.check(state.work.built(state.prompt, state.work.config.seed))
        except (BackboneError, ConfigError) as error:
            state.work.notice(f"the task file's own setting is left out: {error.what}")
            return []
        if self.budget.share >= 1:
            return []
        if params := state.space.default_params():
            study.enqueue_trial(params)
        trial = study.ask()
        if params:
            # The sampler learns the parameters by their being asked for.
            state.space.setting(trial, 0)
        return [(trial, state.space.default())]

    def _is_affordable(self, settings: Sequence[Setting], num_spared: int) -> bool:
        """Whether the first part of the budget has room for such a group."""
        costs = [self.state.cost(setting).epoch_tokens for setting in settings]
        epochs = max(setting.train.num_epochs for setting in settings)
        num_tokens = halving_tokens(costs, epochs, self.first_rung, num_spared)
        return self.budget.share + self.budget.share_of(num_tokens) <= 1 - self.options.race_share

    def _train(self, number: int, group: SavedGroup, trials: Sequence[Trial]) -> None:
        """Train one group from where it stands, halving it on the way."""
        by_key = {trial.key: trial for trial in trials}
        epoch, alive_keys = group.epoch, list(group.alive)

        def count(histories: Histories) -> None:
            for key, history in histories.items():
                by_key[key].history = list(history)
                by_key[key].seconds = history[-1].seconds if history else 0.0
                self.budget.count(key, by_key[key].tokens)
            self.budget.save()

        def save(is_done: bool = False) -> None:
            entries = [
                before.model_copy(update={"history": trial.history, "seconds": trial.seconds})
                for before, trial in zip(group.trials, trials, strict=True)
            ]
            changes = {"trials": entries, "epoch": epoch, "alive": alive_keys, "is_done": is_done}
            self.state.run.write(f"cohort-{number}.json", group.model_copy(update=changes))

        def decide(histories: Histories) -> Collection[str]:
            nonlocal epoch, alive_keys
            epochs_done = max((len(history) for history in histories.values()), default=0)
            if epochs_done <= epoch:
                return set(alive_keys)
            count(histories)
            running = going_on = [by_key[key] for key in histories]
            if self.budget.share >= 1 - self.options.race_share:
                going_on = []
            elif is_rung(epochs_done, self.first_rung):
                going_on = sorted(running, key=self.state.worth, reverse=True)[: num_after(len(running))]
            # The default comes to its end, if need be on the race's share of the budget.
            spared_keys = [trial.key for trial in running if trial.is_default and self.budget.share < 1]
            epoch, alive_keys = epochs_done, list(dict.fromkeys([*spared_keys, *(trial.key for trial in going_on)]))
            save()
            return set(alive_keys)

        def pause(epochs_done: int, keys: Sequence[str]) -> int:
            limit = 1 - self.options.race_share
            return next_decision(
                epochs_done,
                max(by_key[key].setting.train.num_epochs for key in keys),
                self.budget.share_of(sum(by_key[key].cost.epoch_tokens for key in keys)),
                limit - self.budget.share,
                self.first_rung,
            )

        alive = [trial for trial in trials if trial.key in alive_keys]
        if alive:
            for trial in alive:
                self.state.count_inputs(trial.cost, trial.setting.wording)
            name, seed = f"cohort-{number}", self.state.work.config.seed
            members = tuple(trial.seeded(seed) for trial in alive)
            wording = alive[0].setting.wording
            cohort = Group(wording=wording, members=members, folder=name, values=name, is_scored=False)
            fits = self.trainer.train(cohort, decide, pause)
            # A candidate that diverges before its first validation spends too, or there might be no end of them.
            for trial in alive:
                self.budget.count(trial.key, trial.cost.epoch_tokens * fits[trial.key].num_epochs)
            count({key: fit.history for key, fit in fits.items()})
        save(is_done=True)

    def _tell(self, study: "optuna.Study", trials: Sequence[Trial]) -> None:
        """Tell the sampler what each candidate reached; one whose loss diverged at once counts as the worst so far."""
        worths = {trial.number: self.state.worth(trial)[0] for trial in self.state.trials if trial.history}
        worst = min((self.state.empty_answers()[1], *worths.values()))
        for trial in trials:
            study.tell(trial.number, worths.get(trial.number, worst), skip_if_finished=True)
