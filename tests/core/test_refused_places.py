"""Places that take no files, such as ``/proc``: an error that names them, for the superuser too."""

import errno
import os
from pathlib import Path

import pytest

from overture.core.errors import DiskFull, StoreReadOnly
from overture.core.files import append_line, check_writable, exclusive, write_folder, write_json
from overture.data.write import written_rows
from overture.store.runs import Run

PLACE = Path("/proc")
pytestmark = pytest.mark.skipif(not (PLACE / "self").exists(), reason="this system has no /proc")


def rows_into(path: Path) -> None:
    with written_rows(path, {"text": "text"}) as sink:
        sink.write([{"text": "a"}])


def lock(path: Path) -> None:
    with exclusive(path, "to this store"):
        pass


WRITERS = {
    "json": (lambda: write_json(PLACE / "a.json", {}), PLACE),
    "json in a new folder": (lambda: write_json(PLACE / "new" / "a.json", {}), PLACE / "new"),
    "line": (lambda: append_line(PLACE / "a.jsonl", "{}"), PLACE),
    "folder": (lambda: write_folder(PLACE / "a", lambda folder: None), PLACE),
    "lock": (lambda: lock(PLACE / "store" / ".lock"), PLACE / "store"),
    "table": (lambda: rows_into(PLACE / "a.csv"), PLACE),
    "run": (lambda: Run.create(PLACE / "runs", "mood", {}, lambda event: None), PLACE / "runs"),
    "check": (lambda: check_writable(PLACE / "store"), PLACE / "store"),
}


@pytest.mark.parametrize("case", WRITERS)
def test_a_place_that_takes_no_files_is_named(case):
    write, place = WRITERS[case]
    with pytest.raises(StoreReadOnly) as refused:
        write()
    assert refused.value.where == str(place)
    assert refused.value.fix


@pytest.mark.parametrize(("number", "error"), [(errno.ENOSPC, DiskFull), (errno.EIO, OSError)])
def test_other_failures_stay_what_they_are(number, error, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "open", fail)
    with pytest.raises(error):
        write_json(tmp_path / "a.json", {})


def test_a_check_leaves_nothing_behind(tmp_path):
    check_writable(tmp_path / "new" / "store")
    assert list(tmp_path.iterdir()) == []
