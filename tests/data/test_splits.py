import json
import sys
from collections import Counter
from types import SimpleNamespace

import pytest

from overture.core.errors import ConfigError, DataError
from overture.data.splits import load_splits


def rows_of(counts, start=0):
    return [{"text": f"{label} {start + i}", "label": label} for label, n in counts.items() for i in range(n)]


def labels_in(rows):
    return Counter(row.fields["label"] for row in rows)


def report(task):
    with pytest.raises(DataError) as caught:
        load_splits(task)
    return [str(problem) for problem in caught.value.problems]


def test_missing_splits_are_drawn_in_proportion_and_do_not_overlap(jsonl, make_task):
    path = jsonl(rows_of({"pos": 60, "neg": 40}))
    splits = load_splits(make_task(data={"path": path, "test_share": 0.3, "validation_share": 0.1}))
    assert labels_in(splits.test) == {"pos": 18, "neg": 12}
    assert labels_in(splits.validation) == {"pos": 6, "neg": 4}
    lines = [row.line for part in (splits.train, splits.validation, splits.test) for row in part]
    assert sorted(lines) == list(range(1, 101))
    assert [row.line for row in splits.test] == sorted(row.line for row in splits.test)
    assert splits.notices == []


def test_the_seed_decides(jsonl, make_task):
    path = jsonl(rows_of({"pos": 30, "neg": 30}))

    def test_lines(**data):
        return [row.line for row in load_splits(make_task(data={"path": path, **data})).test]

    assert test_lines(seed=1) == test_lines(seed=1)
    assert test_lines(seed=1) != test_lines(seed=2)
    assert test_lines(seed=1) == test_lines(seed=1, train_rows=5, validation_share=0)


def test_given_splits_are_kept_and_only_the_missing_one_is_drawn(jsonl, make_task):
    data = {
        "train": jsonl(rows_of({"pos": 10, "neg": 10})),
        "validation": jsonl(rows_of({"pos": 3, "neg": 1}, 100), "v.jsonl"),
    }
    splits = load_splits(make_task(data=data))
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (16, 4, 4)
    assert {row.file for row in splits.validation} == {str(data["validation"])}
    assert {row.file for row in splits.test} == {str(data["train"])}


@pytest.mark.parametrize(("wanted", "counts"), [(10, {"pos": 9, "neg": 1}), (2, {"pos": 1, "neg": 1}), (1, {"pos": 1})])
def test_samples_are_stratified_and_keep_rare_labels(jsonl, make_task, wanted, counts):
    path = jsonl(rows_of({"pos": 97, "neg": 3}))
    test = jsonl(rows_of({"pos": 97, "neg": 3}, 1000), "test.jsonl")
    data = {"train": path, "validation_share": 0, "test": test, "test_rows": wanted}
    assert labels_in(load_splits(make_task(data=data)).test) == counts


def test_a_label_with_one_row_stays_in_training(jsonl, make_task):
    splits = load_splits(make_task(data={"path": jsonl(rows_of({"pos": 9, "neg": 1}))}))
    assert labels_in(splits.train)["neg"] == 1


def test_too_large_a_sample_and_an_empty_split_are_noticed(jsonl, make_task):
    data = {"path": jsonl(rows_of({"pos": 2, "neg": 2})), "train_rows": 99, "validation_share": 0}
    noticed = load_splits(make_task(data=data)).noticed
    assert [(notice.kind, notice.subject) for notice in noticed[:2]] == [
        ("fewer rows than data.train_rows asks for", "3 of 99"),
        ("no rows", "validation"),
    ]


