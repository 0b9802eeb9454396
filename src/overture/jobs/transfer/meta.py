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

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from overture.core.contracts import PromptMethod
from overture.core.errors import ConfigError, Diverged
from overture.core.records.events import Event, Listener, StepEvent, ignore
from overture.core.records.prompt import Lineage
from overture.core.rows import Encoded
from overture.core.seeds import derived_seed, named_random
from overture.engine.backbone import Backbone
from overture.engine.prompted import PromptedModel
from overture.evaluate.intervals import paired_test
from overture.evaluate.scoring import Scored
from overture.jobs.run.keep import made_with, new_manifest
from overture.jobs.run.request import TuneConfig, pinned, with_slots
from overture.jobs.run.work import Work, metrics_of
from overture.jobs.transfer.options import MetaConfig
from overture.jobs.transfer.several import alike, all_prepared
from overture.prompt.pack import prompt_tensors
from overture.prompt.registry import method_from, own_rate
from overture.store.manifest import Manifest
from overture.store.names import checked_name, ref_of
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
) -> dict[str, Any]:
    """Learn starting values on several tasks and keep them as a prompt, for ``prompt.init: prompt``.

    Args:
        tasks: requests for one model and one kind of prompt.
        store: where the start is kept.
        name: what it is called.
        config: how it is learnt.
        unseen: tasks it is only measured on.
        listener: told of every event.
        is_stop_asked: looked at after each visit; what was learnt by then is kept.
        backbone: a loaded model; loaded as the tasks name it when None.

    Returns:
        What ``overture meta --json`` prints: the prompt, each visit's loss, and scores after a few steps from the
        ordinary start and from the learnt one, on validation rows.

    Raises:
        ConfigError: the tasks differ in model or prompt, or the method cannot start another prompt.
        DataError: rows cannot be used.
        Diverged: the loss became NaN or infinite on every visit.
    """
    config = config or MetaConfig()
    checked_name(name)
    store.check_writable()
    if len(tasks) < 2:
        raise ConfigError("a start is learnt on several tasks", got=str(len(tasks)), wanted="at least 2 task files")
    requests = alike([pinned(with_slots(request), store) for request in (*tasks, *unseen)])
    with TemporaryDirectory() as folder, ExitStack() as held:
        # Nothing of this goes on after a stop, so the run leaves nothing behind.
        run = Run(Path(folder), listener)
        works = all_prepared(run, requests, store, is_stop_asked, backbone)
        held.enter_context(works[0].backbone.checkpointing(requests[0].train.gradient_checkpointing))
        return _Start(works[: len(tasks)], works[len(tasks) :], config).learnt(name)


