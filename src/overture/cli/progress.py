"""What a run tells while it works: live bars on a terminal, a line now and then elsewhere. Standard error only."""

import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, Protocol

from overture.cli.out import say, seconds_text

if TYPE_CHECKING:
    from rich.progress import TaskID

Event = dict[str, Any]
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
    """What library functions call with (what, done, all)."""
    return lambda what, done, total: show({"event": "progress", "what": what, "done": done, "total": total})


def epoch_line(event: Event) -> str:
    """What an epoch brought."""
    best = ", the best so far" if event["is_best"] else ""
    return (
        f"{_who(event)}epoch {event['epoch'] + 1}/{event['num_epochs']}: training loss {event['train_loss']:.3f}, "
        f"validation loss {event['validation_loss']:.3f}, validation score {event['validation_score']:.3f}{best}"
    )


def lasting_line(event: Event) -> str:
    """The line that an event leaves behind, or nothing."""
    match event["event"]:
        case "start":
            return f"run {event['run']} in {event['folder']}"
        case "notice":
            return f"note: {event['text']}"
        case "epoch":
            return epoch_line(event)
        case "cell":
            score = "diverged" if event["value"] is None else f"{event['metric']} {event['value']:.3f}"
            return f"{event['what']}: {score}, {seconds_text(event['seconds'])}"
        case "diverged":
            return f"{_who(event)}the loss became NaN or infinite at step {event['step'] + 1}; training ends here"
    return ""


def stage_of(event: Event) -> tuple[str, int, int] | None:
    """Which piece of work an event moves on, how far, and how much it is in all."""
    if event["event"] == "progress":
        return event["what"], event["done"], event["total"]
    if event["event"] == "step":
        return f"{_who(event)}training", event["step"], event["num_steps"]
    return None


def _who(event: Event) -> str:
    if "who" in event:
        return f"{event['who']}: "
    return f"seed {event['seed']}: " if "seed" in event else ""


def _detail(event: Event, best: float | None) -> str:
    if event["event"] != "step":
        return ""
    text = f"epoch {event['epoch'] + 1}/{event['num_epochs']}, loss {event['loss']:.3f}"
    return text if best is None else f"{text}, best {best:.3f}"


class _Best:
    """The best validation score of each seed, or other training, so far."""

    def __init__(self) -> None:
        self.scores: dict[str, float] = {}

    def note(self, event: Event) -> None:
        if event["event"] == "epoch" and event["is_best"]:
            self.scores[_who(event)] = event["validation_score"]

    def of(self, event: Event) -> float | None:
        return self.scores.get(_who(event))


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
        self._best = _Best()

    def live(self) -> AbstractContextManager[Any]:
        """Draws while it is held."""
        return self.progress

    def __call__(self, event: Event) -> None:
        """Move a bar, or print a line above the bars."""
        self._best.note(event)
        if line := lasting_line(event):
            self.progress.console.print(line, markup=False, highlight=False)
        if stage := stage_of(event):
            self._move(*stage, _detail(event, self._best.of(event)))

    def _move(self, what: str, done: int, total: int, detail: str) -> None:
        if what not in self._tasks:
            self._tasks[what] = self.progress.add_task(what, total=total, detail=detail)
        self.progress.update(self._tasks[what], completed=done, total=total, detail=detail)
        if done >= total:
            self.progress.remove_task(self._tasks.pop(what))


class Lines:
    """A line for each piece of work that took a while, and every ten seconds in between."""

    def __init__(self, every_s: float = _LINE_EVERY_S) -> None:
        self.every_s = every_s
        self._started: dict[str, tuple[float, int]] = {}
        self._told = time.monotonic()
        self._best = _Best()

    def live(self) -> AbstractContextManager[Any]:
        """Nothing to hold."""
        return nullcontext()

    def __call__(self, event: Event) -> None:
        """Print a line when it is time."""
        self._best.note(event)
        if line := lasting_line(event):
            say(line)
        if stage := stage_of(event):
            self._tell(*stage, _detail(event, self._best.of(event)))

    def _tell(self, what: str, done: int, total: int, detail: str) -> None:
        now = time.monotonic()
        start, first = self._started.setdefault(what, (now, done))
        if done >= total:
            del self._started[what]
            if now - start < self.every_s / 5:
                return
        elif now - self._told < self.every_s or done == first:
            return
        self._told = now
        left = f", about {seconds_text((now - start) / (done - first) * (total - done))} left" if done < total else ""
        say(f"{what}: {done}/{total}{left}" + (f", {detail}" if detail else ""))
