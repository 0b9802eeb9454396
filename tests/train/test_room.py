"""What happens where a device's memory runs out, or is to be filled; the CPU plays the device."""

from typing import Any

import pytest
import torch
from tiny import ROWS, Recorded, make_fit

from overture.core.errors import DeviceFull
from overture.core.records.events import Event, NoticeEvent
from overture.core.room import Room, fitted_tokens
from overture.data.batches import num_padded
from overture.data.task import Task
from overture.evaluate.scoring import mean_loss, predict
from overture.train import fit as fitting


class Small(Recorded):
    """A trainee on a device that holds so many tokens of a pass."""

    def __init__(self, holds: int) -> None:
        super().__init__()
        self.holds = holds

    def loss(self, rows):
        found = super().loss(rows)
        if num_padded(rows) > self.holds:
            # In the middle of it: some gradients are there already.
            (found * 3).backward()
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB\nand more")
        return found


def test_training_goes_on_in_smaller_passes_with_the_same_gradients() -> None:
    events: list[Event] = []
    small, wide = Small(holds=30), Recorded()
    told = make_fit(small, epochs=2, events=events.append).run()
    expected = make_fit(wide, epochs=2).run()
    assert max(len(seen) for seen in small.seen) == 4
    torch.testing.assert_close(
        [epoch.train_loss for epoch in told.progress.history],
        [epoch.train_loss for epoch in expected.progress.history],
        rtol=1e-4,
        atol=1e-5,
    )
    for name, value in expected.best.items():
        torch.testing.assert_close(told.best[name], value, rtol=1e-3, atol=1e-4)
    notices = [event.text for event in events if isinstance(event, NoticeEvent)]
    assert 1 <= len(notices) <= 3, "what did not fit is not tried again at every step"
    assert "the results are the same" in notices[0]


def test_one_row_that_does_not_fit_is_an_error_with_the_reason() -> None:
    with pytest.raises(DeviceFull) as error:
        make_fit(Small(holds=1)).run()
    assert error.value.got == "CUDA out of memory. Tried to allocate 2.00 GiB"
    assert "gradient_checkpointing" in error.value.fix


def test_scoring_goes_on_in_smaller_passes() -> None:
    task = Task(name="t", data={"train": "x.jsonl"}, template="{text}:", labels={"no": "a", "maybe": "b", "yes": "c"})
    model = Recorded().model
    wanted, loss = predict(model, ROWS, task), mean_loss(model, ROWS)

    class Limited:
        def ask(self, rows, question):
            if num_padded(rows) > 20:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return model.ask(rows, question)

    found = predict(Limited(), ROWS, task)
    assert [one.said for one in found] == [one.said for one in wanted]
    assert mean_loss(Limited(), ROWS) == pytest.approx(loss, rel=1e-5)


def test_a_room_stays_as_small_as_it_became() -> None:
    tried: list[int] = []
    room = Room(64)

    def work(parts):
        tried.append(max(parts))
        if max(parts) > 10:
            raise torch.OutOfMemoryError("full")
        return sum(parts)

    def cut(most: int) -> list[int]:
        return [most] * (64 // most)

    assert room.run(cut, work, lambda part: part) == 64
    assert room.run(cut, work, lambda part: part) == 64
    assert tried == [64, 32, 16, 8, 8]


def test_other_errors_are_not_touched() -> None:
    def broken(parts):
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        Room(8).run(lambda most: [1], broken, lambda part: part)


class Memory:
    """A device on which a trial takes 50 kB."""

    def __init__(self, free: int) -> None:
        self.free, self.trials = free, 0

    def free_bytes(self) -> int:
        return self.free

    def peak_of(self, work) -> int:
        self.trials += 1
        work()
        return 50_000


class TestTrial:
    def run(self, monkeypatch, memory: Memory, **changes: Any) -> tuple[Recorded, list[str]]:
        monkeypatch.setattr(fitting, "device_memory", lambda device: memory)
        trainee, events = Recorded(), []
        make_fit(trainee, events=events.append, epochs=1, max_tokens=20, **changes).run()
        return trainee, [event.text for event in events if isinstance(event, NoticeEvent)]

    def test_passes_grow_to_what_the_device_holds(self, monkeypatch) -> None:
        memory = Memory(10**9)
        trainee, notices = self.run(monkeypatch, memory)
        assert memory.trials == 1
        assert len(notices) == 1
        # Behind the trial each step of four rows is one pass.
        assert {len(seen) for seen in trainee.seen[1:]} == {4, 1}

    def test_a_user_may_have_the_limits_hold(self, monkeypatch) -> None:
        memory = Memory(10**9)
        trainee, notices = self.run(monkeypatch, memory, fit_memory=False)
        assert (memory.trials, notices) == (0, [])
        assert max(map(len, trainee.seen)) < 4

    def test_the_trial_leaves_no_trace_in_what_is_learned(self, monkeypatch) -> None:
        monkeypatch.setattr(fitting, "device_memory", lambda device: Memory(50_000))
        tried = make_fit(Recorded(), epochs=2).run()
        monkeypatch.setattr(fitting, "device_memory", lambda device: None)
        plain = make_fit(Recorded(), epochs=2).run()
        for name, value in plain.best.items():
            torch.testing.assert_close(tried.best[name], value, rtol=1e-3, atol=1e-4)

    def test_extrapolation_leaves_a_reserve(self) -> None:
        assert fitted_tokens(1000, needed_bytes=10**9, free_bytes=10**10) == 8000
        assert fitted_tokens(1000, needed_bytes=10**9, free_bytes=10**8) == 80
        assert fitted_tokens(1, needed_bytes=0, free_bytes=0) == 1
