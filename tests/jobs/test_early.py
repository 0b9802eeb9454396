"""Rows are read before torch is imported, whatever their size, and once."""

import pytest

from overture.core.errors import DataError
from overture.jobs.run import early
from overture.jobs.run.request import TuneConfig, resolved
from overture.store.store import Store


@pytest.fixture
def config(tmp_path):
    rows = "".join(f"text {i},{'ab'[i % 2]}\n" for i in range(20))
    (tmp_path / "rows.csv").write_text("text,label\n" + rows)
    task = {
        "name": "mood",
        "data": {"path": str(tmp_path / "rows.csv")},
        "template": "{text}\nMood:",
        "labels": {"a": " a", "b": " b"},
    }
    return resolved(TuneConfig, task)


def test_rows_that_were_checked_are_read_once(config, tmp_path, monkeypatch):
    reads = []
    load = early.load_splits
    monkeypatch.setattr(early, "load_splits", lambda task: reads.append(task) or load(task))
    early.check_early(config, Store(tmp_path / "store"))
    rows = early.rows_of(config.task)
    assert len(reads) == 1
    # They are kept for one run alone, and for the files as they were.
    assert early.rows_of(config.task) == rows
    assert len(reads) == 2
    early.check_early(config, Store(tmp_path / "store"))
    with (tmp_path / "rows.csv").open("a") as file:
        file.write("one more,a\n")
    changed = early.rows_of(config.task)
    assert len(reads) == 4
    assert sum(map(len, (changed.train, changed.validation, changed.test))) == 21


def test_rows_of_any_size_are_checked(config, tmp_path, monkeypatch):
    task = config.task.model_copy(update={"data": config.task.data.model_copy(update={"validation_share": 0.0})})
    with pytest.raises(DataError):
        early.check_early(config.model_copy(update={"task": task}), Store(tmp_path / "store"))
