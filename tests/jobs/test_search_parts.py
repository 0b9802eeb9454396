"""A search whose groups train in parts on workers: the choices of one process, with workers and sittings that end."""

from collections.abc import Iterable, Iterator
from typing import Any

import pytest

from overture.core.contracts import Done
from overture.core.errors import Stopped
from overture.core.records.search import FoundRate, SearchResult
from overture.core.records.tune import StoppedRun
from overture.jobs.run.request import resolved
from overture.jobs.run.where import Where
from overture.jobs.search import elsewhere
from overture.jobs.search.elsewhere import TrainerElsewhere
from overture.jobs.search.halving import is_rung, next_decision
from overture.jobs.search.options import SearchRequest
from overture.jobs.search.remote import RATE, TRAIN, Fits, PartsRequest, SearchRunner, TrainJob
from overture.jobs.search.search import resume_search, search
from overture.store.store import Store
from tiny_task import write_tiny_task

SPACE = {
    "search.method": ["prefix", "vectors"],
    "search.place": ["after"],
    "search.length": [2, 3],
    "search.cohort": 4,
    "search.min_steps": 0,
    "search.tunes": 6,
    "train.epochs": 4,
    "train.lr": 0.1,
    "train.warmup_steps": 0,
    "baselines": False,
}


class FakeWorkers:
    """Workers in this process, each with a runner of its own; jobs and results are JSON, as they travel.

    Args:
        request: what the runners open.
        store: of prompts.
        num: how many.
        lost: jobs after whose training the worker is lost, so that another one does them again.
        most: jobs that are done before a stop is asked for.
    """

    def __init__(
        self, request: PartsRequest, store: Store, num: int, lost: Iterable[int] = (), most: int = 10**6
    ) -> None:
        self.runners = [SearchRunner(request, store) for _ in range(num)]
        self.lost, self.most, self.jobs = set(lost), most, list[TrainJob]()

    def map(self, jobs: Iterable[Any], on_event: Any) -> Iterator[Done[Any, Any]]:
        for number, job in enumerate(jobs):
            runner = self.runners[number % len(self.runners)]
            if not isinstance(job, TrainJob):
                yield Done(job, 0.0, FoundRate.model_validate_json(runner.run(RATE, job.model_dump_json(), on_event)))
                continue
            if len(self.jobs) >= self.most:
                raise Stopped
            self.jobs.append(job)
            if len(self.jobs) in self.lost:
                runner.run(TRAIN, job.model_dump_json(), on_event)
            yield Done(job, 0.0, Fits.model_validate_json(runner.run(TRAIN, job.model_dump_json(), on_event)))


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> SearchRequest:
    return resolved(SearchRequest, write_tiny_task(tmp_path_factory.mktemp("task")), SPACE)


@pytest.fixture(scope="module")
def alone(config: SearchRequest, tmp_path_factory: pytest.TempPathFactory) -> SearchResult:
    """What one process finds."""
    result = search(config, Store(tmp_path_factory.mktemp("alone")))
    assert isinstance(result, SearchResult)
    return result


@pytest.fixture
def on_workers(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Makes searches with ``--on`` use fake workers; gives them, one for each sitting."""
    sittings: list[FakeWorkers] = []

    def use(num: int, **changes: Any) -> list[FakeWorkers]:
        def trainer_on(where: Where, state: Any) -> Any:
            from contextlib import nullcontext

            request = PartsRequest(config=state.config, folder=state.run.folder)
            sittings.append(FakeWorkers(request, state.work.store, num, **changes))
            return nullcontext(TrainerElsewhere(state, sittings[-1], sittings[-1], num))

        monkeypatch.setattr(elsewhere, "trainer_on", trainer_on)
        return sittings

    yield use
    for runner in [runner for sitting in sittings for runner in sitting.runners]:
        runner.scratch.cleanup()


def choices(result: SearchResult | StoppedRun) -> tuple[Any, ...]:
    """What a search chose and spent, but for rounding."""
    assert isinstance(result, SearchResult)
    trials = [(trial.key, trial.title, trial.epochs_done, trial.tokens) for trial in result.trials]
    lanes = [(lane.key, lane.scores, lane.dropped_after, lane.is_winner) for lane in result.race]
    return trials, lanes, result.winner.key, result.spent.tokens


THERE = Where(on="ray", workers=2)


def test_workers_choose_as_one_process_does(config, alone, tmp_path, on_workers) -> None:
    sittings = on_workers(2, lost=(2, 5))
    spread = search(config, Store(tmp_path / "spread"), where=THERE)
    assert choices(spread) == choices(alone)
    jobs = sittings[0].jobs
    assert {len(job.part.members) for job in jobs[:2]} == {2}
    # After the first rung half of the four go on, one on each worker.
    assert [len(job.part.members) for job in jobs[2:4]] == [1, 1]
    assert isinstance(spread, SearchResult)
    losses = [trial.loss for trial in spread.trials]
    assert losses == pytest.approx([trial.loss for trial in alone.trials], abs=1e-5)


def test_a_stopped_search_goes_on_with_other_workers_or_none(config, alone, tmp_path, on_workers) -> None:
    store = Store(tmp_path / "spread")
    sittings = on_workers(2, most=3)
    stopped = search(config, store, where=THERE)
    assert isinstance(stopped, StoppedRun)
    on_workers(3, most=2)
    again = resume_search(stopped.run, store, where=THERE)
    assert isinstance(again, StoppedRun)
    assert choices(resume_search(stopped.run, store)) == choices(alone)
    assert len(sittings) == 2


def test_a_search_of_one_process_goes_on_on_workers(config, alone, tmp_path, on_workers) -> None:
    store, asked = Store(tmp_path / "spread"), 0

    def is_stop_asked() -> bool:
        nonlocal asked
        asked += 1
        return asked > 7

    stopped = search(config, store, is_stop_asked=is_stop_asked)
    assert isinstance(stopped, StoppedRun)
    on_workers(2)
    assert choices(resume_search(stopped.run, store, where=THERE)) == choices(alone)


def test_no_decision_is_due_before_the_next_one() -> None:
    for first in (1, 2, 3):
        for epoch in range(12):
            due = next_decision(epoch, 12, 0.1, 0.55, first)
            between = range(epoch + 1, due)
            assert not any(is_rung(number, first) or 0.1 * (number - epoch) >= 0.55 for number in between)
            assert due == 12 or due == epoch + 1 or is_rung(due, first) or 0.1 * (due - epoch) >= 0.55
    assert next_decision(3, 12, 0.1, 0.0) == 4
    assert next_decision(0, 12, 0.01, 1.0) == 12