class _Start:
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
        _check_prompt(self.prompt, self.request)
        assert isinstance(self.prompt, PromptMethod)
        self.values: Values = self.prompt.trainable()
        rate = self.request.train.lr or own_rate(self.request.prompt)
        # A visit is one epoch of just so many rows, at one rate; measured is what a user's own short training gives.
        self.tuning: TrainConfig = self.request.train.model_copy(update={"epochs": 1, "passes": 1, "lr": rate})
        self.train = self.tuning.model_copy(update={"warmup_steps": 0, "schedule": "constant"})
        self.history: list[dict[str, Any]] = []

    def learnt(self, name: str) -> dict[str, Any]:
        """Learn, measure, keep."""
        for work in (*self.works, *self.unseen):
            # Whether the model can answer such rows at all; nothing is lost yet.
            self._model(work).check(work.rows["train"][:1])
        ordinary, started = copied(self.values), perf_counter()
        self._visits()
        seconds, is_whole = perf_counter() - started, len(self.history) == self.config.steps
        result: dict[str, Any] = {
            "status": "finished" if is_whole else "interrupted",
            "prompt": None,
            "method": self.request.prompt.method,
            "place": self.request.prompt.place,
            "length": self.request.prompt.length,
            "start": self._way(),
            "algorithm": self.config.algorithm,
            "tasks": [work.task.name for work in self.works],
            "steps": len(self.history),
            "inner": self.config.inner,
            "history": self.history,
            "seconds": seconds,
        }
        if not self.history:
            return {**result, "few_steps": [], "notices": []}
        if all(visit["loss"] is None for visit in self.history):
            raise Diverged("the loss became NaN or infinite on every visit", fix="a smaller rate: --set train.lr=0.001")
        # Kept before it is measured: a stop in between loses nothing.
        folder = self.works[0].store.add(self._manifest(name, seconds), prompt_tensors(self.prompt))
        result |= {"prompt": str(ref_of(folder)), "folder": str(folder)}
        result["few_steps"] = self._measured(ordinary) if is_whole else []
        return {**result, "notices": [text for work in (*self.works, *self.unseen) for text in work.notices]}

    def _way(self) -> dict[str, Any]:
        """What a task says that starts from it: the method and its options."""
        asked = self.request.prompt
        assert isinstance(self.prompt, PromptMethod)
        method = method_from(asked.method, asked.place, self.prompt.injection().memory is not None)
        return {"method": method, "options": asked.options if method == asked.method else {}}

    def _visits(self) -> None:
        """All visits, or as many as are done when a stop is asked for."""
        for step, work in enumerate(self._turns()):
            if self.works[0].is_stop_asked():
                return
            before = copied(self.values)
            by_all_steps, by_the_last, loss = self._visited(work, f"visit {step}", self.train)
            moved = by_all_steps if self.config.algorithm == "reptile" else by_the_last
            share = self.config.rate * (1 - step / self.config.steps)
            put(self.values, {key: value + share * moved[key] for key, value in before.items()} if moved else before)
            if not moved:
                work.notice(f"{work.task.name}: the loss became NaN or infinite on a visit, which moved nothing")
            self.history.append({"task": work.task.name, "loss": loss if moved else None})
            self.works[0].progress("visiting tasks")(step + 1, self.config.steps)

    def _turns(self) -> Iterator[Work]:
        for step in range(self.config.steps):
            turn, place = divmod(step, len(self.works))
            order = list(self.works)
            named_random(self.request.seed, "turn", turn).shuffle(order)
            yield order[place]

    def _visited(self, work: Work, key: str, train: TrainConfig) -> tuple[Values, Values, float]:
        """Take the steps of one visit: how far all of them led, how far the last did, and the mean loss.

        The values stay where the steps led; nothing is given when the loss diverged.
        """
        start = copied(self.values)
        before_last = start

        def note(event: Event) -> None:
            nonlocal before_last
            if isinstance(event, StepEvent) and event.step == self.config.inner - 1:
                before_last = copied(self.values)

        seed = derived_seed(self.request.seed, "meta", work.task.name, key)
        rows = _drawn(work.rows["train"], self.config.inner * train.batch_size, seed)
        found = Fit(self._model(work), rows, lambda: Validation(0.0, 0.0), train, seed, events=note).run()
        if not found.best:
            return {}, {}, float("nan")
        ways = [{key: value - old[key] for key, value in found.best.items()} for old in (start, before_last)]
        return ways[0], ways[1], found.progress.history[0].train_loss

    def _model(self, work: Work) -> PromptedModel:
        return PromptedModel(work.backbone, self.prompt, work.cache)

    def _measured(self, ordinary: Values) -> list[dict[str, Any]]:
        """Each task after as many steps of tuning, from the ordinary start and the learnt one, with equal batches."""
        learnt, found = copied(self.values), []
        for work in (*self.works, *self.unseen):
            if work.is_stop_asked():
                work.notice(f"stopped before {work.task.name} was measured")
                break
            sides = {
                what: self._few(work, values, f"{work.task.name}, from the {what} start")
                for what, values in (("ordinary", ordinary), ("learnt", learnt))
            }
            pair = paired_test(
                sides["learnt"].gold, sides["learnt"].predicted, sides["ordinary"].predicted, work.task.metric
            )
            scores = metrics_of(work.task, sides)
            facts = {"task": work.task.name, "metric": work.task.metric, "is_unseen": work in self.unseen}
            found.append({**facts, **scores, "compared": {"split": "validation", **pair.model_dump()}})
        put(self.values, learnt)
        return found

    def _few(self, work: Work, values: Values, what: str) -> Scored:
        put(self.values, values)
        self._visited(work, "measure", self.tuning)
        return work.score(self._model(work), "validation", what)

    def _manifest(self, name: str, seconds: float) -> Manifest:
        work, prompt = self.works[0], self.request.prompt
        return new_manifest(
            name,
            work.backbone,
            work.task,
            method=prompt.method,
            place=prompt.place,
            length=prompt.length,
            options=made_with(prompt, self.train),
            lineage=Lineage(
                meta=self.config.algorithm,
                tasks=[each.task.name for each in self.works],
                visits=len(self.history),
                visits_asked=self.config.steps,
                inner=self.config.inner,
            ),
            trainable=sum(value.numel() for value in self.values.values()),
            seconds=seconds,
        )


def _check_prompt(prompt: Any, request: TuneConfig) -> None:
    """Whether the values mean the same for every task, and can start another prompt.

    Raises:
        ConfigError: they hold something of one task.
    """
    found = prompt.injection() if isinstance(prompt, PromptMethod) else None
    has_targets = found is not None and found.vectors is not None and bool(found.vectors.targets)
    if found is None or found.labels is not None or found.offset is not None or has_targets:
        raise ConfigError(
            f"method {request.prompt.method!r} gives no start for other tasks",
            where="prompt.method",
            wanted="vectors, or keys and values, that belong to no task",
            fix="--method vectors or --method prefix",
        )


def _drawn(rows: Sequence[Encoded], count: int, seed: int) -> list[Encoded]:
    """So many rows in random order; again from the start where there are fewer."""
    order = list(rows)
    named_random(seed, "rows").shuffle(order)
    return [order[index % len(order)] for index in range(count)]


def copied(values: Values) -> Values:
    """The values as they are now."""
    return {name: value.detach().clone() for name, value in values.items()}


@torch.no_grad()
def put(values: Values, wanted: Values) -> None:
    """Give the values those of others, by name."""
    for name, value in values.items():
        value.copy_(wanted[name])
