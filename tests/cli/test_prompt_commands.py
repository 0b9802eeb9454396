"""List, show, diff, rm, init, doctor."""

import errno
import json
import os
from pathlib import Path

import pytest
import yaml

from overture.cli import doctor
from overture.data.task import Task
from overture.engine import precision


def test_empty_store(overture) -> None:
    assert overture("list", "--json").json == {"store": str(Path("store").resolve()), "prompts": [], "after": None}
    listed = overture("list")
    assert "no prompts" in listed.out
    assert listed.err == ""
    assert "no runs" in overture("resume").out


def test_list_and_show(tuned, overture) -> None:
    listed = overture("list", "--json").json["prompts"]
    assert [(p["prompt"], p["problem"]) for p in listed] == [("mood@1", None)]
    assert listed[0]["metrics"]["test"] == tuned["metrics"]["test"]
    assert "mood@1" in overture("list").out
    shown = overture("show", "mood", "--json").json
    assert shown["prompt"] == "mood@1"
    assert shown["manifest"]["trainable"] == tuned["trainable"]
    text = overture("show", tuned["folder"]).out
    assert "{text}" in text
    assert "test accuracy" in text


def test_the_gates_of_a_prompt_are_told_by_tune_and_show(make_task, overture) -> None:
    gated = ["--method", "gated", "--length", "3", "--set", "shots=0", "--set", "prompt.init=vocabulary"]
    told = overture("tune", make_task(), *gated, "--json").json["gates"]
    assert told["columns"] == {"open": 3, "of": 3}
    assert told["layers"]["of"] == told["layers"]["open"] > 1
    assert overture("show", "mood", "--json").json["manifest"]["lineage"]["gates"] == told
    shown = " ".join(overture("show", "mood").out.split())
    assert f"{told['layers']['of']} of {told['layers']['of']} layers, 3 of 3 columns are open (above 0.5)" in shown
    assert "gates {" not in shown
    assert "3 of 3 columns are open" in " ".join(overture("tune", make_task(), *gated).out.split())


def test_an_alias_is_set_used_listed_and_removed(tuned, overture) -> None:
    assert overture("alias", "mood", "prod", "--json").json == {"alias": "mood@prod", "version": "mood@1"}
    assert overture("alias", "mood", "--json").json == {"aliases": {"mood@prod": "mood@1"}}
    assert "mood@prod is mood@1" in overture("alias", "mood").out
    assert overture("list", "--json").json["prompts"][0]["aliases"] == ["prod"]
    assert "mood@1 @prod" in overture("list").out
    assert "prod" in overture("show", "mood").out
    assert overture("show", "mood@prod", "--json").json["prompt"] == "mood@1"
    assert overture("alias", "mood@prod", "prod", "-r").code == 2
    assert overture("alias", "mood@prod", "-r", "--json").json == {"removed": "mood@prod", "version": "mood@1"}
    assert overture("alias", "mood").out.strip() == "mood has no aliases"
    assert overture("alias", "mood@prod", "-r").code == overture("alias", "mood", "2").code == 2


@pytest.mark.parametrize(
    ("words", "fix"),
    [("mood@prod mood@1", "mood@1 prod"), ("prod mood@1", "mood@1 prod"), ("mood@1 mood@prod", "mood@1 prod")],
)
def test_the_right_order_of_an_alias_is_told(overture, words, fix) -> None:
    done = overture("alias", *words.split())
    assert done.code == 2
    assert f"fix: overture alias {fix}\n" in done.err


def test_a_store_that_nobody_may_write_is_told(tuned, overture, monkeypatch) -> None:
    opened = os.open

    def refused(path, flags, *rest, **more):
        if flags & os.O_CREAT:
            raise OSError(errno.EROFS, "Read-only file system", str(path))
        return opened(path, flags, *rest, **more)

    monkeypatch.setattr("overture.core.files.os.open", refused)
    for words in (["alias", "mood", "prod"], ["rm", "mood", "--yes"]):
        done = overture(*words)
        assert done.code == 2
        assert "cannot be written" in done.err
    assert "mood@1" in overture("list").out


def test_a_folder_that_nobody_may_write_is_told_before_the_model_loads(make_task, overture, monkeypatch) -> None:
    task, refused = make_task(), Path("refused")
    refused.mkdir()
    allowed = os.access

    def may(path, mode) -> bool:
        return allowed(path, mode) and not (mode & os.W_OK and Path(path).name == "refused")

    monkeypatch.setattr("overture.core.files.os.access", may)
    store = ["--store", refused / "store"]
    for words in (
        ["tune", task, *store],
        ["search", task, *store],
        ["search", task, "--form", "hard", *store],
        ["compare", task, "--output", refused],
        ["demo", *store],
        ["cartridge", task, "--name", "x", *store],
        ["import", "adapter", "--task", task, *store],
    ):
        done = overture(*words)
        assert done.code == 2, words
        assert "cannot be written" in done.err
        assert "loading" not in done.err
    assert list(refused.iterdir()) == []
    # A comparison only reads the store.
    assert "cannot be written" not in overture("compare", task, "--way", "nothing", *store).err


