"""Named, numbered prompts: names that stay inside, versions that count, an index that can be lost."""

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import safetensors.torch
import torch

from overture.core.errors import ArtifactError, StoreError
from overture.core.files import exclusive
from overture.store import store as store_module
from overture.store.artifact import load_artifact, save_artifact
from overture.store.store import Store
from store_fixtures import accuracy

BAD_NAMES = [
    "",
    ".",
    "..",
    "../x",
    "/etc/passwd",
    "a/b",
    "a\\b",
    "a..b",
    "a\0b",
    "a\n",
    "con",
    "nul.txt",
    "com1",
    "CON",
    "Movie",
    "-x",
    ".x",
    "x.",
    "x" * 65,
    "caf\u00e9",
    "a@2",
]


def entries(store):
    return [f"{entry.name}@{entry.version}" for entry in store.list()]


def test_a_store_that_cannot_be_written_says_so(store, monkeypatch):
    store.check_can_add("movie")
    monkeypatch.setattr(store_module.os, "access", lambda *_: False)
    with pytest.raises(StoreError, match="cannot be written"):
        store.check_can_add("movie")


def test_a_pinned_reference_outlives_later_versions(store, make_manifest, tensors):
    folder = store.add(make_manifest(), tensors)
    name = folder.parent.name
    ref = store.pinned(name)
    store.add(make_manifest(), tensors)
    assert ref == store.pinned(ref) == f"{name}@1"
    assert store.pinned(str(folder)) == str(folder)
    with pytest.raises(StoreError, match="no such prompt"):
        store.pinned(f"{name}@7")


def test_versions_count_and_the_latest_is_the_default(store, make_manifest, tensors):
    first = store.add(make_manifest(), tensors)
    second = store.add(make_manifest(length=5), tensors)
    store.add(make_manifest(name="trec"), tensors)
    assert [store.get("movie@1"), store.get("movie@v2"), store.get("movie")] == [first, second, second]
    assert second == store.prompts / "movie" / "v2"
    assert entries(store) == ["movie@1", "movie@2", "trec@1"]
    assert load_artifact(second)[0].version == 2
    assert store.show("movie").manifest.length == 5


def test_an_alias_moves_in_one_step_and_protects_its_version(store, make_manifest, tensors):
    first, second = store.add(make_manifest(), tensors), store.add(make_manifest(), tensors)
    assert store.move_alias("movie@1", "prod") == "movie@1"
    assert (store.get("movie@prod"), store.pinned("movie@prod")) == (first, "movie@1")
    assert store.move_alias("movie", "prod") == "movie@2"
    assert (store.get("movie@prod", named_only=True), store.aliases("movie")) == (second, {"prod": 2})
    assert store.show("movie@prod").version == 2
    for ref in ("movie@2", "movie@prod"):
        with pytest.raises(StoreError) as refused:
            store.remove(ref)
        assert refused.value.got == "movie@prod"
    with pytest.raises(StoreError) as unknown:
        store.get("movie@prd")
    assert "movie@prod" in unknown.value.fix
    assert store.remove_alias("movie@prod") == "movie@2"
    assert store.remove("movie@2") == ("movie@2",)
    store.move_alias("movie@1", "prod")
    store.remove("movie")
    assert store.aliases("movie") == {}
    store.add(make_manifest(), tensors)
    assert store.versions("movie") == (3,)
    assert store.names() == ("movie",)


@pytest.mark.parametrize("alias", ["", "2", "v2", "Prod", "-x", "x" * 33, "a@b", "../x"])
def test_an_alias_is_no_number_and_no_path(store, make_manifest, tensors, alias):
    store.add(make_manifest(), tensors)
    with pytest.raises(StoreError):
        store.move_alias("movie@1", alias)


def test_bytes_are_kept_as_they_are_and_checked_without_torch(store, make_manifest, tensors):
    folder = store.add(make_manifest(), tensors)
    raw = (folder / "prompt.safetensors").read_bytes()
    again = store.add(make_manifest(), raw)
    assert (again / "prompt.safetensors").read_bytes() == raw
    assert load_artifact(again)[0].tensors_sha256 == load_artifact(folder)[0].tensors_sha256
    for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16):
        for value in (float("nan"), float("-inf")):
            bad = safetensors.torch.save({"values": torch.tensor([1.0, value], dtype=dtype)})
            with pytest.raises(ArtifactError) as refused:
                store.add(make_manifest(), bad)
            assert [problem.where for problem in refused.value.problems] == ["'values'"]
    for damaged in (b"", raw[:-1], b"PK\3\4" + raw, raw + b"x"):
        with pytest.raises(ArtifactError):
            store.add(make_manifest(), damaged)
    assert store.versions("movie") == (1, 2)


def test_ten_versions_are_ordered_as_numbers(store, make_manifest, tensors):
    for _ in range(10):
        store.add(make_manifest(), tensors)
    assert store.get("movie").name == "v10"
    assert [entry.version for entry in store.list()] == list(range(1, 11))


