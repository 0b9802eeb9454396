"""A search whose groups train on workers: each takes some members to the next decision, which is made here.

Decisions are those of one process: after every epoch in the same order, on the same scores and the same counted tokens.
Members of a part share forward passes; after a decision those that go on are dealt out anew.
"""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from pydantic import TypeAdapter

from overture.core.contracts import Executor
from overture.core.errors import Stopped
from overture.core.records.base import read_record
from overture.core.records.events import Event, NoticeEvent, ProgressEvent, StepEvent
from overture.core.records.search import FoundRate
from overture.jobs.run.members import Decide, SeededSetting
from overture.jobs.run.on_ray import RayExecutor, workers_on
from overture.jobs.run.where import Where
from overture.jobs.search.groups import CHECKPOINT, PARTS, Fitted, Group, Parts, Pause, RateJob
from overture.jobs.search.remote import RATE, TRAIN, Fits, PartsRequest, TrainJob
from overture.jobs.search.state import SearchState
from overture.jobs.tune.remote import facts_of


@dataclass(slots=True)
class TrainerElsewhere:
    """Trains on workers; meets `jobs.search.groups.Trainer`.

    Args:
        state: the search.
        rates: runs range tests.
        parts: trains parts of groups.
        num_workers: into how many parts a group is cut.
    """

    state: SearchState
    rates: Executor[RateJob, FoundRate]
    parts: Executor[TrainJob, Fits]
    num_workers: int
    _told: set[str] = field(default_factory=set)

    def train(self, group: Group, decide: Decide, pause: Pause) -> dict[str, Fitted]:
        """As `Trainer.train`; members run on until a decision can be due."""
        state, members = self.state, {member.key: member for member in group.members}
        running, fits = list(members), dict[str, Fitted]()
        parts = self._standing(group)
        while running:
            jobs = self._jobs(group, [members[key] for key in running], parts, pause(parts.epoch, running))
            try:
                for outcome in self.parts.map(jobs, self.listen):
                    fits |= outcome.checked().root
            except Stopped:
                state.budget.save()
                raise
            longest = max(len(fits[key].history) for key in running)
            for epoch in range(parts.epoch + 1, longest + 1):
                histories = {key: fits[key].history[:epoch] for key in running if _could_go_on(fits[key], epoch)}
                going = decide(histories) if histories else ()
                running = [key for key in running if key in going or key not in histories]
            files = {member.key: job.checkpoint for job in jobs for member in job.part.members}
            parts = Parts(epoch=longest, files={**parts.files, **files})
            state.run.write(f"{group.folder}/{PARTS}", parts)
            self._sweep(group, parts)
            running = [key for key in running if not fits[key].is_done]
        return fits

    def _standing(self, group: Group) -> Parts:
        """Where a group's members stand: new, as workers left them, or as a search in one process did."""
        folder = self.state.run.folder / group.folder
        if parts := read_record(Parts, folder / PARTS):
            return parts
        is_begun = (folder / CHECKPOINT).exists()
        file = f"{group.folder}/{CHECKPOINT}"
        return Parts(epoch=0, files={member.key: file for member in group.members} if is_begun else {})

    def _jobs(self, group: Group, running: Sequence[SeededSetting], parts: Parts, until: int) -> list[TrainJob]:
        """Deal out members, those of one place and method next to each other, so that each part has some of each."""
        order = sorted(running, key=lambda member: (member.prompt.place, member.prompt.method, member.prompt.length))
        num = min(self.num_workers, len(order))
        jobs = []
        for start in range(num):
            part = group.model_copy(update={"members": tuple(order[start::num])})
            keys = "\0".join(member.key for member in part.members)
            name = f"part-{parts.epoch}-{hashlib.sha256(keys.encode()).hexdigest()[:12]}.safetensors"
            jobs.append(TrainJob(part=part, before=parts, checkpoint=f"{group.folder}/{name}", until=until))
        return jobs

    def _sweep(self, group: Group, parts: Parts) -> None:
        """Remove states that no member stands at any more."""
        folder = self.state.run.folder / group.folder
        for path in [*folder.glob("part-*.safetensors"), folder / CHECKPOINT]:
            if f"{group.folder}/{path.name}" not in parts.files.values():
                path.unlink(missing_ok=True)

    def listen(self, event: Event) -> None:
        """Hand on workers' events: no steps, which would jump to and fro in one bar, and each notice once."""
        if isinstance(event, ProgressEvent | StepEvent):
            return
        if isinstance(event, NoticeEvent):
            if event.text in self._told or event.text in self.state.work.notices:
                return
            self._told.add(event.text)
        self.state.run.event(event)


def _could_go_on(fit: Fitted, epoch: int) -> bool:
    """Whether a member was running when that many epochs had been run."""
    num = len(fit.history)
    return num > epoch or (num == epoch and fit.status in ("interrupted", "diverged"))


@contextmanager
def trainer_on(where: Where, state: SearchState) -> Iterator[TrainerElsewhere]:
    """A trainer on workers, until the block is left.

    Raises:
        As `jobs.run.on_ray.workers_on`.
    """
    work = state.work
    request = PartsRequest(config=state.config, folder=state.run.folder.absolute())
    module, has_gpu = "overture.jobs.search.remote", work.backbone.device.type == "cuda"
    with workers_on(where, module, request, work.store, facts_of(work), has_gpu, state.run.event) as workers:
        rates: Executor[RateJob, FoundRate] = RayExecutor(workers, RATE, TypeAdapter(FoundRate), work.is_stop_asked)
        parts: Executor[TrainJob, Fits] = RayExecutor(workers, TRAIN, TypeAdapter(Fits), work.is_stop_asked)
        yield TrainerElsewhere(state, rates, parts, len(workers.slots))
