"""Trained prompts, prompts of words and no prompt in one search: the best of each on the same rows.

The two searches run one after the other, each under its own budget and in a run of its own. Validation rows choose
among their winners and the model as it is; test rows are scored once more for the paired tests.
"""

from collections.abc import Callable, Sequence
from typing import cast

from overture.core.errors import BackboneError, ConfigError, Stopped
from overture.core.injection import Injection
from overture.core.records.events import EndEvent, Event, Listener, NoticeEvent, ProgressEvent, StartEvent, ignore
from overture.core.records.hard import Form, FormRuns, FormScore, FormsResult, HardResult
from overture.core.records.search import SearchResult
from overture.core.records.tune import StoppedRun
from overture.data.encode import Encoder
from overture.data.rows import gold_of
from overture.data.splits import Splits, load_splits
from overture.engine.backbone import Backbone
from overture.engine.load import load_backbone
from overture.engine.prompted import PromptedModel
from overture.evaluate.host import Host
from overture.evaluate.intervals import paired_test
from overture.evaluate.scoring import Scored, check_answerable, score
from overture.jobs.run.request import with_moved_data
from overture.jobs.run.same import hold_rows
from overture.jobs.run.tracked import tracked
from overture.jobs.search.options import SearchRequest
from overture.jobs.search.search import resume_search, search
from overture.jobs.wording.final import claims_of
from overture.jobs.wording.options import HardRequest
from overture.jobs.wording.search import check_request, resume_words, search_words
from overture.store.runs import RESULT, Run
from overture.store.store import Store

