"""Train one prompt for several tasks at once: what they share, and what each has of its own.

    loss = sum over tasks k of  task loss_k + a KL(teacher_k || student_k) + b |h_teacher_k - h_student_k|^2

The method says what is shared (`prompt.method.Sharing`): MPT's tasks share a prompt that each scales by factors,
ATTEMPT's share the attention over stored prompts and add a prompt of their own. A teacher is the task's own prompt of
vectors, tuned alone: what it says of the training rows is computed once and kept. Each row counts alike, and each batch
mixes a number of tasks that is drawn anew.

Source: Wang et al. 2023, "Multitask Prompt Tuning Enables Parameter-Efficient Transfer Learning", section 3 (losses,
sampling of tasks; a = b = 0.9); Asai et al. 2022, "ATTEMPT", section 3.3. Deviations: label tasks are distilled over
their labels, not over the vocabulary; hidden states are the last layer's where predictions count, their distance a mean
over the width; every row comes once an epoch, whatever its task.
"""

from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import accumulate
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from overture.core.contracts import Readout, Readouts
from overture.core.errors import ConfigError, Diverged
from overture.core.injection import Injection
from overture.core.records.events import Listener, ignore
from overture.core.records.prompt import Lineage, PromptScores
from overture.core.rows import Encoded
from overture.data.batches import epoch_batches, scoring_batches, task_batches
from overture.engine.backbone import Backbone
from overture.engine.distil import distance, divergence, right
from overture.engine.prompted import PromptedModel
from overture.evaluate.facts import backbone_ref, config_of
from overture.evaluate.intervals import paired_test
from overture.evaluate.scoring import Scored
from overture.evaluate.source import prompt_source
from overture.jobs.run.keep import made_with, new_manifest
from overture.jobs.run.request import TuneConfig, pinned, with_slots
from overture.jobs.run.work import Work, metrics_of
from overture.jobs.transfer.options import MultiConfig
from overture.jobs.transfer.several import alike, all_prepared
from overture.prompt.config import PromptConfig
from overture.prompt.labels import method_inside
from overture.prompt.method import Sharing
from overture.prompt.methods import METHODS
from overture.prompt.module import PromptModule
from overture.prompt.pack import STATE, prompt_from, prompt_tensors
from overture.prompt.registry import method_of, own_rate, plainest_at
from overture.store.artifact import load_artifact
from overture.store.manifest import Manifest, check_fingerprint
from overture.store.names import checked_name, ref_of
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
) -> dict[str, Any]:
    """Train a prompt for each of several tasks, with a part that they share, beside each task's own prompt.

    Args:
        tasks: requests for one model and one method that can share.
        store: where prompts are kept.
        name: of the shared prompt; a task's is ``name-task``, the one tuned for it alone ``name-task-single``.
        config: how they are trained.
        teachers: a stored prompt for each task, in order; tuned first when none are given.
        listener: told of every event.
        is_stop_asked: looked at after each step; what was finished by then is kept.
        backbone: a loaded model; loaded as the tasks name it when None.

    Returns:
        What ``overture multi --json`` prints: the prompts, the scores of both prompts of each task, and their values.

    Raises:
        ConfigError: the tasks differ in model or prompt, or the method shares nothing.
        DataError: rows cannot be used.
        Diverged: the loss became NaN or infinite before there was anything to keep.
    """
    store.check_writable()
    requests = _checked(tasks, store, name, teachers)
    with TemporaryDirectory() as folder, ExitStack() as held:
        # Nothing of this goes on after a stop: the prompts are in the store.
        works = all_prepared(Run(Path(folder), listener), requests, store, is_stop_asked, backbone)
        held.enter_context(works[0].backbone.checkpointing(requests[0].train.gradient_checkpointing))
        return _Multi(works, config or MultiConfig(), name).result(teachers)


def _checked(tasks: Sequence[TuneConfig], store: Store, name: str, teachers: Sequence[str]) -> list[TuneConfig]:
    if len(tasks) < 2:
        raise ConfigError("values are shared by several tasks", got=str(len(tasks)), wanted="at least 2 task files")
    checked_name(name)
    requests = alike([pinned(with_slots(task), store) for task in tasks])
    names = [request.task.name for request in requests]
    if twice := [each for each, count in Counter(names).items() if count > 1]:
        raise ConfigError("two tasks have the same name", where="name", got=twice[0], fix="give one file another name")
    for each in names:
        checked_name(f"{name}-{each}-single")
    if teachers and len(teachers) != len(tasks):
        wanted = f"one for each of the {len(tasks)} tasks, in their order"
        raise ConfigError(
            "the number of teachers does not fit", where="--teacher", got=str(len(teachers)), wanted=wanted
        )
    prompt = requests[0].prompt
    if method_of(prompt).sharing is None:
        raise ConfigError(
            f"several tasks share nothing of method {prompt.method!r}",
            where="prompt.method",
            fix=f"{' or '.join(f'--method {name}' for name, one in METHODS.items() if one.sharing)}; "
            "`overture meta` learns a start for other methods",
        )
    return requests


