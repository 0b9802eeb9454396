"""Files as people have them: labels spelled oddly or missing, other files under a data file's name, folders."""

import json

import pytest
from reading import noticed, problems_of, table_of_file, written

from overture.core.errors import DataError
from overture.data.init_task import starting_task
from overture.data.read import read_table
from overture.data.splits import load_splits
from overture.data.task import Task

TEXTS = [f"some longer text number {i}" for i in range(24)]


def loaded(path, folder):
    started = starting_task(path, folder)
    file = folder / "task.yaml"
    file.write_text(started.text)
    return Task.load(file), started


def table(tmp_path, labels, name="a.csv", header="text,label"):
    """A CSV file with these labels, over and over."""
    lines = [header, *(f"{text},{labels[i % len(labels)]}" for i, text in enumerate(TEXTS))]
    return written(tmp_path, name, "\n".join(lines) + "\n")


# -- labels


@pytest.mark.parametrize("missing", ["NaN", "n/a", "#N/A", "<NA>", "null", "-", "?"])
def test_values_that_mean_no_label_are_told_and_left_out(tmp_path, missing):
    task, started = loaded(table(tmp_path, ["good", "bad", missing]), tmp_path)
    assert list(task.words) == ["bad", "good"]
    assert list(task.data.drop) == ["unlabelled"]
    assert any(repr(missing) in note for note in started.notes)
    splits = load_splits(task)
    assert sum(map(len, (splits.train, splits.validation, splits.test))) == 16
    assert sum(notice.count for notice in splits.noticed if notice.kind == "unlabelled rows") == 8


@pytest.mark.parametrize("label", ["None", "NA"])
def test_labels_that_may_mean_no_label_stay_and_are_told(tmp_path, label):
    task, started = loaded(table(tmp_path, ["good", "bad", label]), tmp_path)
    assert list(task.words) == sorted(["bad", "good", label])
    assert not task.data.drop
    assert any(repr(label) in note for note in started.notes)


def test_a_label_that_is_named_is_a_label_whatever_it_is_called(tmp_path):
    task, _ = loaded(table(tmp_path, ["good", "?"]), tmp_path)
    assert list(task.words) == ["?", "good"]
    assert not task.data.drop
    assert len(load_splits(task).train) == 14


@pytest.mark.parametrize(
    ("spellings", "label"),
    [
        (["1", "1.0", "1"], "1"),
        (["good", "good\u200b", "good"], "good"),
        (["caf\u00e9", "cafe\u0301", "caf\u00e9"], "caf\u00e9"),
        (["good\t", "good\t", "good\t"], "good"),
        (["good\u00a0", "good\u00a0", "good"], "good"),
    ],
)
def test_spellings_that_look_alike_are_one_label(tmp_path, spellings, label):
    task, started = loaded(table(tmp_path, [*spellings, "other"]), tmp_path)
    assert sorted(task.words) == sorted([label, "other"])
    assert task.spellings[label] == sorted({*spellings} - {label})
    assert any(repr(label) in note for note in started.notes)
    assert {task.label_named(spelling) for spelling in spellings} == {label}
    assert load_splits(task).train


@pytest.mark.parametrize("label", ["\U0001f468\u200d\U0001f469", "\u0645\u06cc\u200c\u0634\u0648\u062f"])
def test_joiners_inside_a_label_stay(tmp_path, label):
    task, _ = loaded(table(tmp_path, [label, label + "\u200b", "other"]), tmp_path)
    assert sorted(task.words) == sorted([label, "other"])


def test_names_of_one_hot_columns_stay_as_they_are(tmp_path):
    rows = [{"text": text, "Good": i % 2, "good ": i % 3 == 0, "loud": i % 4 == 0} for i, text in enumerate(TEXTS)]
    task, _ = loaded(written(tmp_path, "a.jsonl", rows), tmp_path)
    assert sorted(task.words) == ["Good", "good ", "loud"]
    assert load_splits(task).train


@pytest.mark.parametrize("separator", [";", "|"])
def test_labels_that_stand_in_one_cell_beside_several_others(tmp_path, separator):
    cells = [f"{tone}{separator}{topic}" for tone in ("good", "bad") for topic in ("food", "music")]
    task, started = loaded(table(tmp_path, cells, header="text,tags"), tmp_path)
    assert (task.kind, list(task.words)) == ("multilabel", ["bad", "food", "good", "music"])
    assert any(repr(separator) in note for note in started.notes)


def test_names_with_a_separator_in_them_are_labels(tmp_path):
    places = ['"Paris, France"', '"Lyon, France"', '"Rome, Italy"', '"Bari, Italy"']
    task, _ = loaded(table(tmp_path, places), tmp_path)
    assert task.kind == "classification"
    assert len(task.words) == 4


def test_sentences_with_signs_in_them_are_answers(tmp_path):
    targets = [f"The Quine Tapes {i}." for i in range(len(TEXTS))]
    targets[3] = "It came first; it was late, loud, and long."
    rows = [{"input": text, "target": target} for text, target in zip(TEXTS, targets, strict=True)]
    task, _ = loaded(written(tmp_path, "a.jsonl", rows), tmp_path)
    assert (task.kind, task.answer_field) == ("generation", "target")


