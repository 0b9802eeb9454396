"""Trackers follow a run: TensorBoard's files read back, the others against modules of the same calls."""

import math
import sys
from types import ModuleType, SimpleNamespace

import pytest

from overture.core.errors import ConfigError
from overture.core.records.events import CellEvent, EpochEvent, NoticeEvent, StepEvent
from overture.core.records.scores import Interval, SplitScores
from overture.report import track
from overture.report.track import Trackers, check_trackers

FACTS = {"seed": 3, "num_epochs": 2, "num_steps": 4}
EPOCH = {"train_loss": 0.6, "validation_loss": 0.5, "validation_score": 0.75, "seconds": 1.0, "is_best": True}
REQUEST = {"task": {"name": "mood", "labels": {"good": " good"}}, "train": {"lr": None, "epochs": 2}}
SCORES = {"test": SplitScores(scores={"accuracy": Interval(value=0.9, low=0.8, high=1.0, n=10)}, loss=0.3)}


def follow(name, folder, heard=None, is_failing=False):
    heard = [] if heard is None else heard
    with Trackers((name,), "mood-1", folder, REQUEST, heard.append) as trackers:
        for step in (1, 2):
            trackers(StepEvent(epoch=0, step=step, loss=1 / step, grad_norm=0.1, **FACTS))
        trackers(EpochEvent(epoch=0, **EPOCH, **FACTS))
        trackers(CellEvent(what="lora 8 rows, seed 0", metric="accuracy", value=0.5, seconds=2.0))
        if is_failing:
            raise KeyboardInterrupt
        trackers.result(SCORES)
    return heard


def test_tensorboard_reads_the_curves_and_the_settings(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    heard = follow("tensorboard", tmp_path)
    assert len(heard) == 4
    written = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(point.step, round(point.value, 3)) for point in written.Scalars("seed-3/loss")] == [(1, 1.0), (2, 0.5)]
    assert [point.step for point in written.Scalars("seed-3/validation_score")] == [2]
    assert math.isclose(written.Scalars("test/accuracy")[0].value, 0.9, rel_tol=1e-6)
    assert written.Scalars("lora-8-rows--seed-0/accuracy")[0].value == 0.5
    assert any("hparams" in tag for tag in written.Tags()["tensors"])


class Calls(list):
    def note(self, name, result=None):
        def call(*given, **named):
            self.append((name, given, named))
            return result

        return call


@pytest.fixture
def fake_mlflow(monkeypatch):
    calls = Calls()
    run = SimpleNamespace(info=SimpleNamespace(run_id="abc"))

    class MlflowClient:
        get_experiment_by_name = staticmethod(calls.note("get_experiment_by_name"))
        create_experiment = staticmethod(calls.note("create_experiment", "7"))
        create_run = staticmethod(calls.note("create_run", run))
        update_run = staticmethod(calls.note("update_run"))
        log_param = staticmethod(calls.note("log_param"))
        log_metric = staticmethod(calls.note("log_metric"))
        set_terminated = staticmethod(calls.note("set_terminated"))

    module, tracking = ModuleType("mlflow"), ModuleType("mlflow.tracking")
    tracking.MlflowClient = MlflowClient
    monkeypatch.setitem(sys.modules, "mlflow", module)
    monkeypatch.setitem(sys.modules, "mlflow.tracking", tracking)
    return calls


def test_mlflow_gets_parameters_metrics_and_the_end(tmp_path, fake_mlflow):
    follow("mlflow", tmp_path)
    assert ("create_run", ("7",), {"run_name": "mood-1"}) in fake_mlflow
    params = {given[1]: given[2] for name, given, _ in fake_mlflow if name == "log_param"}
    assert params == {"task.name": "mood", "task.labels.good": " good", "train.epochs": "2"}
    metrics = {(given[1], named["step"]): given[2] for name, given, named in fake_mlflow if name == "log_metric"}
    assert metrics[("seed-3/loss", 2)] == 0.5
    assert metrics[("test/accuracy", 2)] == 0.9
    assert fake_mlflow[-1] == ("set_terminated", ("abc", "FINISHED"), {})


def test_a_resumed_run_goes_on_in_its_record(tmp_path, fake_mlflow):
    with pytest.raises(KeyboardInterrupt):
        follow("mlflow", tmp_path, is_failing=True)
    assert fake_mlflow[-1] == ("set_terminated", ("abc", "FAILED"), {})
    fake_mlflow.clear()
    follow("mlflow", tmp_path)
    names = [name for name, *_ in fake_mlflow]
    assert "create_run" not in names
    assert fake_mlflow[0] == ("update_run", ("abc",), {"status": "RUNNING"})


def test_trackio_gets_the_same(tmp_path, monkeypatch, capsys):
    calls = Calls()
    run = SimpleNamespace(log=calls.note("log"), finish=calls.note("finish"))
    module = ModuleType("trackio")

    def init(**named):
        print("a greeting")
        calls.append(("init", (), named))
        return run

    module.init = init
    monkeypatch.setitem(sys.modules, "trackio", module)
    follow("trackio", tmp_path)
    _, _, named = calls[0]
    assert (named["project"], named["name"], named["resume"]) == ("overture", "mood-1", "allow")
    assert named["config"]["task.name"] == "mood"
    assert ("log", ({"seed-3/loss": 0.5, "seed-3/grad_norm": 0.1},), {"step": 2}) in calls
    assert calls[-1][0] == "finish"
    # Standard output belongs to the command's result.
    assert capsys.readouterr().out == ""


def test_a_tracker_that_fails_is_told_once_and_ends_nothing(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError("the server is away")

    monkeypatch.setitem(track._OPENED, "mlflow", lambda *_: SimpleNamespace(log=refuse, end=refuse))
    heard = follow("mlflow", tmp_path)
    notices = [event for event in heard if isinstance(event, NoticeEvent)]
    assert len(notices) == 1
    assert "the server is away" in notices[0].text
    assert len(heard) == 5


def test_a_missing_package_is_refused_with_its_command(monkeypatch):
    monkeypatch.setattr(track, "find_spec", lambda name: None)
    with pytest.raises(ConfigError) as refused:
        check_trackers(("tensorboard", "mlflow"))
    assert "pip install" in refused.value.fix
    check_trackers(())
