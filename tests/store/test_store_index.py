"""The store's index: a cache of the list that can be lost, damaged or locked."""

import json
import os
import random
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest

from overture.core.errors import ArtifactError
from overture.store import store as store_module
from overture.store.store import Store


def entries(store):
    return [f"{entry.name}@{entry.version}" for entry in store.list()]


def test_the_index_follows_what_happens_behind_its_back(store, make_manifest, tensors):
    store.add(make_manifest(), tensors)
    store.add(make_manifest(name="trec"), tensors)
    assert entries(store) == ["movie@1", "trec@1"]
    (store.prompts / "movie").rename(store.prompts / "film")
    assert entries(store) == ["film@1", "trec@1"]
    path = store.prompts / "trec" / "v1" / "prompt.json"
    values = json.loads(path.read_text()) | {"length": 9, "manifest_sha256": ""}
    path.write_text(json.dumps(values))
    assert store.list()[1].manifest.length == 9


def test_the_index_is_a_cache_that_is_used(store, make_manifest, tensors, monkeypatch):
    store.add(make_manifest(), tensors)
    before = store.list()
    monkeypatch.setattr(store_module, "read_manifest_json", lambda folder: pytest.fail(f"{folder} was read again"))
    assert store.list() == before


def test_a_damaged_prompt_is_listed_with_its_problem(store, make_manifest, tensors):
    folder = store.add(make_manifest(), tensors)
    store.add(make_manifest(name="trec"), tensors)
    (folder / "prompt.json").write_text("{")
    broken, whole = store.list()
    assert (broken.name, broken.manifest) == ("movie", None)
    assert "JSON cannot be read" in broken.problem
    assert whole.problem == ""
    with pytest.raises(ArtifactError):
        store.show("movie")


def _old_schema(path: Path) -> None:
    path.unlink()
    with closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE prompts (name TEXT)")
        database.execute("INSERT INTO prompts VALUES ('ghost')")
        database.commit()


def _torn_page(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[100:4096] = os.urandom(3996)
    path.write_bytes(raw)


DAMAGE = {
    "garbage": lambda path: path.write_bytes(b"no database " * 1000),
    "torn": _torn_page,
    "cut": lambda path: path.write_bytes(path.read_bytes()[:5000]),
    "old schema": _old_schema,
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
@pytest.mark.parametrize("is_open", [False, True], ids=["before opening", "while open"])
def test_a_damaged_index_is_set_aside_and_filled_again(store, make_manifest, tensors, notices, damage, is_open):
    for _ in range(3):
        store.add(make_manifest(), tensors)
    before = store.list()
    damage(store.root / "index.sqlite")
    damaged = (store.root / "index.sqlite").read_bytes()
    again = store if is_open else Store(store.root, notices.append)
    assert again.list() == before
    assert (store.root / "index.sqlite.bak-1").read_bytes() == damaged
    assert len(notices) == 1
    assert "index.sqlite.bak-1" in notices[0]
    notices.clear()
    assert Store(store.root, notices.append).list() == before
    assert notices == []


def test_backups_are_numbered(store, make_manifest, tensors):
    store.add(make_manifest(), tensors)
    for number in (1, 2):
        (store.root / "index.sqlite").write_bytes(b"garbage %d" % number * 100)
        Store(store.root, lambda text: None)
        assert (store.root / f"index.sqlite.bak-{number}").read_bytes().startswith(b"garbage %d" % number)


def test_a_row_that_cannot_be_understood_is_read_again(store, make_manifest, tensors):
    store.add(make_manifest(), tensors)
    before = store.list()
    with closing(sqlite3.connect(store.root / "index.sqlite")) as database:
        database.execute("""UPDATE prompts SET manifest = '{"name": "x"}'""")
        database.commit()
    assert store.list() == before


def test_an_index_that_cannot_be_written_is_no_obstacle(store, make_manifest, tensors, notices):
    store.add(make_manifest(), tensors)
    (store.root / "index.sqlite").mkdir()
    assert entries(store) == ["movie@1"]
    assert "cannot be used" in notices[0]


def test_the_index_is_durable(store, make_manifest, tensors):
    from overture.store.index import _connected

    store.add(make_manifest(), tensors)
    store.list()
    with closing(_connected(str(store.root / "index.sqlite"))) as database:
        assert database.execute("PRAGMA journal_mode").fetchone() == ("delete",)
        assert database.execute("PRAGMA synchronous").fetchone() == (2,)


def test_a_link_named_as_the_index_is_not_followed(tmp_path, store, make_manifest, tensors, notices):
    store.add(make_manifest(), tensors)
    target = tmp_path / "made-by-sqlite"
    (store.root / "index.sqlite").symlink_to(target)
    assert entries(store) == ["movie@1"]
    assert not target.exists()
    assert (store.root / "index.sqlite.bak-1").is_symlink()
    assert len(notices) == 1


def test_a_changed_digit_in_the_index_is_not_believed(store, make_manifest, tensors, notices):
    store.add(make_manifest(), tensors)
    before = store.list()
    path = store.root / "index.sqlite"
    raw = path.read_bytes()
    assert b'"value": 0.8' in raw
    path.write_bytes(raw.replace(b'"value": 0.8', b'"value": 0.9'))
    assert store.list() == before
    assert len(notices) == 1
    assert Store(store.root, notices.append).list() == before
    assert len(notices) == 1


def test_any_flipped_byte_of_the_index_leaves_the_list_right(store, make_manifest, tensors, notices):
    for name in ("movie", "music"):
        store.add(make_manifest(name=name), tensors)
    before, path = store.list(), store.root / "index.sqlite"
    whole, chance = path.read_bytes(), random.Random(0)
    for _ in range(150):
        raw = bytearray(whole)
        raw[chance.randrange(len(raw))] ^= 1 << chance.randrange(8)
        path.write_bytes(raw)
        assert Store(store.root, notices.append).list() == before
        # Mended once, or harmless: the next list has nothing to say.
        notices.clear()
        assert Store(store.root, notices.append).list() == before
        assert notices == []


def test_a_locked_index_is_passed_over_soon(store, make_manifest, tensors):
    store.add(make_manifest(), tensors)
    before = store.list()
    with closing(sqlite3.connect(store.root / "index.sqlite")) as other:
        other.execute("BEGIN EXCLUSIVE")
        start = time.monotonic()
        assert store.list() == before
        assert time.monotonic() - start < 4
