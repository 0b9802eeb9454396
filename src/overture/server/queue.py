"""Requests that wait for the model: admitted by estimated seconds, fair between tenants, in two lanes.

Rows that are answered in one pass do not wait behind long texts, so each lane has its own order, window and rate. Costs
are in units of about one token that is read; a lane learns how many of them it gets done in a second. Answers that are
written side by side wait twice: until the model has read what is before them, and until a slot is free.
"""

import math
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field

from overture.core.records.serving import Request
from overture.server.promises import Promise, Promises

_QUANTUM = 256.0
"""Units that a tenant may send before it is the next one's turn."""
_MEMORY_S = 15.0
"""Seconds over which a lane's rate is averaged."""
_LEAST_S = 0.5
"""Seconds of work before a measured rate counts."""
_CHARACTERS = 4.0
"""Characters of a token, about."""
_WRITTEN = 3.0
"""Units of a token that is written, about."""
_DEFAULT_NEW = 32
_MOST_UNBEGUN = 16
"""Requests that the model may have whose answers it has not begun: the others' order is decided later."""
_SLACK = 1.5
"""By how much a promised request may wait longer than others: estimates err."""


def cost_of(request: Request) -> float:
    """Units of a request, about: the rate is measured in the same units, so only their ratios matter."""
    if request.want != "write":
        return reading_of(request)
    num_new = _DEFAULT_NEW if request.max_new_tokens is None else request.max_new_tokens
    return reading_of(request) + _WRITTEN * num_new


def reading_of(request: Request) -> float:
    """Units of a request until its answer begins."""
    num_input = len(request.ids) + sum(len(str(value)) for value in request.row.values()) / _CHARACTERS
    # Prompts on one text share it; each has its own question.
    return num_input + 8.0 * len(request.prompts)


@dataclass(slots=True)
class _Waiting:
    request: Request
    cost: float
    reading: float
    expires: float


@dataclass(slots=True)
class _Rate:
    """Units a second, as they were done lately.

    Args:
        value: before anything is measured.
        since: when the model was last found to have done something, or to begin.
    """

    value: float
    units: float = 0.0
    busy_s: float = 0.0
    since: float = 0.0

    def done(self, units: float, now: float) -> None:
        """Count work that was done since the last call."""
        passed_s = now - self.since
        fade = math.exp(-passed_s / _MEMORY_S)
        self.units, self.busy_s, self.since = self.units * fade + units, self.busy_s * fade + passed_s, now
        if self.busy_s > _LEAST_S:
            self.value = self.units / self.busy_s


@dataclass(slots=True)
class _Lane:
    """One order of requests.

    Args:
        window: units that the model may have at once.
        most: requests that it may have at once.
        rate: of whole requests.
        begin_rate: of reading, while answers wait to begin.
        is_parallel: the model works on all that it has begun at once, not on one after the other.
    """

    window: float
    most: int
    rate: _Rate
    begin_rate: _Rate
    is_parallel: bool = False
    tenants: "OrderedDict[str, deque[_Waiting]]" = field(default_factory=OrderedDict)
    deficits: dict[str, float] = field(default_factory=dict)
    running: dict[str, float] = field(default_factory=dict)
    unbegun: dict[str, float] = field(default_factory=dict)
    promises: Promises = field(default_factory=Promises)

    def start(self, waiting: _Waiting, now: float) -> None:
        """Mark a request as sent to the model; if the model was idle, its time starts now."""
        if not self.running:
            self.rate.since = now
        self.running[waiting.request.id] = waiting.cost
        if self.is_parallel:
            if not self.unbegun:
                self.begin_rate.since = now
            self.unbegun[waiting.request.id] = waiting.reading

    def begin(self, request_id: str, now: float) -> None:
        """A request's answer is being written."""
        if request_id in self.unbegun:
            self.begin_rate.done(self.unbegun.pop(request_id), now)

    def end(self, request_id: str, now: float, is_done: bool) -> None:
        """Remove a request from those that the model has; the rate is over the time in which the model had any."""
        units = self.running.pop(request_id)
        self.unbegun.pop(request_id, None)
        if is_done:
            self.rate.done(units, now)

    @property
    def has_room(self) -> bool:
        """Whether the model may have one more request."""
        is_within = len(self.running) < self.most and sum(self.running.values()) < self.window
        return is_within and len(self.unbegun) < _MOST_UNBEGUN

    def begin_s(self, tenant: str, cost: float, now: float, has_promise: bool = False) -> float:
        """Estimated seconds until a new request of a tenant begins, under an order that is fair between tenants.

        Args:
            tenant: whose it is.
            cost: units of the request.
            now: the time.
            has_promise: whether the request was promised a place; it then goes before all promised places.
        """
        # Copies: metrics are read by other threads, too.
        ahead = [
            (name, waiting.cost, waiting.reading, 1.0)
            for name, queue in tuple(self.tenants.items())
            for waiting in tuple(queue)
        ]
        ahead += () if has_promise else self.promises.expected()
        sums: dict[str, list[float]] = {tenant: [0.0, 0.0, 0.0]}
        for name, *measures in ahead:
            sums[name] = [total + more for total, more in zip(sums.get(name, (0.0, 0.0, 0.0)), measures, strict=True)]
        most = sums[tenant][0] + cost
        shares = {name: min(1.0, most / (theirs[0] or 1.0)) for name, theirs in sums.items()}
        units, reading, num = (sum(shares[name] * theirs[which] for name, theirs in sums.items()) for which in range(3))
        if not self.is_parallel:
            running_s = sum(self.running.values()) / self.rate.value
            return units / self.rate.value + max(0.0, running_s - (now - self.rate.since))
        unbegun, running = tuple(self.unbegun.values()), tuple(self.running.values())
        read_s = (reading + sum(unbegun)) / self.begin_rate.value - (now - self.begin_rate.since if unbegun else 0.0)
        # Where there is no slot for it some have to end, each of about the same units.
        num_ends = num + 1 - (self.most - len(running))
        ends_s = num_ends * sum(running) / max(1, len(running)) / self.rate.value - (now - self.rate.since)
        return max(0.0, read_s, ends_s if num_ends > 0 else 0.0)


