"""Rows and splits without labels, what `data.drop` leaves out, and names of numbered labels."""

import json
import sys
from types import SimpleNamespace

import pyarrow as pa
import pytest
from pyarrow import parquet

from overture.core.errors import DataError
from overture.data.formats.options import FileOptions
from overture.data.read import read_table
from overture.data.splits import load_splits
from overture.data.task_rows import rows_of_file

LABELS = {"pos": " good", "neg": " bad"}


def rows_of(labels, start=0):
    return [{"text": f"row {start + i}", "label": label} for i, label in enumerate(labels)]


def kinds(splits):
    return {notice.kind: notice.count for notice in splits.noticed}


@pytest.mark.parametrize("nothing", [-1, "-1", None, "", float("nan"), "missing"])
def test_a_split_without_labels_is_left_out_and_another_drawn(tmp_path, jsonl, make_task, nothing):
    test = rows_of([nothing] * 4, 100)
    if nothing == "missing":
        test = [{"text": row["text"]} for row in test]
    text = "".join(json.dumps(row).replace("NaN", "null") + "\n" for row in test)
    (tmp_path / "test.jsonl").write_text(text)
    data = {"train": jsonl(rows_of(["pos", "neg"] * 10)), "test": tmp_path / "test.jsonl"}
    splits = load_splits(make_task(data=data))
    assert len(splits.test) == 4
    assert {row.file for row in splits.test} == {str(data["train"])}
    assert kinds(splits)["test rows without any label"] == 4


@pytest.mark.parametrize("name", ["Label", "labels"])
def test_a_label_under_another_name_is_a_mistake(jsonl, make_task, name):
    test = [{"text": row["text"], name: row["label"]} for row in rows_of(["pos"] * 4, 100)]
    data = {"train": jsonl(rows_of(["pos", "neg"] * 10)), "test": jsonl(test, "test.jsonl")}
    with pytest.raises(DataError) as caught:
        load_splits(make_task(data=data))
    assert [problem.where for problem in caught.value.problems] == [str(data["test"])]


def test_minus_1_may_be_a_label_or_an_answer(jsonl, make_task):
    data = {"path": jsonl(rows_of([-1, 1] * 10))}
    assert not load_splits(make_task(data=data, labels={"-1": " bad", "1": " good"})).noticed
    task = make_task(data=data, labels=None, answer_field="label")
    assert len(load_splits(task).test) == 4


@pytest.mark.parametrize("drop", [["unlabelled"], ["unlabelled", "empty"]])
def test_rows_without_a_label_are_dropped_if_asked(jsonl, make_task, drop):
    rows = rows_of(["pos", "neg", None, -1, ""] * 6)
    with pytest.raises(DataError) as caught:
        load_splits(make_task(data={"path": jsonl(rows)}))
    assert len(caught.value.problems) == 18
    assert "unlabelled (18)" in caught.value.fix
    splits = load_splits(make_task(data={"path": jsonl(rows), "drop": drop}))
    assert sum(map(len, (splits.train, splits.validation, splits.test))) == 12
    (notice,) = splits.noticed
    assert (notice.kind, notice.count) == ("unlabelled rows", 18)
    assert notice.first.endswith(":3")


def test_empty_rows_are_dropped_if_asked(jsonl, make_task):
    rows = rows_of(["pos", "neg"] * 6) + [{"text": text, "label": "pos"} for text in ("", " \n", None)]
    rows.append({"label": "pos"})
    with pytest.raises(DataError) as caught:
        load_splits(make_task(data={"path": jsonl(rows)}))
    assert "empty (4)" in caught.value.fix
    splits = load_splits(make_task(data={"path": jsonl(rows), "drop": ["empty"]}))
    assert kinds(splits) == {"empty rows": 4}


def test_repeats_are_dropped_from_training_first(jsonl, make_task):
    train, test = rows_of(["pos", "neg"] * 5), rows_of(["pos", "neg"])
    data = {
        "train": jsonl([*train, train[4]]),
        "test": jsonl(test, "t.jsonl"),
        "drop": ["repeats"],
        "validation_share": 0,
    }
    splits = load_splits(make_task(data=data))
    assert len(splits.test) == 2
    assert [row.line for row in splits.train] == list(range(3, 11))
    assert kinds(splits)["repeated rows"] == 3
    assert sum(splits.repeats.values()) == 0


