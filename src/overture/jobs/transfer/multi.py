"""Train prompts for several tasks at once: values that they share, and values that each has for itself.

    loss = sum over tasks k of  task loss_k + a KL(teacher_k || student_k) + b |h_teacher_k - h_student_k|^2

The method says what is shared (`prompt.method.Sharing`): MPT's tasks share a prompt that each scales by factors,
ATTEMPT's share the attention over stored prompts and add a prompt of their own. A teacher is the task's own prompt of
vectors, tuned alone; its predictions for the training rows are computed once and kept. Each row counts alike, and each
batch mixes a number of tasks that is drawn anew.

Source: Wang et al. 2023, "Multitask Prompt Tuning Enables Parameter-Efficient Transfer Learning", section 3 (losses,
sampling of tasks; a = b = 0.9); Asai et al. 2022, "ATTEMPT", section 3.3. Deviations: label tasks are distilled over
their labels, not over the vocabulary; hidden states are the last layer's where predictions count, their distance a mean
over the width; every row comes once an epoch, whatever its task.
"""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import accumulate
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from overture.core.contracts import Readout, Readouts
from overture.core.errors import ConfigError, Diverged
from overture.core.injection import Injection
from overture.core.records.events import Listener, ignore
from overture.core.records.prompt import Lineage, PromptScores
from overture.core.records.scores import SplitScores
from overture.core.records.transfer import Distilled, KeptPrompt, MultiResult, TaskAlone, TaskTogether, ValueCounts
from overture.core.rows import Encoded, OneOf
from overture.data.batches import epoch_batches, scoring_batches, task_batches
from overture.engine.backbone import Backbone
from overture.engine.distil import distance, divergence, right
from overture.engine.prompted import PromptedModel
from overture.evaluate.facts import check_backbone, config_of, values_of
from overture.evaluate.intervals import paired_test
from overture.evaluate.scoring import Scored
from overture.evaluate.source import prompt_source
from overture.jobs.run.keep import made_with, new_manifest
from overture.jobs.run.request import TuneConfig
from overture.jobs.run.work import Work, metrics_of
from overture.jobs.transfer.agree import agreed_to_share
from overture.jobs.transfer.options import MultiConfig
from overture.jobs.transfer.several import all_prepared
from overture.prompt.config import PromptConfig
from overture.prompt.labels import method_inside
from overture.prompt.method import Sharing
from overture.prompt.module import PromptModule
from overture.prompt.pack import STATE, prompt_from, prompt_tensors
from overture.prompt.registry import method_of, own_rate, plainest_at
from overture.store.artifact import load_artifact
from overture.store.names import ref_of
from overture.store.runs import Run
from overture.store.store import Store
from overture.train.fit import Fit, FitResult, Validation
from overture.train.options import TrainConfig


def multi(
    tasks: Sequence[TuneConfig],
    store: Store,
    name: str,
    config: MultiConfig | None = None,
    *,
    teachers: Sequence[str] = (),
    listener: Listener = ignore,
    is_stop_asked: Callable[[], bool] = lambda: False,
    backbone: Backbone | None = None,
) -> MultiResult:
    """Train a prompt for each of several tasks, with values that they share, beside a prompt for each task alone.

    Args:
        tasks: requests for one model and one method that can share.
        store: where prompts are kept.
        name: of the shared prompt; a task's is ``name-task``, the one tuned for it alone ``name-task-single``.
        config: how they are trained.
        teachers: a stored prompt for each task, in order; tuned first when none are given.
        listener: called with each event.
        is_stop_asked: looked at after each step; what was finished by then is kept.
        backbone: a loaded model; loaded as the tasks name it when None.

    Raises:
        ConfigError: the tasks differ in model or prompt, or the method shares nothing.
        DataError: rows cannot be used.
        Diverged: the loss became NaN or infinite before there was anything to keep.
    """
    requests = agreed_to_share(tasks, store, name, teachers)
    with TemporaryDirectory() as folder, ExitStack() as stack:
        # A stopped run cannot be resumed, so its folder need not stay: finished prompts are in the store.
        works = all_prepared(Run(Path(folder), listener), requests, store, is_stop_asked, backbone)
        stack.enter_context(works[0].backbone.checkpointing(requests[0].train.gradient_checkpointing))
        return _Multi(works, config or MultiConfig(), name).run(teachers)


@dataclass(frozen=True, slots=True)
class Measured:
    """A prompt's scores on its task.

    Args:
        metrics: of each split.
        split: the last of them.
        scored: the predictions of that split.
    """

    metrics: dict[str, SplitScores]
    split: str
    scored: Scored


@dataclass(frozen=True, slots=True)
class Single:
    """A task's own prompt, its teacher and what it is compared with.

    Args:
        model: the model under the prompt.
        measured: its scores.
        kept: where it is stored.
    """

    model: PromptedModel
    measured: Measured
    kept: KeptPrompt


