"""The progress of a run: live bars on a terminal, a line now and then elsewhere. Standard error only."""

import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from overture.cli.out import say, seconds_text
from overture.core.records.events import (
    CellEvent,
    DivergedEvent,
    EpochEvent,
    Event,
    NoticeEvent,
    ProgressEvent,
    StartEvent,
    StepEvent,
)

if TYPE_CHECKING:
    from rich.progress import TaskID

_LINE_EVERY_S = 10.0


class Display(Protocol):
    """Shows events."""

    def __call__(self, event: Event) -> None:
        """Show one event."""
        ...

    def live(self) -> AbstractContextManager[Any]:
        """Hold this while events come."""
        ...


def display() -> Display:
    """Live bars on a terminal, lines elsewhere."""
    return Bars() if sys.stderr.isatty() else Lines()


def stages(show: Display) -> Callable[[str, int, int], None]:
    """A callback for library functions, which call it with (what, done, all)."""
    return lambda what, done, total: show(ProgressEvent(what=what, done=done, total=total))


def lasting_line(event: Event) -> str:
    """The line that an event leaves behind, or nothing."""
    match event:
        case StartEvent():
            return f"run {event.run} in {event.folder}"
        case NoticeEvent():
            return f"note: {event.text}"
        case EpochEvent():
            best = ", the best so far" if event.is_best else ""
            return (
                f"{event.title}: epoch {event.epoch + 1}/{event.num_epochs}: training loss {event.train_loss:.3f}, "
                f"validation loss {event.validation_loss:.3f}, validation score {event.validation_score:.3f}{best}"
            )
        case CellEvent():
            score = "diverged" if event.value is None else f"{event.metric} {event.value:.3f}"
            return f"{event.what}: {score}, {seconds_text(event.seconds)}"
        case DivergedEvent():
            return f"{event.title}: the loss became NaN or infinite at step {event.step + 1}; training ends here"
    return ""


@dataclass(frozen=True, slots=True)
class Stage:
    """A piece of work under way.

    Args:
        what: its name.
        done: how far it is.
        total: how much it is in all.
        detail: more about it; empty for all but training.
    """

    what: str
    done: int
    total: int
    detail: str = ""


class Stages:
    """The pieces of work that events are about; remembers each training's best validation score."""

    def __init__(self) -> None:
        self._best_scores: dict[str, float] = {}

    def stage_of(self, event: Event) -> Stage | None:
        """The piece of work that an event moves on; None for other events."""
        if isinstance(event, EpochEvent) and event.is_best:
            self._best_scores[event.title] = event.validation_score
        if isinstance(event, ProgressEvent):
            return Stage(event.what, event.done, event.total)
        if not isinstance(event, StepEvent):
            return None
        best = f", best {self._best_scores[event.title]:.3f}" if event.title in self._best_scores else ""
        detail = f"epoch {event.epoch + 1}/{event.num_epochs}, loss {event.loss:.3f}{best}"
        return Stage(f"{event.title}: training", event.step, event.num_steps, detail)


class Bars:
    """One bar for each piece of work under way, with the time that is left."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        # Text of others is shown as it is: square brackets are no markup.
        plain = {"markup": False}
        columns = (
            TextColumn("{task.description}", **plain),  # type: ignore[arg-type]
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeRemainingColumn(elapsed_when_finished=True),
            TextColumn("{task.fields[detail]}", **plain),  # type: ignore[arg-type]
        )
        self.progress = Progress(*columns, console=Console(stderr=True), transient=True)
        self._tasks: dict[str, TaskID] = {}
        self._stages = Stages()

    def live(self) -> AbstractContextManager[Any]:
        """Draws while it is held."""
        return self.progress

    def __call__(self, event: Event) -> None:
        """Move a bar, or print a line above the bars."""
        if line := lasting_line(event):
            self.progress.console.print(line, markup=False, highlight=False)
        stage = self._stages.stage_of(event)
        if stage is None:
            return
        if stage.what not in self._tasks:
            self._tasks[stage.what] = self.progress.add_task(stage.what, total=stage.total, detail=stage.detail)
        task = self._tasks[stage.what]
        self.progress.update(task, completed=stage.done, total=stage.total, detail=stage.detail)
        if stage.done >= stage.total:
            self.progress.remove_task(self._tasks.pop(stage.what))


class Lines:
    """A line for each piece of work that took a while, and every ten seconds in between."""

    def __init__(self, every_s: float = _LINE_EVERY_S) -> None:
        self.every_s = every_s
        self._started: dict[str, tuple[float, int]] = {}
        self._last_line = time.monotonic()
        self._stages = Stages()

    def live(self) -> AbstractContextManager[Any]:
        """Nothing to hold."""
        return nullcontext()

    def __call__(self, event: Event) -> None:
        """Print a line when it is time."""
        if line := lasting_line(event):
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
        elif now - self._last_line < self.every_s or done == first:
            return
        self._last_line = now
        left = f", about {seconds_text((now - start) / (done - first) * (total - done))} left" if done < total else ""
        say(f"{stage.what}: {done}/{total}{left}" + (f", {stage.detail}" if stage.detail else ""))
