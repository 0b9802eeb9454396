"""The progress of a run: live bars on a terminal, a line now and then elsewhere. Standard error only."""

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from overture.cli.out import is_quiet, is_verbose, new_notes, say, seconds_text, show_text, wrapped
from overture.cli.stop import StopRequest
from overture.core.records.events import (
    CellEvent,
    DivergedEvent,
    EpochEvent,
    Event,
    NoticeEvent,
    PlanEvent,
    PlanStep,
    ProgressEvent,
    StartEvent,
    StepEvent,
)
from overture.report.whole import Whole

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.progress import Task, TaskID

_LINE_EVERY_S = 10.0
_WIDE, _BAR_WIDTH = 70, 20
"""A screen's columns from which on there is a bar beside the figures, and the bar's."""


class Display(Protocol):
    """Shows events."""

    def __call__(self, event: Event) -> None:
        """Show one event."""
        ...

    def live(self) -> AbstractContextManager[Any]:
        """A context to hold while events come."""
        ...


def display() -> Display:
    """Live bars on a terminal, lines elsewhere; nothing for a quiet command."""
    if is_quiet():
        return Silent()
    return Bars() if sys.stderr.isatty() else Lines()


@contextmanager
def live_display() -> Iterator[Display]:
    """A display that is live within the block."""
    show = display()
    with show.live():
        yield show


@contextmanager
def stoppable(after: str = "step") -> Iterator[tuple[Display, StopRequest]]:
    """A live display, and whether Ctrl-C has asked the work to stop; it then ends after its current `after`."""
    with (
        StopRequest(f"stopping after this {after}; press Ctrl-C again to stop at once") as stop,
        live_display() as show,
    ):
        yield show, stop


def lasting_line(event: Event) -> str:
    """The line printed for an event; empty for none."""
    text = ""
    match event:
        case StartEvent():
            text = f"run {event.run} in {event.folder}"
        case NoticeEvent():
            text = f"note: {event.text}" if new_notes([event.text]) else ""
        case PlanEvent():
            text = plan_text(event.steps)
        case EpochEvent():
            best = ", the best so far" if event.is_best else ""
            text = (
                f"{event.title}: epoch {event.epoch + 1}/{event.num_epochs}: training loss {event.train_loss:.3f}, "
                f"validation loss {event.validation_loss:.3f}, validation score {event.validation_score:.3f}{best}"
            )
        case CellEvent():
            score = "diverged" if event.value is None else f"{event.metric} {event.value:.3f}"
            text = f"{event.what}: {score}, {seconds_text(event.seconds)}"
        case DivergedEvent():
            text = f"{event.title}: the loss became NaN or infinite at step {event.step + 1}; training ends here"
    return text


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage of a run, for its bar.

    Args:
        what: its name.
        done: how far it is.
        total: how much it is in all.
        detail: more about it.
    """

    what: str
    done: int
    total: int
    detail: str = ""


class Stages:
    """Turns events into stages, and remembers each training's best validation score."""

    def __init__(self) -> None:
        self._best_scores: dict[str, float] = {}

    def stage_of(self, event: Event) -> Stage | None:
        """The stage that an event advances; None for other events."""
        if isinstance(event, EpochEvent) and event.is_best:
            self._best_scores[event.title] = event.validation_score
        if isinstance(event, ProgressEvent):
            return Stage(event.what, event.done, event.total, event.detail)
        if not isinstance(event, StepEvent):
            return None
        best = f", best {self._best_scores[event.title]:.3f}" if event.title in self._best_scores else ""
        detail = f"epoch {event.epoch + 1}/{event.num_epochs}, loss {event.loss:.3f}{best}"
        return Stage(f"{event.title}: training", event.step, event.num_steps, detail)


def plan_text(steps: Sequence[PlanStep]) -> str:
    """The steps of a run, and about how long they take where that is known."""
    step_seconds = [step.seconds for step in steps if step.seconds is not None]
    lines = [
        f"plan, about {seconds_text(sum(step_seconds))} in all:"
        if step_seconds and len(step_seconds) == len(steps)
        else "plan:"
    ]
    for number, step in enumerate(steps, 1):
        took = "" if step.seconds is None else f" ({seconds_text(step.seconds)})"
        lines.append(f"  {number}. {step.what}{took}")
    return "\n".join(lines)


class Silent:
    """Shows nothing."""

    def live(self) -> AbstractContextManager[Any]:
        """Nothing to hold."""
        return nullcontext()

    def __call__(self, event: Event) -> None:
        """Drop the event."""


