"""The executor that runs jobs in this process."""

from collections.abc import Iterator

import pytest
import torch

from overture.core.errors import BackboneError, DeviceFull, Stopped, StoreError
from overture.core.records.base import Record
from overture.core.records.events import Event, Listener, NoticeEvent
from overture.jobs.run.local import LocalExecutor


class Double(Record):
    number: int


def doubled(job: Double, on_event: Listener) -> int:
    on_event(NoticeEvent(text=f"doubling {job.number}"))
    if job.number == 2:
        raise BackboneError("no twos")
    if job.number == 3:
        raise torch.OutOfMemoryError("full")
    if job.number == 4:
        raise StoreError("damaged")
    return 2 * job.number


def jobs(*numbers: int) -> Iterator[Double]:
    return (Double(number=number) for number in numbers)


def test_order_events_and_failures() -> None:
    events: list[Event] = []
    executor = LocalExecutor(doubled, lambda: False)
    done = list(executor.map(jobs(1, 2, 3, 5), events.append))
    assert [outcome.job.number for outcome in done] == [1, 2, 3, 5]
    assert [outcome.result for outcome in done] == [2, None, None, 10]
    assert [type(outcome.error) for outcome in done] == [type(None), BackboneError, DeviceFull, type(None)]
    assert [event.text for event in events] == [f"doubling {number}" for number in (1, 2, 3, 5)]  # type: ignore[union-attr]
    assert done[3].checked() == 10
    with pytest.raises(BackboneError):
        done[1].checked()


def test_later_jobs_may_depend_on_earlier_outcomes() -> None:
    failed: list[int] = []

    def following() -> Iterator[Double]:
        for number in (1, 2, 5):
            if failed:
                return
            yield Double(number=number)

    outcomes = []
    for done in LocalExecutor(doubled, lambda: False).map(following(), lambda event: None):
        outcomes.append(done)
        if done.error:
            failed.append(done.job.number)
    assert (len(outcomes), failed) == (2, [2])


def test_a_stop_is_looked_for_between_jobs() -> None:
    answers = iter((False, False, True))
    outcomes = LocalExecutor(doubled, lambda: next(answers)).map(jobs(1, 5, 6), lambda event: None)
    assert [next(outcomes).result, next(outcomes).result] == [2, 10]
    with pytest.raises(Stopped):
        next(outcomes)


def test_damaged_files_end_all_jobs() -> None:
    with pytest.raises(StoreError):
        list(LocalExecutor(doubled, lambda: False).map(jobs(1, 4, 5), lambda event: None))
