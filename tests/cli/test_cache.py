"""`overture cache`: what is kept on disk between runs."""

import json
from pathlib import Path

import pytest

from overture.core.kept_files import kept_inputs
from overture.jobs.tune import plan


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("OVERTURE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("OVERTURE_CACHE_LIMIT", "1")


def test_a_second_run_reads_what_the_first_kept_and_has_its_result(make_task, overture) -> None:
    task = make_task(shots=0, prompt={"method": "prefix", "place": "after", "length": 2})
    first = overture("tune", task, "--json").json
    shown = overture("cache", "--json").json
    assert shown["files"] > 0
    assert shown["bytes"] > 0
    uses = {file.path: file.used_at for file in kept_inputs().files()}
    second = overture("tune", task, "--json").json
    assert second["metrics"] == first["metrics"]
    assert [epoch["train_loss"] for epoch in second["history"]] == [epoch["train_loss"] for epoch in first["history"]]
    again = {file.path: file.used_at for file in kept_inputs().files()}
    assert again.keys() == uses.keys()
    assert all(again[path] > used_at for path, used_at in uses.items())
    cleared = overture("cache", "--clear", "--json").json
    assert (cleared["removed_files"], cleared["files"], cleared["bytes"]) == (shown["files"], 0, 0)
    assert not kept_inputs().files()


def test_a_second_run_does_not_time_the_model_again(make_task, overture, monkeypatch) -> None:
    task = make_task(shots=0, baselines=False)
    assert overture("tune", task, "--json").code == 0
    monkeypatch.setattr(plan, "_seconds_per_token", None)
    assert overture("tune", task, "--json").code == 0


def test_it_can_be_switched_off(make_task, overture) -> None:
    task = make_task(shots=0, prompt={"method": "prefix", "place": "after", "length": 2})
    assert overture("tune", task, "--no-cache-on-disk", "--json").code == 0
    assert not kept_inputs().files()


def test_the_result_tells_the_precision_of_cached_texts(make_task, overture) -> None:
    task = make_task(shots=0, baselines=False, prompt={"method": "prefix", "place": "after", "length": 2})
    done = overture("tune", task, "--cache-dtype", "bfloat16", "--json").json
    assert done["cache_dtype"] == "bfloat16"
    assert "cache_dtype" not in overture("tune", task, "--json").json
    manifest = json.loads((Path(done["folder"]) / "prompt.json").read_text())
    assert manifest["options"]["cache_dtype"] == "bfloat16"


def test_the_screen_names_the_place_and_the_way_to_clear_it(overture, tmp_path) -> None:
    (tmp_path / "cache" / "inputs").mkdir(parents=True)
    (tmp_path / "cache" / "inputs" / "a.safetensors").write_bytes(b"x")
    shown = overture("cache")
    assert shown.code == 0
    assert str(tmp_path / "cache" / "inputs") in shown.out.replace("\n", "")
    assert "overture cache --clear" in shown.out + shown.err