def test_an_output_that_nobody_may_write_is_told_before_the_model_loads(tuned, overture, monkeypatch) -> None:
    refused = Path("refused")
    refused.mkdir()
    allowed = os.access

    def may(path, mode) -> bool:
        return allowed(path, mode) and not (mode & os.W_OK and Path(path).name == "refused")

    monkeypatch.setattr("overture.core.files.os.access", may)
    for words in (
        ["init", "test.jsonl", "-o", refused / "task.yaml"],
        ["predict", "mood", "test.jsonl", "-o", refused / "answers.csv"],
        ["eval", "mood", "--errors", refused / "errors.csv"],
        ["eval", "mood", "-o", refused / "page.html"],
        ["errors", "mood", "-o", refused / "errors.csv"],
        ["explain", "mood", "--page", refused / "page.html"],
        ["suggest", "test.jsonl", "--prompt", "mood", "-o", refused / "rows.csv"],
    ):
        done = overture(*words)
        assert done.code == 2, words
        assert "cannot be written" in done.err
        assert "loading" not in done.err
    assert list(refused.iterdir()) == []


def test_damaged_prompt_is_listed_with_its_problem(tuned, overture) -> None:
    (Path(tuned["folder"]) / "prompt.json").write_text("{")
    listed = overture("list", "--json").json["prompts"]
    assert "JSON cannot be read" in listed[0]["problem"]
    assert "damaged: mood@1" in overture("list").out
    assert overture("show", "mood", "--json").json["error"] == "ArtifactError"


def test_diff(tuned, make_task, overture) -> None:
    overture("tune", make_task(), "--set", "shots=0", "--set", "train.lr=0.02", "--json")
    found = overture("diff", "mood@1", "mood@2", "--json").json
    assert found["config"]["options.train.lr"] == {"a": 0.01, "b": 0.02}
    assert not found["is_same_prompt"]
    text = overture("diff", "mood@1", "mood@2").out
    assert "options.train.lr" in text
    assert "the values differ" in text


def test_rm(tuned, overture) -> None:
    for words in ([], ["--json"]):
        refused = overture("rm", "mood", *words)
        assert refused.code == 2
        assert "--yes" in refused.out + refused.err
    assert overture("rm", tuned["folder"], "--yes").code == 2
    assert overture("rm", "mood@1", "--yes", "--json").json == {"removed": ["mood@1"]}
    assert overture("list", "--json").json["prompts"] == []


def test_init_task(overture, tmp_path) -> None:
    rows = [{"text": f"row {n}", "label": "ab"[n % 2]} for n in range(20)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = overture("init", "rows.jsonl", "-o", "my task.yaml", "--name", "mine", "--json")
    assert done.json["next"] == "overture tune 'my task.yaml'"
    assert Task.load(tmp_path / "my task.yaml").name == "mine"
    refused = overture("init", "rows.jsonl", "-o", "my task.yaml")
    assert refused.code == 2
    assert "--force" in refused.err
    shown = overture("init", "rows.jsonl", "-o", "my task.yaml", "--force")
    assert "overture tune 'my task.yaml'" in shown.out
    assert yaml.safe_load((tmp_path / "my task.yaml").read_text())["name"] == "rows"
    assert overture("init", "rows.jsonl", "-o", "x.yaml", "--name", "A B").code == 0
    assert Task.load("x.yaml").name == "a-b"


def test_init_from_a_task_of_the_harness(overture, tmp_path) -> None:
    rows = [{"text": f"row {n}", "label": n % 2} for n in range(20)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    harness = {"task": "there", "dataset_path": "json", "dataset_kwargs": {"data_files": "rows.jsonl"}}
    harness |= {"output_type": "multiple_choice", "doc_to_text": "{{text}}\nIs:", "doc_to_target": "label"}
    (tmp_path / "there.yaml").write_text(yaml.safe_dump(harness | {"doc_to_choice": ["[b]no[/b]", "yes"]}))
    done = overture("init", "--from-lm-eval", "there.yaml", "--name", "here", "--json")
    assert done.json["next"] == "overture tune task.yaml"
    task = Task.load(tmp_path / "task.yaml")
    assert (task.name, task.words["0"]) == ("here", (" [b]no[/b]",))
    for words in (
        ["init"],
        ["init", "--from-lm-eval", "there.yaml", "--backbone", "smollm2"],
        ["init", "--from-lm-eval", "nowhere.yaml"],
    ):
        assert overture(*words, "-o", "c.yaml").code == 2
    assert not (tmp_path / "c.yaml").exists()


@pytest.fixture
def quick_doctor(monkeypatch) -> None:
    monkeypatch.setattr(precision, "_TOKENS", 16)
    monkeypatch.setattr(doctor, "_tokens_per_second", lambda name: {"load_seconds": 1.0, "tokens_per_second": 2.0})


def test_doctor(overture, quick_doctor) -> None:
    found = overture("doctor", "--json")
    facts = found.json
    assert (found.code, facts["is_usable"]) == (0, True)
    assert facts["packages"]["torch"]["version"]
    assert set(facts["extras"]) >= {"parquet", "datasets", "peft"}
    assert facts["gflops"]["float32"] > 0
    assert facts["gflops"]["bfloat16"] > 0
    assert any("dtype=fastest" in line for line in facts["advice"]) == (facts["gflops"]["fastest"] == "bfloat16")
    assert facts["disk"]["store"]["free_bytes"] > 0
    assert "Overture can be used." in overture("doctor").out


def test_doctor_tells_what_is_missing(overture, quick_doctor, monkeypatch) -> None:
    real = doctor.metadata.version

    def version(name: str) -> str:
        if name == "gguf":
            raise doctor.metadata.PackageNotFoundError(name)
        return "1.0" if name == "transformers" else real(name)

    monkeypatch.setattr(doctor.metadata, "version", version)
    done = overture("doctor", "--json")
    assert done.code == 1
    assert sorted(error.split()[0] for error in done.json["errors"]) == ["gguf", "transformers"]
    assert "pip install 'gguf" in overture("doctor").out