def test_decimal_commas_are_numbers_and_told(tmp_path):
    lines = ["text;score", *(f"{text};{i // 2},{i % 10}5" for i, text in enumerate(TEXTS))]
    task, _ = loaded(written(tmp_path, "a.csv", "\n".join(lines)), tmp_path)
    assert task.kind == "regression"
    splits = load_splits(task)
    golds = [task.spec.gold(task, row) for row in splits.train]
    assert {round(gold % 0.1, 2) for gold in golds} <= {0.05}
    assert sum(n.count for n in splits.noticed if "decimal comma" in n.kind) == len(TEXTS)


def test_a_comma_that_may_stand_for_thousands_is_no_decimal_comma(tmp_path):
    rows = [{"text": text, "score": "1,234" if i == 5 else i} for i, text in enumerate(TEXTS)]
    data = {"path": str(written(tmp_path, "a.jsonl", rows))}
    task = Task(
        name="a", data=data, kind="regression", template="{text}", label_field="score", labels={0: "a", 30: "b"}
    )
    with pytest.raises(DataError) as caught:
        load_splits(task)
    assert [problem.where for problem in caught.value.problems] == [f"{tmp_path / 'a.jsonl'}:6"]


@pytest.mark.parametrize("labels", [["good"], [f"label {i}" for i in range(24)]])
def test_a_label_field_that_cannot_be_learnt_is_named(tmp_path, labels):
    with pytest.raises(DataError) as caught:
        starting_task(table(tmp_path, labels), tmp_path)
    assert "'label'" in caught.value.what
    assert str(len(labels)) in caught.value.got
    assert caught.value.fix


def test_many_names_are_cut_in_the_error(tmp_path):
    with pytest.raises(DataError) as caught:
        starting_task(written(tmp_path, "a.json", {text: text for text in TEXTS}), tmp_path)
    assert "4 more" in caught.value.got


# -- files


@pytest.mark.parametrize(
    "content",
    [
        b"PK\x03\x04\x14\x00\x00\x00",
        b"%PDF-1.4\n%\xe2\xe3\n",
        b"\n<!DOCTYPE html>\n<html>",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
    ],
)
@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.json", "a.parquet"])
def test_other_files_under_a_data_files_name(tmp_path, name, content):
    with pytest.raises(DataError) as caught:
        table_of_file(tmp_path, name, content)
    (problem,) = caught.value.problems
    assert problem.fix


def test_json_lines_called_csv_are_read_and_told(tmp_path):
    rows = [{"text": text, "label": "a"} for text in TEXTS]
    content = "".join(json.dumps(row) + "\n" for row in rows)
    read = table_of_file(tmp_path, "a.csv", content)
    assert read.rows == rows
    assert noticed(read) == {"read as jsonl": 0}


def test_braces_in_a_table_are_text(tmp_path):
    read = table_of_file(tmp_path, "a.csv", 'text,label\n{"a": 1},good\n')
    assert read.rows == [{"text": '{"a": 1}', "label": "good"}]


@pytest.mark.parametrize(
    ("name", "content"), [("a.json", json.dumps(TEXTS)), ("a.jsonl", "".join(json.dumps([t, 1]) + "\n" for t in TEXTS))]
)
def test_the_same_mistake_in_all_rows_is_one_line(tmp_path, name, content):
    assert len({what for _, what in problems_of(tmp_path, name, content)}) == 1


def test_titles_above_the_names_are_left_out(tmp_path):
    read = table_of_file(tmp_path, "a.csv", "Answers of May,\n,\ntext,label\nfine,good\n")
    assert (read.rows, read.lines) == ([{"text": "fine", "label": "good"}], [4])
    assert noticed(read) == {"blank rows": 1, "titles above the names of the columns": 1}


@pytest.mark.parametrize(
    ("content", "names"),
    [("text,\nfine,good\ndull,bad\n", ["text", "column_2"]), (",text\n0,fine\n1,dull\n", ["text"])],
)
def test_a_name_that_stands_alone_is_no_title(tmp_path, content, names):
    assert list(table_of_file(tmp_path, "a.csv", content).rows[0]) == names


def test_a_first_line_unlike_all_others_is_one_problem(tmp_path):
    ((where, _),) = problems_of(tmp_path, "a.csv", "# made by a tool\ntext,label\nfine,good\ndull,bad\n")
    assert where == "a.csv:1"


# -- folders


@pytest.mark.parametrize(
    "names",
    [
        ["movie_train.csv", "movie_dev.csv", "movie_test.csv"],
        [f"data/{split}-00000-of-00001.csv" for split in ("train", "validation", "test")],
    ],
)
def test_files_with_a_splits_name_in_theirs(tmp_path, names):
    folder = tmp_path / "My Films"
    (folder / "data").mkdir(parents=True)
    for name in names:
        table(folder, ["good", "bad"], name)
    task, started = loaded(folder, tmp_path)
    given = (task.data.train, task.data.validation, task.data.test)
    assert [path.relative_to(folder).as_posix() for path in given] == names
    assert list(started.report.rows) == ["train", "validation", "test"]
    assert task.name == "my-films"


