"""Ctrl-C in a real process, going on afterwards, and two processes on one run."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from overture.cli.stop import StopRequest

MAIN = [sys.executable, "-c", "from overture.cli.app import main; main()"]


@pytest.fixture
def started(make_task, tmp_path) -> Iterator[subprocess.Popen[str]]:
    """A run of many epochs, in training."""
    task = make_task()
    words = ["tune", task, "--set", "train.epochs=100000", "--set", "train.patience=100000", "--json"]
    process = subprocess.Popen(
        [*MAIN, *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert process.stderr is not None
    for line in process.stderr:
        if "epoch 1/" in line:
            break
    yield process
    process.kill()
    process.communicate()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_first_signal_stops_where_it_can_go_on(started, number, overture, tmp_path) -> None:
    locked = overture("resume", "mood-1", "--json")
    assert (locked.code, locked.json["error"]) == (2, "StoreLocked")
    assert "another process" in locked.json["what"]
    assert overture("resume", "--json").json["runs"][0]["state"] == "running"
    started.send_signal(number)
    out, err = started.communicate(timeout=60)
    assert started.returncode == 130
    assert "Traceback" not in err
    assert json.loads(out)["resume"] == "overture resume mood-1"
    assert json.loads(out)["status"] == "interrupted"
    _end_soon(tmp_path / "store" / "runs" / "mood-1")
    done = overture("resume", "mood-1", "--json")
    assert (done.code, done.json["prompt"]) == (0, "mood@1")


def _end_soon(run: Path) -> None:
    """Ask for no more epochs than were done and two more, so that the test ends."""
    request = json.loads((run / "run.json").read_text())
    last = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    epochs = max(event["epoch"] for event in last if event["event"] == "epoch") + 3
    request["config"]["train"]["epochs"] = epochs
    (run / "run.json").write_text(json.dumps(request))


def test_second_signal_ends_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    with StopRequest("stopping") as stop:
        assert not stop()
        signal.raise_signal(signal.SIGINT)
        assert stop()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert capsys.readouterr().err == "stopping\n"


def test_killed_run_is_listed(started, overture) -> None:
    started.kill()
    started.communicate()
    runs = overture("resume", "--json").json["runs"]
    assert [(run["run"], run["state"]) for run in runs] == [("mood-1", "killed")]
    assert "overture resume mood-1" in overture("resume").out


def test_stop_between_training_and_baselines(make_task, overture, monkeypatch) -> None:
    from overture.jobs.tune import tune

    without_prompt = tune._without_prompt
    # A shell that starts the tests in the background has it ignored.
    usual = signal.getsignal(signal.SIGINT)

    def interrupted(work: object) -> object:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.05)
        return without_prompt(work)

    task = make_task()
    with monkeypatch.context() as patch:
        patch.setattr(tune, "_without_prompt", interrupted)
        done = overture("tune", task)
    assert done.code == 130
    assert "stopped; go on with: overture resume mood-1" in done.err
    assert overture("resume", "mood-1", "--json").json["status"] == "finished"
    assert signal.getsignal(signal.SIGINT) is usual


def test_one_of_two_seeds_stopped_before_its_result(make_task, overture, monkeypatch) -> None:
    from overture.jobs.tune import seeds

    seed_result = seeds._seed_result

    def second_is_lost(work: object, seed: int, *rest: object) -> object:
        if seed == 1:
            raise KeyboardInterrupt
        return seed_result(work, seed, *rest)

    task = make_task()
    with monkeypatch.context() as patch:
        patch.setattr(seeds, "_seed_result", second_is_lost)
        done = overture("tune", task, "--seeds", "2", "--json")
    assert (done.code, done.json["status"], done.json["prompt"]) == (130, "interrupted", None)
    found = overture("resume", "mood-1", "--json").json
    assert found["seeds"]["test"]["n_seeds"] == 2


def test_a_cohort_of_seeds_stopped_and_resumed_is_the_same(make_task, overture, monkeypatch, tmp_path) -> None:
    from overture.train.fit import FitTogether

    whole = overture("tune", make_task(), "--seeds", "3", "--name", "whole", "--json").json
    step = FitTogether._step

    def stopping(together: object, batches: object) -> None:
        step(together, batches)
        if together.fits[0].progress.step == 6:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.05)

    with monkeypatch.context() as patch:
        patch.setattr(FitTogether, "_step", stopping)
        done = overture("tune", make_task(), "--seeds", "3", "--name", "cut", "--json")
    assert (done.code, done.json["status"]) == (130, "interrupted")
    again = overture("resume", "cut-1", "--json").json
    for seed in range(3):
        files = [tmp_path / "store" / "runs" / run / f"seed-{seed}" for run in ("whole-1", "cut-1")]
        assert (
            files[0].joinpath("prompt.safetensors").read_bytes() == files[1].joinpath("prompt.safetensors").read_bytes()
        )
    assert again["metrics"] == whole["metrics"]
    assert again["seeds"]["each"] == whole["seeds"]["each"]
    assert any("3 members in 1 pass" in note for note in whole["notices"])


def test_what_was_told_before_a_stop_stands_in_the_result(make_task, overture, monkeypatch) -> None:
    """Examples are counted once, before training; a resumed run only reads what they scored."""
    with monkeypatch.context() as patch:
        patch.setattr(StopRequest, "__call__", lambda self: True)
        stopped = overture("tune", make_task(), "--set", "shots=50", "--json")
    assert stopped.code == 130, stopped.err
    found = overture("resume", stopped.json["run"], "--json").json
    (told,) = [text for text in found["notices"] if "in-context examples fit" in text]
    assert "of 50" in told