def test_of_several_fields_one_may_be_null(jsonl, make_task):
    rows = [{"text": f"t{i}", "note": None if i == 1 else "x", "answer": "a"} for i in range(10)]
    task = make_task(data={"path": jsonl(rows)}, template="{text} {note}", labels=None, answer_field="answer")
    (notice,) = load_splits(task).noticed
    assert (notice.kind, notice.subject, notice.count) == ("empty text in a field", "note", 1)


def test_labels_without_rows_are_told_once_for_all_splits(jsonl, make_task):
    data = {"train": jsonl(rows_of(["pos", "neg"] * 5)), "test": jsonl(rows_of(["pos"], 90), "t.jsonl")}
    (notice,) = load_splits(make_task(data={**data, "validation_share": 0.2})).noticed
    assert (notice.kind, notice.subject) == ("labels without a row", "'neg' in test")


def test_one_notice_for_a_field_over_all_splits(jsonl, make_task):
    rows = [{"text": f"t{i}", "a": "" if i % 2 else "x", "b": "" if i % 4 else "y", "label": "pos"} for i in range(16)]
    rows += [{**row, "text": row["text"] + "!", "label": "neg"} for row in rows]
    splits = load_splits(make_task(data={"path": jsonl(rows)}, template="{text} {a} {b}"))
    assert [(n.subject, n.count) for n in splits.noticed] == [("a", 16), ("b", 24)]
    assert len(splits.notices) == 1
    assert "a 16 rows, b 24 rows" in splits.notices[0]


def test_rows_to_be_scored_are_read_as_the_tasks_own(tmp_path, jsonl, make_task):
    task = make_task(data={"path": jsonl(rows_of(["pos", "neg"])), "drop": ["unlabelled"], "format": "jsonl"})
    path = tmp_path / "new.csv"
    path.write_text("text,label\na,pos\nb,\n")
    rows, notices = rows_of_file(task, path)
    assert [(row.where, row.fields["text"]) for row in rows] == [(f"{path}:2", "a")]
    assert [notice.kind for notice in notices] == ["unlabelled rows"]


# -- names of numbered labels


def written_parquet(path, columns, features=None):
    table = pa.table(columns)
    if features:
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    parquet.write_table(table, path)
    return path


CLASS_LABEL = {"label": {"names": ["neg", "pos"], "_type": "ClassLabel"}, "text": {"dtype": "string", "_type": "Value"}}


@pytest.mark.parametrize(
    "labels", [LABELS, {0: " bad", 1: " good"}, {"good": {"words": " x", "also": ["pos"]}, "neg": " y"}]
)
def test_numbered_labels_have_names(tmp_path, make_task, labels):
    columns = {"text": [f"t{i}" for i in range(20)], "label": [0, 1] * 10}
    path = written_parquet(tmp_path / "a.parquet", columns, CLASS_LABEL)
    table = read_table(path)
    assert [row["label"] for row in table.rows[:2]] == ["neg", "pos"]
    assert [row["label"] for row in table.numbered("label")[:2]] == [0, 1]
    splits = load_splits(make_task(data={"path": path}, labels=labels))
    wanted = {0, 1} if 0 in labels else {"pos", "neg"}
    assert {row.fields["label"] for row in splits.train} == wanted


def test_named_tags_of_words(tmp_path, make_task):
    features = {"ner_tags": {"feature": {"names": ["O", "B-PER"], "_type": "ClassLabel"}, "_type": "Sequence"}}
    columns = {"tokens": [["Ann", f"went{i}"] for i in range(10)], "ner_tags": [[1, 0]] * 10}
    path = written_parquet(tmp_path / "a.parquet", columns, features)
    task = make_task(data={"path": path}, kind="tagging", template="{tokens}\n", labels={"PER": " person"})
    assert load_splits(task).train[0].fields["tags"] == ["B-PER", "O"]


