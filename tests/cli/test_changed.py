"""Runs and prompts after their data or their model changed: refused before any work, with what changed and the fix."""

import json
import os
import shutil
import time
from pathlib import Path

import pytest

from overture.jobs.run import work as work_module
from overture.jobs.tune import seeds as seeds_module
from overture.jobs.tune import tune as tune_module


class Killed(BaseException):
    """The process ends here, without a word."""


@pytest.fixture
def kill(make_task, overture, monkeypatch):
    """Start a run and end the process when it scores its seeds."""

    def started(**changes):
        def die(*_):
            raise Killed

        with monkeypatch.context() as patch:
            patch.setattr(seeds_module, "_seed_result", die)
            with pytest.raises(Killed):
                overture("tune", make_task(**changes))

    return started


def reordered(path: Path) -> None:
    path.write_text("".join(reversed(path.read_text().splitlines(keepends=True))))


def appended(path: Path) -> None:
    path.write_text(path.read_text() + '{"text": "late", "label": "good"}\n')


def removed(path: Path) -> None:
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:8]))


def swapped(path: Path) -> None:
    words = {"good": "bad", "bad": "good"}
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(row | {"label": words[row["label"]]}) + "\n" for row in rows))


@pytest.mark.parametrize("change", [reordered, appended, removed, swapped])
def test_resume_refuses_changed_rows_before_any_work(kill, overture, monkeypatch, tmp_path, change) -> None:
    kill()
    change(tmp_path / "train.jsonl")
    before = (tmp_path / "store/runs/mood-1/checkpoint.safetensors").read_bytes()

    def never(*_, **__):
        raise AssertionError("the model was loaded")

    with monkeypatch.context() as patch:
        patch.setattr(work_module, "load_backbone", never)
        done = overture("resume", "mood-1", "--json")
    assert (done.code, done.json["error"]) == (2, "DataError")
    (problem,) = done.json["problems"]
    assert problem.startswith("train: ")
    assert str(tmp_path / "train.jsonl") in done.json["where"]
    assert "overture tune" in done.json["fix"]
    assert (tmp_path / "store/runs/mood-1/checkpoint.safetensors").read_bytes() == before
    assert overture("list", "--json").json["prompts"] == []


def test_resume_goes_on_once_the_rows_are_back(kill, overture, tmp_path) -> None:
    kill()
    path = tmp_path / "train.jsonl"
    whole = path.read_text()
    appended(path)
    assert overture("resume", "mood-1").code == 2
    # The same rows, written in another way.
    path.write_text("".join(json.dumps(json.loads(line), indent=None) + "\r\n" for line in whole.splitlines()))
    assert overture("resume", "mood-1").code == 0


def test_one_file_that_grew_is_named_by_every_split(kill, overture, tmp_path) -> None:
    path = tmp_path / "all.jsonl"
    labels = ("good", "bad")
    path.write_text("".join(json.dumps({"text": f"row {n}", "label": labels[n % 2]}) + "\n" for n in range(30)))
    kill(data={"path": "all.jsonl"})
    appended(path)
    done = overture("resume", "mood-1", "--json")
    assert (done.code, done.json["error"]) == (2, "DataError")
    assert str(path) in done.json["where"]


def test_resume_refuses_another_model(kill, overture, tiny, tmp_path) -> None:
    from fakes import make_model

    folder = tmp_path / "model"
    shutil.copytree(tiny, folder)
    kill(backbone=str(folder))
    other = make_model("llama", "sdpa")
    other.get_input_embeddings().weight.data[3] += 1
    other.save_pretrained(folder)
    done = overture("resume", "mood-1", "--json")
    assert (done.code, done.json["error"]) == (2, "ArtifactError")
    assert any("weights" in problem for problem in done.json["problems"])
    assert overture("list", "--json").json["prompts"] == []


def test_a_moved_file_with_the_same_rows_is_fine(kill, overture, tmp_path) -> None:
    kill()
    (tmp_path / "train.jsonl").rename(tmp_path / "moved.jsonl")
    gone = overture("resume", "mood-1", "--json")
    assert (gone.code, gone.json["error"]) == (2, "DataError")
    assert gone.json["fix"].endswith("overture resume mood-1 --set data.train=FILE")
    assert overture("resume", "mood-1", "--set", "data.train=moved.jsonl", "--json").json["prompt"] == "mood@1"


def test_resume_takes_no_other_setting(kill, overture) -> None:
    kill()
    done = overture("resume", "mood-1", "--set", "train.lr=0.5", "--json")
    assert (done.code, done.json["error"]) == (2, "ConfigError")


def test_a_moved_file_with_other_rows_is_refused(kill, overture, tmp_path) -> None:
    kill()
    shutil.copy(tmp_path / "train.jsonl", tmp_path / "moved.jsonl")
    appended(tmp_path / "moved.jsonl")
    done = overture("resume", "mood-1", "--set", "data.train=moved.jsonl", "--json")
    assert (done.code, done.json["error"]) == (2, "DataError")