@dataclass(slots=True)
class _Task:
    """One of the tasks.

    Args:
        work: its rows.
        model: the model under its part of the prompt.
        first: number of its first training row among those of all tasks.
        teacher: its own prompt.
        readouts: the teacher's predictions and hidden states for each training row.
    """

    work: Work
    model: PromptedModel
    first: int
    teacher: Single | None = None
    readouts: list[Readout] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.work.task.name

    @property
    def module(self) -> PromptModule:
        assert isinstance(self.model.prompt, PromptModule)
        return self.model.prompt

    @property
    def rows(self) -> list[Encoded]:
        """Training rows, numbered over all tasks."""
        return [replace(row, row=self.first + number) for number, row in enumerate(self.work.rows["train"])]


class _Trainee:
    """All tasks under one optimiser; meets `core.contracts.Trainee`.

    Args:
        tasks: in order of their rows' numbers.
        logits: weight of the teachers' predictions.
        hidden: weight of their hidden states.
        temperature: of the predictions.
    """

    def __init__(self, tasks: Sequence[_Task], logits: float, hidden: float, temperature: float) -> None:
        self.tasks, self.logits, self.hidden, self.temperature = tasks, logits, hidden, temperature
        self._firsts = [task.first for task in tasks]

    def trainable(self) -> dict[str, Tensor]:
        """Each task's values under its number; shared ones once, under the first's."""
        return dict(torch.nn.ModuleList([task.module for task in self.tasks]).named_parameters())

    def rates(self) -> dict[str, float]:
        """Factors on the learning rate, by name."""
        return {
            f"{number}.{name}": rate
            for number, task in enumerate(self.tasks)
            for name, rate in task.module.rates().items()
        }

    def weight(self, rows: Sequence[Encoded]) -> float:
        """Number of rows: each counts alike, whatever its task."""
        return float(len(rows))

    def task_of(self, row: Encoded) -> int:
        """The number of a row's task."""
        return bisect_right(self._firsts, row.row) - 1

    def loss(self, rows: Sequence[Encoded]) -> Tensor:
        """Sum over the tasks of their rows' losses."""
        by_task: dict[int, list[Encoded]] = {}
        for row in rows:
            by_task.setdefault(self.task_of(row), []).append(row)
        return torch.stack([self._loss(self.tasks[number], rows) for number, rows in by_task.items()]).sum()

    def _loss(self, task: _Task, rows: list[Encoded]) -> Tensor:
        backbone, student = task.work.backbone, task.model.ask(rows, Readouts())
        loss = right(backbone, student, rows)
        if task.readouts:
            teacher = [task.readouts[row.row - task.first] for row in rows]
            loss = loss + self.logits * divergence(backbone, teacher, student, self.temperature)
            loss = loss + self.hidden * distance(teacher, student)
        # A free-text row's answer tokens count as one row, whatever the other rows of the pass; a label has its weight.
        targets = [row.target for row in rows]
        counts = [1 / target.factor if isinstance(target, OneOf) else target.weight for target in targets]
        return (loss / loss.new_tensor(counts)).sum()


