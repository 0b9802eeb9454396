"""Whatever a file or a list in memory holds, it is read or it is a problem: no traceback, no row without a place."""

import datetime
import json

import numpy as np
import pandas
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from overture.core.errors import DataError
from overture.data.formats.options import FileOptions
from overture.data.formats.registry import FORMATS, SHAPES
from overture.data.read import scan, table_of

NAMES = [
    "text", "label", "labels", "entities", "spans", "tokens", "tags", "ner_tags", "words", "word", "tag",
    "sentence_id", "messages", "conversations", "role", "content", "from", "value", "system", "history", "tools",
    "loss_mask", "weight", "instruction", "input", "output", "question", "context", "answers", "answer",
    "answer_start", "text", "paragraphs", "qas", "is_impossible", "data", "annotations", "completions", "result",
    "type", "from_name", "start", "end", "start_offset", "end_offset", "annotation_id", "lead_time", "cats",
    "options", "accept", "_view_id", "split", "columns", "index", "schema", "rows", "row", "row_idx", "relations",
    "choices", "0", "1"
]  # fmt: skip
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-2, 20)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from(
        ["", "user", "assistant", "human", "gpt", "accept", "reject", "labels", "choices", "O", "B-X", "I-Y", "x"]
    )
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=4),
    max_leaves=12,
)
RECORDS = st.lists(st.dictionaries(st.sampled_from(NAMES), VALUES, min_size=1, max_size=6), min_size=1, max_size=4)


def checked(table, problems):
    assert len(table.rows) == len(table.lines)
    assert table.splits == [] or len(table.splits) == len(table.rows)
    assert table.rows or problems
    for notice in table.notices:
        assert notice.text


@settings(max_examples=400)
@given(records=RECORDS, shape=st.none() | st.sampled_from(sorted(SHAPES)))
def test_any_records(records, shape):
    problems = []
    checked(table_of(records, "rows", problems, FileOptions(format=shape)), problems)


@settings(max_examples=300)
@given(value=VALUES | RECORDS, format=st.none() | st.sampled_from(sorted(set(FORMATS) - {"brat"})))
def test_any_json_file(tmp_path_factory, value, format):
    path = tmp_path_factory.getbasetemp() / "any.json"
    path.write_text(json.dumps(value))
    problems = []
    checked(scan(path, problems, FileOptions(format=format)), problems)


@settings(max_examples=300)
@given(
    text=st.text(
        st.sampled_from("ab1 \t,;|\"'#[]()*-\n\r_{}:") | st.characters(exclude_categories=["Cs"]), max_size=80
    ),
    suffix=st.sampled_from([".csv", ".tsv", ".conll", ".conllu", ".txt", ".jsonl", ".json", ""]),
    header=st.none() | st.booleans() | st.just(["a", "b"]),
    encoding=st.none() | st.sampled_from(["cp1252", "utf-16", "gb18030"]),
)
def test_any_text_file(tmp_path_factory, text, suffix, header, encoding):
    path = tmp_path_factory.getbasetemp() / f"any{suffix}"
    path.write_bytes(text.encode(encoding or "utf-8", errors="ignore"))
    problems = []
    checked(scan(path, problems, FileOptions(header=header, encoding=encoding)), problems)


# -- rows in memory


def test_a_data_frame_gives_plain_values():
    frame = pandas.DataFrame(
        {
            "text": ["a", None],
            "label": pandas.Categorical(["x", "y"]),
            "count": [1.0, np.nan],
            "when": [datetime.datetime(2024, 5, 2), pandas.NaT],
            "whole": pandas.array([1, None], dtype="Int64"),
            "tags": [np.array(["O", "B-X"]), np.array([])],
        },
        index=[7, 9],
    )
    table = table_of(frame)
    assert table.rows == [
        {"text": "a", "label": "x", "count": 1.0, "when": "2024-05-02T00:00:00", "whole": 1, "tags": ["O", "B-X"]},
        {"text": None, "label": "y", "count": None, "when": None, "whole": None, "tags": []},
    ]
    assert table.lines == [1, 2]
    json.dumps(table.rows)


def test_mappings_have_the_shapes_of_files():
    turns = [{"from": "human", "value": "x"}, {"from": "gpt", "value": "y"}]
    table = table_of(({"conversations": turns} for _ in range(3)), "my rows")
    assert (table.format, len(table.rows)) == ("sharegpt", 3)
    assert table.notices[0].subject == "my rows"
    # The caller's own rows stay as they are.
    own = {"words": ["a", ""], "ner_tags": ["O", "O"]}
    table_of([own])
    assert own == {"words": ["a", ""], "ner_tags": ["O", "O"]}


@pytest.mark.parametrize("rows", [["text"], [3], [], [None]])
def test_other_rows_are_told(rows):
    with pytest.raises(DataError):
        table_of(rows)
