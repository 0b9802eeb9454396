"""How far a job is and how long it still takes, from its plan and its events."""

import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime

from overture.core.records.events import Event, PlanEvent, PlanStep, StageEvent, StartEvent, StepEvent

_FIRST_SHARE = 0.05
"""Share of a training from which on its own pace says how long it still takes."""


class Whole:
    """How far the whole job is: the step of its plan, the time since its start and the time left.

    Args:
        clock: seconds that only grow.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._start = clock()
        self._plan: list[PlanStep] = []
        self._step = 0
        self._step_start = self._first_start = self._start
        self._trained: tuple[int, float] | None = None
        self._share = self._left_in_step = 0.0

    def __call__(self, event: Event) -> str:
        """Move on; returns the line that a step leaves behind when it begins, or nothing."""
        now = self._clock()
        match event:
            case PlanEvent():
                self._plan, self._step, self._first_start = event.steps, 0, now
            case StageEvent():
                self._step, self._step_start, self._trained, self._share = event.number, now, None, 0.0
                return f"step {event.number} of {len(self._plan)}: {self._plan[event.number - 1].what}"
            case StepEvent():
                # The first steps include work that is done once, so the time of a step is measured after them.
                self._trained = self._trained or (event.step, now)
                first, since = self._trained
                self._share = event.step / event.num_steps
                self._left_in_step = (now - since) / max(event.step - first, 1) * (event.num_steps - event.step)
        return ""

    @property
    def title(self) -> str:
        """The step of the plan."""
        return f"step {self._step} of {len(self._plan)}" if self._step else ""

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return self._clock() - self._start

    @property
    def left(self) -> float | None:
        """About how many seconds the whole job still takes; None where there is no plan."""
        if not self._step:
            return None
        planned_seconds = [step.seconds or 0.0 for step in self._plan]
        done_seconds = sum(planned_seconds[: self._step - 1])
        # How far measured and planned times differ so far corrects the plan of the remaining steps.
        pace = (self._step_start - self._first_start) / done_seconds if done_seconds > 0 else 1.0
        in_step = max(pace * planned_seconds[self._step - 1] - (self._clock() - self._step_start), 0.0)
        if self._trained and self._share > _FIRST_SHARE:
            in_step = self._left_in_step
        return in_step + pace * sum(planned_seconds[self._step :])


def whole_of(events: Iterable[Event], now: float) -> Whole:
    """How far a run is that another process works on, by the events of its folder since it last began.

    Args:
        events: of the run, in their order.
        now: seconds since the epoch.
    """
    moment = now

    def clock() -> float:
        return moment

    whole = Whole(clock)
    for event in events:
        moment = datetime.fromisoformat(event.time).astimezone(UTC).timestamp() if event.time else moment
        if isinstance(event, StartEvent):
            whole = Whole(clock)
        whole(event)
    moment = now
    return whole
