"""Cells of a comparison on a worker: the same rows, model and ways, opened once for all of its jobs."""

from pathlib import Path

from pydantic import Field

from overture.core.records.base import Record
from overture.core.records.cells import CELLS
from overture.core.records.events import Event, Listener, ignore
from overture.jobs.compare.cells import CellContext, CellJob, context_of, measured, trial
from overture.jobs.compare.folder import CellFolder
from overture.jobs.compare.options import CompareConfig
from overture.jobs.compare.ways import Way, way_named, with_versions
from overture.store.store import Store

CELL, TRIAL = "cell", "trial"


class CellsRequest(Record):
    """The comparison that a worker's cells belong to."""

    config: CompareConfig = Field(description="the request")
    ways: tuple[str, ...] = Field(description="names of the ways that are run")


def facts_of(context: CellContext) -> dict[str, str]:
    """Fingerprints of a comparison's rows and model."""
    return {
        "rows": CellFolder(Path(), context).data,
        "model": context.digest,
        "precision": context.resources.backbone.info.dtype,
    }


class CellRunner:
    """Runs cells and trials of learning rates; meets `jobs.run.worker.JobRunner`.

    Args:
        request: the comparison that they belong to.
        store: where prompts are.
    """

    def __init__(self, request: CellsRequest, store: Store) -> None:
        self._listener: Listener = ignore
        self.context = context_of(request.config, store, self._tell, lambda: False, None)
        config = request.config
        ways = [way_named(name, config.tune, config.settings.get(name, ())) for name in request.ways]
        self.ways: dict[str, Way] = {way.name: with_versions(way, store) for way in ways}

    def _tell(self, event: Event) -> None:
        self._listener(event)

    @property
    def facts(self) -> dict[str, str]:
        """Fingerprints of rows and model."""
        return facts_of(self.context)

    def run(self, kind: str, job: str, listener: Listener) -> str:
        """A cell or a trial, as JSON."""
        self._listener = listener
        try:
            cell = CellJob.model_validate_json(job)
            way = self.ways[cell.key.way]
            if kind == TRIAL:
                return trial(self.context, way, cell.key, cell.lr).model_dump_json()
            return CELLS.dump_json(measured(self.context, way, cell.key, cell.lr)).decode()
        finally:
            self._listener = ignore


def opened(request: str, store: Path) -> CellRunner:
    """A runner for the cells of a request.

    Args:
        request: a `CellsRequest` as JSON.
        store: folder of the store.
    """
    return CellRunner(CellsRequest.model_validate_json(request), Store(store))