@dataclass(slots=True)
class _Task:
    """One of the tasks: its rows, its part of the prompt, and what its teacher says."""

    work: Work
    model: PromptedModel
    first: int
    single: dict[str, Any] = field(default_factory=dict)
    taught: list[Readout] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.work.task.name

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
        return dict(torch.nn.ModuleList(map(_module, self.tasks)).named_parameters())

    def rates(self) -> dict[str, float]:
        """Factors on the learning rate, by name."""
        each = enumerate(map(_module, self.tasks))
        return {f"{number}.{name}": rate for number, module in each for name, rate in module.rates().items()}

    def weight(self, rows: Sequence[Encoded]) -> float:
        """Rows: each counts alike, whatever its task."""
        return float(len(rows))

    def task_of(self, row: Encoded) -> int:
        """The number of a row's task."""
        return bisect_right(self._firsts, row.row) - 1

    def loss(self, rows: Sequence[Encoded]) -> Tensor:
        """Sum over the tasks of their rows' losses."""
        parts: dict[int, list[Encoded]] = {}
        for row in rows:
            parts.setdefault(self.task_of(row), []).append(row)
        return torch.stack([self._loss(self.tasks[number], part) for number, part in parts.items()]).sum()

    def _loss(self, task: _Task, rows: list[Encoded]) -> Tensor:
        backbone, student = task.work.backbone, task.model.ask(rows, Readouts())
        loss = right(backbone, student, rows)
        if task.taught:
            teacher = [task.taught[row.row - task.first] for row in rows]
            loss = loss + self.logits * divergence(backbone, teacher, student, self.temperature)
            loss = loss + self.hidden * distance(teacher, student)
        # A free-text row's answer tokens count as one row, whatever the other rows of the pass.
        return (loss / loss.new_tensor([row.target.weight for row in rows])).sum()


def _module(task: _Task) -> PromptModule:
    assert isinstance(task.model.prompt, PromptModule)
    return task.model.prompt


