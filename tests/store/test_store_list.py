"""Pages of the list: pieces of a long list that read only their own folders."""

import json
import sqlite3
from contextlib import closing

import pytest

from overture.store import store as store_module
from overture.store.artifact import MANIFEST_FILE, read_manifest
from overture.store.store import Store


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "home")


def test_pages_are_the_list_in_pieces(store, make_manifest, tensors):
    for name in ("movie", "music", "trec", "squad", "movie"):
        store.add(make_manifest(name=name), tensors)
    first = store.page(limit=2)
    second = store.page(after=first.after, limit=2)
    assert (first.after, second.after, first.num_names) == ("music", "", 4)
    assert first.entries + second.entries == store.list()
    assert store.page(after="zebra").entries == []


def test_a_page_of_matching_names_keeps_the_index_of_those_between(store, make_manifest, tensors):
    for name in ("movie", "music", "newmovie"):
        store.add(make_manifest(name=name), tensors)
    before = store.list()
    page = store.page(match="movie")
    assert [entry.name for entry in page.entries] == ["movie", "newmovie"]
    assert page.num_names == 2
    with closing(sqlite3.connect(store.root / "index.sqlite")) as database:
        assert database.execute("SELECT count(*) FROM prompts").fetchone() == (3,)
    assert store.list() == before


def test_a_page_reads_only_its_own_folders(store, make_manifest, tensors, monkeypatch):
    for name in ("movie", "music", "trec"):
        store.add(make_manifest(name=name), tensors)
    read, folders = store_module.read_manifest_json, []
    monkeypatch.setattr(
        store_module, "read_manifest_json", lambda folder: folders.append(folder.parent.name) or read(folder)
    )
    again = Store(store.root)
    again.page(limit=1)
    assert folders == ["movie"]
    again.page(limit=2)
    assert folders == ["movie", "music"]


@pytest.mark.parametrize("is_signed", [True, False])
def test_the_index_has_the_manifest_that_the_folder_has(store, make_manifest, tensors, is_signed):
    folder = store.add(make_manifest(name="movie"), tensors)
    if not is_signed:
        values = json.loads((folder / MANIFEST_FILE).read_text())
        (folder / MANIFEST_FILE).write_text(json.dumps(values | {"manifest_sha256": "", "name": "movie"}))
    manifest = read_manifest(folder)
    assert bool(manifest.manifest_sha256) == is_signed
    (fresh,), (kept,) = store.list(), Store(store.root).list()
    assert fresh.manifest == kept.manifest == manifest


def test_a_page_tells_what_happens_behind_its_back(store, make_manifest, tensors):
    for name in ("movie", "music"):
        store.add(make_manifest(name=name), tensors)
    store.page()
    other = Store(store.root)
    other.remove("movie")
    other.add(make_manifest(name="abc"), tensors)
    other.add(make_manifest(name="music"), tensors)
    assert [(entry.name, entry.version) for entry in store.page().entries] == [("abc", 1), ("music", 1), ("music", 2)]
