"""Bad input: one readable block or one JSON object, exit code 2, and never a traceback."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from overture.core.errors import DiskFull, Diverged

TABLE = {
    "no such command": (["tun"], "Did you mean 'tune'"),
    "no such option": (["list", "--jsn"], "--jsn"),
    "missing argument": (["tune"], "TASK.yaml"),
    "a prompt's name to the server": (["serve", "mood@2"], "without a name"),
    "wrong path": (["tune", "nowhere.yaml"], "no such file"),
    "a file as the model": (["tune", "task.yaml", "--backbone", "./task.yaml"], "file of this kind is no model"),
    "wrong model": (["tune", "task.yaml", "--backbone", "./no-model"], "no such model folder"),
    "task is a data file": (["tune", "train.jsonl"], "overture init train.jsonl"),
    "task is a folder": (["tune", "."], "overture init ."),
    "flag of a wrong kind": (["tune", "task.yaml", "--epochs", "1.5"], "must be a whole number"),
    "method that is no prompt": (["tune", "task.yaml", "--method", "lora"], "--adapter lora"),
    "a way without its flag": (["compare", "task.yaml", "lora", "full"], "--way lora --way full"),
    "a method without its flag": (["tune", "task.yaml", "prefix"], "--method prefix"),
    "two files": (["tune", "task.yaml", "other.yaml"], "overture tune --help"),
    "unknown key": (["tune", "task.yaml", "--set", "train.epoch=1"], "did you mean 'epochs'"),
    "setting without value": (["tune", "task.yaml", "--set", "train.lr"], "key=value"),
    "setting of a wrong kind": (["tune", "task.yaml", "--set", "train.lr=fast"], "train.lr"),
    "unknown method": (["tune", "task.yaml", "--method", "prefx"], "no such method"),
    "wrong place": (["tune", "task.yaml", "--method", "vectors", "--place", "memory"], "--place before"),
    "wrong split": (["eval", "mood", "--split", "dev"], "dev"),
    "unknown prompt": (["predict", "moood", "text"], "no such prompt"),
    "unknown prompt to show": (["show", "moood"], "no such prompt"),
    "unknown run": (["resume", "mood-9"], "no such run"),
    "no data file": (["eval", "mood", "x.jsonl", "--split", "test"], "exclude each other"),
    "no file to start from": (["init", "x.jsonl", "-o", "x.yaml"], "no such file"),
    "store is a file": (["list", "--store", "task.yaml"], "not a folder"),
}


@pytest.mark.parametrize("words", [[], ["--json"]], ids=["people", "json"])
@pytest.mark.parametrize("case", TABLE)
def test_bad_input(case, words, make_task, overture) -> None:
    make_task()
    command, message = TABLE[case]
    done = overture(*command, *words)
    assert done.code == 2
    if words:
        assert set(done.json) >= {"error", "what"}
        told = [*map(str, done.json.get("problems", ())), *map(str, done.json.values())]
        assert any(message in text for text in told)
    else:
        assert done.out == ""
        assert "\nerror: " in f"\n{done.err}"
        assert message in done.err


DATA = {
    "empty file": ("", "no rows in the file (it is empty)"),
    "one label": ('{"text": "a", "label": "good"}\n' * 9, "only one label"),
    "not JSON": ("text\n", "not JSON"),
    "unknown label": ('{"text": "a", "label": "god"}\n{"text": "b", "label": "bad"}\n', "did you mean 'good'"),
    "missing field": ('{"txt": "a", "label": "good"}\n{"txt": "b", "label": "bad"}\n', "no field 'text'"),
    "fix of a missing field": (
        '{"body": "a", "label": "good"}\n{"body": "b", "label": "bad"}\n',
        "the fields are body, label; rename one to 'text', or name another in template",
    ),
    "fix of a missing label": (
        '{"text": "a", "labl": "good"}\n{"text": "b", "labl": "bad"}\n',
        "did you mean 'labl'? the fields are text, labl; rename it to 'label', or name another in label_field",
    ),
}


@pytest.mark.parametrize("case", DATA)
def test_bad_data(case, make_task, overture, tmp_path) -> None:
    task = make_task()
    text, message = DATA[case]
    (tmp_path / "train.jsonl").write_text(text)
    done = overture("tune", task, "--json")
    assert (done.code, done.json["error"]) == (2, "DataError")
    assert message in str(done.json["problems"])


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="this system has no /proc")
def test_places_that_take_no_files_are_refused_before_the_model_is_loaded(tuned, make_task, overture) -> None:
    for done in (
        overture("predict", "mood@1", "a fine day", "-o", "/proc/x.csv"),
        overture("tune", make_task(), "--store", "/proc/store"),
    ):
        assert done.code == 2
        assert "cannot be written" in done.err
        assert "/proc" in done.err
        assert "loading" not in done.err


def test_near_names_are_told(tuned, overture) -> None:
    for command in (["predict", "moood", "x"], ["show", "moood"], ["eval", "moood"], ["rm", "moood", "--yes"]):
        done = overture(*command, "--json")
        assert (done.code, done.json["fix"]) == (2, "did you mean mood?")


def test_nothing_to_predict(tuned, overture) -> None:
    for stdin in ("", "\n\n"):
        done = overture("predict", "mood", stdin=stdin)
        assert (done.code, done.out) == (2, "")
    assert overture("predict", "mood", "x", "--file", "y.jsonl").code == 2
    assert "too long" in overture("predict", "mood", "x" * 1000).err


def test_run_of_another_store(tuned, overture, tmp_path) -> None:
    done = overture("eval", tuned["folder"], "--store", tmp_path / "empty", "--json")
    assert done.code == 2
    assert "FILE" in done.json["fix"]


def test_no_words_give_help(overture) -> None:
    done = overture()
    assert done.code == 2
    assert "init" in done.out + done.err


def test_words_after_two_dashes_are_text(tuned, overture) -> None:
    done = overture("predict", "mood", "--", "--json")
    assert json.loads(done.out)["input"] == "--json"


@pytest.mark.parametrize(("error", "code"), [(Diverged("x"), 3), (DiskFull("x"), 4)])
def test_exit_codes(error, code, overture, monkeypatch) -> None:
    from overture.store.store import Store

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(Store, "page", fail)
    assert overture("list").code == code
    assert overture("list", "--json").json == {"error": type(error).__name__, "what": "x"}


def test_bugs_keep_their_traceback(overture, monkeypatch) -> None:
    from overture.store.store import Store

    monkeypatch.setattr(Store, "page", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        overture("list")


def test_reader_that_goes_away_is_no_error(tuned) -> None:
    # `true` ends at once; what is printed later meets a closed pipe.
    command = f"{sys.executable} -c 'from overture.cli.app import main; main()' show mood | true"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert done.stderr == ""
