"""The rows and the model of a run, and the training loop on them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from overture.core.averaging import Averaging
from overture.core.contracts import Scorer
from overture.core.kept_files import kept_inputs
from overture.core.records.events import DataEvent, Listener, NoticeEvent, ProgressEvent, SamplesEvent, as_notices
from overture.core.records.runs import Notices, RunKind, RunRequest
from overture.core.records.scores import SplitScores
from overture.core.rows import Encoded
from overture.data.encode import Encoder
from overture.data.fingerprint import facts_of_splits
from overture.data.rows import gold_of
from overture.data.splits import Splits
from overture.data.task import Task
from overture.engine.backbone import Backbone
from overture.engine.cache import InputCache
from overture.engine.cohort import Cohort
from overture.engine.load import load_backbone
from overture.engine.prompted import PromptedModel
from overture.engine.ranks import Ranks
from overture.evaluate.facts import backbone_ref
from overture.evaluate.metric import Answers
from overture.evaluate.metrics import METRICS
from overture.evaluate.scoring import Scored, check_answerable, score
from overture.evaluate.source import prompt_source
from overture.jobs.run.early import rows_of
from overture.jobs.run.request import TuneConfig, check_one_process
from overture.jobs.run.same import check_model_of, check_rows_of
from overture.jobs.run.samples import SampleRows
from overture.prompt.build import build_prompt
from overture.prompt.config import PromptConfig
from overture.prompt.module import PromptModule
from overture.store.runs import Run
from overture.store.store import Store
from overture.train.fit import Decide, Fit, FitResult, FitTogether, Validation, check_rows
from overture.train.options import TrainConfig

SPLITS = ("validation", "test")
_NOTICES = "notices.json"


@dataclass(frozen=True, slots=True)
class Member:
    """One prompt of a cohort on a run's rows.

    Args:
        key: its name in checkpoint and decisions; without a slash.
        model: the model under the prompt, its inputs read.
        train: how it is trained; with a learning rate.
        seed: of its batches.
        who: what its events call it, for people; they name the seed where it is empty.
    """

    key: str
    model: PromptedModel
    train: TrainConfig
    seed: int
    who: str = ""


@dataclass(slots=True)
class Work:
    """Everything that the parts of one run share."""

    config: TuneConfig
    run: Run
    store: Store
    backbone: Backbone
    encoder: Encoder
    splits: Splits
    rows: dict[str, list[Encoded]]
    cache: InputCache
    is_stop_asked: Callable[[], bool]
    notices: list[str] = field(default_factory=list)
    ranks: Ranks | None = None
    sample_rows: SampleRows | None = None

    @property
    def task(self) -> Task:
        """The task that is learnt."""
        return self.config.task

    def progress(self, what: str) -> Callable[[int, int], None]:
        """A listener that reports how far something has got."""
        return lambda done, total: self.run.event(ProgressEvent(what=what, done=done, total=total))

    def notice(self, text: str) -> None:
        """Tell the user something, once; a run that is resumed knows it still."""
        if text not in self.notices:
            self.notices.append(text)
            self.run.write(_NOTICES, Notices({**_earlier_notices(self.run), self.task.name: self.notices}))
            self.run.event(NoticeEvent(text=text))

    def answers(self, split: str) -> Answers:
        """The right answers of a split, as the metrics compare them."""
        return gold_of(self.task, getattr(self.splits, split))

    def score(self, model: Scorer, split: str, what: str) -> Scored:
        """Score a model on a split."""
        self.progress(what)(0, len(self.rows[split]))
        max_tokens = self.config.train.max_tokens
        return score(model, self.rows[split], self.task, self.answers(split), max_tokens, self.progress(what))

    def warm(self, model: PromptedModel) -> None:
        """Read the inputs of every split once, as far as the prompt leaves them alone."""
        for name in ("train", *SPLITS):
            if self.rows[name]:
                progress = self.progress(f"reading {name} inputs once")
                progress(0, len(self.rows[name]))
                model.warm(self.rows[name], progress)

    def built(self, prompt: PromptConfig, seed: int) -> PromptedModel:
        """The model under a new prompt."""
        source = prompt_source(self.backbone, self.encoder, self.rows["train"], self.store, self.cache)
        return PromptedModel(self.backbone, build_prompt(prompt, source, seed), self.cache)

    def check(self, model: PromptedModel) -> None:
        """Whether the model can learn and answer the training rows; see `evaluate.scoring.check_answerable`.

        Raises:
            BackboneError: it cannot.
            DataError: there is nothing to learn.
        """
        check_rows(self.rows["train"])
        check_answerable(model, self.rows["train"], self.task)

    def fresh(self, prompt: PromptConfig, seed: int) -> PromptedModel:
        """The model under a new prompt, its inputs read."""
        model = self.built(prompt, seed)
        self.warm(model)
        return model

    def fit(
        self,
        model: PromptedModel,
        train: TrainConfig,
        seed: int,
        checkpoint: Path | None = None,
        who: str = "",
    ) -> FitResult:
        """Train a prompt on the training rows; validation rows choose its best epoch.

        Args:
            model: the model under the prompt.
            train: how; with a learning rate.
            seed: of the batches.
            checkpoint: where the state is kept; nothing is kept when None.
            who: what its events call it, for people; they name the seed where it is empty.
        """
        return self.fit_cohort([Member("0", model, train, seed, who)], checkpoint)[0]

    def fit_cohort(
        self,
        members: Sequence[Member],
        checkpoint: Path | None = None,
        decide: Decide | None = None,
        until: int | None = None,
    ) -> list[FitResult]:
        """Train several prompts at one pace, in shared forward passes where they can share them.

        Each is as if trained alone, but for rounding; each stops on its own.

        Args:
            members: on this run's model and cache.
            checkpoint: where the state of all is kept; nothing is kept when None. It may know more members than these.
            decide: called after each epoch with its number, from 0, and the histories of the members that could go on,
                by key; it returns the keys of those that do. The others keep their best values, as ``dropped``.
            until: number of epochs after which those that could go on wait, as ``interrupted``.

        Returns:
            The members' results, in their order.
        """
        train = self.rows["train"]
        cohort = Cohort([member.model for member in members])
        if len(members) > 1:
            self.notice("trained together: " + cohort.grouping(dict.fromkeys(range(len(members)), train[:1])))

        def validated(which: Sequence[int]) -> list[Validation]:
            some_members = [members[number] for number in which]
            scorers = self.scorers([member.model for member in some_members])
            scored = [
                self.score(scorer, "validation", f"{member.who or f'seed {member.seed}'}: scoring validation")
                for member, scorer in zip(some_members, scorers, strict=True)
            ]
            for number, rows in zip(which, scored, strict=True):
                if self.sample_rows:
                    samples = self.sample_rows.samples(rows, METRICS[self.task.metric])
                    who, seed, epoch = members[number].who, members[number].seed, fits[number].progress.epoch
                    self.run.event(SamplesEvent(who=who or None, seed=seed, epoch=epoch, samples=samples))
            return [Validation(rows.value(self.task), rows.loss) for rows in scored]

        def apart() -> Validation:
            raise AssertionError("members are validated together")

        fits = [
            Fit(
                member.model,
                train,
                apart,
                member.train,
                member.seed,
                events=self.run.event,
                key=member.key,
                who=member.who,
                averaging=averaging_of(member.model),
            )
            for member in members
        ]
        return FitTogether(fits, cohort, validated, checkpoint, self.is_stop_asked, decide, self.ranks, until).run()

    def scorers(self, models: Sequence[PromptedModel]) -> Sequence[Scorer]:
        """Scorers of finished prompts on the same rows; several share forward passes."""
        return models if len(models) == 1 else Cohort(models).scorers(self.config.train.shared_tokens)


def averaging_of(trainee: object) -> Averaging | None:
    """How the finished values of what is trained are a mean over epochs; None where they are not."""
    prompt = trainee.prompt if isinstance(trainee, PromptedModel) else None
    return prompt.averaging() if isinstance(prompt, PromptModule) else None


def _earlier_notices(run: Run) -> dict[str, list[str]]:
    """The notices of the run's earlier sittings, by task."""
    notices = run.read(_NOTICES, Notices)
    return notices.root if notices else {}