def test_several_files_for_a_split_are_refused(tmp_path):
    for name in ("old", "new"):
        table(tmp_path, ["good", "bad"], f"train_{name}.csv")
    with pytest.raises(DataError) as caught:
        starting_task(tmp_path, tmp_path)
    assert "train_old.csv" in caught.value.got


def test_a_file_called_train_is_enough(tmp_path):
    table(tmp_path, ["good", "bad"], "train.csv")
    table(tmp_path, ["good", "bad"], "test_predictions.csv")
    task, _ = loaded(tmp_path, tmp_path)
    assert task.data.test is None


# -- exports


SPANNED = "Ada lives in Rome"


@pytest.mark.parametrize("accepted", [[["A"], ["B"]], [["A", "B"], ["B"]]])
def test_prodigys_options_without_its_own_marks(tmp_path, accepted):
    options = [{"id": "A", "text": "first"}, {"id": "B", "text": "second"}]
    rows = [
        {"text": text, "options": options, "accept": accepted[i % 2], "answer": "ignore" if i == 4 else "accept"}
        for i, text in enumerate(TEXTS)
    ]
    task, started = loaded(written(tmp_path, "a.jsonl", rows), tmp_path)
    assert list(task.words) == ["A", "B"]
    assert sum(started.report.rows.values()) == 23
    assert load_splits(task).train


@pytest.mark.parametrize(
    "answers",
    [
        "{'text': ['Rome'], 'answer_start': [13]}",
        "{'text': array(['Rome'], dtype=object), 'answer_start': array([13])}",
    ],
)
def test_squads_answers_in_the_cells_of_a_table(tmp_path, answers):
    lines = ["context,question,answers", *(f'{SPANNED} {i},Where?,"{answers}"' for i in range(12))]
    task, started = loaded(written(tmp_path, "a.csv", "\n".join(lines)), tmp_path)
    assert (task.kind, task.kind_options.starts_field) == ("qa", "answer_starts")
    assert any("SQuAD" in note for note in started.notes)
    row = load_splits(task).train[0]
    assert row.fields["answers"] == ["Rome"]


def test_names_of_labels_in_the_hubs_answer(tmp_path):
    features = [{"name": "text", "type": {"_type": "Value"}}, {"name": "label", "type": {"names": ["neg", "pos"]}}]
    rows = [
        {"row_idx": i, "row": {"text": text, "label": i % 2}, "truncated_cells": ["text"] if i == 2 else []}
        for i, text in enumerate(TEXTS)
    ]
    task, _ = loaded(written(tmp_path, "a.json", {"features": features, "rows": rows}), tmp_path)
    assert list(task.words) == ["neg", "pos"]
    (notice,) = load_splits(task).noticed
    assert (notice.count, notice.first) == (1, f"{tmp_path / 'a.json'}:3")


@pytest.mark.parametrize(
    "mark", [{"offset": 13, "length": 4, "type": "LOC"}, {"begin": 13, "end": 17, "entity": "LOC"}]
)
def test_other_names_for_the_parts_of_a_span(tmp_path, mark):
    read = table_of_file(tmp_path, "a.jsonl", [{"text": SPANNED, "entities": [mark]}])
    assert read.rows[0]["spans"] == [{"start": 13, "end": 17, "label": "LOC"}]


def test_a_list_with_a_text_of_its_own_in_each_row_is_no_label(tmp_path):
    rows = [{"text": text, "label": [f"another {text}"]} for text in TEXTS]
    with pytest.raises(DataError):
        starting_task(written(tmp_path, "a.jsonl", rows), tmp_path)


def test_tags_of_words_that_mark_no_spans_are_named(tmp_path):
    with pytest.raises(DataError) as caught:
        starting_task(written(tmp_path, "a.jsonl", [{"tokens": ["Ada", "ran"], "tags": ["PROPN", "VERB"]}]), tmp_path)
    assert caught.value.got == "PROPN, VERB"


def test_lines_with_tabs_called_txt_are_a_table_and_told(tmp_path):
    read = table_of_file(tmp_path, "a.txt", "good\tfine film\nbad\tdull film\ngood\tgreat\nbad\tpoor\n")
    assert read.rows[0] == {"column_1": "good", "column_2": "fine film"}
    assert set(noticed(read)) == {"read as tsv", "the first line holds values, not names"}
    words = table_of_file(tmp_path, "b.txt", "Ada\tB-PER\nran\tO\nto\tO\nRome\tB-LOC\n")
    assert words.rows == [{"tokens": ["Ada", "ran", "to", "Rome"], "tags": ["B-PER", "O", "O", "B-LOC"]}]


def test_lines_without_a_form_are_refused(tmp_path):
    (problem,) = problems_of(tmp_path, "a.txt", "a line\nanother\twith a tab\nand one more\n")
    assert problem[0] == "a.txt"


@pytest.mark.parametrize("device", ["/dev/zero", "/dev/null"])
def test_a_device_is_not_read(device):
    with pytest.raises(DataError) as caught:
        read_table(device)
    assert [problem.where for problem in caught.value.problems] == [device]
