"""`overture suggest`: a file to fill in, which the same command continues."""

import csv
import shlex
from pathlib import Path

import pytest
from moods import rows_of


def table(path):
    return list(csv.DictReader(Path(path).read_text().splitlines()))


def write(path, rows):
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def test_rows_are_suggested_filled_in_and_continued(tuned, overture):
    rows = [{"id": f"T{number}", "text": row["text"]} for number, row in enumerate(rows_of(60))]
    write("rows.csv", rows)
    done = overture("suggest", "rows.csv", "--prompt", "mood", "-n", "10", "--random-share", "0.3")
    assert done.code == 0, done.err
    first = table("rows-to-label.csv")
    assert list(first[0]) == ["id", "text", "label", "chosen_by", "guess", "guess_confidence"]
    assert [row["chosen_by"] for row in first] == ["teaches"] * 7 + ["random"] * 3
    assert all(row["label"] == "" and row["guess"] in ("good", "bad") for row in first)
    assert "suggest rows.csv --prompt mood -o rows-to-label.csv" in done.out
    assert "task.yaml --set data.more=rows-to-label.csv" in done.out
    # Two are left open; the rest is filled in.
    write("rows-to-label.csv", [row | {"label": "" if number < 2 else "good"} for number, row in enumerate(first)])
    again = overture("suggest", "rows.csv", "--prompt", "mood", "-n", "10", "--random-share", "0.3", "--json").json
    assert (again["num_labelled"], again["num_waiting"], again["num_left"]) == (8, 2, 40)
    assert again["score"]["n"] == 3
    second = table("rows-to-label.csv")
    assert [row["label"] for row in second] == ["", "", *["good"] * 8, *[""] * 10]
    assert len({row["text"] for row in second}) == 20
    assert len(again["suggested"]) == 10


def test_rows_with_labels_are_not_suggested_and_wrong_files_are_refused(tuned, overture):
    rows = [
        {"text": row["text"], "label": row["label"] if number < 50 else ""} for number, row in enumerate(rows_of(60))
    ]
    write("rows.csv", rows)
    done = overture("suggest", "rows.csv", "--prompt", "mood", "-o", "out.jsonl", "--json").json
    assert done["num_labelled"] == 50
    assert {int(some["fields"]["text"].split()[1]) for some in done["suggested"]} <= set(range(50, 60))
    assert overture("suggest", "rows.csv", "--prompt", "mood", "-o", "rows.csv").code == 2
    write("other.csv", rows)
    refused = overture("suggest", "rows.csv", "--prompt", "mood", "-o", "other.csv")
    assert (refused.code, "chosen_by" in refused.err) == (2, True)
    write("wrong.csv", [{"text": "fine", "label": "gut", "chosen_by": "random"}])
    refused = overture("suggest", "rows.csv", "--prompt", "mood", "-o", "wrong.csv")
    assert (refused.code, "wrong.csv:2" in refused.err) == (2, True)
    assert overture("suggest", "rows.csv", "--prompt", "mood", "-n", "0").code == 2


@pytest.mark.parametrize("source", ["train", "path"])
def test_the_next_command_tunes_on_old_and_new_rows(make_task, overture, source):
    task = make_task(shots=0, **({"data": {"path": "train.jsonl"}} if source == "path" else {}))
    old = overture("tune", task, "--json").json["rows"]
    write("rows.csv", [{"text": f"seen {row['text']}"} for row in rows_of(60)])
    done = overture("suggest", "rows.csv", "--prompt", "mood", "-n", "40")
    filled = [row | {"label": ("good", "bad", "")[number % 3]} for number, row in enumerate(table("rows-to-label.csv"))]
    write("rows-to-label.csv", filled)
    (command,) = [line for line in done.out.splitlines() if "overture tune" in line]
    again = overture(*shlex.split(command)[1:], "--json")
    assert again.code == 0, again.err
    num_more = sum(row["label"] != "" and row["chosen_by"] == "teaches" for row in filled)
    assert again.json["rows"] == {**old, "train": old["train"] + num_more}


def test_more_rows_repeat_none_of_the_splits(make_task, overture):
    task = make_task(shots=0, data={"path": "train.jsonl", "drop": ["repeats"]})
    old = overture("tune", task, "--json").json["rows"]
    Path("again.jsonl").write_text(Path("train.jsonl").read_text())
    assert overture("tune", task, "--set", "data.more=again.jsonl", "--json").json["rows"] == old
    assert overture("tune", task, "--set", "data.more=gone.jsonl", "--json").code == 2
