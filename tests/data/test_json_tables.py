"""JSON files in the forms of pandas and the Hub, several splits in one file, and JSON that says one thing twice."""

import json

import pandas
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reading import noticed, problems_of, table_of_file

from overture.data.read import read_table

ROWS = [{"text": "fine", "label": "good"}, {"text": "dull", "label": "bad"}, {"text": "odd", "label": "bad"}]


@pytest.mark.parametrize("orient", ["records", "columns", "index", "split", "table"])
def test_every_orientation_of_pandas(tmp_path, orient):
    table = table_of_file(tmp_path, "a.json", pandas.DataFrame(ROWS).to_json(orient=orient))
    assert table.rows == ROWS
    assert table.lines == [1, 2, 3]


def test_values_have_no_names(tmp_path):
    content = pandas.DataFrame(ROWS).to_json(orient="values")
    table = table_of_file(tmp_path, "a.json", content, header=False)
    assert table.rows[1] == {"column_1": "dull", "column_2": "bad"}
    assert table_of_file(tmp_path, "a.json", content, header=["text", "label"]).rows == ROWS
    with_names = json.dumps([["text", "label"], *(list(row.values()) for row in ROWS)])
    assert table_of_file(tmp_path, "a.json", with_names).rows == ROWS


@pytest.mark.parametrize("orient", ["columns", "index", "split"])
def test_an_index_of_names_is_a_field(tmp_path, orient):
    frame = pandas.DataFrame(ROWS, index=["a", "b", "c"])
    rows = table_of_file(tmp_path, "a.json", frame.to_json(orient=orient)).rows
    wanted = [{"index": name, **row} for name, row in zip("abc", ROWS, strict=True)]
    assert rows == wanted


def test_an_index_that_cannot_be_told_from_names_is_refused(tmp_path):
    content = {"film": {"a": "x", "b": "y"}, "stars": {"a": "u", "b": "v"}}
    ((_where, what),) = problems_of(tmp_path, "a.json", content)
    assert "cannot be told apart" in what


def test_columns_of_lists_and_one_sentence(tmp_path):
    assert table_of_file(tmp_path, "a.json", {"text": ["a", "b"], "label": [0, 1]}).rows[1] == {"text": "b", "label": 1}
    sentence = {"tokens": ["a", "b"], "tags": ["O", "O"]}
    assert table_of_file(tmp_path, "b.json", sentence).rows == [sentence]


def test_the_hubs_answers(tmp_path):
    content = {
        "features": [],
        "rows": [{"row_idx": i, "row": row, "truncated_cells": []} for i, row in enumerate(ROWS)],
    }
    assert table_of_file(tmp_path, "a.json", content).rows == ROWS


@pytest.mark.parametrize("form", ["lists", "frames"])
def test_several_splits_in_one_file(tmp_path, form):
    parts = {"train": ROWS, "dev": ROWS[:1], "test": ROWS[1:]}
    if form == "frames":
        parts = {name: json.loads(pandas.DataFrame(rows).to_json()) for name, rows in parts.items()}
    table = table_of_file(tmp_path, "a.json", parts)
    assert table.rows == [*ROWS, *ROWS[:1], *ROWS[1:]]
    assert table.splits == ["train"] * 3 + ["validation"] + ["test"] * 2
    assert "several splits in one file" in noticed(table)


def test_a_field_that_names_splits(tmp_path):
    rows = [{**row, "split": name} for row, name in zip(ROWS, ("train", "Dev", "TEST"), strict=True)]
    table = table_of_file(tmp_path, "a.jsonl", rows)
    assert table.splits == ["train", "validation", "test"]
    assert len(table.notices) == 1
    assert table_of_file(tmp_path, "a.jsonl", rows, split_field=False).splits == []
    other = [{**row, "fold": name} for row, name in zip(ROWS, ("train", "val", "third"), strict=True)]
    assert table_of_file(tmp_path, "b.jsonl", other).splits == []
    assert problems_of(tmp_path, "b.jsonl", other, split_field="fold") == [
        ("b.jsonl:3", "'third' in 'fold' is no split")
    ]
    # A field of that name with other values is a field.
    assert table_of_file(tmp_path, "c.jsonl", [{"text": "a", "split": "banana"}]).splits == []


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        ("a.jsonl", '{"text": "x"}\n{"text": "y", "label": "a", "label": "b"}\n', 2),
        ("a.jsonl", '{"a": {"b": 1, "b": 1}}\n', 1),
        ("a.json", '[{"text": "x", "text": "y"}]', 1),
        ("a.json", '{"text": {"0": "x", "0": "y"}, "label": {"0": 1}}', 1),
    ],
)
def test_a_key_that_stands_twice_is_refused(tmp_path, name, content, line):
    ((where, what),) = problems_of(tmp_path, name, content)
    assert where == f"{name}:{line}"
    assert "stands twice" in what


@given(
    rows=st.lists(
        st.fixed_dictionaries({"text": st.text(st.characters(exclude_categories=["Cs"])), "label": st.integers(0, 9)}),
        min_size=2,
    ),
    orient=st.sampled_from(["records", "columns", "index", "split", "table"]),
)
def test_any_frame_in_any_orientation(tmp_path_factory, rows, orient):
    path = tmp_path_factory.getbasetemp() / "any.json"
    pandas.DataFrame(rows).to_json(path, orient=orient)
    assert read_table(path).rows == rows
