"""Every kind from the task file to stored prompt, prediction and evaluation, by the commands."""

import json
from pathlib import Path

import pytest
import yaml

TEXTS = ["sun and joy", "rain, alas", "snow ☃ falls", "wind blows"]


def _rows(make, count):
    return [make(number, TEXTS[number % 4] + f" {number}") for number in range(count)]


KINDS = {
    "tagging": (
        {"template": "{tokens}\nNames:", "labels": {"per": " person"}, "max_new_tokens": 24},
        lambda i, text: {"tokens": [*text.split(), "Ada"], "tags": ["O"] * len(text.split()) + ["B-per"]},
        {"tokens": ["Ada", "saw", "it"]},
        "spans",
    ),
    "qa": (
        {"template": "{context}\nQ: {question}\nA:", "options": {"max_answer_tokens": 6}},
        lambda i, text: {"context": text, "question": "What?", "answers": [text.split()[0]]},
        {"context": "sun and rain", "question": "What?"},
        "answer",
    ),
    "choice": (
        {"template": "{text}\nA:"},
        lambda i, text: {"text": text, "choices": ["good", "very bad"], "label": i % 2},
        {"text": "sun", "choices": ["good", "bad"]},
        "probabilities",
    ),
    "multilabel": (
        {"template": "{text}\nMoods:", "labels": {"a": " good", "b": " bad"}},
        lambda i, text: {"text": text, "label": [["a"], ["b"], ["a", "b"], []][i % 4]},
        {"text": "sun"},
        "labels",
    ),
    "regression": (
        {"template": "{text}\nScore:", "labels": {1: " low", 5: " high"}},
        lambda i, text: {"text": text, "label": 1 + i % 5},
        {"text": "sun"},
        "value",
    ),
    "generation": (
        {"template": "{text}\nShort:", "answer_field": "short", "metric": "chrf", "decoding": {"beams": 2}},
        lambda i, text: {"text": text, "short": " " + text[:4]},
        {"text": "sun"},
        "answer",
    ),
    "chat": (
        {"template": "{messages}"},
        lambda i, text: {
            "messages": [{"role": "user", "content": text}, {"role": "assistant", "content": text[:3]}] * 2
        },
        {"messages": [{"role": "user", "content": "sun"}]},
        "answer",
    ),
    "classification": (
        {"template": "{text}\nMood:", "labels": {"a": " good", "b": " bad"}, "options": {"calibration": "contextual"}},
        lambda i, text: {"text": text, "label": "ab"[i % 2]},
        {"text": "sun"},
        "probabilities",
    ),
}


def json_of(done):
    assert done.code == 0, done.err
    return done.json


@pytest.mark.parametrize("kind", KINDS)
def test_from_task_file_to_prediction(kind, overture, tiny, tmp_path: Path):
    own, make, asked, shown = KINDS[kind]
    for name, count in {"train": 8, "validation": 4, "test": 4}.items():
        rows = "".join(json.dumps(row) + "\n" for row in _rows(make, count))
        (tmp_path / f"{name}.jsonl").write_text(rows)
    values = {"name": "one", "kind": kind, "backbone": str(tiny), "max_new_tokens": 8, "shots": 2, **own}
    values |= {"data": {name: f"{name}.jsonl" for name in ("train", "validation", "test")}}
    values |= {"prompt": {"length": 2}, "train": {"epochs": 1, "batch_size": 4}}
    (tmp_path / "task.yaml").write_text(yaml.safe_dump(values))
    result = json_of(overture("tune", "task.yaml", "--json"))
    assert result["status"] == "finished"
    assert result["metric"] in result["metrics"]["test"]
    assert result["no_prompt"]["metrics"]["test"].keys() == result["metrics"]["test"].keys()
    assert all(row["where"].startswith(str(tmp_path / "test.jsonl")) for row in result["wrong"])
    assert ("in_context" in result) == (kind != "chat")
    # The same few rows are in every split.
    assert "leak" in {one["name"] for one in overture("doctor", result["run"], "--json").json["findings"]}
    again = json_of(overture("eval", "one", "--json"))
    name = result["metric"]
    assert again["metrics"]["test"][name]["value"] == pytest.approx(result["metrics"]["test"][name]["value"], abs=1e-6)
    assert shown in json.loads(overture("predict", "one", json.dumps(asked)).out)


@pytest.mark.parametrize("model", ["decoder", "encoder"])
@pytest.mark.parametrize("command", ["tune", "compare", "search"])
def test_windows_without_the_answer_are_not_trained_on(
    command, model, overture, tiny, folders, tmp_path: Path, monkeypatch
):
    row = {"context": "Ada " + "went home " * 14 + "again", "question": "Who?", "answers": ["Ada"]}
    for name, count in {"train": 8, "validation": 4, "test": 4}.items():
        rows = [json.dumps({**row, "question": f"Who {number}?"}) + "\n" for number in range(count)]
        (tmp_path / f"{name}.jsonl").write_text("".join(rows))
    values = {"name": "one", "kind": "qa", "backbone": str(tiny if model == "decoder" else folders["body"])}
    values |= {"template": "{context} {question}\nA:" if model == "decoder" else "{question} {context}"}
    values |= {"options": {"max_answer_tokens": 6}, "max_length": 100, "shots": 0}
    values |= {"data": {name: f"{name}.jsonl" for name in ("train", "validation", "test")}}
    place = "after" if model == "decoder" else "memory"
    values |= {"prompt": {"method": "prefix", "place": place, "length": 2}, "train": {"epochs": 1, "batch_size": 4}}
    (tmp_path / "task.yaml").write_text(yaml.safe_dump(values))
    more = {
        "tune": [],
        "compare": ["--way", f"prefix-{place}", "--way", "lora", "--size", "8", "--seeds", "1", "--min-steps", "1"],
        "search": ["--method", "prefix", "--place", place, "--length", "2", "--tunes", "1"],
    }[command]
    more += ["--default-rates", "-o", "out"] if command == "compare" else []
    found = json_of(overture(command, "task.yaml", *more, "--json"))
    assert found["status"] == "finished"


def test_training_rows_whose_answers_are_lost_are_refused(overture, tiny, tmp_path: Path):
    row = {"context": "went home " * 30, "question": "Who?", "answers": ["went home " * 29 + "went"]}
    for name, count in {"train": 8, "validation": 4}.items():
        rows = [json.dumps({**row, "question": f"Who {number}?"}) + "\n" for number in range(count)]
        (tmp_path / f"{name}.jsonl").write_text("".join(rows))
    values = {"name": "one", "kind": "qa", "backbone": str(tiny), "template": "{context} {question}\nA:"}
    values |= {"max_length": 100, "shots": 0, "data": {name: f"{name}.jsonl" for name in ("train", "validation")}}
    (tmp_path / "task.yaml").write_text(yaml.safe_dump(values | {"train": {"epochs": 1}}))
    done = overture("tune", "task.yaml", "--json")
    assert done.code == 2
    assert "nothing can be learned" in done.json["what"]
