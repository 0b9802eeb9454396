"""fastText, folders by label, JSON by label or id, data sets in several parts, workbooks."""

import sys
import zipfile
from types import ModuleType, SimpleNamespace

import pytest
from reading import noticed, problems_of, table_of_file

from overture.core.errors import DataError
from overture.data.init_task import starting_task
from overture.data.read import read_table
from overture.data.splits import load_splits
from overture.data.task import Task

PAIRS = [(f"a {word} text {i}", label) for i in range(10) for word, label in (("fine", "pos"), ("dull", "neg"))]


def started(path, folder):
    """The first task file of some data, and its rows."""
    begun = starting_task(path, folder)
    (folder / "task.yaml").write_text(begun.text)
    task = Task.load(folder / "task.yaml")
    splits = load_splits(task)
    return task, [*splits.train, *splits.validation, *splits.test]


@pytest.mark.parametrize("name", ["a.txt", "a.train", "a.ft.txt", "a"])
def test_fasttext(tmp_path, name):
    content = "".join(f"__label__{label} {text}\n" for text, label in PAIRS)
    table = table_of_file(tmp_path, name, content)
    assert (table.format, table.lines[1]) == ("fasttext", 2)
    assert table.rows[0] == {"text": PAIRS[0][0], "label": "pos"}
    task, rows = started(tmp_path / name, tmp_path)
    assert set(task.words) == {"pos", "neg"}
    assert len(rows) == len(PAIRS)


def test_fasttext_with_several_labels_or_none(tmp_path):
    content = "__label__a __label__b one two\n\n__label__b three\nfour\n"
    table = table_of_file(tmp_path, "a.txt", content, format="fasttext")
    assert [row["labels"] for row in table.rows] == [["a", "b"], ["b"], []]
    assert table.lines == [1, 3, 4]
    assert noticed(table)["lines without a label"] == 1


def test_lines_of_labels_within_a_text_are_no_fasttext(tmp_path):
    assert problems_of(tmp_path, "a.txt", "one __label__a\ntwo\nthree\n")


def test_a_folder_for_each_label(tmp_path):
    for number, (text, label) in enumerate(PAIRS):
        (tmp_path / "films" / label).mkdir(parents=True, exist_ok=True)
        (tmp_path / "films" / label / f"{number}.txt").write_text(f"{text}\nand more\n")
    (tmp_path / "films" / "README.md").write_text("about")
    table = read_table(tmp_path / "films")
    assert table.rows[0] == {"id": "neg/1.txt", "text": "a dull text 0\nand more", "label": "neg"}
    task, rows = started(tmp_path / "films", tmp_path)
    assert task.columns == ("text",)
    assert len(rows) == len(PAIRS)


def test_folders_of_labels_within_folders_of_splits(tmp_path):
    for split in ("train", "test"):
        for number, (text, label) in enumerate(PAIRS):
            (tmp_path / "aclImdb" / split / label).mkdir(parents=True, exist_ok=True)
            # 20 Newsgroups has files without a suffix.
            (tmp_path / "aclImdb" / split / label / str(number)).write_text(f"{split} {text}")
    task, rows = started(tmp_path / "aclImdb", tmp_path)
    assert (task.data.train.name, task.data.test.name, task.data.validation) == ("train", "test", None)
    assert len(rows) == 2 * len(PAIRS)


def test_texts_of_a_folder_that_are_not_text(tmp_path):
    for label in ("a", "b"):
        (tmp_path / label).mkdir()
        (tmp_path / label / "1.txt").write_bytes(b"ok")
    (tmp_path / "b" / "2.txt").write_bytes(b"\xff\xff\x81")
    with pytest.raises(DataError) as caught:
        read_table(tmp_path)
    assert [problem.where.removeprefix(f"{tmp_path}/") for problem in caught.value.problems] == ["b/2.txt:1"]


BY_LABEL = {
    "pos": [text for text, label in PAIRS if label == "pos"],
    "neg": [t for t, label in PAIRS if label == "neg"],
}


@pytest.mark.parametrize(
    "content",
    [
        BY_LABEL,
        {**BY_LABEL, "neg": BY_LABEL["neg"][:3]},
        {label: [{"text": text} for text in texts] for label, texts in BY_LABEL.items()},
        {**BY_LABEL, "sports": [f"goal number {i}" for i in range(10)]},
        {"train": BY_LABEL, "test": BY_LABEL},
    ],
)
def test_json_by_label(tmp_path, content):
    table = table_of_file(tmp_path, "a.json", content)
    assert {row["label"] for row in table.rows} >= {"pos", "neg"}
    assert set(table.rows[0]) == {"text", "label"}
    assert "read as texts by label" in noticed(table)