@dataclass(frozen=True, slots=True)
class Material:
    """The rows of a request, encoded, and its model.

    Args:
        config: the request, with the number of passes over the training rows settled.
        splits: the rows.
        backbone: the model.
        encoder: of the rows.
        rows: split -> encoded rows.
    """

    config: TuneConfig
    splits: Splits
    backbone: Backbone
    encoder: Encoder
    rows: dict[str, list[Encoded]]


def read_material(
    config: TuneConfig,
    notify: Callable[[str], None],
    backbone: Backbone | None,
    run_request: RunRequest | None = None,
    ranks: Ranks | None = None,
) -> Material:
    """Read and encode the rows, and load the model.

    Args:
        config: the request.
        notify: called with sentences about long work.
        backbone: a loaded model; loaded by the task's name when None.
        run_request: of the run whose rows and model they must be; the rows are compared before the model is loaded.
        ranks: the processes that work on it together; None where this is the only one.

    Raises:
        ConfigError: the request is for several processes, and this is one.
        DataError: rows are wrong, or none are there to choose by, or they are not those of the run.
        BackboneError: the model cannot be loaded.
        ArtifactError: the model is not the run's.
    """
    if ranks is None:
        check_one_process(config)
    task = config.task
    splits = rows_of(task)
    if run_request:
        check_rows_of(run_request, splits, task.data)
    backbone = backbone or load_backbone(
        task.backbone,
        revision=config.revision,
        device=config.device,
        dtype=config.dtype,
        compile_layers=config.compile_layers,
        ranks=ranks,
        notify=notify,
    )
    if run_request:
        for text in check_model_of(run_request, backbone):
            notify(f"the run: {text}")
    encoder = Encoder(
        task, backbone.text.tokenizer, reserve=config.prompt.length, class_weights=config.train.class_weights
    )
    rows = {name: encoder.encode_split(name, getattr(splits, name)) for name in ("train", *SPLITS)}
    config = config.model_copy(update={"train": config.train.for_rows(len(rows["train"]))})
    return Material(config, splits, backbone, encoder, rows)


