"""From a file as a program writes it to a tuned prompt and predictions in a file, by three commands and no editor."""

import csv
import io
import json
import random

import pytest

WORDS = {"gut": ("schön", "fröhlich", "süß"), "schlecht": ("öde", "trüb", "zäh")}


def texts(count=24):
    chance = random.Random(0)
    for number in range(count):
        label = ("gut", "schlecht")[number % 2]
        yield f"{chance.choice(WORDS[label])} {chance.choice(WORDS[label])} {number}", label


def as_table(rows, header, delimiter):
    text = io.StringIO(newline="")
    csv.writer(text, delimiter=delimiter).writerows([*([header] if header else []), *rows])
    return text.getvalue()


def excel():
    rows = [(number, text, label, "") for number, (text, label) in enumerate(texts())]
    return as_table([*rows, ("", "", "", "")], ("", "Text", "Label", ""), ";").encode("cp1252")


def without_header():
    return as_table([(label, text) for text, label in texts()], None, ",").encode()


def quoted_tabs():
    return as_table([(f'er sagt "{text}"', label) for text, label in texts()], ("text", "label"), "\t").encode()


def pandas_columns():
    rows = list(texts())
    columns = {"text": [text for text, _ in rows], "label": [label for _, label in rows]}
    return json.dumps({name: dict(enumerate(values)) for name, values in columns.items()}).encode()


def several_splits():
    rows = [{"text": text, "label": label} for text, label in texts(36)]
    return json.dumps({"train": rows[:20], "dev": rows[20:28], "test": rows[28:]}).encode()


def prodigy():
    common = {"_input_hash": 1, "_task_hash": 2, "_view_id": "classification"}
    rows = [{"text": text, "label": label, **common, "answer": "accept"} for text, label in texts()]
    rows.append({**rows[0], "answer": "reject"})
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def label_studio():
    tasks = []
    for number, (text, label) in enumerate(texts()):
        result = {"value": {"choices": [label]}, "type": "choices", "from_name": "label", "to_name": "text"}
        tasks.append({"id": number, "data": {"text": text}, "annotations": [{"id": number, "result": [result]}]})
    return json.dumps(tasks).encode()


def conversations():
    rows = []
    for text, label in texts():
        turns = [{"from": "human", "value": text}, {"from": "gpt", "value": label}]
        rows.append({"conversations": turns})
    return json.dumps(rows).encode()


@pytest.mark.parametrize(
    ("name", "make", "column"),
    [
        ("excel.csv", excel, "label"),
        ("ohne.csv", without_header, "label"),
        ("tabs.tsv", quoted_tabs, "label"),
        ("spalten.json", pandas_columns, "label"),
        ("alles.json", several_splits, "label"),
        ("prodigy.jsonl", prodigy, "label"),
        ("studio.json", label_studio, "label"),
        ("talk.json", conversations, "answer"),
    ],
)
def test_three_commands(tmp_path, overture, tiny, name, make, column):
    (tmp_path / name).write_bytes(make())
    assert overture("init", name, "-o", "task.yaml", "--backbone", tiny).code == 0
    small = ["--set", "train.epochs=1", "--set", "shots=0", "--length", "2"]
    tuned = overture("tune", "task.yaml", *small, "--json")
    assert tuned.code == 0, tuned.err
    done = overture("predict", tuned.json["prompt"], name, "-o", "out.csv")
    assert done.code == 0, done.err
    with open("out.csv", encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == (36 if name == "alles.json" else 24)
    assert any(key.endswith(column) for key in rows[0])
    # The user's own columns are there, read right.
    for row in rows:
        assert any(word in str(value) for value in row.values() for words in WORDS.values() for word in words), row
