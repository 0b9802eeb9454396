"""Trackers that follow a run: TensorBoard, MLflow, trackio. Each is a listener of the run's events.

A package is imported when a run begins that names it. What a tracker raises never ends a training: it is told once, and
the run goes on without it.
"""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Protocol, Self, get_args

from overture.core.errors import ConfigError
from overture.core.files import write_json
from overture.core.packages import install
from overture.core.records.base import Options, Record, read_record
from overture.core.records.events import (
    CellEvent,
    DivergedEvent,
    EpochEvent,
    Event,
    Listener,
    NormsEvent,
    NoticeEvent,
    StepEvent,
)
from overture.core.records.scores import SplitScores

TrackerName = Literal["tensorboard", "mlflow", "trackio"]
PROJECT = "overture"
"""The experiment of MLflow, and the project of trackio."""

_FILE = "trackers.json"
_MAX_VALUE = 500


class Tracker(Protocol):
    """One tracker's record of one run."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Add values at a step."""
        ...

    def end(self, is_whole: bool) -> None:
        """Close the record of a run that was finished, or stopped before its end."""
        ...


class _KeptIds(Record):
    """``trackers.json``: how a resumed run finds its records again."""

    mlflow: str | None = None


def check_trackers(names: tuple[TrackerName, ...]) -> None:
    """Refuse trackers whose packages are missing; imports none.

    Raises:
        ConfigError: names the command that installs each.
    """
    missing = [name for name in dict.fromkeys(names) if find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"the package of a tracker is not installed: {', '.join(missing)}",
            where="track",
            fix="; ".join(install(name) for name in missing),
        )


class Trackers:
    """A listener that hands a run's figures to its trackers, and each event on.

    Args:
        names: the trackers.
        run: the run's name.
        folder: its folder; TensorBoard's files go into ``tensorboard`` in it.
        request: the resolved request.
        listener: gets every event too.
    """

    def __init__(
        self, names: tuple[TrackerName, ...], run: str, folder: Path, request: Options, listener: Listener
    ) -> None:
        self._listener, self._trackers, self._steps = listener, dict[str, Tracker](), dict[str, int]()
        params = dict(_flat(request))
        for name in dict.fromkeys(names):
            self._guarded(name, partial(self._open, name, run, folder, params))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for name, tracker in list(self._trackers.items()):
            self._guarded(name, partial(tracker.end, error is None))

    def __call__(self, event: Event) -> None:
        """Follow one event."""
        self._listener(event)
        match event:
            case StepEvent():
                self._steps[event.title] = event.step
                self._log(event.title, event.step, {"loss": event.loss, "grad_norm": event.grad_norm})
            case EpochEvent():
                names = ("train_loss", "validation_loss", "validation_score", "seconds")
                values = {name: getattr(event, name) for name in names}
                self._log(event.title, self._steps.get(event.title, event.epoch), values)
            case DivergedEvent():
                self._log(event.title, event.step, {"diverged": 1.0})
            case NormsEvent() if event.moved is not None:
                title = f"seed {event.seed}"
                self._log(title, self._steps.get(title, 0), {"moved": event.moved})
            case CellEvent() if event.value is not None:
                self._log(event.what, 0, {event.metric: event.value, "seconds": event.seconds})

    def result(self, metrics: Mapping[str, SplitScores]) -> None:
        """The scores of the run's end, at its last step."""
        step = max(self._steps.values(), default=0)
        for split, scores in metrics.items():
            values = {name: score.value for name, score in scores.scores.items()}
            if scores.loss is not None:
                values["loss"] = scores.loss
            self._log(split, step, values)

    def _log(self, title: str, step: int, values: Mapping[str, float]) -> None:
        tagged_values = {f"{_tag(title)}/{name}": float(value) for name, value in values.items()}
        for name, tracker in list(self._trackers.items()):
            self._guarded(name, partial(tracker.log, step, tagged_values))

    def _open(self, name: str, run: str, folder: Path, params: Mapping[str, str]) -> None:
        self._trackers[name] = _OPENED[name](run, folder, params)

    def _guarded(self, name: str, act: Callable[[], None]) -> None:
        """Call a tracker; one that raises is reported once and not called again."""
        try:
            # Standard output belongs to the command: some trackers greet there.
            with contextlib.redirect_stdout(sys.stderr):
                act()
        except Exception as error:
            self._trackers.pop(name, None)
            text = f"{type(error).__name__}: {error}".splitlines()[0][:200]
            self._listener(NoticeEvent(text=f"{name} failed and does not follow this run any more ({text})"))


class _TensorBoard:
    """Event files in the run's folder: ``tensorboard --logdir STORE/runs`` shows all runs."""

    def __init__(self, run: str, folder: Path, params: Mapping[str, str]) -> None:
        from tensorboard.compat.proto.event_pb2 import Event as TensorBoardEvent
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.plugins.hparams.summary_v2 import hparams_pb
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self._event, self._summary = TensorBoardEvent, Summary
        self._writer = EventFileWriter(str(folder / "tensorboard"))
        self._writer.add_event(TensorBoardEvent(wall_time=time.time(), summary=hparams_pb(dict(params), trial_id=run)))

    def log(self, step: int, values: Mapping[str, float]) -> None:
        parts = [self._summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        self._writer.add_event(self._event(wall_time=time.time(), step=step, summary=self._summary(value=parts)))

    def end(self, is_whole: bool) -> None:
        del is_whole
        self._writer.close()


class _MLflow:
    """A run of the experiment `PROJECT` at MLFLOW_TRACKING_URI; a resumed run goes on in it."""

    def __init__(self, run: str, folder: Path, params: Mapping[str, str]) -> None:
        from mlflow.tracking import MlflowClient

        self._client = MlflowClient()
        ids = read_record(_KeptIds, folder / _FILE)
        if ids and ids.mlflow:
            self._id = ids.mlflow
            self._client.update_run(self._id, status="RUNNING")
            return
        experiment = self._client.get_experiment_by_name(PROJECT)
        experiment_id = experiment.experiment_id if experiment else self._client.create_experiment(PROJECT)
        self._id = self._client.create_run(experiment_id, run_name=run).info.run_id
        for name, value in params.items():
            self._client.log_param(self._id, name, value)
        write_json(folder / _FILE, _KeptIds(mlflow=self._id).dump())

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._client.log_metric(self._id, name, value, step=step)

    def end(self, is_whole: bool) -> None:
        self._client.set_terminated(self._id, "FINISHED" if is_whole else "FAILED")


class _Trackio:
    """A run of the project `PROJECT`; a resumed run goes on in it."""

    def __init__(self, run: str, folder: Path, params: Mapping[str, str]) -> None:
        import trackio

        del folder
        self._run = trackio.init(project=PROJECT, name=run, config=dict(params), resume="allow", embed=False)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def end(self, is_whole: bool) -> None:
        del is_whole
        self._run.finish()


_OPENED: dict[str, Callable[[str, Path, Mapping[str, str]], Tracker]] = {
    "tensorboard": _TensorBoard,
    "mlflow": _MLflow,
    "trackio": _Trackio,
}
assert set(_OPENED) == set(get_args(TrackerName))


def _tag(title: str) -> str:
    """A title as every tracker takes it in a name."""
    return "".join(letter if letter.isalnum() or letter in "._-" else "-" for letter in title)


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested options by dotted name, each as a short text."""
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{name}.")
        elif value is not None:
            yield f"{prefix}{name}", str(value)[:_MAX_VALUE]