def new_run(
    store: Store, name: str, config: TuneConfig, material: Material, listener: Listener, kind: RunKind, file: str
) -> Run:
    """A new run's folder, which records its request, its rows and its model.

    Args:
        store: where runs are.
        name: of the task, or of the task and the command.
        config: the request.
        material: rows and model, read and found usable: what cannot begin leaves no folder.
        listener: called with every event.
        kind: the command.
        file: the task file.
    """
    return Run.create(
        store.runs,
        name,
        config.model_dump(mode="json"),
        listener,
        kind,
        file=file,
        rows=facts_of_splits(material.splits),
        model=backbone_ref(material.backbone).model_dump(mode="json"),
    )


def metrics_of(task: Task, scored: dict[str, Scored]) -> dict[str, SplitScores]:
    """Metrics with intervals, and the loss, of each split."""
    return {name: rows.split_scores(task) for name, rows in scored.items()}


def prepared(
    run: Run,
    config: TuneConfig,
    store: Store,
    is_stop_asked: Callable[[], bool],
    backbone: Backbone | None,
    run_request: RunRequest | None = None,
    ranks: Ranks | None = None,
) -> Work:
    """Rows and model of a run, as `read_material` reads them.

    Args:
        run: gets the notices.
        config: the request.
        store: where prompts are.
        is_stop_asked: looked at after each step.
        backbone: a loaded model; loaded by the task's name when None.
        run_request: of the run whose rows and model they must be.
        ranks: the processes that work on it together; None where this is the only one.

    Raises:
        As `read_material`.
    """
    material = read_material(config, as_notices(run.event), backbone, run_request, ranks)
    work = work_on(run, material, store, is_stop_asked, ranks)
    if config.track and run.folder.parent.resolve() != store.runs.resolve():
        work.notice("trackers follow tune, search and compare; this command keeps no run for them")
    return work


def taken_up(
    run: Run,
    config: TuneConfig,
    store: Store,
    is_stop_asked: Callable[[], bool],
    backbone: Backbone | None,
    ranks: Ranks | None = None,
) -> Work:
    """The work of a run that had stopped: its rows and its model must be those that it began with.

    Raises:
        As `read_material`.
    """
    run_request = run.request()
    work = prepared(run, config, store, is_stop_asked, backbone, run_request, ranks)
    if not run_request.rows:
        work.notice("this run began in an older version, which recorded neither rows nor model: they are not compared")
    return work


def work_on(
    run: Run, material: Material, store: Store, is_stop_asked: Callable[[], bool], ranks: Ranks | None = None
) -> Work:
    """The work of a run on rows and model that were read; the run gets notices of what is odd about them."""
    config, splits, encoder = material.config, material.splits, material.encoder
    cache, notices = input_cache(config, as_notices(run.event)), _earlier_notices(run).get(config.task.name, [])
    work = Work(
        config, run, store, material.backbone, encoder, splits, material.rows, cache, is_stop_asked, notices, ranks
    )
    for text in (*splits.notices, *encoder.notices):
        work.notice(text)
    run.event(_data_event(work))
    return work


def input_cache(config: TuneConfig, notify: Callable[[str], None]) -> InputCache:
    """An empty cache of inputs, as the request wants it.

    Raises:
        ConfigError: the limit of kept inputs in the environment is no size.
    """
    budget = None if config.cache_gb is None else int(config.cache_gb * 1e9)
    files = kept_inputs() if config.cache_on_disk else None
    return InputCache(budget, notify=notify, dtype=config.cache_dtype, files=files)


def _data_event(work: Work) -> DataEvent:
    """Counts of rows and labels, and the label words' lengths."""
    num_rows = {name: len(rows) for name, rows in work.rows.items()}
    candidates = work.encoder.candidates
    if candidates is None:
        return DataEvent(rows=num_rows, repeats=work.splits.repeats)
    counts = {
        name: {label: sum(row.label == number for row in rows) for number, label in enumerate(candidates.labels)}
        for name, rows in work.rows.items()
    }
    decode, has_words = work.backbone.text.tokenizer.decode, work.backbone.family.has_words
    words = {decode(word): len(word) for word in candidates.words} if has_words else {}
    return DataEvent(rows=num_rows, repeats=work.splits.repeats, labels=counts, words=words)
