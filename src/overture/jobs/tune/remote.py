"""Seeds of a run on a worker: some of them, trained together, in a folder of their own inside the run's.

A worker that takes over from a lost one finds its checkpoint there. The folders must be on storage that all see.
"""

import json
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from pydantic import Field, RootModel

from overture.core.records.base import Record
from overture.core.records.events import Listener
from overture.core.records.tune import SeedResult
from overture.data.fingerprint import facts_of_splits
from overture.jobs.run.request import TuneConfig
from overture.jobs.run.work import Work, read_material, work_on
from overture.jobs.tune.seeds import seed_results
from overture.store.runs import Run
from overture.store.store import Store

SEEDS = "seeds"
FOLDERS = "workers"
"""Of a run: one folder for each group of seeds that a worker trains."""


class SeedsRequest(Record):
    """The run that a worker's seeds belong to."""

    config: TuneConfig = Field(description="the request, settled")
    folder: Path = Field(description="of the run, as workers see it")


class SeedsJob(Record):
    """Seeds that are trained in shared forward passes."""

    seeds: tuple[int, ...]

    @property
    def name(self) -> str:
        """The name of the seeds' folder."""
        return "-".join(map(str, self.seeds))


class SeedResults(RootModel[list[SeedResult]]):
    """Results of a job's seeds, in their order."""


def facts_of(work: Work) -> dict[str, str]:
    """Fingerprints of a run's rows and model."""
    rows = {name: facts.model_dump(mode="json") for name, facts in facts_of_splits(work.splits).items()}
    info = work.backbone.info
    return {"rows": json.dumps(rows, sort_keys=True), "model": info.weights_sha256, "precision": info.dtype}


class SeedRunner:
    """Trains and scores seeds; meets `jobs.run.worker.JobRunner`.

    Args:
        request: the run that they belong to.
        store: where prompts are.
    """

    def __init__(self, request: SeedsRequest, store: Store) -> None:
        self._folder = request.folder
        material = read_material(request.config, lambda text: None, None)
        # The run has said already what is odd about its rows.
        self._opening = TemporaryDirectory(prefix="overture-")
        self._work = work_on(Run(Path(self._opening.name)), material, store, lambda: False)

    @property
    def facts(self) -> dict[str, str]:
        """Fingerprints of rows and model."""
        return facts_of(self._work)

    def run(self, kind: str, job: str, listener: Listener) -> str:
        """Results of seeds; their values are in the group's folder."""
        assert kind == SEEDS
        seeds = SeedsJob.model_validate_json(job)
        folder = self._folder / FOLDERS / seeds.name
        folder.mkdir(parents=True, exist_ok=True)
        work = replace(self._work, run=Run(folder, listener))
        with work.backbone.checkpointing(work.config.train.gradient_checkpointing):
            first = work.built(work.config.prompt, work.config.seed)
            return SeedResults(list(seed_results(work, seeds.seeds, first).values())).model_dump_json()


def opened(request: str, store: Path) -> SeedRunner:
    """A runner for the seeds of a request.

    Args:
        request: a `SeedsRequest` as JSON.
        store: folder of the store.
    """
    return SeedRunner(SeedsRequest.model_validate_json(request), Store(store))
