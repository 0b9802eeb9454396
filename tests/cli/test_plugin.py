"""A method of one's own from the command line: tuned, stored by name, and refused where it is missing."""

import json
from pathlib import Path

import pytest

from overture.prompt.methods import METHODS

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "scaled_vectors.py"
TUNE = ["--method", "scaled_vectors", "--place", "before", "--set", "prompt.options.length_rate=0.5"]


@pytest.fixture(autouse=True)
def _own_catalogue():
    before = dict(METHODS)
    yield
    METHODS.clear()
    METHODS.update(before)


@pytest.mark.parametrize("is_last", [False, True], ids=["in front", "behind"])
def test_tune_eval_and_predict(make_task, overture, is_last) -> None:
    flag = ["--plugin", EXAMPLE]
    words = ["tune", make_task(), *TUNE, "--json"]
    done = overture(*words, *flag) if is_last else overture(*flag, *words)
    assert done.code == 0, done.err
    assert done.json["method"] == "scaled_vectors"
    manifest = json.loads((Path(done.json["folder"]) / "prompt.json").read_text())
    assert manifest["options"]["plugin"] == EXAMPLE.name
    score = done.json["metrics"]["test"]["accuracy"]["value"]
    again = overture(*flag, "eval", "mood", "--json").json
    assert again["metrics"]["test"]["accuracy"]["value"] == score
    assert overture("methods", "--json", *flag).json["methods"]["scaled_vectors"]["plugin"] == EXAMPLE.name


def test_a_prompt_without_its_plug_in_is_refused_by_name(make_task, overture) -> None:
    assert overture("--plugin", EXAMPLE, "tune", make_task(), *TUNE).code == 0
    del METHODS["scaled_vectors"]
    for words in (["predict", "mood", "fine"], ["eval", "mood"]):
        done = overture(*words, "--json")
        assert (done.code, done.json["error"]) == (2, "ArtifactError")
        assert EXAMPLE.name in done.json["wanted"]
        assert "--plugin" in done.json["fix"]
    # What needs none of its code works.
    assert overture("list").code == overture("show", "mood").code == 0
    assert overture("tune", "task.yaml", *TUNE, "--json").json["error"] == "ConfigError"


def test_an_environment_variable_names_plug_ins(overture, monkeypatch) -> None:
    monkeypatch.setenv("OVERTURE_PLUGINS", str(EXAMPLE))
    assert "scaled_vectors" in overture("methods", "--json").json["methods"]


def test_a_missing_plug_in_is_one_error(overture) -> None:
    done = overture("--plugin", "nowhere.py", "methods", "--json")
    assert (done.code, done.json["error"]) == (2, "ConfigError")
