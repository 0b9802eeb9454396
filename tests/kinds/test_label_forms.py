"""Labels as data files have them: in other spellings, in columns of their own, in objects, in lists of one."""

import pytest
from kind_samples import SAMPLES, rows_of, task_of

from fakes import backbone_of
from overture.core.errors import DataError
from overture.data.encode import Encoder
from overture.data.kinds.labels import row_label
from overture.data.rows import gold_of, row_problems

LABELS = {"good": {"words": " fine", "also": ["Good", "1"]}, "bad": " poor", "odd": " odd"}


def encoder_of(name, **changes):
    return Encoder(task_of(SAMPLES[name], **changes), backbone_of("llama").text.tokenizer)


def corrected(encoder, rows):
    return [bool(encoder.task.spec.corrections(encoder.task, row)) for row in rows]


@pytest.mark.parametrize(("value", "is_other"), [("good", False), ("Good", True), (1, True), (["good"], False)])
def test_spellings_of_one_label(value, is_other):
    encoder = encoder_of("classification", labels=LABELS)
    rows = rows_of([{"text": "sun", "label": value}])
    (item,) = encoder.encode(rows)
    assert encoder.candidates.labels[item.label] == "good"
    assert gold_of(encoder.task, rows) == ("good",)
    assert row_label(encoder.task, rows[0]) == "good"
    assert corrected(encoder, rows) == [is_other]


@pytest.mark.parametrize("value", [[], ["good", "bad"], "GOOD", None, [None]])
def test_what_names_no_label(value):
    task = task_of(SAMPLES["classification"], labels=LABELS)
    assert row_problems(task, rows_of([{"text": "sun", "label": value}])[0])


def test_spellings_of_several_labels():
    encoder = encoder_of("multilabel", labels=LABELS)
    rows = rows_of([{"text": "sun", "label": ["Good", "odd"]}, {"text": "sun", "label": ["bad"]}])
    encoder.encode(rows)
    assert gold_of(encoder.task, rows) == (("good", "odd"), ("bad",))
    assert corrected(encoder, rows) == [True, False]


@pytest.mark.parametrize(("yes", "no"), [(1, 0), ("1", "0"), (True, False), ("TRUE", "false"), (1.0, 0.0), ("x", "no")])
def test_each_label_in_a_field_of_its_own(yes, no):
    encoder = encoder_of("multilabel", options={"one_hot": True})
    rows = rows_of(
        [{"text": "sun", "good": yes, "bad": no, "odd": yes}, {"text": "sun", "good": no, "bad": no, "odd": no}]
    )
    encoder.encode(rows)
    assert gold_of(encoder.task, rows) == (("good", "odd"), ())
    assert encoder.task.target_fields == ("good", "bad", "odd")


@pytest.mark.parametrize("change", [{"bad": 2}, {"bad": "maybe"}, {"bad": None}, {"bad": [1]}])
def test_a_labels_field_that_says_neither_yes_nor_no(change):
    with pytest.raises(DataError) as caught:
        encoder_of("multilabel", options={"one_hot": True}).encode(
            rows_of([{"text": "sun", "good": 1, "bad": 0, "odd": 1} | change])
        )
    assert "'bad'" in caught.value.problems[0].what


def test_labels_in_an_object():
    encoder = encoder_of("multilabel")
    rows = rows_of([{"text": "sun", "label": {"good": True, "bad": False, "odd": 1.0}}])
    encoder.encode(rows)
    assert gold_of(encoder.task, rows) == (("good", "odd"),)
