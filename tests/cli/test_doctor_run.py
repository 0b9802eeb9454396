"""`overture doctor RUN` on real runs of a tiny model."""

import json
from pathlib import Path

import pytest


@pytest.fixture
def examined(make_task, overture):
    """The findings of a run by name; the byte tokenizer cuts every label word, so that one is always there."""

    def run(train: dict, **changes: object) -> dict[str, dict]:
        done = overture("tune", make_task(train={"epochs": 3, "batch_size": 2, **train}, shots=0, **changes), "--json")
        found = overture("doctor", done.json["run"], "--json")
        assert found.code == 1
        return {one["name"]: one for one in found.json["findings"]}

    return run


def test_rate_too_low(examined) -> None:
    found = examined({"lr": 1e-7})
    assert "lr 1e-07" in found["rate_too_low"]["evidence"]
    assert "train.lr=1e-06" in found["rate_too_low"]["fix"]
    assert "' good' " in found["label_words"]["evidence"]
    assert "8 rows" in found["few_rows"]["evidence"]


def test_rate_too_high(examined) -> None:
    found = examined({"lr": 10, "warmup_steps": 0, "schedule": "constant"})
    assert {"rate_too_high", "norm", "overfitting"} & set(found)
    assert "rate_too_low" not in found


def test_leak(make_task, overture, tmp_path: Path) -> None:
    task = make_task(shots=0)
    train = (tmp_path / "train.jsonl").read_text().splitlines()
    with open(tmp_path / "test.jsonl", "a") as file:
        file.write("\n".join(train[:3]) + "\n")
    run = overture("tune", task, "--json").json["run"]
    done = overture("doctor", run)
    assert done.code == 1
    assert "[leak]" in done.out
    assert "3 of 11 test rows" in done.out


def test_interrupted_and_unknown(make_task, overture, tuned, tmp_path: Path) -> None:
    folder = tmp_path / "store" / "runs" / tuned["run"]
    (folder / "result.json").unlink()
    (folder / "status.json").write_text(
        json.dumps({"status": "stopped", "pid": 1, "why": "DiskFull: the disk is full"})
    )
    found = overture("doctor", tuned["run"], "--json").json["findings"]
    assert found[0]["name"] == "interrupted"
    assert "the disk is full" in found[0]["evidence"]
    assert found[0]["fix"] == f"overture resume {tuned['run']}"
    assert overture("doctor", "nothing").code == 2


def test_advice_names_the_cause_the_store_and_the_task_file(make_task, overture, monkeypatch, tmp_path: Path) -> None:
    from overture.core.errors import DataError, DiskFull
    from overture.jobs.tune import seeds as seeds_module

    store = tmp_path / "elsewhere"

    def advice_after(error: BaseException) -> str:
        def fail(*_):
            raise error

        with monkeypatch.context() as patch:
            patch.setattr(seeds_module, "_seed_result", fail)
            overture("tune", make_task(), "--store", store)
        run = overture("resume", "--store", store, "--json").json["runs"][-1]["run"]
        return overture("doctor", run, "--store", store, "--json").json["findings"][0]["fix"]

    resume = f"overture resume mood-{{}} --store {store}"
    assert advice_after(DataError("rows are wrong", fix="mend line 3")) == "mend line 3; then: " + resume.format(1)
    assert advice_after(DiskFull("the disk is full", fix="free some room")).endswith(resume.format(2))
    assert advice_after(KeyboardInterrupt()) == resume.format(3)


def test_tune_ends_with_what_the_doctor_found(make_task, overture, tmp_path) -> None:
    """A label that training and test share rows of: the doctor finds repeats, and tune says so."""
    task = make_task()
    (tmp_path / "test.jsonl").write_text((tmp_path / "train.jsonl").read_text())
    done = overture("tune", task)
    assert done.code == 0
    findings = overture("doctor", "mood-1", "--json").json["findings"]
    assert findings
    assert "overture doctor mood-1" in done.out
    shown = " ".join(done.out.split())
    assert all(finding["what"] in shown for finding in findings)