@pytest.mark.parametrize("name", BAD_NAMES)
def test_a_name_cannot_leave_the_store(tmp_path, store, make_manifest, tensors, name):
    if name:
        with pytest.raises(StoreError, match="no name for a prompt"):
            store.add(make_manifest(name=name), tensors)
    if name != "a@2":
        with pytest.raises(StoreError):
            store.get(name, named_only=True)
        with pytest.raises(StoreError):
            store.remove(name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "ref", ["movie@", "movie@0", "movie@-1", "movie@v0", "movie@X", "movie@1@2", "movie@01", "movie@1\n"]
)
def test_a_wrong_version_is_refused(store, ref):
    with pytest.raises(StoreError, match="no version"):
        store.get(ref)


@pytest.mark.parametrize("where", ["name", "version"])
def test_links_inside_the_store_are_refused(tmp_path, store, make_manifest, tensors, where):
    store.add(make_manifest(), tensors)
    save_artifact(tmp_path / "outside" / "v1", make_manifest(), tensors)
    if where == "name":
        (store.prompts / "evil").symlink_to(tmp_path / "outside")
        message = "outside the store"
    else:
        (store.prompts / "evil").mkdir()
        (store.prompts / "evil" / "v1").symlink_to(tmp_path / "outside" / "v1")
        message = "no such prompt"
    for use in (store.get, store.remove):
        with pytest.raises(StoreError, match=message):
            use("evil@1")
    if where == "name":
        with pytest.raises(StoreError, match=message):
            store.add(make_manifest(name="evil"), tensors)
    assert entries(store) == ["movie@1"]
    assert (tmp_path / "outside" / "v1" / "prompt.json").is_file()


def test_a_folder_can_be_named_by_its_path_unless_forbidden(store, saved):
    assert store.get(saved) == saved
    assert store.get(str(saved)) == saved
    assert store.show(saved).name == "movie"
    with pytest.raises(StoreError, match="no name"):
        store.get(str(saved), named_only=True)
    with pytest.raises(StoreError, match="no prompt's folder"):
        store.get(saved.parent)


def test_an_unknown_name_tells_near_ones(store, make_manifest, tensors):
    store.add(make_manifest(name="movie-reviews"), tensors)
    with pytest.raises(StoreError, match="did you mean movie-reviews"):
        store.get("movie-review")
    with pytest.raises(StoreError, match="did you mean movie-reviews@1"):
        store.get("movie-reviews@7")


def test_a_removed_version_number_is_not_given_again(store, make_manifest, tensors):
    for _ in range(3):
        store.add(make_manifest(), tensors)
    assert store.remove("movie@3") == ("movie@3",)
    assert store.remove("movie@2") == ("movie@2",)
    assert store.add(make_manifest(), tensors).name == "v4"
    assert entries(store) == ["movie@1", "movie@4"]
    assert store.remove("movie") == ("movie@1", "movie@4")
    assert store.list() == []
    with pytest.raises(StoreError, match="no such prompt"):
        store.get("movie")


def test_looking_at_a_store_that_does_not_exist_makes_none(tmp_path):
    store = Store(tmp_path / "none")
    assert store.list() == []
    with pytest.raises(StoreError):
        store.get("movie")
    assert list(tmp_path.iterdir()) == []


def test_diff_tells_options_scores_and_tensors(store, make_manifest):
    values = torch.tensor([[3.0, 4.0]])
    store.add(make_manifest(metrics={"test": {"accuracy": accuracy(0.5)}}), {"values": values})
    later = make_manifest(metrics={"test": {"accuracy": accuracy(0.75)}}, options={"prompt": {"init": "zeros"}})
    store.add(later, {"values": torch.tensor([[-4.0, 3.0]]), "more": values})
    found = store.diff("movie@1", "movie@2")
    assert found.config["options.prompt.init"].dump() == {"a": "vocabulary", "b": "zeros"}
    assert "options.prompt.betas" in found.config
    assert "method" not in found.config
    assert found.dump()["metrics"] == {"test.accuracy": {"a": 0.5, "b": 0.75, "difference": 0.25}}
    assert found.dump()["tensors"]["values"]["a"] == {"shape": [1, 2], "norm": 5.0}
    assert found.tensors["values"].cosine == pytest.approx(0.0)
    assert found.tensors["values"].max_difference == 7.0
    assert found.tensors["more"].a is None
    assert not found.is_same_prompt
    assert store.diff("movie@1", "movie@1").is_same_prompt


# The index


# Writers


@pytest.mark.parametrize("use", ["list", "page", "add"])
def test_orphans_are_swept_but_not_a_writer_at_work(store, make_manifest, tensors, use):
    store.add(make_manifest(), tensors)
    orphan = store.prompts / "movie" / ".overture-tmp-x"
    orphan.mkdir()
    (orphan / "prompt.safetensors").write_bytes(b"half")
    with exclusive(store.root / ".lock", "a test"):
        assert entries(store) == ["movie@1"]
        assert orphan.exists()
    if use == "add":
        store.add(make_manifest(), tensors)
    else:
        getattr(store, use)()
    assert not orphan.exists()
    assert entries(store)[0] == "movie@1"