class _Multi:
    """The whole of one run.

    Args:
        works: the tasks.
        config: how they are trained.
        name: of what is kept.
    """

    def __init__(self, works: Sequence[Work], config: MultiConfig, name: str) -> None:
        self.works, self.config, self.name = works, config, name
        self.request = works[0].config
        sharing = method_of(self.request.prompt).sharing
        assert sharing is not None
        self.sharing: Sharing = sharing
        firsts = [0, *accumulate(len(work.rows["train"]) for work in works)]
        models = [work.built(self.request.prompt, self.request.seed) for work in works]
        self.tasks = [_Task(*each) for each in zip(works, models, firsts, strict=False)]
        methods = [method_inside(_module(task)) for task in self.tasks]
        for method in methods[1:]:
            for shared in sharing.names:
                setattr(method, shared, getattr(methods[0], shared))
        weights = [sharing.distil if own is None else own for own in (config.logits, config.hidden)]
        self.trainee = _Trainee(self.tasks, weights[0], weights[1], config.temperature)

    def result(self, teachers: Sequence[str]) -> dict[str, Any]:
        """Tune each alone, train all together, measure, keep."""
        for task in self.tasks:
            # Whether the model can answer such rows at all; nothing is lost yet.
            task.model.check(task.work.rows["train"][:1])
        told: dict[str, Any] = {
            "status": "interrupted",
            "prompt": None,
            "method": self.request.prompt.method,
            "place": self.request.prompt.place,
            "length": self.request.prompt.length,
            "weights": {"logits": self.trainee.logits, "hidden": self.trainee.hidden},
            "tasks": [],
        }
        for number, task in enumerate(self.tasks):
            task.single = self._stored(task, teachers[number]) if teachers else self._tuned_alone(task)
            told["tasks"].append({"task": task.name, "single": _told(task.single)})
            if task.work.is_stop_asked():
                return {**told, "notices": self._notices()}
        self._teach()
        fitted = self._fitted()
        return {**told, **self._kept(fitted), "notices": self._notices()}

    # -- each task alone

    def _alone(self) -> PromptConfig:
        """A task's own prompt, teacher and comparison: as the shared one, of the plainest vectors."""
        shared = self.request.prompt
        method = plainest_at(shared.place, is_memory=False)
        return shared.model_copy(update={"method": method, "options": {}})

    def _tuned_alone(self, task: _Task) -> dict[str, Any]:
        work = task.work
        config = self._alone()
        model, train = work.fresh(config, self.request.seed), self._training(config, [work])
        fitted = work.fit(model, train, self.request.seed, who=f"{task.name} alone")
        if not fitted.best:
            return _nothing(task, fitted)
        found = self._measured(task, model, "alone")
        facts = {"seconds": fitted.progress.seconds, "trainable": sum(v.numel() for v in model.trainable().values())}
        manifest = self._manifest(task, f"{self.name}-{task.name}-single", config, train, found, facts)
        return {**found, **facts, "prompt": self._added(manifest, prompt_tensors(model.prompt)), "model": model}

    def _stored(self, task: _Task, ref: str) -> dict[str, Any]:
        work = task.work
        manifest, tensors = load_artifact(work.store.get(ref))
        check_fingerprint(manifest.backbone, backbone_ref(work.backbone))
        _check_labels(task, ref, tensors)
        source = prompt_source(work.backbone, work.encoder, work.rows["train"], work.store)
        found = prompt_from(tensors, config_of(manifest), source)
        model = PromptedModel(work.backbone, found, work.cache)
        model.check(work.rows["train"][:1])
        facts = {"seconds": manifest.seconds or 0.0, "trainable": manifest.trainable, "prompt": ref, "model": model}
        return {**self._measured(task, model, "alone"), **facts}

    @torch.no_grad()
    def _teach(self) -> None:
        if not (self.trainee.logits or self.trainee.hidden):
            return
        for task in self.tasks:
            rows, model = task.rows, task.single["model"]
            said: dict[int, Readout] = {}
            for batch in scoring_batches(rows, self.request.train.max_tokens):
                readouts = model.ask(batch, Readouts())
                said |= {row.row: readout.kept() for row, readout in zip(batch, readouts, strict=True)}
                task.work.progress(f"{task.name}: asking the teacher")(len(said), len(rows))
            task.taught = [said[row.row] for row in rows]

    # -- all together

    def _training(self, prompt: PromptConfig, works: Sequence[Work]) -> TrainConfig:
        """Of all works together; the one with most rows says how often an epoch passes over all."""
        train = min((work.config.train for work in works), key=lambda own: own.num_passes)
        return train.model_copy(update={"lr": train.lr or own_rate(prompt)})

    def _training_together(self) -> TrainConfig:
        return self._training(self.request.prompt, [task.work for task in self.tasks])

    def _fitted(self) -> FitResult:
        first, train = self.tasks[0].work, self._training_together()
        for task in self.tasks:
            task.work.warm(task.model)
        rows = [row for task in self.tasks for row in task.rows]
        drawn = partial(task_batches, task_of=self.trainee.task_of)

        def validated() -> Validation:
            found = [(task, task.work.score(task.model, "validation", f"scoring {task.name}")) for task in self.tasks]
            values = [scored.value(task.work.task) for task, scored in found]
            return Validation(sum(values) / len(found), sum(scored.loss for _, scored in found) / len(found))

        return Fit(
            self.trainee,
            rows,
            validated,
            train,
            self.request.seed,
            events=first.run.event,
            who="all tasks",
            is_stop_asked=first.is_stop_asked,
            cut=drawn if self.config.mixing == "drawn" else epoch_batches,
        ).run()

    @torch.no_grad()
    def _kept(self, fitted: FitResult) -> dict[str, Any]:
        values = self.trainee.trainable()
        if not fitted.best:
            _nothing(self.tasks[0], fitted)
            return {}
        for name, value in fitted.best.items():
            # A run that was stopped keeps its best epoch.
            values[name].copy_(value)
        train, seconds = self._training_together(), fitted.progress.seconds
        method = method_inside(_module(self.tasks[0]))
        shared = {id(getattr(method, name)) for name in self.sharing.names}
        num_shared = sum(value.numel() for value in values.values() if id(value) in shared)
        told = [self._kept_task(task, train, seconds, shared, num_shared) for task in self.tasks]
        is_whole = fitted.status != "interrupted"
        return {
            "status": "finished" if is_whole else "interrupted",
            "prompt": self._kept_start(train, seconds, num_shared),
            "tasks": told,
            "values": {
                "shared": num_shared,
                "together": sum(value.numel() for value in values.values()),
                "alone": sum(task.single["trainable"] for task in self.tasks),
            },
            "history": [epoch.dump() for epoch in fitted.progress.history],
            "seconds": seconds,
        }

    def _kept_task(
        self, task: _Task, train: TrainConfig, seconds: float, shared: set[int], num_shared: int
    ) -> dict[str, Any]:
        own = sum(value.numel() for value in _module(task).parameters() if id(value) not in shared)
        found = self._measured(task, task.model, "together")
        facts = {"seconds": seconds, "trainable": own + num_shared}
        manifest = self._manifest(task, f"{self.name}-{task.name}", self.request.prompt, train, found, facts)
        prompt = self._added(manifest, prompt_tensors(task.model.prompt))
        return {
            "task": task.name,
            "metric": task.work.task.metric,
            "split": found["split"],
            "own_values": own,
            "single": _told(task.single),
            "multi": _told({**found, **facts, "prompt": prompt, "folder": str(task.work.store.get(prompt))}),
            "compared": _compared(task, found["scored"], task.single["scored"]),
        }

    def _kept_start(self, train: TrainConfig, seconds: float, num_shared: int) -> str | None:
        if not self.sharing.has_start:
            return None
        task = self.tasks[0]
        start: Injection = method_of(self.request.prompt).maths.shared_start(method_inside(_module(task)))
        prompt = self._alone()
        facts = {"seconds": seconds, "trainable": num_shared}
        manifest = self._manifest(task, self.name, prompt, train, {"metrics": {}}, facts)
        assert start.vectors is not None
        return self._added(manifest, {"vectors": start.vectors.values.detach()})

    # -- scores and prompts

    def _measured(self, task: _Task, model: PromptedModel, what: str) -> dict[str, Any]:
        work = task.work
        splits = [name for name in ("validation", "test") if work.rows[name]]
        scored = {name: work.score(model, name, f"{task.name} {what}: scoring {name}") for name in splits}
        return {"metrics": metrics_of(work.task, scored), "split": splits[-1], "scored": scored[splits[-1]]}

    def _manifest(
        self,
        task: _Task,
        name: str,
        prompt: PromptConfig,
        train: TrainConfig,
        found: dict[str, Any],
        facts: dict[str, Any],
    ) -> Manifest:
        return new_manifest(
            name,
            task.work.backbone,
            task.work.task,
            method=prompt.method,
            place=prompt.place,
            length=prompt.length,
            options=made_with(prompt, train),
            metrics=PromptScores.model_validate(found["metrics"]),
            lineage=Lineage(
                multi=self.name,
                tasks=[each.name for each in self.tasks],
                train_rows=[len(each.work.rows["train"]) for each in self.tasks],
                seed=self.request.seed,
                distilled={"logits": self.trainee.logits, "hidden": self.trainee.hidden},
            ),
            **facts,
        )

    def _added(self, manifest: Manifest, tensors: dict[str, Tensor]) -> str:
        folder = self.works[0].store.add(manifest, {name: value.cpu().contiguous() for name, value in tensors.items()})
        return str(ref_of(folder))

    def _notices(self) -> list[str]:
        return list(dict.fromkeys(text for work in self.works for text in work.notices))


def _nothing(task: _Task, fitted: FitResult) -> dict[str, Any]:
    """What there is before the first validation: nothing, if it was stopped.

    Raises:
        Diverged: it was not.
    """
    if fitted.status == "interrupted":
        return {}
    raise Diverged(
        "the loss became NaN or infinite before the first validation",
        where=task.name,
        fix="a smaller learning rate: --set train.lr=0.001",
    )


def _check_labels(task: _Task, ref: str, tensors: dict[str, Tensor]) -> None:
    """Whether a teacher's label vectors, if it has any, are as many as the task's labels.

    Raises:
        ConfigError: they are not.
    """
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


def _told(found: dict[str, Any]) -> dict[str, Any]:
    """What is printed of one prompt."""
    return {key: value for key, value in found.items() if key not in ("scored", "model", "split")}


def _compared(task: _Task, together: Scored, alone: Scored) -> dict[str, Any]:
    return paired_test(together.gold, together.predicted, alone.predicted, task.work.task.metric).model_dump()
