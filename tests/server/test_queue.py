"""Admission, fairness and deadlines, by a clock that the test moves."""

import math
import random
import sys
import threading
import time

import pytest

from overture.core.records.serving import Request
from overture.server.queue import Queue, cost_of


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


class Model:
    """Works on the queue's requests one by one, at so many units a second."""

    def __init__(self, rate: float, **options) -> None:
        self.clock, self.rate = Clock(), rate
        self.queue = Queue(self.clock, **options)
        self.running: list[Request] = []
        self.done: list[tuple[float, Request]] = []
        self.left = 0.0

    def run(self, seconds: float) -> None:
        """Let time pass."""
        end = self.clock.now + seconds
        while True:
            self.running += self.queue.take()
            if not self.running:
                self.clock.now = end
                return
            self.left = self.left or cost_of(self.running[0])
            needed = self.left / self.rate
            if self.clock.now + needed > end:
                self.left -= (end - self.clock.now) * self.rate
                self.clock.now = end
                return
            self.clock.now += needed
            request, self.left = self.running.pop(0), 0.0
            self.queue.end(request.id)
            self.done.append((self.clock.now, request))


def ask(number: int, tenant: str = "a", length: int = 400, **others) -> Request:
    return Request(id=str(number), tenant=tenant, prompts=("p@1",), row={"text": f"{number:0{length}}"}, **others)


def test_a_refusal_names_the_seconds_after_which_it_is_admitted():
    model = Model(rate=100.0, max_wait_s=5.0)
    # The rate is learnt from what is done, whatever it was thought to be.
    for number in range(12):
        assert model.queue.put(ask(number)) is None
        model.run(2.0)
    number, retry_s = 100, None
    while retry_s is None:
        retry_s = model.queue.put(ask(number))
        number += 1
    assert 4 <= model.queue.queued + len(model.running) <= 6
    model.run(0.7 * retry_s)
    assert model.queue.put(ask(number - 1)) == pytest.approx(0.3 * retry_s)
    model.run(0.6 * retry_s)
    # Nobody else may take its place.
    assert model.queue.put(ask(900)) is not None
    assert model.queue.put(ask(number - 1)) is None


def test_waits_are_as_estimated():
    model = Model(rate=200.0, max_wait_s=600.0)
    model.queue.set_rate(200.0)
    chance, estimates, waits = random.Random(0), {}, []
    for number in range(60):
        request = ask(number, chance.choice("abc"), chance.randint(40, 4000))
        lane = model.queue._lanes["answer"]
        begin_s = lane.begin_s(request.tenant, cost_of(request), model.clock.now)
        estimates[request.id] = model.clock.now + begin_s + cost_of(request) / 200.0
        waits.append(estimates[request.id] - model.clock.now)
        assert model.queue.put(request) is None
        model.run(chance.random())
    model.run(1000)
    errors = [when - estimates[request.id] for when, request in model.done]
    # Those who come later get their share too, which nobody could know.
    assert (len(errors), sum(map(abs, errors)) < 0.25 * sum(waits)) == (60, True)


def test_tenants_get_equal_shares():
    model = Model(rate=100.0, max_wait_s=1e6, window=200.0)
    for number in range(200):
        model.queue.put(ask(number, "greedy", 4000))
    for number in range(200, 400):
        model.queue.put(ask(number, "modest", 400))
    model.run(200.0)
    units = {"greedy": 0.0, "modest": 0.0}
    for _, request in model.done:
        units[request.tenant] += cost_of(request)
    assert units["greedy"] == pytest.approx(units["modest"], rel=0.15)
    model.run(1e9)
    assert len(model.done) == 400
    assert (model.queue.queued, model.queue.running) == (0, ())


def test_a_newcomer_does_not_wait_behind_anothers_backlog():
    model = Model(rate=100.0, max_wait_s=50.0, window=200.0)
    model.queue.set_rate(100.0)
    number = 0
    while model.queue.put(ask(number, "greedy")) is None:
        number += 1
    assert model.queue.put(ask(1000, "new")) is None
    model.run(10.0)
    assert "1000" in [request.id for _, request in model.done]


def test_labels_do_not_wait_behind_texts():
    model = Model(rate=100.0, slots=2, max_wait_s=1e6)
    for number in range(10):
        model.queue.put(ask(number, want="write"))
    model.queue.put(ask(99))
    assert {request.id for request in model.queue.take()} == {"0", "1", "99"}


def overloaded(returns: float) -> tuple[Model, list[bool], int]:
    """Twice the load that a model can bear for 300 s; some of those that are refused come back when they were told to.

    Args:
        returns: their share.
    """
    model, chance, admitted = Model(rate=108.0, max_wait_s=5.0), random.Random(0), []
    model.queue.set_rate(108.0)
    due: list[tuple[float, Request]] = []
    for number in range(600):
        model.run(0.5)
        for when, request in [entry for entry in due if entry[0] <= model.clock.now]:
            due.remove((when, request))
            admitted.append(model.queue.put(request) is None)
        request = ask(number)
        retry_s = model.queue.put(request)
        if retry_s is not None and chance.random() < returns:
            due.append((model.clock.now + math.ceil(retry_s), request))
    return model, admitted, len(model.done)