_RUNS = "forms.json"
_TITLES = {"none": "no prompt", "hard": "words", "soft": "a trained prompt"}


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

    Args:
        ref: the run's name or folder.
        store: where prompts and runs are.
        listener: called with each event.
        is_stop_asked: looked at after each step.
        backbone: a loaded model; loaded by the task's name when None.
        settings: where data files lie now: ``data.train=rows.jsonl``.

    Raises:
        As `resume_search` and `resume_words`.
    """
    run = Run.open(store.runs, ref, listener)
    if result := run.read(RESULT, FormsResult):
        return result
    config = with_moved_data(run.config(HardRequest), settings)
    return _carried_out(run, config, store, is_stop_asked, backbone, settings)


def _carried_out(
    run: Run,
    config: HardRequest,
    store: Store,
    is_stop_asked: Callable[[], bool],
    backbone: Backbone | None,
    settings: Sequence[str],
) -> FormsResult | StoppedRun:
    def searched() -> FormsResult | StoppedRun:
        splits = load_splits(config.task)
        hold_rows(run, splits, config.task.data)
        model = backbone or load_backbone(
            config.task.backbone, revision=config.revision, device=config.device, dtype=config.dtype,
            notify=lambda text: run.event(NoticeEvent(text=text)),
        )  # fmt: skip
        run.keep_config(config.model_dump(mode="json"))
        soft_values = config.model_dump(exclude_unset=True, exclude={"hard"})
        soft_config = SearchRequest.model_validate(soft_values | {"search": {**soft_values["search"], "form": "soft"}})
        file = run.request().file

        def part(form: Form, begin: Callable[[Listener], object], go_on: Callable[[str, Listener], object]) -> object:
            """The result of one form's search, begun or gone on with; its run's name is kept when it begins."""
            known = run.read(_RUNS, FormRuns) or FormRuns()

            def listen(event: Event) -> None:
                if isinstance(event, StartEvent):
                    run.write(_RUNS, FormRuns(runs={**known.runs, form: event.run}))
                elif not isinstance(event, EndEvent):
                    run.listener(event)

            name = known.runs.get(form)
            result = go_on(name, listen) if name else begin(listen)
            if not isinstance(result, SearchResult | HardResult) or result.status != "finished":
                raise Stopped
            return result

        try:
            hard = part(
                "hard",
                lambda listen: search_words(config, store, listen, is_stop_asked, model),
                lambda name, listen: resume_words(name, store, listen, is_stop_asked, model, settings),
            )
            soft = part(
                "soft",
                lambda listen: search(soft_config, store, listen, is_stop_asked, model, file),
                lambda name, listen: resume_search(name, store, listen, is_stop_asked, model, settings),
            )
        except Stopped:
            return StoppedRun(run=run.name)
        result = _compared(run, config, store, model, splits, cast(SearchResult, soft), cast(HardResult, hard))
        run.write(RESULT, result)
        run.event(EndEvent(prompt=result.prompt))
        return result

    return tracked(run, config, lambda: run.carried_out(searched))


def _compared(
    run: Run,
    config: HardRequest,
    store: Store,
    backbone: Backbone,
    splits: Splits,
    soft: SearchResult,
    hard: HardResult,
) -> FormsResult:
    """The winners of both searches and the model as it is: chosen on validation rows, tested on test rows."""
    task = config.task
    names = [name for name in ("validation", "test") if getattr(splits, name)]
    host, prompts = Host(backbone, store), {"soft": soft.prompt, "hard": hard.prompt}
    titles, serving = dict(_TITLES), {"none": 0}
    scores: dict[Form, dict[str, Scored]] = {}
    notices: list[str] = []
    try:
        encoder = Encoder(task, backbone.text.tokenizer)
        check_answerable(PromptedModel(backbone), encoder.encode(splits.train[:1]), task)
        scores["none"] = {name: _scored(run, PromptedModel(backbone), encoder, splits, name) for name in names}
    except BackboneError as error:
        notices.append(f"the model without a prompt is left out: {error.what}")
    forms: tuple[Form, ...] = ("hard", "soft")
    for form in forms:
        if (prompt := prompts[form]) is None:
            notices.append(f"{_TITLES[form]} was not better than no prompt in its own search, and none was stored")
            continue
        handle = host.open(prompt)
        scores[form] = {name: _scored(run, handle.model(), handle.encoder, splits, name) for name in names}
        vectors = handle.prompt.vectors if isinstance(handle.prompt, Injection) else None
        serving[form] = vectors.length if vectors else 0
        titles[form] = hard.winner.title if form == "hard" else f"{handle.manifest.method}-{handle.manifest.place}"
    winner = _winner({form: some["validation"] for form, some in scores.items()}, config, serving)
    split = names[-1]
    if split == "validation":
        notices.append("there are no test rows: the claims are on rows that chose the winner, so they are too good")
    others = sorted((form for form in scores if form != winner), key=lambda form: -scores[form][split].value(task))
    claims = claims_of(scores[winner][split], {titles[form]: scores[form][split] for form in others}, task)
    prompt = prompts.get(winner)
    folder = str(store.get(prompt)) if prompt else None
    runs = run.read(_RUNS, FormRuns)
    assert runs is not None
    return FormsResult(
        run=run.name,
        runs=runs.runs,
        prompt=prompt,
        folder=folder,
        task=task.name,
        metric=task.metric,
        split=split,
        rows={name: len(getattr(splits, name)) for name in ("train", "validation", "test")},
        forms=[
            FormScore(
                form=form,
                prompt=prompts.get(form),
                what=titles[form],
                serving=serving[form],
                validation=scores[form]["validation"].metrics(task)[task.metric],
                test=scores[form]["test"].metrics(task)[task.metric] if "test" in scores[form] else None,
                is_winner=form == winner,
            )
            for form in (winner, *others)
        ],
        claims=claims,
        metrics={name: scored.split_scores(task) for name, scored in scores[winner].items()},
        notices=[*notices, *hard.notices, *soft.notices],
    )


def _winner(scores: dict[Form, Scored], config: HardRequest, serving: dict[str, int]) -> Form:
    """The best on validation rows; of those that neither the rows nor a paired test tell apart the cheapest."""
    task, options = config.task, config.search
    leader = max(scores, key=lambda form: scores[form].value(task))

    def is_equal(form: Form) -> bool:
        best, other = scores[leader], scores[form]
        test = paired_test(best.gold, best.predicted, other.predicted, task.metric)
        return test.difference.value <= options.tolerance and test.p_value >= options.alpha

    equals = [form for form in scores if form == leader or is_equal(form)]
    return min(equals, key=lambda form: (form != "none", serving[form], -scores[form].value(task)))


def _scored(run: Run, model: PromptedModel, encoder: Encoder, splits: Splits, split: str) -> Scored:
    rows, task = getattr(splits, split), encoder.task

    def progress(done: int, total: int) -> None:
        run.event(ProgressEvent(what=f"comparing the forms on {split} rows", done=done, total=total))

    return score(model, encoder.encode(rows), task, gold_of(task, rows), progress=progress)