class Queue:
    """Decides which requests the model gets next.

    Args:
        clock: seconds that only grow.
        max_wait_s: a request that would wait longer until it begins is refused.
        rate: units a second, before anything is measured.
        window: units of requests for answers that the model may have at once.
        slots: requests for texts that it may have at once.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        max_wait_s: float = 30.0,
        rate: float = 400.0,
        window: float = 4096.0,
        slots: int = 32,
    ) -> None:
        self.clock, self.max_wait_s = clock, max_wait_s
        self._lanes = {
            "answer": _Lane(window, 512, _Rate(rate), _Rate(rate)),
            "write": _Lane(math.inf, slots, _Rate(rate), _Rate(rate), is_parallel=True),
        }

    def put(self, request: Request) -> float | None:
        """Queue a request, or promise it a place if it would wait too long.

        Returns:
            None if it is queued; else the seconds after which the same request will be admitted.
        """
        lane, cost, now = self._lanes["write" if request.want == "write" else "answer"], cost_of(request), self.clock()
        tenant, deadline_s = request.tenant, request.deadline_s or math.inf
        # The same request by all that decides its answer.
        key = hash(request.model_dump_json(exclude={"id", "deadline_s"}))
        lane.promises.expire(now)
        promise = lane.promises.of(tenant, key)
        is_due = promise is not None and promise.due <= now
        begin_s, own_s = lane.begin_s(tenant, cost, now, is_due), cost / lane.rate.value
        # A request that is long by itself is no overload: others may have let it wait too long until it begins.
        over_s = begin_s - min(self.max_wait_s * (_SLACK if is_due else 1.0), deadline_s)
        if own_s < deadline_s:
            over_s = max(over_s, begin_s + own_s - deadline_s)
        if over_s > 0 and (lane.running or lane.tenants):
            if promise is not None and not is_due:
                return promise.due - now
            lane.promises.give(tenant, key, Promise(cost, reading_of(request), now, now + over_s))
            return over_s
        if promise is not None:
            lane.promises.take(tenant, key)
        waiting = _Waiting(request, cost, reading_of(request), now + deadline_s)
        lane.tenants.setdefault(tenant, deque()).append(waiting)
        return None

    def take(self) -> list[Request]:
        """Requests that the model shall have now, by deficit round robin between tenants.

        Source: Shreedhar and Varghese 1995, "Efficient Fair Queueing Using Deficit Round Robin".
        """
        now, requests = self.clock(), list[Request]()
        for lane in self._lanes.values():
            while lane.tenants and lane.has_room:
                tenant, queue = next(iter(lane.tenants.items()))
                if queue and queue[0].expires < now:
                    queue.popleft()
                elif queue and lane.deficits.get(tenant, 0.0) < queue[0].cost:
                    lane.deficits[tenant] = lane.deficits.get(tenant, 0.0) + _QUANTUM
                    lane.tenants.move_to_end(tenant)
                elif queue:
                    waiting = queue.popleft()
                    lane.deficits[tenant] -= waiting.cost
                    lane.start(waiting, now)
                    requests.append(waiting.request)
                if not queue:
                    del lane.tenants[tenant]
                    lane.deficits.pop(tenant, None)
        return requests

    def begin(self, request_id: str) -> None:
        """The request's answer is being written."""
        for lane in self._lanes.values():
            lane.begin(request_id, self.clock())

    def end(self, request_id: str, is_done: bool = True) -> bool:
        """The request is answered, or nobody waits for it any more; whether the model had it.

        Args:
            request_id: the request.
            is_done: its work counts for the rate.
        """
        for lane in self._lanes.values():
            if request_id in lane.running:
                lane.end(request_id, self.clock(), is_done)
                return True
            for tenant, queue in tuple(lane.tenants.items()):
                for waiting in [waiting for waiting in queue if waiting.request.id == request_id]:
                    queue.remove(waiting)
                if not queue:
                    del lane.tenants[tenant]
                    lane.deficits.pop(tenant, None)
        return False

    def set_rate(self, rate: float) -> None:
        """The rate as a self-test measured it, in units a second."""
        for lane in self._lanes.values():
            lane.rate.value = lane.begin_rate.value = rate

    @property
    def queued(self) -> int:
        """Requests that the model does not have yet."""
        return sum(sum(map(len, tuple(lane.tenants.values()))) for lane in self._lanes.values())

    @property
    def running(self) -> tuple[str, ...]:
        """Requests that the model has."""
        return tuple(request_id for lane in self._lanes.values() for request_id in tuple(lane.running))

    @property
    def wait_s(self) -> float:
        """Seconds until a short request of a new tenant would begin, in the slower lane."""
        return max(lane.begin_s("", 1.0, self.clock()) for lane in self._lanes.values())
