"""A run's work, followed by the trackers that its request names."""

from collections.abc import Callable, Mapping
from typing import Protocol, TypeVar

from overture.core.records.scores import SplitScores
from overture.jobs.run.request import TuneConfig
from overture.report.track import Trackers
from overture.store.runs import Run


class _Scored(Protocol):
    @property
    def metrics(self) -> Mapping[str, SplitScores]: ...


R = TypeVar("R", bound=_Scored)


def tracked(run: Run, config: TuneConfig, work: Callable[[], R], is_first: bool = True) -> R:
    """Do a run's work while trackers follow its events and get its scores.

    Args:
        run: the run.
        config: names the trackers.
        work: gives the run's result.
        is_first: of several processes that do the same work, only the first is followed.
    """
    with Trackers(
        config.track if is_first else (), run.name, run.folder, config.model_dump(mode="json"), run.listener
    ) as trackers:
        run.listener = trackers
        result = work()
        trackers.result(result.metrics)
        return result
