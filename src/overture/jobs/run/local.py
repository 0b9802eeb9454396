"""The executor that runs jobs one after another in this process."""

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Generic

from torch import OutOfMemoryError

from overture.core.contracts import Done, Job, Result
from overture.core.errors import DeviceFull, DiskFull, OvertureError, Stopped, StoreError
from overture.core.records.events import Listener


class LocalExecutor(Generic[Job, Result]):
    """Runs jobs one after another in this process.

    Args:
        work: runs one job and tells a listener of its events.
        is_stop_asked: looked at before each job.
    """

    def __init__(self, work: Callable[[Job, Listener], Result], is_stop_asked: Callable[[], bool]) -> None:
        self._work, self._is_stop_asked = work, is_stop_asked

    def map(self, jobs: Iterable[Job], on_event: Listener) -> Iterator[Done[Job, Result]]:
        """The outcomes in the order of the jobs.

        Raises:
            Stopped: a stop was asked for.
            StoreError: a job's files are damaged; no other job could go on either.
            DiskFull: as for `StoreError`.
        """
        for job in jobs:
            if self._is_stop_asked():
                raise Stopped
            yield self._done(job, on_event)

    def _done(self, job: Job, on_event: Listener) -> Done[Job, Result]:
        start = time.monotonic()
        try:
            return Done(job, result=self._work(job, on_event), seconds=time.monotonic() - start)
        except (StoreError, DiskFull):
            raise
        except (OvertureError, OutOfMemoryError) as raised:
            full = DeviceFull("the memory is full", got=str(raised)[:200])
            error = raised if isinstance(raised, OvertureError) else full
        # The error may be kept for long: without its frames, which hold the model and the tensors of the job.
        error.__traceback__ = error.__context__ = error.__cause__ = None
        return Done(job, error=error, seconds=time.monotonic() - start)
