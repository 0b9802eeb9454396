"""Jobs on a Ray cluster: one worker for each device, jobs and results as JSON.

Ray Core actors, not Ray Tune: a trial of Tune is a process, which would load the model anew and share nothing. A worker
that is lost is replaced, and its job is given again; finished jobs are files of the study, so nothing else is lost.
"""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Generic

from pydantic import TypeAdapter, ValidationError
from torch import get_num_threads

from overture.core.contracts import Done, Job, Result
from overture.core.errors import ConfigError, DiskFull, LostProcess, Stopped, StoreError
from overture.core.records.base import Record
from overture.core.records.events import Listener, NoticeEvent
from overture.jobs.run.where import Where, check_ray
from overture.jobs.run.worker import Reply, Setup, Worker, events_of
from overture.prompt.plugins import loaded_files
from overture.store.store import Store

_PORT = 10001
"""Where a cluster listens for clients."""
_MOST_LOSSES = 3
"""A job that has lost so many workers is the reason for it."""
_LOOK_S = 0.3


@dataclass(slots=True)
class _Slot:
    """A worker, and what it does."""

    actor: Any
    ref: Any = None
    number: int = -1


class Workers:
    """The workers of one study.

    Args:
        ray: the module.
        setup: what each of them opens.
        num: how many there are.
        has_gpu: whether each takes a GPU.
        facts: of the process that gives the jobs; those of a worker must be the same.
        listener: told of lost workers.
    """

    def __init__(
        self, ray: Any, setup: Setup, num: int, has_gpu: bool, facts: Mapping[str, str], listener: Listener
    ) -> None:
        self.ray, self._setup, self._has_gpu, self._facts = ray, setup, has_gpu, dict(facts)
        self.listener = listener
        self._class = ray.remote(Worker)
        self.slots = [_Slot(self._started()) for _ in range(num)]
        # All of them open their rows and model at the same time.
        opening = [slot.actor.facts.remote() for slot in self.slots]
        for facts_ref in opening:
            self._check(facts_ref)

    def _started(self) -> Any:
        # The second thread answers while the first one works.
        options = {"max_concurrency": 2, "num_cpus": 1, "num_gpus": int(self._has_gpu), "max_restarts": 0}
        return self._class.options(**options).remote(self._setup.model_dump_json())

    def _check(self, facts_ref: Any) -> None:
        try:
            text = self.ray.get(facts_ref)
        except self.ray.exceptions.RayActorError as error:
            raise LostProcess(
                "a worker could not be started", got=str(error).strip().splitlines()[0][:300], fix="fewer --workers"
            ) from None
        try:
            facts = TypeAdapter(dict[str, str]).validate_json(text)
        except ValidationError:
            failure = Reply.model_validate_json(text).failure
            assert failure is not None
            raise failure.error() from None
        if unequal := sorted(name for name in self._facts if facts.get(name) != self._facts[name]):
            raise ConfigError(
                f"a worker has another {', '.join(unequal)}",
                where="--on ray",
                got=", ".join(f"{name} {facts.get(name, 'none')[:16]}" for name in unequal),
                wanted=", ".join(f"{name} {self._facts[name][:16]}" for name in unequal),
                fix="put data, model and store on storage that all machines see under one name",
            )

    def give(self, slot: _Slot, number: int, kind: str, job: str) -> None:
        """Give a worker a job."""
        slot.number, slot.ref = number, slot.actor.run.remote(kind, job)

    def forward_events(self, on_event: Listener) -> None:
        """Hand on what the busy workers have told since the last call."""
        for slot in self.slots:
            if slot.ref is None:
                continue
            try:
                texts = self.ray.get(slot.actor.events.remote(), timeout=5)
            except (self.ray.exceptions.RayActorError, self.ray.exceptions.GetTimeoutError):
                continue
            for event in events_of(texts):
                on_event(event)

    def replace(self, slot: _Slot) -> None:
        """A new worker in the place of a lost one."""
        slot.actor, slot.ref, slot.number = self._started(), None, -1
        self._check(slot.actor.facts.remote())

    def end(self) -> None:
        """Let all workers go, whatever they do."""
        for slot in self.slots:
            self.ray.kill(slot.actor)


