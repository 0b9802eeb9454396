"""Seeds of a run on workers: each takes some of them, trains them together, and leaves them in the run's folder."""

import os
import shutil
from collections.abc import Iterator, Sequence

from pydantic import TypeAdapter

from overture.core.contracts import Executor
from overture.core.errors import Stopped
from overture.core.records.events import Event, NoticeEvent, ProgressEvent, StepEvent
from overture.core.records.tune import SeedResult
from overture.jobs.run.on_ray import RayExecutor, Workers, workers_on
from overture.jobs.run.where import Where
from overture.jobs.run.work import Work
from overture.jobs.tune.remote import FOLDERS, SEEDS, SeedResults, SeedsJob, SeedsRequest, facts_of
from overture.jobs.tune.result import RESULT_OF_SEED


def seeds_elsewhere(work: Work, seeds: Sequence[int], where: Where) -> list[SeedResult]:
    """Results of seeds; those that were stopped have no metrics, and are trained on when the run is resumed.

    Args:
        work: the run.
        seeds: all of the run's.
        where: the workers.
    """
    results = {seed: work.run.read(RESULT_OF_SEED.format(seed), SeedResult) for seed in seeds}
    missing_seeds = [seed for seed in seeds if results[seed] is None]
    if missing_seeds:
        request = SeedsRequest(config=work.config, folder=work.run.folder.absolute())
        module, has_gpu = "overture.jobs.tune.remote", work.backbone.device.type == "cuda"
        with workers_on(where, module, request, work.store, facts_of(work), has_gpu, work.run.event) as workers:
            try:
                for result in _trained(work, missing_seeds, workers):
                    results[result.seed] = result
            except Stopped:
                work.run.event(NoticeEvent(text="stopped; workers keep what they had at their last checkpoint"))
    status = {"status": "interrupted", "lr": work.config.prompt_rate, "metrics": {}, "trainable": 0, "seconds": 0.0}
    missing = {"best_epoch": -1, "history": []}
    return [
        result or SeedResult.model_validate({"seed": seed, **status, **missing}) for seed, result in results.items()
    ]


def _trained(work: Work, missing_seeds: Sequence[int], workers: Workers) -> Iterator[SeedResult]:
    """Results as they come; each seed's files are moved to where a run has them."""
    num = min(len(workers.slots), len(missing_seeds))
    jobs = [SeedsJob(seeds=tuple(missing_seeds[start::num])) for start in range(num)]
    results = TypeAdapter(SeedResults)
    executor: Executor[SeedsJob, SeedResults] = RayExecutor(workers, SEEDS, results, work.is_stop_asked)
    num_done = 0

    def listen(event: Event) -> None:
        # Steps of several workers would jump to and fro in one bar.
        if not isinstance(event, ProgressEvent | StepEvent):
            work.run.event(event)

    work.run.event(ProgressEvent(what="seeds", done=0, total=len(missing_seeds)))
    for outcome in executor.map(jobs, listen):
        for result in outcome.checked().root:
            folder = work.run.folder / FOLDERS / outcome.job.name / f"seed-{result.seed}"
            if folder.is_dir():
                target = work.run.folder / folder.name
                shutil.rmtree(target, ignore_errors=True)
                os.replace(folder, target)
            num_done += 1
            work.run.event(ProgressEvent(what="seeds", done=num_done, total=len(missing_seeds)))
            yield result
