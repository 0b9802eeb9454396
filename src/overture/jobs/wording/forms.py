"""Trained prompts, prompts of words and no prompt in one search: the best of each on the same rows.

The two searches run one after the other, each under its own budget and in a run of its own. Validation rows choose
among their winners and the model as it is; test rows are scored once more for the paired tests.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from overture.core.errors import BackboneError, ConfigError, Stopped
from overture.core.injection import Injection
from overture.core.records.events import EndEvent, Event, Listener, ProgressEvent, StartEvent, as_notices, ignore
from overture.core.records.hard import Form, FormRuns, FormScore, FormsResult, HardResult
from overture.core.records.search import SearchResult
from overture.core.records.tune import StoppedRun
from overture.data.encode import Encoder
from overture.data.rows import gold_of
from overture.data.splits import Splits
from overture.engine.backbone import Backbone
from overture.engine.cache import InputCache
from overture.engine.load import load_backbone
from overture.engine.prompted import PromptedModel
from overture.evaluate.host import Host
from overture.evaluate.intervals import paired_test
from overture.evaluate.scoring import Scored, check_answerable, score
from overture.jobs.run.early import splits_of
from overture.jobs.run.resumed import resumed
from overture.jobs.run.same import hold_rows
from overture.jobs.run.tracked import tracked
from overture.jobs.search.options import SearchRequest
from overture.jobs.search.search import resume_search, search
from overture.jobs.wording.final import claims_of
from overture.jobs.wording.options import HardRequest, check_request
from overture.jobs.wording.search import resume_words, search_words
from overture.store.runs import RESULT, Run
from overture.store.store import Store

_RUNS = "forms.json"
_TITLES = {"none": "no prompt", "hard": "the best words", "soft": "the best trained prompt"}


def search_forms(
    config: HardRequest,
    store: Store,
    listener: Listener = ignore,
    is_stop_asked: Callable[[], bool] = lambda: False,
    backbone: Backbone | None = None,
    file: str = "TASK.yaml",
) -> FormsResult | StoppedRun:
    """Search trained prompts and prompts of words, and compare the best of each with the model as it is.

    Args:
        config: the request; ``search`` and ``hard`` say what each search may choose and spend.
        store: where prompts and runs go.
        listener: called with each event.
        is_stop_asked: looked at after each step; the run can be resumed.
        backbone: a loaded model; loaded by the task's name when None.
        file: the task file, for the command that repeats a trained prompt.

    Raises:
        UserError: task, data, model or options are wrong.
        Diverged: no trained prompt is finite, and the model cannot answer without one.
        DiskFull: the run can be resumed when there is room.
    """
    check_request(config)
    if config.hard.shuffle_labels:
        raise ConfigError("the control with shuffled labels is for words alone", where="hard.shuffle_labels",
                          got="search.form: any", wanted="search.form: hard")  # fmt: skip
    store.check_can_add(config.task.name)
    options = config.model_dump(mode="json")
    run = Run.create(store.runs, f"{config.task.name}-forms", options, listener, "forms", file=file)
    return _carried_out(run, config, store, is_stop_asked, backbone, ())


def resume_forms(
    ref: str,
    store: Store,
    listener: Listener = ignore,
    is_stop_asked: Callable[[], bool] = lambda: False,
    backbone: Backbone | None = None,
    settings: Sequence[str] = (),
) -> FormsResult | StoppedRun:
    """Go on with a stopped search of all forms; what its searches have finished is not repeated.

    Arguments and errors are those of `overture.jobs.tune.tune.resume`.
    """
    return resumed(
        ref, store, listener, settings, HardRequest, FormsResult,
        lambda run, config: _carried_out(run, config, store, is_stop_asked, backbone, settings),
    )  # fmt: skip


def _carried_out(
    run: Run,
    config: HardRequest,
    store: Store,
    is_stop_asked: Callable[[], bool],
    backbone: Backbone | None,
    settings: Sequence[str],
) -> FormsResult | StoppedRun:
    def searched() -> FormsResult | StoppedRun:
        splits = splits_of(config.task)
        hold_rows(run, splits, config.task.data)
        run.keep_config(config.model_dump(mode="json"))
        model = backbone or load_backbone(
            config.task.backbone, revision=config.revision, device=config.device, dtype=config.dtype,
            notify=as_notices(run.event),
        )  # fmt: skip
        try:
            return _Forms(run, config, store, is_stop_asked, model, settings, splits).carried_out()
        except Stopped:
            return StoppedRun(run=run.name)

    return tracked(run, config, lambda: run.carried_out(searched))


@dataclass(frozen=True, slots=True)
class _Entrant:
    """The best of one form.

    Args:
        what: it in a few words.
        serving: live prompt tokens of a request.
        scores: its answers by split.
    """

    what: str
    serving: int
    scores: dict[str, Scored]


@dataclass(slots=True)
class _Forms:
    """One search of all forms.

    Attributes:
        notices: notices of the comparison, beside those of the searches.
    """

    run: Run
    config: HardRequest
    store: Store
    is_stop_asked: Callable[[], bool]
    backbone: Backbone
    settings: Sequence[str]
    splits: Splits
    notices: list[str] = field(default_factory=list)

    def carried_out(self) -> FormsResult:
        """Both searches, then their winners and no prompt.

        Raises:
            Stopped: a stop was asked for.
        """
        soft_values = self.config.model_dump(exclude_unset=True, exclude={"hard"})
        soft_config = SearchRequest.model_validate(soft_values | {"search": {**soft_values["search"], "form": "soft"}})
        store, stop, model = self.store, self.is_stop_asked, self.backbone
        hard = self._part(
            "hard",
            lambda listen: search_words(self.config, store, listen, stop, model),
            lambda name, listen: resume_words(name, store, listen, stop, model, self.settings),
        )
        soft = self._part(
            "soft",
            lambda listen: search(soft_config, store, listen, stop, model, self.run.request().file),
            lambda name, listen: resume_search(name, store, listen, stop, model, self.settings),
        )
        assert isinstance(hard, HardResult)
        assert isinstance(soft, SearchResult)
        result = self._compared(hard, soft)
        self.run.write(RESULT, result)
        self.run.event(EndEvent(prompt=result.prompt))
        return result

    def _part(
        self, form: Form, begin: Callable[[Listener], object], go_on: Callable[[str, Listener], object]
    ) -> HardResult | SearchResult:
        """The result of one form's search, begun or gone on with; its run's name is kept when it begins."""
        runs = (self.run.read(_RUNS, FormRuns) or FormRuns()).runs

        def listen(event: Event) -> None:
            if isinstance(event, StartEvent):
                self.run.write(_RUNS, FormRuns(runs={**runs, form: event.run}))
            elif not isinstance(event, EndEvent):
                self.run.listener(event)

        name = runs.get(form)
        result = go_on(name, listen) if name else begin(listen)
        if not isinstance(result, SearchResult | HardResult) or result.status != "finished":
            raise Stopped
        return result

    def _compared(self, hard: HardResult, soft: SearchResult) -> FormsResult:
        """The winners of both searches and the model as it is: chosen on validation rows, tested on test rows."""
        task, prompts = self.config.task, {"soft": soft.prompt, "hard": hard.prompt}
        entrants = self._entrants(hard, soft)
        winner = self._winner(entrants)
        split = "test" if self.splits.test else "validation"
        if split == "validation":
            self.notices.append(
                "there are no test rows: the claims are on rows that chose the winner, so they are too good"
            )
        losers = sorted(
            (form for form in entrants if form != winner), key=lambda form: -entrants[form].scores[split].value(task)
        )
        claims = claims_of(
            entrants[winner].scores[split], {_TITLES[form]: entrants[form].scores[split] for form in losers}, task
        )
        prompt, runs = prompts.get(winner), self.run.read(_RUNS, FormRuns)
        assert runs is not None
        forms = []
        for form in (winner, *losers):
            scores = {name: scored.metrics(task)[task.metric] for name, scored in entrants[form].scores.items()}
            forms.append(
                FormScore(
                    form=form,
                    prompt=prompts.get(form),
                    what=entrants[form].what,
                    serving=entrants[form].serving,
                    validation=scores["validation"],
                    test=scores.get("test"),
                    is_winner=form == winner,
                )
            )
        return FormsResult(
            run=self.run.name,
            runs=runs.runs,
            prompt=prompt,
            folder=str(self.store.get(prompt)) if prompt else None,
            task=task.name,
            metric=task.metric,
            split=split,
            rows={name: len(getattr(self.splits, name)) for name in ("train", "validation", "test")},
            forms=forms,
            claims=claims,
            metrics={name: scored.split_scores(task) for name, scored in entrants[winner].scores.items()},
            notices=[*self.notices, *hard.notices, *soft.notices],
        )

    def _entrants(self, hard: HardResult, soft: SearchResult) -> dict[Form, _Entrant]:
        """No prompt where the model can answer without one, and the best of each form that was stored."""
        task, cache, entrants = self.config.task, InputCache(), dict[Form, _Entrant]()
        encoder, plain = Encoder(task, self.backbone.text.tokenizer), PromptedModel(self.backbone, None, cache)
        try:
            check_answerable(plain, encoder.encode(self.splits.train[:1]), task)
            entrants["none"] = _Entrant(_TITLES["none"], 0, self._scores(plain, encoder))
        except BackboneError as error:
            self.notices.append(f"the model without a prompt is left out: {error.what}")
        host = Host(self.backbone, self.store)
        bests: tuple[tuple[Form, str | None], ...] = (("hard", hard.prompt), ("soft", soft.prompt))
        for form, prompt in bests:
            if prompt is None:
                self.notices.append(f"{form}: no prompt won the search, and none was stored")
                continue
            handle = host.open(prompt)
            vectors = handle.prompt.vectors if isinstance(handle.prompt, Injection) else None
            what = hard.winner.title if form == "hard" else f"{handle.manifest.method}-{handle.manifest.place}"
            scores = self._scores(handle.model(cache), handle.encoder)
            entrants[form] = _Entrant(what, vectors.length if vectors else 0, scores)
        return entrants

    def _scores(self, model: PromptedModel, encoder: Encoder) -> dict[str, Scored]:
        scores = {}
        for split in ("validation", "test"):
            if rows := getattr(self.splits, split):
                what = f"comparing the forms on {split} rows"
                scores[split] = score(
                    model, encoder.encode(rows), encoder.task, gold_of(encoder.task, rows),
                    progress=lambda done, total: self.run.event(ProgressEvent(what=what, done=done, total=total)),  # noqa: B023
                )  # fmt: skip
        return scores

    def _winner(self, entrants: dict[Form, _Entrant]) -> Form:
        """The best on validation rows; of those that neither the rows nor a paired test tell apart the cheapest."""
        task, options = self.config.task, self.config.search
        scores = {form: entrant.scores["validation"] for form, entrant in entrants.items()}
        leader = max(scores, key=lambda form: scores[form].value(task))

        def is_equal(form: Form) -> bool:
            best, other = scores[leader], scores[form]
            test = paired_test(best.gold, best.predicted, other.predicted, task.metric)
            return test.difference.value <= options.tolerance and test.p_value >= options.alpha

        equals = [form for form in scores if form == leader or is_equal(form)]
        return min(equals, key=lambda form: (form != "none", entrants[form].serving, -scores[form].value(task)))