@pytest.mark.parametrize(
    "content",
    [
        {"text": ["a b", "c d"], "topic": ["x y", "z u"]},
        {"sentence1": ["a b", "c d"], "sentence2": ["e f", "g h"]},
        {"english": ["a b", "c d"], "german": ["e f", "g h"]},
        {"en": ["a b", "c d"], "de": ["e f", "g h"], "fr": ["i k", "l m"]},
        {"film": ["a b", "c d", "e f", "g h"], "verdict is": ["very good", "very bad", "very good", "very bad"]},
        {"film": ["a b", "c d"], "stars": [1, 2]},
    ],
)
def test_columns_of_lists_are_columns(tmp_path, content):
    table = table_of_file(tmp_path, "a.json", content)
    assert table.rows[1] == {name: column[1] for name, column in content.items()}


def test_what_keys_are_can_be_said(tmp_path):
    assert len(table_of_file(tmp_path, "a.json", BY_LABEL, header=True).rows) == 10
    assert len(table_of_file(tmp_path, "a.json", {"text": ["a", "b"], "topic": ["c", "d"]}, header=False).rows) == 4


@pytest.mark.parametrize("count", [2, 5])
def test_json_by_id(tmp_path, count):
    content = {f"dev-{i}": {"text": f"a text {i}", "label": "ab"[i % 2]} for i in range(count)}
    table = table_of_file(tmp_path, "a.json", content)
    assert table.rows[1] == {"index": "dev-1", "text": "a text 1", "label": "b"}


# -- several parts


def parts(folder, names, count=10):
    folder.mkdir(exist_ok=True)
    for number, name in enumerate(names):
        rows = "".join(f"{text} in {number},{label}\n" for text, label in PAIRS[:count])
        (folder / name).write_text("text,label\n" + rows)


@pytest.mark.parametrize(
    "names",
    [
        ["train-00000-of-00002.csv", "train-00001-of-00002.csv", "test-00000-of-00001.csv"],
        ["train_1.csv", "train_2.csv", "test_1.csv"],
    ],
)
def test_parts_of_a_split_are_read_together(tmp_path, names):
    parts(tmp_path / "data", names)
    task, rows = started(tmp_path / "data", tmp_path)
    assert "*" in task.data.train.name
    assert task.data.test.name == names[2]
    assert len(rows) == 30
    # A row is named by its own file.
    assert {row.where.partition(":")[0] for row in rows} == {str(tmp_path / "data" / name) for name in names}
    if "of" in names[0]:
        begun = starting_task(tmp_path / "data" / names[0], tmp_path)
        assert "train-*-of-00002.csv" in begun.text


def test_one_part_that_is_named_is_told(tmp_path):
    parts(tmp_path / "data", ["train-00000-of-00002.csv", "train-00001-of-00002.csv"])
    table = read_table(tmp_path / "data" / "train-00000-of-00002.csv")
    assert "one part of several is read" in noticed(table)
    whole = read_table(tmp_path / "data" / "train-*.csv")
    assert len(whole.rows) == 2 * len(table.rows)
    assert not noticed(whole)


def test_a_pattern_without_files_and_a_bad_part(tmp_path):
    with pytest.raises(DataError):
        read_table(tmp_path / "train-*.csv")
    parts(tmp_path / "data", ["a1.csv", "a2.csv"])
    (tmp_path / "data" / "a2.csv").write_text('text,label\n"open')
    with pytest.raises(DataError) as caught:
        read_table(tmp_path / "data" / "a*.csv")
    assert [problem.where for problem in caught.value.problems] == [f"{tmp_path}/data/a2.csv:2"]


def test_brackets_in_a_files_name_are_no_pattern(tmp_path):
    assert len(table_of_file(tmp_path, "a[1].csv", "text,label\na,b\n").rows) == 1


# -- workbooks


def workbook(tmp_path):
    path = tmp_path / "rows.xlsx"
    with zipfile.ZipFile(path, "w") as packed:
        packed.writestr("xl/workbook.xml", "<workbook/>")
    return path


def test_a_workbook_needs_a_package_and_the_error_names_two_ways(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    with pytest.raises(DataError) as caught:
        read_table(workbook(tmp_path))
    (problem,) = caught.value.problems
    assert "openpyxl" in problem.fix
    assert "CSV" in problem.fix


def test_a_workbooks_first_sheet_with_rows_is_read(tmp_path, monkeypatch):
    cells = [("text", "label", None), ("fine film", 1.0, None), (None, None, None), ("dull", 0, None)]
    sheets = [
        SimpleNamespace(title=title, iter_rows=lambda values_only, rows=rows: iter(rows))
        for title, rows in (("empty", [(None,)]), ("reviews", cells), ("notes", [("x",)]))
    ]
    fake = ModuleType("openpyxl")
    fake.load_workbook = lambda raw, **how: SimpleNamespace(worksheets=sheets)
    monkeypatch.setitem(sys.modules, "openpyxl", fake)
    table = read_table(workbook(tmp_path))
    assert table.rows == [{"text": "fine film", "label": "1"}, {"text": "dull", "label": "0"}]
    assert table.lines == [2, 4]
    assert "other sheets are not read" in noticed(table)


def test_a_file_that_is_no_workbook(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "openpyxl", ModuleType("openpyxl"))
    ((where, _),) = problems_of(tmp_path, "rows.xlsx", "text,label\na,b\n")
    assert where == "rows.xlsx"