@contextmanager
def workers_on(
    where: Where,
    module: str,
    request: Record,
    store: Store,
    facts: Mapping[str, str],
    has_gpu: bool,
    listener: Listener,
) -> Iterator[Workers]:
    """Workers on Ray, with this process's threads and plug-ins, until the block is left.

    Args:
        where: which cluster, and how many of them.
        module: its `opened(request, store)` gives what each of them works on.
        request: the resolved request.
        store: where prompts are.
        facts: of this process, which theirs must equal.
        has_gpu: whether each takes a GPU.
        listener: told what happens to them.

    Raises:
        ConfigError: Ray is not installed, no cluster is there, or a worker sees other files.
        LostProcess: a worker could not be started.
    """
    check_ray()
    setup = Setup(
        module=module,
        request=request.model_dump_json(),
        store=str(store.root.absolute()),
        threads=get_num_threads(),
        plugins=tuple(map(str, loaded_files())),
    )
    ray: Any = import_module("ray")
    address = where.on.removeprefix("ray")
    quiet = {"log_to_driver": False, "configure_logging": False}
    try:
        if address:
            host = address.removeprefix("://")
            ray.init(address=f"ray://{host if ':' in host else f'{host}:{_PORT}'}", **quiet)
        else:
            listener(NoticeEvent(text="starting workers on this machine ..."))
            cpus = max(where.workers or 1, os.cpu_count() or 1)
            # Ray's workers give way to all else by default; here they are what the machine is for.
            os.environ.setdefault("RAY_worker_niceness", "0")
            ray.init(num_cpus=cpus, include_dashboard=False, **quiet)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ConfigError(
            "no Ray cluster can be used",
            where=f"--on {where.on}",
            got=str(error).strip().splitlines()[0][:300],
            fix="ray start --head --ray-client-server-port 10001 on the first machine",
        ) from error
    try:
        resources = ray.cluster_resources()
        num_devices = int(resources.get("GPU" if has_gpu else "CPU", 1))
        workers = Workers(ray, setup, where.workers or max(1, num_devices), has_gpu, facts, listener)
        try:
            yield workers
        finally:
            workers.end()
    finally:
        ray.shutdown()


@dataclass(slots=True)
class _Attempt(Generic[Job]):
    job: Job
    losses: int = 0


@dataclass(slots=True)
class RayExecutor(Generic[Job, Result]):
    """Runs jobs of one kind on workers; meets `core.contracts.Executor`.

    Args:
        workers: who runs them; several executors may share them, as long as no two run at once on the same worker.
        kind: of the jobs, as the workers' module calls it.
        result: the type of results, which parses them.
        is_stop_asked: looked at several times a second; jobs under way are given up.
    """

    workers: Workers
    kind: str
    result: TypeAdapter[Result]
    is_stop_asked: Callable[[], bool]

    def map(self, jobs: Iterable[Job], on_event: Listener) -> Iterator[Done[Job, Result]]:
        """The outcomes in the order of the jobs; as many jobs are under way as there are workers.

        Raises:
            Stopped: a stop was asked for.
            StoreError: a job's files are damaged; no other job could go on either.
            DiskFull: as for `StoreError`.
            LostProcess: no worker could be started in the place of a lost one.
        """
        source, attempts, again = iter(jobs), dict[int, _Attempt[Job]](), deque[int]()
        outcomes: dict[int, Done[Job, Result]] = {}
        next_number, next_out, is_over = 0, 0, False
        busy: list[_Slot] = []
        while True:
            while not is_over or again:
                slot = next((slot for slot in self.workers.slots if slot.ref is None), None)
                if slot is None:
                    break
                if again:
                    number = again.popleft()
                else:
                    job = next(source, None)
                    if job is None:
                        is_over = True
                        break
                    number, next_number = next_number, next_number + 1
                    attempts[number] = _Attempt(job)
                    # Making a job may have run others on this worker.
                    slot = next(slot for slot in self.workers.slots if slot.ref is None)
                self.workers.give(slot, number, self.kind, attempts[number].job.model_dump_json())
                busy.append(slot)
            if not busy:
                return
            self._wait(busy, attempts, outcomes, again, on_event)
            while next_out in outcomes:
                yield outcomes.pop(next_out)
                next_out += 1

    def _wait(
        self,
        busy: list[_Slot],
        attempts: Mapping[int, _Attempt[Job]],
        outcomes: dict[int, Done[Job, Result]],
        again: deque[int],
        on_event: Listener,
    ) -> None:
        """Wait a little for one of the jobs; take what has ended."""
        ray = self.workers.ray
        if self.is_stop_asked():
            raise Stopped
        ready, _ = ray.wait([slot.ref for slot in busy], num_returns=1, timeout=_LOOK_S)
        self.workers.forward_events(on_event)
        for slot in [slot for slot in busy if slot.ref in ready]:
            number, entry = slot.number, attempts[slot.number]
            busy.remove(slot)
            try:
                reply = Reply.model_validate_json(ray.get(slot.ref))
            except ray.exceptions.RayActorError:
                entry.losses += 1
                self.workers.replace(slot)
                if entry.losses >= _MOST_LOSSES:
                    error = LostProcess(f"{_MOST_LOSSES} workers were lost at this job", fix="more memory for a worker")
                    outcomes[number] = Done(entry.job, seconds=0.0, error=error)
                else:
                    on_event(NoticeEvent(text="a worker was lost; another one does its job again"))
                    again.append(number)
                continue
            slot.ref, slot.number = None, -1
            outcomes[number] = self._outcome(entry.job, reply)

    def _outcome(self, job: Job, reply: Reply) -> Done[Job, Result]:
        if reply.failure is None:
            assert reply.result is not None
            return Done(job, result=self.result.validate_json(reply.result), seconds=reply.seconds)
        error = reply.failure.error()
        if isinstance(error, StoreError | DiskFull):
            raise error
        return Done(job, error=error, seconds=reply.seconds)