@pytest.mark.parametrize("words", [["eval", "mood"], ["prune", "mood"]])
def test_what_reads_a_run_s_rows_again_refuses_others(make_task, overture, tmp_path, words) -> None:
    task = make_task(prompt={"method": "vectors", "place": "before", "length": 3})
    assert overture("tune", task).code == 0
    path = tmp_path / "test.jsonl"
    whole = path.read_text()
    appended(path)
    done = overture(*words, "--json")
    assert (done.code, done.json["error"]) == (2, "DataError")
    assert any(problem.startswith("test: ") for problem in done.json["problems"])
    path.write_text(whole)
    # Training rows have no part in a score.
    appended(tmp_path / "train.jsonl")
    assert overture("eval", "mood").code == 0


@pytest.mark.parametrize("command", ["eval", "explain"])
def test_a_file_that_changed_is_named_with_the_command_that_reads_another(tuned, overture, tmp_path, command) -> None:
    for name, days in (("test.jsonl", 1), ("train.jsonl", 0)):
        appended(tmp_path / name)
        written_at = time.time() + 86_400 * days
        os.utime(tmp_path / name, (written_at, written_at))
    done = overture(command, "mood@1", "--json")
    assert (done.code, done.json["error"]) == (2, "DataError")
    assert done.json["fix"].endswith(f"overture {command} mood@1 FILE")
    named = [problem.partition(": ")[0] for problem in done.json["problems"]]
    assert named == ["test", str(tmp_path / "test.jsonl")]


def test_a_run_of_an_older_version_goes_on_and_says_so(kill, overture, tmp_path) -> None:
    kill()
    path = tmp_path / "store/runs/mood-1/run.json"
    values = json.loads(path.read_text())
    del values["rows"], values["model"], values["file"]
    path.write_text(json.dumps(values))
    done = overture("resume", "mood-1", "--json")
    assert done.code == 0
    assert any("older version" in notice for notice in done.json["notices"])


def test_a_start_that_fails_leaves_no_run(make_task, overture, tmp_path) -> None:
    task = make_task()
    (tmp_path / "train.jsonl").write_text('{"text": "fine", "label": "wonderful"}\n')
    assert overture("tune", task).code == 2
    assert overture("search", task).code == 2
    assert overture("tune", make_task(backbone="no-such-model")).code == 2
    # The model itself refuses this one.
    assert overture("tune", make_task(prompt={"method": "late", "options": {"layer": 99}})).code == 2
    assert list((tmp_path / "store/runs").glob("*")) == []


def test_a_prompt_kept_before_the_end_is_found_again(make_task, overture, monkeypatch, tmp_path) -> None:
    from overture.store.runs import RESULT, Run

    write = Run.write

    def dying(self, name, value):
        if name == RESULT:
            raise Killed
        write(self, name, value)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "write", dying)
        with pytest.raises(Killed):
            overture("tune", make_task())
    assert overture("resume", "mood-1", "--json").json["prompt"] == "mood@1"
    assert len(overture("list", "--json").json["prompts"]) == 1


def test_a_damaged_seed_is_refused_with_the_fix(make_task, overture, monkeypatch, tmp_path) -> None:
    with monkeypatch.context() as patch:

        def die(*_):
            raise Killed

        patch.setattr(tune_module, "finished", die)
        with pytest.raises(Killed):
            overture("tune", make_task())
    path = tmp_path / "store/runs/mood-1/seed-0/prompt.safetensors"
    raw = bytearray(path.read_bytes())
    raw[-3] ^= 4
    path.write_bytes(raw)
    done = overture("resume", "mood-1", "--json")
    assert (done.code, done.json["error"], done.json["where"]) == (2, "ArtifactError", str(path))
    assert str(path.parent) in done.json["fix"]
    shutil.rmtree(path.parent)
    assert overture("resume", "mood-1", "--json").json["prompt"] == "mood@1"


def test_a_name_that_no_prompt_may_have_is_refused_before_training(make_task, overture, tmp_path) -> None:
    for command in ("tune", "search"):
        done = overture(command, make_task(name="con"), "--json")
        assert (done.code, done.json["error"]) == (2, "WrongName")
    assert not (tmp_path / "store/runs").exists()


@pytest.mark.parametrize("text", ["[1]", "1", "null", '"x"', "{}", "{"])
def test_files_of_a_run_that_are_of_another_type_are_an_error_and_no_traceback(tuned, overture, tmp_path, text) -> None:
    run = tmp_path / "store" / "runs" / tuned["run"]
    names = ["run.json", "status.json", "controls.json", "notices.json", "result.json", "seed-0/result.json"]
    for name in [*names, "events.jsonl", "wrong.json"]:
        whole = (run / name).read_bytes() if (run / name).exists() else None
        result = (run / "result.json").read_bytes()
        if name not in ("result.json", "run.json"):
            # An unfinished run reads its parts again.
            (run / "result.json").unlink()
        (run / name).write_text(text)
        for words in (["doctor", run.name], ["resume", run.name], ["eval", "mood"]):
            # Any other exception is raised again by the fixture.
            assert overture(*words).code in (0, 1, 2), (name, words)
        (run / "result.json").write_bytes(result)
        (run / name).write_bytes(whole) if whole is not None else (run / name).unlink(missing_ok=True)