def test_every_bad_row_of_every_file_in_one_report(tmp_path, jsonl, make_task):
    good = rows_of({"pos": 2, "neg": 2})
    bad = [
        {"label": "pos"},
        {"text": None, "label": "pos"},
        {"text": ["a"], "label": "pos"},
        {"text": {"a": 1}, "label": "pos"},
        {"text": " \n", "label": "pos"},
        {"text": "a", "label": "Pos"},
        {"text": "a"},
        {"text": "a", "label": None},
        {"text": "a", "label": ["pos", "neg"]},
        {"text": "\ud800", "label": "pos"},
    ]
    train = jsonl(good + bad)
    validation = tmp_path / "v.jsonl"
    validation.write_text("{\n" + json.dumps(good[0]) + "\n")
    found = report(make_task(data={"train": train, "validation": validation, "test": tmp_path / "no.csv"}))
    wanted = [
        (f"{validation}:1", "not JSON"),
        (f"{tmp_path / 'no.csv'}", "no such file"),
        (f"{train}:5", "no field 'text'"),
        (f"{train}:6", "field 'text' is null"),
        (f"{train}:7", "field 'text' is a list"),
        (f"{train}:8", "field 'text' is an object"),
        (f"{train}:9", "empty text in 'text'"),
        (f"{train}:10", "unknown label 'Pos' (did you mean 'pos'?)"),
        (f"{train}:11", "no field 'label'"),
        (f"{train}:12", "the label is null"),
        (f"{train}:13", "the label is a list"),
        (f"{train}:14", "surrogate"),
    ]
    assert len(found) == len(wanted)
    for text, (where, what) in zip(found, wanted, strict=True):
        assert text.startswith(f"{where}: ")
        assert what in text


def test_mixed_numbers_truth_values_and_texts_are_texts(jsonl, make_task):
    rows = [{"text": value, "label": label} for value, label in [(1, 1), (2.5, "1"), (True, 1.0), ("a", 0), ("b", 0.0)]]
    data = {"train": jsonl(rows), "test_share": 0, "validation_share": 0}
    assert len(load_splits(make_task(data=data, labels={"0": " a", "1": " b"})).train) == 5


def test_a_field_that_no_row_has_is_one_problem(jsonl, make_task):
    found = report(
        make_task(data={"path": jsonl(rows_of({"pos": 9, "neg": 9}))}, template="{txet}:", label_field="lable")
    )
    assert len(found) == 2
    assert "did you mean 'text'?" in found[0]
    assert "did you mean 'label'?" in found[1]


def test_one_label_is_an_error_and_an_unseen_one_a_notice(jsonl, make_task):
    assert "only one label" in report(make_task(data={"path": jsonl(rows_of({"pos": 20}))}))[0]
    three = {"pos": " p", "neg": " n", "odd": " o"}
    splits = load_splits(make_task(data={"path": jsonl(rows_of({"pos": 20, "neg": 20}))}, labels=three))
    assert [(notice.kind, notice.subject) for notice in splits.noticed] == [
        ("labels without a row", "'odd' in train and validation and test")
    ]


def test_leaks_repeats_and_contradictions_are_noticed(jsonl, make_task):
    train = rows_of({"pos": 3, "neg": 3})
    twice = [*train, train[0], {**train[1], "label": "neg"}]
    test = [{"text": "new", "label": "pos"}, {"text": train[2]["text"], "label": "neg", "id": 1}]
    data = {"train": jsonl(twice), "test": jsonl(test, "t.jsonl"), "validation_share": 0}
    splits = load_splits(make_task(data=data))
    repeats = {(notice.subject, notice.kind): notice for notice in splits.noticed if "repeat" in notice.kind}
    assert [(subject, notice.count) for (subject, _), notice in repeats.items()] == [
        ("train", 2),
        ("train", 1),
        ("test", 1),
    ]
    assert list(repeats.values())[2].first == f"{data['test']}:2 = {data['train']}:3"
    assert splits.repeats == {"train": 2, "validation": 0, "test": 1}


def test_one_empty_text_of_two_is_a_notice(jsonl, make_task):
    rows = [{"text": f"t{i}", "input": "" if i == 1 else "x", "answer": "a"} for i in range(4)]
    task = make_task(
        data={"path": jsonl(rows), "test_share": 0, "validation_share": 0},
        template="{text} {input}",
        labels=None,
        answer_field="answer",
    )
    (notice,) = (notice for notice in load_splits(task).noticed if "empty" in notice.kind)
    assert (notice.subject, notice.count) == ("input", 1)


