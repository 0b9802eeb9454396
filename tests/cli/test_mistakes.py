"""Wrong answers, scores of labels and the confusion table on screens of several widths."""

import csv
import io
import json
import re
from pathlib import Path

import pytest
from rich.console import Console

from overture.cli.mistakes import in_lines, show_mistakes, wrong_lines
from overture.core.records.scores import Mistakes, WrongRow
from overture.evaluate.confusion import confusion, label_scores

LABELS = ("Billing question", "Bug report", "Cancellation", "Feature request", "Shipping delay")
ROWS = 40


def mistakes_of(labels: tuple[str, ...]) -> Mistakes:
    gold = [labels[number % len(labels)] for number in range(ROWS)]
    predicted = [labels[(number + (number % 3 == 0)) % len(labels)] for number in range(ROWS)]
    places = [f"/data/of/mine/tickets.csv:{number + 2}" for number in range(ROWS)]
    wrong = [
        WrongRow(where=where, text="the order\nnever came " * 9, gold=g, predicted=p, confidence=0.934, score=0.0)
        for where, g, p in zip(places, gold, predicted, strict=True)
        if g != p
    ]
    return Mistakes(
        num_wrong=len(wrong),
        wrong=wrong,
        confusion=confusion(gold, predicted, places, labels),
        labels=label_scores(gold, predicted, "labels", labels),
    )


def screen(mistakes: Mistakes, width: int) -> list[str]:
    out = Console(file=io.StringIO(), width=width, markup=False, highlight=False)
    show_mistakes(out, mistakes, ROWS, "test", "tickets@1")
    return out.file.getvalue().splitlines()  # type: ignore[attr-defined]


@pytest.mark.parametrize("width", [40, 80, 120])
@pytest.mark.parametrize("num_labels", [2, 5, 30])
def test_figures_are_whole_and_lines_fit(width: int, num_labels: int) -> None:
    labels = LABELS[:num_labels] if num_labels <= 5 else tuple(f"a label of number {number:02}" for number in range(30))
    mistakes = mistakes_of(labels)
    lines = screen(mistakes, width)
    assert max(map(len, lines)) <= width
    text = "\n".join(lines)
    assert "F1" in text
    assert "recall" in text
    if num_labels <= 5:
        for score in mistakes.labels or ():
            assert f"{score.f1:.2f}" in text
        # Each label's row begins with a name that no other label has.
        rows = [re.split(r"\s{2,}", line)[0] for line in lines if re.search(r"\d\s{3,}\d+$", line)]
        assert all(any(label.startswith(row) for row in rows) for label in labels)
    elif width < 120:
        assert "(others)" in text


def test_labels_are_broken_between_words_and_never_cut() -> None:
    assert in_lines(["currency exchange", "cash"], 10) == ["currency\nexchange", "cash"]
    assert in_lines(["Donaudampfschifffahrt"], 10) == ["Donaudampfschifffahrt"]
    (row, *_) = mistakes_of(LABELS).wrong
    lines = list(wrong_lines([row], 30))
    assert row.gold in " ".join(" ".join(lines).split())
    assert max(map(len, lines)) <= 30


def test_a_wrong_answer_is_one_line_where_it_fits() -> None:
    (row, *_) = mistakes_of(LABELS).wrong
    (line,) = wrong_lines([row], 100)
    assert line.startswith('  tickets.csv:2  Billing question -> Bug report 93%  "the order never came')
    assert len(line) <= 100
    head, text = wrong_lines([row], 60)
    assert head == "  tickets.csv:2  Billing question -> Bug report 93%"
    assert text.startswith('    "the order never came')


def test_errors_of_a_run(tuned, overture) -> None:
    done = overture("errors", "mood")
    assert done.code == 0
    assert f"{tuned['num_wrong']} of 8 test rows" in done.out
    assert all(f"test.jsonl:{row['where'].rpartition(':')[2]}  " in done.out for row in tuned["wrong"])
    assert overture("errors", "mood", "--json").json["wrong"] == tuned["wrong"]
    limited = overture("errors", "mood", "--limit", "1")
    assert limited.out.count("test.jsonl:") == 1
    for name in ("errors.csv", "again.csv"):
        words = ("errors", "mood", "-o") if name == "errors.csv" else ("eval", "mood", "--errors")
        assert overture(*words, name).code == 0
        with open(name, newline="") as file:
            rows = list(csv.DictReader(file))
        assert [(row["where"], row["right"], row["predicted"], row["text"]) for row in rows] == [
            (row["where"], row["gold"], row["predicted"], row["text"]) for row in tuned["wrong"]
        ]
        assert [float(row["confidence"]) for row in rows] == [row["confidence"] for row in tuned["wrong"]]
        assert overture(*words, name).code == 2
        assert overture(*words, name, "--force").code == 0


def test_errors_that_were_not_kept_can_be_made_again(tuned, overture) -> None:
    Path("store/runs/mood-1/wrong.json").unlink()
    done = overture("errors", "mood", "--json")
    assert (done.code, done.json["error"]) == (2, "StoreError")
    assert "overture eval mood" in done.json["fix"]
    assert overture("errors", "mod", "--json").code == 2


def test_every_wrong_answer_is_kept_in_full(make_task, overture) -> None:
    long = "x" * 300
    rows = [{"text": f"{long} {number}", "label": ("good", "bad")[number % 2]} for number in range(60)]
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = make_task(data={"path": "rows.jsonl", "test_share": 0.75, "validation_share": 0.1}, shots=0)
    done = overture(
        "tune", task, "--set", "train.epochs=1", "--set", "max_length=60", "--set", "too_long=trim", "--json"
    )
    assert done.code == 0, done.err
    found = overture("errors", "mood", "--json").json
    assert len(found["wrong"]) == done.json["num_wrong"] > len(done.json["wrong"]) == 20
    assert all(row["text"].startswith(long) for row in found["wrong"])
    assert all(len(row["text"]) <= 200 for row in done.json["wrong"])