class _Multi:
    """One run.

    Args:
        works: the tasks.
        config: how they are trained.
        name: of the stored prompts.
    """

    def __init__(self, works: Sequence[Work], config: MultiConfig, name: str) -> None:
        self.works, self.config, self.name = works, config, name
        self.request = works[0].config
        sharing = method_of(self.request.prompt).sharing
        assert sharing is not None
        self.sharing: Sharing = sharing
        firsts = [0, *accumulate(len(work.rows["train"]) for work in works)]
        models = [work.built(self.request.prompt, self.request.seed) for work in works]
        self.tasks = [_Task(work, model, first) for work, model, first in zip(works, models, firsts, strict=False)]
        methods = [method_inside(task.module) for task in self.tasks]
        for method in methods[1:]:
            for value_name in sharing.names:
                setattr(method, value_name, getattr(methods[0], value_name))
        logits, hidden = (sharing.distil if weight is None else weight for weight in (config.logits, config.hidden))
        self.trainee = _Trainee(self.tasks, logits, hidden, config.temperature)

    def run(self, teachers: Sequence[str]) -> MultiResult:
        """Tune each alone, train all together, measure, keep."""
        for task in self.tasks:
            # A model that cannot answer such rows is refused before anything is trained.
            task.work.check(task.model)
        tasks: list[TaskTogether | TaskAlone] = []
        for number, task in enumerate(self.tasks):
            task.teacher = self._stored(task, teachers[number]) if teachers else self._tuned_alone(task)
            tasks.append(TaskAlone(task=task.name, single=task.teacher.kept if task.teacher else None))
            if task.work.is_stop_asked():
                return self._result(tasks)
        self._teach()
        fit = self._fitted()
        if not _has_values(self.tasks[0], fit):
            return self._result(tasks)
        return self._keep_all(fit)

    def _result(
        self,
        tasks: list[TaskTogether | TaskAlone],
        prompt: str | None = None,
        values: ValueCounts | None = None,
        fit: FitResult | None = None,
    ) -> MultiResult:
        """The result; interrupted where nothing was trained together to its end."""
        return MultiResult(
            status="finished" if fit and fit.status != "interrupted" else "interrupted",
            prompt=prompt,
            method=self.request.prompt.method,
            place=self.request.prompt.place,
            length=self.request.prompt.length,
            weights=Distilled(logits=self.trainee.logits, hidden=self.trainee.hidden),
            tasks=tasks,
            values=values,
            history=fit.progress.history if fit else None,
            seconds=fit.progress.seconds if fit else None,
            notices=list(dict.fromkeys(text for work in self.works for text in work.notices)),
        )

    # -- each task alone

    def _single_prompt(self) -> PromptConfig:
        """A task's own prompt: like the shared one, of the plainest vectors."""
        prompt = self.request.prompt
        method = plainest_at(prompt.place, is_memory=False)
        return prompt.model_copy(update={"method": method, "options": {}})

    def _tuned_alone(self, task: _Task) -> Single | None:
        """Tune and keep a task's own prompt; None where a stop was asked for before its first validation."""
        work, config = task.work, self._single_prompt()
        model, train = work.fresh(config, self.request.seed), self._training(config, [work])
        fit = work.fit(model, train, self.request.seed, who=f"{task.name} alone")
        if not _has_values(task, fit):
            return None
        evaluation = self._measured(task, model, "alone")
        kept_prompt = self._keep(
            task,
            f"{self.name}-{task.name}-single",
            config,
            train,
            prompt_tensors(model.prompt),
            metrics=evaluation.metrics,
            seconds=fit.progress.seconds,
            trainable=sum(value.numel() for value in model.trainable().values()),
        )
        return Single(model, evaluation, kept_prompt.model_copy(update={"folder": None}))

    def _stored(self, task: _Task, ref: str) -> Single:
        """A task's own prompt from the store."""
        work = task.work
        manifest, tensors = load_artifact(work.store.get(ref))
        for text in check_backbone(manifest.backbone, work.backbone):
            work.notice(f"{manifest.ref}: {text}")
        candidates = task.work.encoder.candidates
        counts = [len(tensors[name]) for name in ("labels", f"{STATE}labels") if name in tensors]
        if candidates and any(count != len(candidates.labels) for count in counts):
            raise ConfigError(
                "the teacher's label vectors are not those of the task",
                where=f"--teacher {ref}",
                got=f"{counts[0]} label vectors",
                wanted=f"{len(candidates.labels)}, for task {task.name}",
                fix="name the teachers in the order of the tasks",
            )
        source = prompt_source(work.backbone, work.encoder, work.rows["train"], work.store, work.cache)
        values = values_of(manifest, tensors, work.backbone)
        model = PromptedModel(work.backbone, prompt_from(values, config_of(manifest), source), work.cache)
        work.check(model)
        evaluation = self._measured(task, model, "alone")
        kept_prompt = KeptPrompt(
            metrics=evaluation.metrics, seconds=manifest.seconds or 0.0, trainable=manifest.trainable, prompt=ref
        )
        return Single(model, evaluation, kept_prompt)

    @torch.no_grad()
    def _teach(self) -> None:
        """Keep each teacher's predictions and hidden states for its training rows, where they have a weight."""
        if not (self.trainee.logits or self.trainee.hidden):
            return
        for task in self.tasks:
            assert task.teacher is not None
            rows, teacher = task.rows, task.teacher.model
            readout_of: dict[int, Readout] = {}
            for batch in scoring_batches(rows, self.request.train.max_tokens):
                readouts = teacher.ask(batch, Readouts())
                readout_of |= {row.row: readout.kept() for row, readout in zip(batch, readouts, strict=True)}
                task.work.progress(f"{task.name}: asking the teacher")(len(readout_of), len(rows))
            task.readouts = [readout_of[row.row] for row in rows]

    # -- all together

    def _training(self, prompt: PromptConfig, works: Sequence[Work]) -> TrainConfig:
        """How works are trained together; the one with most rows says how often an epoch passes over all."""
        train = min((work.config.train for work in works), key=lambda train: train.num_passes)
        return train.model_copy(update={"lr": train.lr or own_rate(prompt)})

    def _fitted(self) -> FitResult:
        """Train all tasks together."""
        first = self.tasks[0].work
        for task in self.tasks:
            task.work.warm(task.model)

        def validated() -> Validation:
            scored = [(task, task.work.score(task.model, "validation", f"scoring {task.name}")) for task in self.tasks]
            values = [scores.value(task.work.task) for task, scores in scored]
            return Validation(sum(values) / len(scored), sum(scores.loss for _, scores in scored) / len(scored))

        return Fit(
            self.trainee,
            [row for task in self.tasks for row in task.rows],
            validated,
            self._training(self.request.prompt, self.works),
            self.request.seed,
            events=first.run.event,
            who="all tasks",
            is_stop_asked=first.is_stop_asked,
            cut=partial(task_batches, task_of=self.trainee.task_of) if self.config.mixing == "drawn" else epoch_batches,
        ).run()

    @torch.no_grad()
    def _keep_all(self, fit: FitResult) -> MultiResult:
        """Measure and keep each task's prompt, and the shared one; a run that was stopped keeps its best epoch."""
        values = self.trainee.trainable()
        for name, value in fit.best.items():
            values[name].copy_(value)
        train, seconds = self._training(self.request.prompt, self.works), fit.progress.seconds
        method = method_inside(self.tasks[0].module)
        shared_ids = {id(getattr(method, name)) for name in self.sharing.names}
        num_shared = sum(value.numel() for value in values.values() if id(value) in shared_ids)
        tasks: list[TaskTogether | TaskAlone] = []
        for task in self.tasks:
            assert task.teacher is not None
            num_own = sum(value.numel() for value in task.module.parameters() if id(value) not in shared_ids)
            evaluation = self._measured(task, task.model, "together")
            kept_prompt = self._keep(
                task,
                f"{self.name}-{task.name}",
                self.request.prompt,
                train,
                prompt_tensors(task.model.prompt),
                metrics=evaluation.metrics,
                seconds=seconds,
                trainable=num_own + num_shared,
            )
            gold, alone = evaluation.scored.gold, task.teacher.measured.scored
            test = paired_test(gold, evaluation.scored.predicted, alone.predicted, task.work.task.metric)
            tasks.append(
                TaskTogether(
                    task=task.name,
                    metric=task.work.task.metric,
                    split=evaluation.split,
                    own_values=num_own,
                    single=task.teacher.kept,
                    multi=kept_prompt,
                    compared=test,
                )
            )
        prompt = None
        if self.sharing.has_start:
            start: Injection = method_of(self.request.prompt).maths.shared_start(method)
            assert start.vectors is not None
            tensors, config = {"vectors": start.vectors.values.detach()}, self._single_prompt()
            kept_prompt = self._keep(
                self.tasks[0], self.name, config, train, tensors, metrics={}, seconds=seconds, trainable=num_shared
            )
            prompt = kept_prompt.prompt
        counts = ValueCounts(
            shared=num_shared,
            together=sum(value.numel() for value in values.values()),
            alone=sum(task.teacher.kept.trainable or 0 for task in self.tasks if task.teacher),
        )
        return self._result(tasks, prompt, counts, fit)

    # -- scores and prompts

    def _measured(self, task: _Task, model: PromptedModel, what: str) -> Measured:
        work = task.work
        splits = [name for name in ("validation", "test") if work.rows[name]]
        scored = {name: work.score(model, name, f"{task.name} {what}: scoring {name}") for name in splits}
        return Measured(metrics_of(work.task, scored), splits[-1], scored[splits[-1]])

    def _keep(
        self,
        task: _Task,
        name: str,
        prompt: PromptConfig,
        train: TrainConfig,
        tensors: dict[str, Tensor],
        *,
        metrics: dict[str, SplitScores],
        seconds: float,
        trainable: int,
    ) -> KeptPrompt:
        """Store one prompt."""
        manifest = new_manifest(
            name,
            task.work.backbone,
            task.work.task,
            method=prompt.method,
            place=prompt.place,
            length=prompt.length,
            options=made_with(prompt, train),
            metrics=PromptScores.model_validate(metrics),
            lineage=Lineage(
                multi=self.name,
                tasks=[task.name for task in self.tasks],
                train_rows=[len(task.work.rows["train"]) for task in self.tasks],
                seed=self.request.seed,
                distilled={"logits": self.trainee.logits, "hidden": self.trainee.hidden},
            ),
            seconds=seconds,
            trainable=trainable,
        )
        folder = task.work.store.add(manifest, {key: value.cpu().contiguous() for key, value in tensors.items()})
        return KeptPrompt(
            metrics=metrics, seconds=seconds, trainable=trainable, prompt=str(ref_of(folder)), folder=str(folder)
        )


def _has_values(task: _Task, fit: FitResult) -> bool:
    """Whether a training gave values; a stop before the first validation gives none.

    Raises:
        Diverged: it gave none for another reason.
    """
    if fit.best or fit.status == "interrupted":
        return bool(fit.best)
    raise Diverged(
        "the loss became NaN or infinite before the first validation",
        where=task.name,
        fix="a smaller learning rate: --set train.lr=0.001",
    )
