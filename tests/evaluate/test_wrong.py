"""Which rows went wrong, the worst first."""

import pytest

from overture.core.errors import DataError
from overture.evaluate.wrong import wrong_rows

SHOWN = [(f"rows.jsonl:{number}", f"text {number}") for number in range(1, 5)]


def test_right_rows_are_left_out_and_the_worst_come_first():
    gold = [("the cat sat", "a cat"), ("a dog",), ("a bird",), ("one two three",)]
    found = wrong_rows("squad_f1", gold, ["the cat sat", "nothing", "bird", "two three four"], SHOWN)
    assert [row.where for row in found] == ["rows.jsonl:2", "rows.jsonl:4"]
    assert [row.score for row in found] == pytest.approx([0, 2 / 3])
    assert found[0].gold == "a dog"


def test_every_sort_of_answer_is_shown():
    spans = wrong_rows("entity_f1", [(), (("per", 0, 2),)], [(), (("per", 0, 1), ("loc", 3, 4))], SHOWN[:2])
    assert [(row.where, row.gold, row.predicted) for row in spans] == [("rows.jsonl:2", "per 0 2", "per 0 1; loc 3 4")]
    numbers = wrong_rows("spearman", [1.0, 2.0, 3.0], [1.5, 2.0, 7.0], SHOWN[:3])
    assert [row.where for row in numbers] == ["rows.jsonl:3", "rows.jsonl:1"]
    assert numbers[0].score is None
    labels = wrong_rows("accuracy", ["a", "b"], ["b", "b"], SHOWN[:2], max_characters=5)
    assert [(row.text, row.gold, row.predicted) for row in labels] == [("te...", "a", "b")]


def test_rows_must_pair_up():
    with pytest.raises(DataError, match="pair up"):
        wrong_rows("accuracy", ["a"], ["b"], SHOWN)
