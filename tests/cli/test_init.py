"""From a bare file to a tuned prompt by two commands, and what ``overture init`` says on the way."""

import json

import pytest

LABELS = ("Billing", "billing", "Shipping", "Billing ", "Shipping")


def tickets(folder):
    lines = ["Ticket ID,Created At,Subject,Body,Category"]
    for number in range(40):
        subject = "" if number % 4 == 0 else f"help {number}"
        body = "" if number == 8 else f"it is late {number}"
        lines.append(f"T-{number:03},2024-01-02,{subject},{body},{'' if number == 9 else LABELS[number % 5]}")
    path = folder / "Mäine Tickets!.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def entities(folder):
    path = folder / "all.jsonl"
    rows = ({"id": n, "text": f"Ada saw {n}", "label": [[0, 3, "PER"]] if n % 3 else []} for n in range(24))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize(("make", "kind"), [(tickets, "classification"), (entities, "tagging")])
def test_from_a_bare_file_to_a_tuned_prompt(overture, tmp_path, tiny, make, kind):
    started = overture("init", make(tmp_path), "--json")
    assert started.code == 0, started.err
    assert started.json["report"]["kind"] == kind
    words = ["--backbone", tiny, "--set", "train.epochs=1", "--set", "shots=0", "--length", "2", "--json"]
    done = overture("tune", started.json["task"], *words)
    assert done.code == 0, done.err
    assert done.json["prompt"].endswith("@1")


def test_the_report_is_told_in_plain_words(overture, tmp_path):
    done = overture("init", tickets(tmp_path))
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert lines[0] == "wrote task.yaml"
    assert lines[1] == "Label column: Category (2 labels); text columns: Subject, Body"
    assert "Labels: Billing 23, Shipping 15" in lines
    assert any("Ticket ID" in line and "Created At" in line for line in lines if line.startswith("Not shown: "))
    assert [line for line in lines if "Mäine" in line] == [
        "note: rows left out by data.drop: 1 empty (Mäine Tickets!.csv:10)",
        "note: rows left out by data.drop: 1 unlabelled (Mäine Tickets!.csv:11)",
    ]
    assert 'name: "maeine-tickets"' in (tmp_path / "task.yaml").read_text(encoding="utf-8")


@pytest.mark.parametrize("words", [(), ("--force",)])
def test_the_data_are_never_replaced_by_the_task_file(overture, tmp_path, words):
    folder = tmp_path / "films"
    folder.mkdir()
    train, text = folder / "train.csv", "text,label\n" + "".join(f"text {i},{'ab'[i % 2]}\n" for i in range(24))
    train.write_text(text)
    for source in (train, folder):
        done = overture("init", source, "-o", train, *words)
        assert done.code == 2
        assert "films/train" in done.err
    assert train.read_text() == text
    harness_task = tmp_path / "harness.yaml"
    harness_task.write_text("task: films\n")
    assert overture("init", "--from-lm-eval", harness_task, "-o", harness_task, *words).code == 2
    assert harness_task.read_text() == "task: films\n"
    assert overture("init", train, "-o", tmp_path / "new.csv", *words).code == 2
    assert not (tmp_path / "new.csv").exists()


def test_parts_that_a_shell_has_named_are_one_table(overture, tmp_path):
    for number in (1, 2):
        rows = "".join(f"text {i} of {number},{'ab'[i % 2]}\n" for i in range(12))
        (tmp_path / f"train_{number}.csv").write_text("text,label\n" + rows)
    done = overture("init", "train_1.csv", "train_2.csv", "--json")
    assert done.json["report"]["rows"] == {"path": 24}
    (tmp_path / "other.csv").write_text("text,label\na,b\n")
    refused = overture("init", "train_1.csv", "other.csv", "-o", "more.yaml", "--json")
    assert (refused.code, "other.csv" in refused.json["got"]) == (2, True)


def test_test_rows_that_are_trained_on_are_warned_of(overture, tmp_path):
    text = "text,label\n" + "".join(f"text {i},{'ab'[i % 2]}\n" for i in range(24))
    for split in ("train", "test"):
        (tmp_path / f"{split}.csv").write_text(text)
    done = overture("init", tmp_path / "train.csv")
    assert "Warning: 24 of 24 test rows repeat a training row" in " ".join(done.out.split())
