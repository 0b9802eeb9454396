"""Which rows went wrong, the worst first."""

import pytest

from overture.cli.mistakes import wrong_lines
from overture.core.errors import DataError
from overture.data.row import Row
from overture.data.rows import ShownRow, gold_of, shown_rows
from overture.data.task import Task
from overture.evaluate.wrong import wrong_rows

SHOWN = [ShownRow(f"rows.jsonl:{number}", f"text {number}") for number in range(1, 5)]
WORDS = {
    "tokens": ["Barack", "Obama", "met", "Ada", "in", "Paris", "near", "Paris"],
    "tags": ["B-per", "I-per", "O", "B-per", "O", "O", "O", "B-loc"],
}
TEXT = {"text": "Barack Obama met Zoë ☃.", "spans": [[0, 12, "per"], [17, 22, "per"]]}


def tagging(**changes: object) -> Task:
    values = {"name": "x", "kind": "tagging", "data": {"path": "rows.jsonl"}, "labels": {"per": "PER", "loc": "LOC"}}
    return Task.model_validate({**values, "template": "{tokens}\n", **changes})


def test_right_rows_are_left_out_and_the_worst_come_first():
    gold = [("the cat sat", "a cat"), ("a dog",), ("a bird",), ("one two three",)]
    found = wrong_rows("squad_f1", gold, ["the cat sat", "nothing", "bird", "two three four"], SHOWN)
    assert [row.where for row in found] == ["rows.jsonl:2", "rows.jsonl:4"]
    assert [row.score for row in found] == pytest.approx([0, 2 / 3])
    assert found[0].gold == "a dog"


def test_every_sort_of_answer_is_shown():
    numbers = wrong_rows("spearman", [1.0, 2.0, 3.0], [1.5, 2.0, 7.0], SHOWN[:3])
    assert [row.where for row in numbers] == ["rows.jsonl:3", "rows.jsonl:1"]
    assert numbers[0].score is None
    labels = wrong_rows("accuracy", ["a", "b"], ["b", "b"], SHOWN[:2])
    assert [(row.text, row.gold, row.predicted, row.confidence) for row in labels] == [("text 1", "a", "b", None)]


def test_of_equally_wrong_answers_the_most_confident_comes_first():
    found = wrong_rows("accuracy", ["a", "a", "b", "a"], ["b", "b", "b", "b"], SHOWN, [0.6, 0.9, 0.99, 0.7])
    assert [(row.where, row.confidence) for row in found] == [
        ("rows.jsonl:2", 0.9),
        ("rows.jsonl:4", 0.7),
        ("rows.jsonl:1", 0.6),
    ]


def test_spans_are_shown_by_their_words():
    task = tagging()
    rows = [Row(WORDS, 1, "rows.jsonl")]
    said = (("per", 0, 2), ("loc", 5, 6), ("per", 2, 4))
    (found,) = wrong_rows("entity_f1", gold_of(task, rows), [said], shown_rows(task, rows))
    assert found.gold == "per: Barack Obama; per: Ada; loc: Paris (word 8)"
    assert found.predicted == "per: Barack Obama; loc: Paris (word 6); per: met Ada"
    assert found.missed == ["per: Ada", "loc: Paris (word 8)"]
    assert found.made_up == ["loc: Paris (word 6)", "per: met Ada"]
    head, text = wrong_lines([found], 100)
    assert head == "  rows.jsonl:1  missed per: Ada; loc: Paris (word 8) | made up loc: Paris (word 6); per: met Ada"
    assert "Barack Obama met Ada" in text.replace('", "', " ")


def test_spans_of_a_text_are_shown_by_its_characters():
    task = tagging(template="{text}\n", options={"text_field": "text"})
    rows = [Row(TEXT, 1, "rows.jsonl")]
    (found,) = wrong_rows("entity_f1", gold_of(task, rows), [()], shown_rows(task, rows))
    assert found.missed == ["per: Barack Obama", "per: Zoë ☃"]
    assert (found.predicted, found.made_up) == ("none", [])
    (line,) = wrong_lines([found], 120)
    assert line == '  rows.jsonl:1  missed per: Barack Obama; per: Zoë ☃  "Barack Obama met Zoë ☃."'


def test_of_several_labels_missed_and_made_up_ones_are_apart():
    task = tagging(kind="multilabel", template="{text}\n", labels={"a": " a", "b": " b", "c": " c"})
    rows = [Row({"text": "sun", "label": ["a", "b"]}, 1, "rows.jsonl")]
    (found,) = wrong_rows("multilabel_micro_f1", gold_of(task, rows), [("b", "c")], shown_rows(task, rows))
    assert (found.gold, found.predicted, found.missed, found.made_up) == ("a; b", "b; c", ["a"], ["c"])


def test_rows_must_pair_up():
    with pytest.raises(DataError, match="pair up"):
        wrong_rows("accuracy", ["a"], ["b"], SHOWN)