def test_a_second_writer_waits_and_then_gets_a_clear_error(store, make_manifest, tensors, monkeypatch):
    monkeypatch.setattr(store_module, "_LOCK_WAIT_S", 0.1)
    store.add(make_manifest(), tensors)
    with exclusive(store.root / ".lock", "a test"):
        for write in (lambda: store.add(make_manifest(), tensors), lambda: store.remove("movie")):
            with pytest.raises(StoreError, match="another process is writing to this store"):
                write()
        assert entries(store) == ["movie@1"]
    assert store.add(make_manifest(), tensors).name == "v2"


def test_writers_at_the_same_time_lose_nothing(store, make_manifest, tensors):
    def add_five():
        return [Store(store.root).add(make_manifest(), tensors) for _ in range(5)]

    with ThreadPoolExecutor(3) as pool:
        folders = [folder for added in [pool.submit(add_five) for _ in range(3)] for folder in added.result()]
    assert len(set(folders)) == 15
    assert [entry.version for entry in store.list()] == list(range(1, 16))


def test_the_first_prompt_of_a_name_is_reached_from_the_root_after_power_loss(
    store, make_manifest, tensors, monkeypatch
):
    synced = set()
    real = os.fsync

    def record(number):
        synced.add(os.readlink(f"/proc/self/fd/{number}"))
        real(number)

    monkeypatch.setattr(os, "fsync", record)
    store.add(make_manifest(), tensors)
    assert {str(store.root), str(store.prompts), str(store.prompts / "movie")} <= synced


def test_listing_and_showing_import_neither_torch_nor_numpy(store, make_manifest, tensors):
    store.add(make_manifest(), tensors)
    store.list()
    (store.root / "index.sqlite").unlink()
    code = (
        "import sys, pathlib\n"
        "from overture.store.store import Store\n"
        "store = Store(pathlib.Path(sys.argv[1]))\n"
        "print(len(store.list()), store.show('movie').version)\n"
        "print([name for name in ('torch', 'numpy', 'safetensors', 'transformers') if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code, store.root], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["1 1", "[]"]


# Attacks and accidents


@pytest.mark.parametrize("name", ["con", "nul", "aux.v2", "Movie"])
def test_a_name_that_the_store_refuses_is_refused_before_long_work(store, name):
    store.check_can_add("movie")
    with pytest.raises(StoreError) as refused:
        store.check_can_add(name)
    assert name in refused.value.got


@pytest.mark.parametrize("is_there", [True, False], ids=["a file", "dangling"])
def test_a_link_named_as_the_lock_is_refused_and_its_target_is_left_alone(
    tmp_path, store, make_manifest, tensors, is_there
):
    store.add(make_manifest(), tensors)
    precious = tmp_path / "precious.txt"
    if is_there:
        precious.write_text("years of work")
    (store.root / ".lock").unlink()
    (store.root / ".lock").symlink_to(precious)
    orphan = store.root / ".overture-tmp-x"
    orphan.write_text("half")
    assert entries(Store(store.root)) == ["movie@1"]
    with pytest.raises(StoreError) as refused:
        store.add(make_manifest(), tensors)
    assert str(store.root / ".lock") in refused.value.where
    assert precious.exists() == is_there
    assert not is_there or precious.read_text() == "years of work"


def test_a_file_named_as_the_lock_keeps_its_contents(store, make_manifest, tensors):
    store.root.mkdir()
    (store.root / ".lock").write_text("notes of somebody")
    store.add(make_manifest(), tensors)
    assert (store.root / ".lock").read_text() == "notes of somebody"


def test_version_numbers_go_on_after_all_versions_were_removed(store, make_manifest, tensors):
    for _ in range(2):
        store.add(make_manifest(), tensors)
    assert store.remove("movie") == ("movie@1", "movie@2")
    assert entries(store) == []
    with pytest.raises(StoreError):
        store.remove("movie")
    assert store.add(make_manifest(), tensors).name == "v3"


def test_a_prompt_removed_while_the_list_reads_it_is_not_called_damaged(store, make_manifest, tensors, monkeypatch):
    for name in ("movie", "music"):
        store.add(make_manifest(name=name), tensors)
    read = store_module.read_manifest_json

    def read_late(folder):
        if folder.parent.name == "movie" and folder.exists():
            Store(store.root).remove("movie")
        return read(folder)

    monkeypatch.setattr(store_module, "read_manifest_json", read_late)
    assert entries(store) == ["music@1"]


def test_readers_take_no_lock_while_nothing_is_to_be_swept(store, make_manifest, tensors, monkeypatch):
    store.add(make_manifest(), tensors)
    store.list()

    def refuse(*_):
        raise AssertionError("a reader took the writers' lock")

    monkeypatch.setattr(store_module, "exclusive", refuse)
    assert entries(Store(store.root)) == ["movie@1"]


def test_a_writer_waits_for_its_turn(store, make_manifest, tensors):
    store.add(make_manifest(), tensors)
    with ThreadPoolExecutor(1) as pool:
        with exclusive(store.root / ".lock", "a test"):
            waiting = pool.submit(store.add, make_manifest(), tensors)
            time.sleep(0.3)
            assert not waiting.done()
        assert waiting.result(timeout=10).name == "v2"
