"""Requests that wait for the model: admitted by estimated seconds, fair between tenants, in two lanes.

Rows that are answered in one pass do not wait behind long texts, so each lane has its own order, window and rate. Costs
are in units of about one token that is read; a lane learns how many of them it gets done in a second.
"""

import math
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field

from overture.core.records.serving import Request

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


def cost_of(request: Request) -> float:
    """Units of a request, about: the rate is measured in the same units, so only their ratios matter."""
    num_input = len(request.ids) + sum(len(str(value)) for value in request.row.values()) / _CHARACTERS
    # Prompts on one text share it; each has its own question.
    num_read = num_input + 8.0 * len(request.prompts)
    if request.want != "write":
        return num_read
    num_new = _DEFAULT_NEW if request.max_new_tokens is None else request.max_new_tokens
    return num_read + _WRITTEN * num_new


@dataclass(slots=True)
class _Waiting:
    request: Request
    cost: float
    expires: float


@dataclass(slots=True)
class _Lane:
    """One order of requests.

    Args:
        window: units that the model may have at once.
        most: requests that it may have at once.
        rate: units a second, before anything is measured.
        is_parallel: the model works on all that it has at once, not on one after the other.
    """

    window: float
    most: int
    rate: float
    is_parallel: bool = False
    tenants: "OrderedDict[str, deque[_Waiting]]" = field(default_factory=OrderedDict)
    deficits: dict[str, float] = field(default_factory=dict)
    running: dict[str, float] = field(default_factory=dict)
    units: float = 0.0
    busy_s: float = 0.0
    since: float = 0.0

    def start(self, waiting: _Waiting, now: float) -> None:
        """The model gets a request; where it had none, its time begins now."""
        if not self.running:
            self.since = now
        self.running[waiting.request.id] = waiting.cost

    def end(self, request_id: str, now: float, is_done: bool) -> None:
        """The model has one request less; the rate is that of the time in which it had any."""
        units = self.running.pop(request_id)
        if not is_done:
            return
        passed = now - self.since
        fade = math.exp(-passed / _MEMORY_S)
        self.units, self.busy_s, self.since = self.units * fade + units, self.busy_s * fade + passed, now
        if self.busy_s > _LEAST_S:
            self.rate = self.units / self.busy_s

    @property
    def is_free(self) -> bool:
        """Whether a new request begins at once, beside those that the model has."""
        return self.is_parallel and not self.tenants and self.has_room

    @property
    def has_room(self) -> bool:
        """Whether the model may have one more request."""
        return len(self.running) < self.most and sum(self.running.values()) < self.window

    def wait_s(self, tenant: str, cost: float, now: float) -> float:
        """Seconds until a new request of a tenant is done: in a fair order no other gets more done before it."""
        # Copies: metrics are read by other threads, too.
        ahead = {name: sum(waiting.cost for waiting in tuple(queue)) for name, queue in tuple(self.tenants.items())}
        mine = ahead.pop(tenant, 0.0) + cost
        units = mine + sum(min(theirs, mine) for theirs in ahead.values())
        begun = sum(self.running.values())
        if self.is_parallel:
            # Of many that are worked on at once one is done, on average, when one's work is.
            begun /= max(1, len(self.running))
        return units / self.rate + max(0.0, begun / self.rate - (now - self.since))


class Queue:
    """Which requests the model gets next.

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
            "answer": _Lane(window, 512, rate),
            "write": _Lane(math.inf, slots, rate, is_parallel=True),
        }

    def put(self, request: Request) -> float | None:
        """Let a request wait its turn.

        Returns:
            None where it is admitted; else the seconds after which it would be.
        """
        lane, cost, now = self._lanes["write" if request.want == "write" else "answer"], cost_of(request), self.clock()
        done_s, deadline_s = lane.wait_s(request.tenant, cost, now), request.deadline_s or math.inf
        # A request that is long by itself is no overload: others may have let it wait too long until it begins.
        begin_s = 0.0 if lane.is_free else done_s - cost / lane.rate
        over_s = begin_s - min(self.max_wait_s, deadline_s)
        if cost / lane.rate < deadline_s:
            over_s = max(over_s, done_s - deadline_s)
        if over_s > 0 and (lane.running or lane.tenants):
            return over_s
        waiting = _Waiting(request, cost, now + (request.deadline_s or math.inf))
        lane.tenants.setdefault(request.tenant, deque()).append(waiting)
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
            lane.rate = rate

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
        """Seconds that a short request of a new tenant would wait, in the slower lane."""
        return max(lane.wait_s("", 1.0, self.clock()) for lane in self._lanes.values())
