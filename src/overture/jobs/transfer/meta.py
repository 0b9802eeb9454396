"""Learn a start on several tasks, from which few steps go far on the next one.

    theta <- theta + e_t (theta' - theta),   theta' = theta after k optimiser steps on one task,  e_t falling to zero

That is Reptile. First-order MAML moves by the last of the k steps alone. Tasks take turns in an order that is drawn
anew for each round.

Source: Nichol, Achiam and Schulman 2018, "On First-Order Meta-Learning Algorithms", algorithm 1 and section 5; for
prompts Hou et al. 2022, "MetaPrompting: Learning to Learn Better Prompts", the section on learning the start of soft
prompts by MAML. Deviations: the steps inside are AdamW's, with fresh moments on each visit, because a prompt is later
tuned by AdamW, so first-order MAML moves by one AdamW step (the visit's last, with the moments of those before) and not
by the gradient itself, whose size says nothing of how far a prompt may move.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

import torch
from torch import Tensor

from overture.core.contracts import PromptMethod
from overture.core.errors import ConfigError, Diverged
from overture.core.records.events import Event, Listener, StepEvent, ignore
from overture.core.records.prompt import Lineage
from overture.core.records.scores import Comparison
from overture.core.records.transfer import FewSteps, MetaResult, Start, Visit
from overture.core.seeds import derived_seed, named_random
from overture.engine.backbone import Backbone
from overture.engine.prompted import PromptedModel
from overture.evaluate.intervals import paired_test
from overture.evaluate.scoring import Scored
from overture.jobs.run.keep import made_with, new_manifest
from overture.jobs.run.request import TuneConfig
from overture.jobs.run.work import Work, metrics_of
from overture.jobs.transfer.agree import agreed_to_learn
from overture.jobs.transfer.options import MetaConfig
from overture.jobs.transfer.several import all_prepared
from overture.prompt.pack import prompt_tensors
from overture.prompt.registry import method_from, own_rate
from overture.store.manifest import Manifest
from overture.store.names import ref_of
from overture.store.runs import Run
from overture.store.store import Store
from overture.train.fit import Fit, Validation
from overture.train.options import TrainConfig

Values = dict[str, Tensor]


def meta(
    tasks: Sequence[TuneConfig],
    store: Store,
    name: str,
    config: MetaConfig | None = None,
    *,
    unseen: Sequence[TuneConfig] = (),
    listener: Listener = ignore,
    is_stop_asked: Callable[[], bool] = lambda: False,
    backbone: Backbone | None = None,
) -> MetaResult:
    """Learn starting values on several tasks and keep them as a prompt, for ``prompt.init: prompt``.

    Args:
        tasks: requests for one model and one kind of prompt.
        store: where the start is kept.
        name: of the stored start.
        config: how it is learnt.
        unseen: tasks it is only measured on.
        listener: called with each event.
        is_stop_asked: looked at after each visit; what was learnt by then is kept.
        backbone: a loaded model; loaded as the tasks name it when None.

    Raises:
        ConfigError: the tasks differ in model or prompt, or the method cannot start another prompt.
        DataError: rows cannot be used.
        Diverged: the loss became NaN or infinite on every visit.
    """
    config = config or MetaConfig()
    requests = agreed_to_learn(tasks, unseen, store, name)
    with TemporaryDirectory() as folder, ExitStack() as stack:
        # A stopped run cannot be resumed, so its folder need not stay.
        run = Run(Path(folder), listener)
        works = all_prepared(run, requests, store, is_stop_asked, backbone)
        stack.enter_context(works[0].backbone.checkpointing(requests[0].train.gradient_checkpointing))
        return _Learner(works[: len(tasks)], works[len(tasks) :], config).run(name)


@dataclass(frozen=True, slots=True)
class Moves:
    """How far the steps of one visit moved the values.

    Args:
        by_all: all steps together; empty when the loss diverged.
        by_last: the last step.
        loss: mean training loss of the steps.
    """

    by_all: Values
    by_last: Values
    loss: float


class _Learner:
    """The start that is learnt: one prompt whose values every visit begins at and moves.

    Args:
        works: the tasks.
        unseen: tasks it is only measured on.
        config: how it is learnt.
    """

    def __init__(self, works: Sequence[Work], unseen: Sequence[Work], config: MetaConfig) -> None:
        self.works, self.unseen, self.config = works, unseen, config
        self.request = works[0].config
        self.prompt = works[0].built(self.request.prompt, self.request.seed).prompt
        injection = self.prompt.injection() if isinstance(self.prompt, PromptMethod) else None
        has_targets = injection is not None and injection.vectors is not None and bool(injection.vectors.targets)
        if injection is None or injection.labels is not None or injection.offset is not None or has_targets:
            raise ConfigError(
                f"method {self.request.prompt.method!r} gives no start for other tasks",
                where="prompt.method",
                wanted="vectors, or keys and values, that belong to no task",
                fix="--method vectors or --method prefix",
            )
        assert isinstance(self.prompt, PromptMethod)
        self.values: Values = self.prompt.trainable()
        rate = self.request.train.lr or own_rate(self.request.prompt)
        # A visit is one epoch at a constant rate; starts are measured by an epoch of a user's own short training.
        self.measuring: TrainConfig = self.request.train.model_copy(update={"epochs": 1, "passes": 1, "lr": rate})
        self.visiting = self.measuring.model_copy(update={"warmup_steps": 0, "schedule": "constant"})
        self.history: list[Visit] = []

    def run(self, name: str) -> MetaResult:
        """Learn, keep, measure."""
        for work in (*self.works, *self.unseen):
            # A model that cannot answer such rows is refused before anything is learnt.
            work.check(self._model(work))
        ordinary, start = copied(self.values), perf_counter()
        self._visit_all()
        seconds, is_whole = perf_counter() - start, len(self.history) == self.config.steps
        if self.history and all(visit.loss is None for visit in self.history):
            raise Diverged("the loss became NaN or infinite on every visit", fix="a smaller rate: --set train.lr=0.001")
        folder = None
        few_steps: list[FewSteps] = []
        if self.history:
            # Kept before it is measured: a stop in between loses nothing.
            folder = self.works[0].store.add(self._manifest(name, seconds), prompt_tensors(self.prompt))
            few_steps = self._few_steps(ordinary) if is_whole else []
        prompt = self.request.prompt
        assert isinstance(self.prompt, PromptMethod)
        method = method_from(prompt.method, prompt.place, self.prompt.injection().memory is not None)
        return MetaResult(
            status="finished" if is_whole else "interrupted",
            prompt=str(ref_of(folder)) if folder else None,
            method=prompt.method,
            place=prompt.place,
            length=prompt.length,
            start=Start(method=method, options=prompt.options if method == prompt.method else {}),
            algorithm=self.config.algorithm,
            tasks=[work.task.name for work in self.works],
            steps=len(self.history),
            inner=self.config.inner,
            history=self.history,
            seconds=seconds,
            folder=str(folder) if folder else None,
            few_steps=few_steps,
            notices=[text for work in (*self.works, *self.unseen) for text in work.notices] if self.history else [],
        )

    def _visit_all(self) -> None:
        """Make all visits, or as many as are done when a stop is asked for."""
        for step, work in enumerate(self._turns()):
            if self.works[0].is_stop_asked():
                return
            before = copied(self.values)
            moves = self._visited(work, f"visit {step}", self.visiting)
            move = moves.by_all if self.config.algorithm == "reptile" else moves.by_last
            share = self.config.rate * (1 - step / self.config.steps)
            put(self.values, {key: value + share * move[key] for key, value in before.items()} if move else before)
            if not move:
                work.notice(f"{work.task.name}: the loss became NaN or infinite on a visit, which moved nothing")
            self.history.append(Visit(task=work.task.name, loss=moves.loss if move else None))
            self.works[0].progress("visiting tasks")(step + 1, self.config.steps)

    def _turns(self) -> Iterator[Work]:
        """The task of each visit."""
        for step in range(self.config.steps):
            turn, place = divmod(step, len(self.works))
            order = list(self.works)
            named_random(self.request.seed, "turn", turn).shuffle(order)
            yield order[place]

    def _visited(self, work: Work, key: str, train: TrainConfig) -> Moves:
        """Take the steps of one visit; the values stay where the steps led."""
        start = copied(self.values)
        before_last = start

        def note(event: Event) -> None:
            nonlocal before_last
            if isinstance(event, StepEvent) and event.step == self.config.inner - 1:
                before_last = copied(self.values)

        seed = derived_seed(self.request.seed, "meta", work.task.name, key)
        order = list(work.rows["train"])
        named_random(seed, "rows").shuffle(order)
        # Where there are too few rows they come again.
        rows = [order[index % len(order)] for index in range(self.config.inner * train.batch_size)]
        fit = Fit(self._model(work), rows, lambda: Validation(0.0, 0.0), train, seed, events=note).run()
        if not fit.best:
            return Moves({}, {}, math.nan)
        by_all, by_last = (
            {key: value - before[key] for key, value in fit.best.items()} for before in (start, before_last)
        )
        return Moves(by_all, by_last, fit.progress.history[0].train_loss)

    def _model(self, work: Work) -> PromptedModel:
        return PromptedModel(work.backbone, self.prompt, work.cache)

    def _few_steps(self, ordinary: Values) -> list[FewSteps]:
        """Each task after as many steps of tuning, from the ordinary start and the learnt one, with equal batches."""
        learnt = copied(self.values)
        results = []
        for work in (*self.works, *self.unseen):
            if work.is_stop_asked():
                work.notice(f"stopped before {work.task.name} was measured")
                break
            scored: dict[str, Scored] = {}
            for start, values in (("ordinary", ordinary), ("learnt", learnt)):
                put(self.values, values)
                self._visited(work, "measure", self.measuring)
                what = f"{work.task.name}, from the {start} start"
                scored[start] = work.score(self._model(work), "validation", what)
            test = paired_test(
                scored["learnt"].gold, scored["learnt"].predicted, scored["ordinary"].predicted, work.task.metric
            )
            results.append(
                FewSteps(
                    task=work.task.name,
                    metric=work.task.metric,
                    is_unseen=work in self.unseen,
                    **metrics_of(work.task, scored),
                    compared=Comparison(**dict(test), split="validation"),
                )
            )
        put(self.values, learnt)
        return results

    def _manifest(self, name: str, seconds: float) -> Manifest:
        work, prompt = self.works[0], self.request.prompt
        return new_manifest(
            name,
            work.backbone,
            work.task,
            method=prompt.method,
            place=prompt.place,
            length=prompt.length,
            options=made_with(prompt, self.visiting),
            lineage=Lineage(
                meta=self.config.algorithm,
                tasks=[work.task.name for work in self.works],
                visits=len(self.history),
                visits_asked=self.config.steps,
                inner=self.config.inner,
            ),
            trainable=sum(value.numel() for value in self.values.values()),
            seconds=seconds,
        )


def copied(values: Values) -> Values:
    """A copy of the values as they are now."""
    return {name: value.detach().clone() for name, value in values.items()}


@torch.no_grad()
def put(values: Values, new_values: Values) -> None:
    """Copy other values of the same names into these."""
    for name, value in values.items():
        value.copy_(new_values[name])
