"""``overture init`` on columns of numbers in which a few values are none."""

import pytest

from overture.data.init_task import starting_task
from overture.data.splits import load_splits
from overture.data.task import Task

ROWS = 60
BAD = 17


def started_from(tmp_path, suffix, bad, value):
    """A started task on a file whose label is ``value(i)``, and ``bad`` in one row."""
    labels = [bad if i == BAD else value(i) for i in range(ROWS)]
    path = tmp_path / f"rows{suffix}"
    if suffix == ".csv":
        path.write_text("text;score\n" + "".join(f"a text number {i};{label}\n" for i, label in enumerate(labels)))
    else:
        lines = (f'{{"text": "a text number {i}", "score": {label}}}\n' for i, label in enumerate(labels))
        path.write_text("".join(lines))
    started = starting_task(path, tmp_path)
    (tmp_path / "task.yaml").write_text(started.text)
    return started, Task.load(tmp_path / "task.yaml")


@pytest.mark.parametrize("bad", ["nan", "N/A", ""])
@pytest.mark.parametrize("comma", [False, True], ids=["points", "commas"])
def test_a_row_without_a_number_is_named_and_left_out(tmp_path, bad, comma):
    def value(i):
        return f"{i * 7 % 50 / 10:.2f}".replace(".", ",") if comma else f"{i / 7:.2f}"

    started, task = started_from(tmp_path, ".csv", bad, value)
    assert (task.kind, task.data.drop) == ("regression", ["unlabelled"])
    assert any(f"rows.csv:{BAD + 2}" in note for note in started.notes)
    splits = load_splits(task)
    assert len(splits.train) + len(splits.validation) + len(splits.test) == ROWS - 1


@pytest.mark.parametrize(
    ("suffix", "bad"), [(".csv", "inf"), (".csv", "1e999"), (".csv", "#DIV/0!"), (".jsonl", "-1e999")]
)
def test_a_label_that_is_no_number_is_named_and_stays_to_be_corrected(tmp_path, suffix, bad):
    started, task = started_from(tmp_path, suffix, bad, lambda i: f"{i / 7:.2f}")
    assert (task.kind, task.data.drop) == ("regression", [])
    line = BAD + 1 + (suffix == ".csv")
    assert any(f"rows{suffix}:{line}: the label is " in note for note in started.notes)


def test_an_infinite_number_among_whole_ones_leaves_them_labels(tmp_path):
    started, task = started_from(tmp_path, ".jsonl", "1e999", lambda i: str(i % 3))
    assert (task.kind, list(task.words)) == ("classification", ["0", "1", "2"])
    assert any("rows.jsonl:18" in note for note in started.notes)


def test_many_numbers_with_fractions_in_a_table_are_no_labels(tmp_path):
    _, task = started_from(tmp_path, ".csv", "2.5", lambda i: f"{i % 25 / 2}")
    assert task.kind == "regression"


def test_lists_of_codes_stay_labels(tmp_path):
    codes = ("1", "2", "3", "1,2", "2,3")
    _, task = started_from(tmp_path, ".csv", "1,2,3", lambda i: codes[i % 5])
    assert task.kind == "multilabel"


def test_whole_numbers_with_a_gap_stay_labels(tmp_path):
    started, task = started_from(tmp_path, ".csv", "nan", lambda i: str(i % 4))
    assert (task.kind, task.data.drop) == ("classification", ["unlabelled"])
    assert any("rows.csv:19" in note for note in started.notes)
