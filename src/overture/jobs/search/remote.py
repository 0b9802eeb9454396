"""Parts of a search on a worker: some members of a group, trained on together for some epochs, and range tests.

A part's state is a file in the search's folder, so whoever takes the next part can go on with any member of it.
"""

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from pydantic import Field, RootModel

from overture.core.records.base import Record
from overture.core.records.events import Event, Listener, ignore
from overture.jobs.run.members import fit_settings
from overture.jobs.run.work import read_material, work_on
from overture.jobs.search.groups import Fitted, Group, Parts, RateJob, fitted, found_rate
from overture.jobs.search.options import SearchRequest
from overture.jobs.search.state import SearchState, with_room
from overture.jobs.tune.remote import facts_of
from overture.store.runs import Run
from overture.store.store import Store

RATE, TRAIN = "rate", "train"


class PartsRequest(Record):
    """The search that a worker's parts belong to."""

    config: SearchRequest = Field(description="the request, settled")
    folder: Path = Field(description="of the run, as workers see it")


class TrainJob(Record):
    """Members of a group, trained on together."""

    part: Group = Field(description="the group, of these members alone")
    before: Parts = Field(description="where the members stand")
    checkpoint: str = Field(description="where they will stand, in the run's folder")
    until: int = Field(description="number of epochs after which those that could go on wait")


class Fits(RootModel[dict[str, Fitted]]):
    """Outcomes of members, by key."""


class SearchRunner:
    """Trains parts of groups; meets `jobs.run.worker.JobRunner`.

    Args:
        request: the search that they belong to.
        store: where prompts are.

    Attributes:
        scratch: a folder that goes with the runner.
    """

    def __init__(self, request: PartsRequest, store: Store) -> None:
        self._folder = request.folder
        self._listener: Listener = ignore
        material = read_material(with_room(request.config), lambda text: None, None)
        # Notices and notes of this process go with it: the search has said already what is odd about its rows.
        self.scratch = TemporaryDirectory(prefix="overture-")
        work = work_on(Run(Path(self.scratch.name), self._tell), material, store, lambda: False)
        self._state = SearchState(replace(work, config=request.config))
        self.facts = facts_of(work)

    def _tell(self, event: Event) -> None:
        self._listener(event)

    def run(self, kind: str, job: str, listener: Listener) -> str:
        """A range test's rate or members' outcomes, as JSON; their state and values are in the search's folder."""
        self._listener = listener
        state = self._state
        try:
            with state.work.backbone.checkpointing(state.config.train.gradient_checkpointing):
                if kind == RATE:
                    return found_rate(state, RateJob.model_validate_json(job)).model_dump_json()
                return self._trained(TrainJob.model_validate_json(job)).model_dump_json()
        finally:
            self._listener = ignore

    def _trained(self, job: TrainJob) -> Fits:
        part, checkpoint = job.part, self._folder / job.checkpoint
        checkpoint.parent.mkdir(parents=True, exist_ok=True)
        if not checkpoint.exists():
            # A checkpoint that exists is of a worker that was lost with this job: the job goes on from there.
            job.before.join(self._folder, [member.key for member in part.members], checkpoint)
        work = self._state.in_wording(part.wording)
        results = fit_settings(work, part.members, None, checkpoint, job.until)
        return Fits(
            {member.key: fitted(work, part, member, results[member.key], self._folder) for member in part.members}
        )


def opened(request: str, store: Path) -> SearchRunner:
    """A runner for the parts of a search.

    Args:
        request: a `PartsRequest` as JSON.
        store: folder of the store.
    """
    return SearchRunner(PartsRequest.model_validate_json(request), Store(store))