class Bars:
    """A bar for each piece of work under way, and a line for the whole job."""

    def __init__(self, console: "Console | None" = None) -> None:
        from rich.console import Console
        from rich.progress import Progress

        whole = Whole()

        class Pieces(Progress):
            """Draws each piece on a line of its own, its figures whole, and the whole job below."""

            def get_renderables(self) -> "Iterator[RenderableType]":
                for task in self.tasks:
                    yield from _piece_lines(task, self.console.width)
                if self.tasks and (left_s := whole.left) is not None:
                    elapsed, left_text = seconds_text(whole.elapsed), seconds_text(left_s)
                    yield wrapped(f"{whole.title}: {elapsed} so far, about {left_text} left in all", self.console.width)

        # The speed is that of the whole piece: one of the last seconds is unknown while a step takes longer.
        console = console or Console(stderr=True)
        self.progress = Pieces(console=console, transient=True, speed_estimate_period=3600)
        self._tasks: dict[str, TaskID] = {}
        self._stages = Stages()
        self._whole = whole

    def live(self) -> AbstractContextManager[Any]:
        """Draws while it is held."""
        return self.progress

    def __call__(self, event: Event) -> None:
        """Move a bar, or print a line above the bars."""
        for line in filter(None, (lasting_line(event), self._whole(event))):
            show_text(self.progress.console, line)
        stage = self._stages.stage_of(event)
        if stage is None:
            return
        if stage.what not in self._tasks:
            self._tasks[stage.what] = self.progress.add_task(stage.what, total=stage.total, detail="")
        task = self._tasks[stage.what]
        self.progress.update(task, completed=stage.done, total=stage.total, detail=stage.detail)
        if stage.done >= stage.total:
            self.progress.remove_task(self._tasks.pop(stage.what))


def _piece_lines(task: "Task", width: int) -> "Iterator[RenderableType]":
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    left_s = task.time_remaining
    figures = f"{task.completed:.0f}/{task.total or 0:.0f}  {_clock_text(task.elapsed or 0)}"
    figures += "" if left_s is None else f", {_clock_text(left_s)} left"
    bar_width = _BAR_WIDTH if width >= _WIDE else 0
    room = width - len(figures) - (bar_width + 2 if bar_width else 0) - 2
    name = task.description if len(task.description) <= room else f"{task.description[: max(room - 1, 8)]}…"
    line = Table.grid(padding=(0, 2, 0, 0))
    bar = [ProgressBar(total=task.total, completed=task.completed, width=bar_width)] if bar_width else []
    line.add_row(Text(name, no_wrap=True), *bar, Text(figures, no_wrap=True))
    yield line
    if task.fields["detail"]:
        yield Text(wrapped(f"  {task.fields['detail']}", width), style="dim")


def _clock_text(seconds: float) -> str:
    minutes, seconds_left = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds_left:02}" if hours else f"{minutes}:{seconds_left:02}"


class Lines:
    """A line for each piece of work that took a while, and every ten seconds in between."""

    def __init__(self, every_s: float = _LINE_EVERY_S) -> None:
        self.every_s = every_s
        self._started: dict[str, tuple[float, int]] = {}
        self._last_line = time.monotonic()
        self._stages = Stages()
        self._whole = Whole()

    def live(self) -> AbstractContextManager[Any]:
        """Nothing to hold."""
        return nullcontext()

    def __call__(self, event: Event) -> None:
        """Print a line when it is time."""
        for line in filter(None, (lasting_line(event), self._whole(event))):
            say(line)
        stage = self._stages.stage_of(event)
        if stage is None:
            return
        now, done, total = time.monotonic(), stage.done, stage.total
        start, first = self._started.setdefault(stage.what, (now, done))
        if done >= total:
            del self._started[stage.what]
            if now - start < self.every_s / 5:
                return
        elif not is_verbose() and (now - self._last_line < self.every_s or done == first):
            return
        self._last_line = now
        left_text = ""
        if first < done < total:
            left_text = f", about {seconds_text((now - start) / (done - first) * (total - done))} left"
        if (whole := self._whole.left) is not None:
            left_text += (
                f" ({self._whole.title}: {seconds_text(self._whole.elapsed)} so far, {seconds_text(whole)} in all left)"
            )
        say(f"{stage.what}: {done}/{total}{left_text}" + (f", {stage.detail}" if stage.detail else ""))
