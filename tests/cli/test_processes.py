"""Commands in processes of their own: adapters in one; a run in two that stops, goes on and loses a process."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

MAIN = [sys.executable, "-m", "overture"]


def test_every_baseline_trains_in_a_process_of_its_own(make_task, overture) -> None:
    """A command imports transformers lean (`engine.lean`); what is left out, a baseline may need (peft did)."""
    task = make_task(train={"epochs": 1, "batch_size": 4})
    ways = [f"--way={way}" for way in ("lora", "lora:after", "full", "bitfit:norms", "head", "linear")]
    words = [*MAIN, "compare", str(task), *ways, "--size=4", "--seeds=1", "--min-steps=1", "--default-rates", "--json"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["failed"] == []
    tuned = subprocess.run(
        [*MAIN, "tune", task, "--adapter=lora", "--json"], capture_output=True, text=True, check=False
    )
    assert tuned.returncode == 0, tuned.stderr
    assert overture("predict", "mood@1", "a fine film", "--json").code == 0


def started_by_two(*words: str | Path) -> list[subprocess.Popen[str]]:
    """A command in two processes, as torchrun starts them; the first has begun to train."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]
    both = []
    for rank in (0, 1):
        facts = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "MASTER_PORT": port}
        environment = {**os.environ, "MASTER_ADDR": "127.0.0.1", "OMP_NUM_THREADS": "1"}
        environment |= {name: str(value) for name, value in facts.items()}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        both.append(subprocess.Popen([*MAIN, *map(str, words)], env=environment, **pipes))
    assert both[0].stderr is not None
    for line in both[0].stderr:
        if ": epoch " in line:
            break
    return both


def ended(both: list[subprocess.Popen[str]]) -> list[tuple[int, str, str]]:
    outputs = [process.communicate(timeout=120) for process in both]
    return [(process.returncode, *output) for process, output in zip(both, outputs, strict=True)]


def end_soon(run: Path) -> None:
    """Ask for no more epochs than were done and two more."""
    request = json.loads((run / "run.json").read_text())
    epochs = [json.loads(line).get("epoch") for line in (run / "events.jsonl").read_text().splitlines()]
    request["config"]["train"]["epochs"] = max(epoch for epoch in epochs if epoch is not None) + 3
    (run / "run.json").write_text(json.dumps(request))


def test_two_processes_stop_go_on_and_survive_each_other(make_task, overture, tmp_path) -> None:
    task, run = make_task(), tmp_path / "store" / "runs" / "mood-1"
    # Only the second is asked to stop: both do, after the same step.
    words = ["--set", "train.epochs=100000", "--set", "train.patience=100000", "--json", "--tensor-parallel", "2"]
    both = started_by_two("tune", task, *words)
    both[1].send_signal(signal.SIGINT)
    (first_code, out, err), (second_code, *spoken) = ended(both)
    assert (first_code, second_code, spoken) == (130, 130, ["", ""]), err
    assert json.loads(out)["status"] == "interrupted"
    assert [path.name for path in run.parent.iterdir()] == ["mood-1"]

    # Another arrangement goes on; one process is lost without a word.
    both = started_by_two("resume", "mood-1", "--set", "tensor_parallel=1", "--json")
    both[1].kill()
    (first_code, out, err), _ = ended(both)
    assert (first_code, json.loads(out)["error"]) == (1, "LostProcess")
    assert "Traceback" not in err

    end_soon(run)
    done = overture("resume", "mood-1", "--json")
    assert (done.code, done.json["prompt"]) == (0, "mood@1")


def test_commands_for_one_process_refuse_to_run_in_several(make_task, overture, monkeypatch) -> None:
    task = make_task()
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    refused = overture("compare", task, "--json")
    assert (refused.code, refused.json["error"]) == (2, "ConfigError")
    assert refused.json["where"] == "WORLD_SIZE"


@pytest.mark.parametrize("words", [["--tensor-parallel", "2"], ["--shard"]])
def test_one_process_shares_a_model_with_nobody(make_task, overture, words) -> None:
    refused = overture("tune", make_task(), *words, "--json")
    assert (refused.code, refused.json["error"]) == (2, "ConfigError")