def test_answers(jsonl, make_task):
    rows = [{"text": f"t{i}", "answer": answer} for i, answer in enumerate(["a", 1, ["b", "c"], "", [], None, "x\ny"])]
    task = make_task(data={"path": jsonl(rows)}, labels=None, answer_field="answer")
    assert [text.split(":")[1] for text in report(task)] == ["4", "5", "6"]
    rows = [row for row in rows if row["answer"]]
    splits = load_splits(make_task(data={"path": jsonl(rows), "test_share": 0}, labels=None, answer_field="answer"))
    assert [notice.count for notice in splits.noticed if notice.unit == "answer"] == [1]


@pytest.mark.parametrize(
    ("options", "changes"),
    [
        ({"references_field": "refrences"}, {"answer_field": "answer"}),
        ({"starts_field": "answer_start"}, {"kind": "qa", "template": "{context} {text}"}),
    ],
)
def test_an_optional_field_that_no_row_has_is_a_problem(jsonl, make_task, options, changes):
    rows = [{"text": f"t{i}", "context": "ab", "answer": "ab", "answers": ["ab"]} for i in range(6)]
    given = {"data": {"path": jsonl(rows)}, "labels": None, "options": options, **changes}
    (name,) = options.values()
    (problem,) = report(make_task(**given))
    assert f"no field '{name}'" in problem
    # One row that has it, of any split, is enough.
    test = jsonl([{**rows[0], name: ["ab"] if "references_field" in options else 0}], "test.jsonl")
    load_splits(make_task(**{**given, "data": {"train": jsonl(rows), "test": test}}))


def test_one_question_with_other_choices_is_no_repeat(jsonl, make_task):
    rows = [{"text": "which?", "choices": [f"a{i}", f"b{i}"], "label": 0} for i in range(8)]
    splits = load_splits(make_task(data={"path": jsonl(rows)}, labels=None, kind="choice"))
    assert not any("repeat" in notice for notice in splits.notices)
    data = {"train": jsonl(rows), "test": jsonl(rows, "test.jsonl")}
    twice = load_splits(make_task(data=data, labels=None, kind="choice"))
    assert any(notice.subject == "test" and "repeat" in notice.kind for notice in twice.noticed)


def test_a_hub_data_set_needs_the_extra(make_task, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ConfigError, match=r"pip install 'datasets"):
        load_splits(make_task(data={"dataset": "someone/set"}))


def test_a_hub_data_set(make_task, monkeypatch):
    hub = {"train": rows_of({"pos": 10, "neg": 10}), "validation": rows_of({"pos": 1}, 50), "extra": []}
    fake = SimpleNamespace(
        load_dataset=lambda name, subset: hub if (name, subset) == ("set", "sub") else {},
        disable_progress_bars=lambda: None,
    )
    monkeypatch.setitem(sys.modules, "datasets", fake)
    splits = load_splits(make_task(data={"dataset": "set", "subset": "sub"}))
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (16, 1, 4)
    assert splits.validation[0].where == "set/validation:1"
    with pytest.raises(DataError, match="no split 'train'"):
        load_splits(make_task(data={"dataset": "set"}))
    hub["train"] = []
    with pytest.raises(DataError, match="no rows"):
        load_splits(make_task(data={"dataset": "set", "subset": "sub"}))


def test_labels_spelled_otherwise_are_counted(jsonl, make_task):
    rows = [{"text": f"text {n}", "label": ("pos", "POS ", "neg")[n % 3]} for n in range(30)]
    splits = load_splits(make_task(data={"path": jsonl(rows), "normalise_labels": True}))
    (notice,) = splits.noticed
    assert (notice.count, notice.first.rpartition(":")[2]) == (10, "2")
    assert report(make_task(data={"path": jsonl(rows)}))


@pytest.mark.parametrize(("labels", "is_offered"), [(None, True), ({"pos": " good", "Pos": " bad"}, False)])
def test_labels_spelled_otherwise_are_an_error_with_a_fix(jsonl, make_task, labels, is_offered):
    rows = [{"text": f"text {n}", "label": ("pos", "POS ", "neg")[n % 3]} for n in range(30)]
    with pytest.raises(DataError) as caught:
        load_splits(make_task(data={"path": jsonl(rows)}, **({"labels": labels} if labels else {})))
    assert ("data.normalise_labels: true" in caught.value.fix) is is_offered