def test_names_of_the_hub(make_task, monkeypatch):
    class Part(list):
        features = SimpleNamespace(to_dict=lambda: CLASS_LABEL)

    hub = {
        "train": Part(rows_of([0, 1] * 10)),
        "validation_matched": Part(rows_of([1], 50)),
        "test": Part(rows_of([-1] * 3, 60)),
    }
    monkeypatch.setitem(
        sys.modules,
        "datasets",
        SimpleNamespace(load_dataset=lambda name, subset: hub, disable_progress_bars=lambda: None),
    )
    splits = load_splits(make_task(data={"dataset": "set"}))
    assert [row.fields["label"] for row in splits.validation] == ["pos"]
    assert splits.validation[0].where == "set/validation_matched:1"
    assert len(splits.test) == 4
    assert kinds(splits)["test rows without any label"] == 3


# -- Parquet


def test_parquet_of_dates_and_decimals(tmp_path):
    columns = {
        "text": ["a", "b"],
        "far": pa.array([2**62, 0], pa.timestamp("us")),
        "day": pa.array([2**30, 0], pa.date32()),
        "zone": pa.array([0, None], pa.timestamp("us", "Nowhere/Land")),
        "sum": pa.array([None, None], pa.decimal128(5, 2)),
        "while": pa.array([5, 6], pa.duration("ns")),
    }
    rows = read_table(written_parquet(tmp_path / "a.parquet", columns)).rows
    assert [row["text"] for row in rows] == ["a", "b"]
    assert rows[1]["far"].startswith("1970-01-01")
    assert rows[1]["day"] == "1970-01-01"
    json.dumps(rows)


@pytest.mark.parametrize("limit", ["_MAX_ROWS", "_MAX_BYTES"])
def test_a_small_file_of_many_rows_is_not_unfolded(tmp_path, monkeypatch, limit):
    path = written_parquet(tmp_path / "a.parquet", {"text": ["x" * 100] * 50_000})
    assert path.stat().st_size < 10_000
    monkeypatch.setattr(f"overture.data.formats.parquet_table.{limit}", 40_000)
    with pytest.raises(DataError) as caught:
        read_table(path)
    (problem,) = caught.value.problems
    assert problem.where == str(path)


def test_the_index_of_pandas_in_parquet(tmp_path):
    path = written_parquet(tmp_path / "a.parquet", {"text": ["a"], "__index_level_0__": [7]})
    table = read_table(path)
    assert table.rows == [{"text": "a"}]
    assert len(table.notices) == 1


# -- several splits in one file, as a task


def test_a_task_takes_the_splits_that_a_file_names(tmp_path, make_task):
    path = tmp_path / "all.json"
    parts = {"train": rows_of(["pos", "neg"] * 5), "dev": rows_of(["pos"], 50), "test": rows_of(["neg", "pos"], 60)}
    path.write_text(json.dumps(parts))
    splits = load_splits(make_task(data={"path": path}))
    assert [len(rows) for rows in (splits.train, splits.validation, splits.test)] == [10, 1, 2]
    other = tmp_path / "test.jsonl"
    other.write_text("".join(json.dumps(row) + "\n" for row in rows_of(["pos"] * 3, 90)))
    splits = load_splits(make_task(data={"train": path, "test": other}))
    assert [len(rows) for rows in (splits.train, splits.validation, splits.test)] == [10, 1, 3]
    assert kinds(splits)["test rows in the file for train"] == 2


def test_files_of_a_task_have_one_header(tmp_path, make_task):
    (tmp_path / "train.csv").write_text("fine,pos\ndull,neg\ngreat,pos\nbad,neg\n")
    # Alone, this file would pass for one with names.
    (tmp_path / "test.csv").write_text("odd,neg\nsuper,pos\n")
    assert read_table(tmp_path / "test.csv", FileOptions()).lines == [2]
    data = {"train": tmp_path / "train.csv", "test": tmp_path / "test.csv", "validation_share": 0}
    splits = load_splits(make_task(data=data, template="{column_1}", label_field="column_2"))
    assert [len(splits.train), len(splits.test)] == [4, 2]


def test_an_assumed_header_is_told_with_the_error(tmp_path, make_task):
    (tmp_path / "a.csv").write_text("fine,pos\ndull,neg\ngreat,pos\nbad,neg\n")
    with pytest.raises(DataError) as caught:
        load_splits(make_task(data={"path": tmp_path / "a.csv"}))
    assert "data.header" in caught.value.fix