def test_those_who_come_back_when_they_were_told_to_are_admitted():
    _, admitted, num_done = overloaded(returns=1.0)
    assert (len(admitted) > 100, sum(admitted) / len(admitted) > 0.97, num_done > 290) == (True, True, True)


@pytest.mark.parametrize("returns", [0.0, 0.5])
def test_places_of_those_who_do_not_come_back_are_taken_by_others(returns):
    model, admitted, num_done = overloaded(returns)
    # One request takes a second.
    assert num_done > 290
    assert sum(admitted) >= 0.97 * len(admitted)
    assert sum(map(len, model.queue._lanes["answer"].promises.by_tenant.values())) < 300


def test_who_comes_too_early_is_told_what_is_left():
    model = Model(rate=108.0, max_wait_s=1.0)
    model.queue.set_rate(108.0)
    number, retry_s = 0, None
    while retry_s is None:
        retry_s, number = model.queue.put(ask(number)), number + 1
    for _ in range(5):
        # Newcomers have no say in it.
        model.queue.put(ask(1000 + number))
        number += 1
    told_s = model.queue.put(ask(2000))
    model.clock.now += 0.25 * told_s
    assert model.queue.put(ask(2000).model_copy(update={"id": "again"})) == pytest.approx(0.75 * told_s)


def test_answers_that_the_model_has_but_has_not_begun_are_waited_for():
    model = Model(rate=100.0, slots=32, max_wait_s=1e6)
    model.queue.set_rate(100.0)
    requests = [ask(number, want="write") for number in range(8)]
    for request in requests:
        model.queue.put(request)
    assert len(model.queue.take()) == 8
    lane, cost = model.queue._lanes["write"], cost_of(requests[0])
    # Of each 108 units are read, and nothing else is before it.
    assert lane.begin_s("a", cost, model.clock.now) == pytest.approx(8 * 1.08)
    for number in range(8):
        model.clock.now += 2.0
        model.queue.begin(str(number))
    # All are being written, and there are slots.
    assert lane.begin_s("a", cost, model.clock.now) == 0
    model.queue.put(ask(100, want="write"))
    model.queue.take()
    # Two seconds each, as it was lately.
    assert lane.begin_s("a", cost, model.clock.now) == pytest.approx(2.0)


def test_answers_wait_for_a_slot():
    model = Model(rate=100.0, slots=2, max_wait_s=1e6)
    model.queue.set_rate(100.0)
    for number in range(4):
        model.queue.put(ask(number, want="write"))
    for request in model.queue.take():
        model.queue.begin(request.id)
    lane, cost = model.queue._lanes["write"], cost_of(ask(9, want="write"))
    # Two wait before it, so three have to end.
    assert lane.begin_s("a", cost, model.clock.now) == pytest.approx(3 * cost / 100.0)


def test_deadlines():
    model = Model(rate=100.0, window=50.0)
    model.queue.set_rate(100.0)
    assert model.queue.put(ask(0)) is None
    assert model.queue.put(ask(1, deadline_s=0.5)) == pytest.approx(0.58, abs=0.2)
    assert model.queue.put(ask(2, deadline_s=3.0)) is None
    list(model.queue.take())
    model.clock.now += 4.0
    model.queue.end("0")
    # Nobody waits for it any more.
    assert (list(model.queue.take()), model.queue.queued) == ([], 0)
    # A request that is long by itself is no overload.
    assert model.queue.put(ask(3, length=40_000, deadline_s=1.0)) is None


def test_an_answer_that_may_be_long_is_admitted_and_refuses_no_short_one():
    model = Model(rate=100.0, max_wait_s=5.0)
    model.queue.put(ask(0, want="write"))
    model.queue.take()
    assert model.queue.put(ask(1, want="write", max_new_tokens=100_000, deadline_s=600.0)) is None
    model.queue.take()
    # There are free slots, so it begins at once.
    assert model.queue.put(ask(2, want="write")) is None


def test_cancelled_requests_are_gone():
    model = Model(rate=100.0, window=100.0)
    for number in range(3):
        model.queue.put(ask(number))
    (first,) = model.queue.take()
    assert model.queue.end("1", is_done=False) is False
    assert model.queue.end(first.id, is_done=False) is True
    assert [request.id for request in model.queue.take()] == ["2"]
    assert model.queue.end("unknown") is False


def test_a_cancelled_request_stands_before_no_other():
    model = Model(rate=100.0, max_wait_s=1.0)
    model.queue.put(ask(0))
    model.queue.end("0", is_done=False)
    assert model.queue.put(ask(1, "b", length=40_000)) is None


def test_another_thread_may_read_its_numbers():
    queue, errors, is_over = Queue(time.monotonic, math.inf, window=1.0), [], threading.Event()

    def read():
        while not is_over.is_set():
            try:
                assert min(queue.wait_s, queue.queued, len(queue.running)) >= 0
            except RuntimeError as error:
                errors.append(error)

    reader, interval_s = threading.Thread(target=read), sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        reader.start()
        for number in range(4000):
            queue.put(ask(number, str(number % 50)))
            for request in queue.take() if number > 100 else ():
                queue.end(request.id)
    finally:
        is_over.set()
        reader.join()
        sys.setswitchinterval(interval_s)
    assert not errors
