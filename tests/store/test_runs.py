"""Run folders under attack: links, half-written files, files of another JSON type, prompts that are kept once."""

import json
from pathlib import Path

import pytest
import torch

from overture.core.errors import ArtifactError, StoreError
from overture.core.records.events import NoticeEvent
from overture.core.records.prompt import Lineage
from overture.core.records.tune import Controls
from overture.core.sealed import read_sealed, write_sealed
from overture.store.runs import Run, unfinished_runs
from overture.store.store import Store


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run.create(tmp_path / "runs", "mood", {"task": {"name": "mood"}}, lambda event: None)


@pytest.mark.parametrize("name", [".lock", "events.jsonl"])
@pytest.mark.parametrize("is_there", [True, False], ids=["a file", "dangling"])
def test_links_in_a_run_are_not_followed(tmp_path, run, name, is_there):
    precious = tmp_path / "precious.txt"
    if is_there:
        precious.write_text("years of work")
    (run.folder / name).symlink_to(precious)
    assert [row.run for row in unfinished_runs(tmp_path / "runs")] == ["mood-1"]
    with pytest.raises(StoreError) as refused, run.working():
        run.event(NoticeEvent(text="hello"))
    assert name in refused.value.where
    assert precious.exists() == is_there
    assert not is_there or precious.read_text() == "years of work"


def test_a_run_behind_a_link_is_not_touched(tmp_path, run):
    elsewhere = tmp_path / "elsewhere"
    run.folder.rename(elsewhere)
    (tmp_path / "runs" / "mood-1").symlink_to(elsewhere)
    assert unfinished_runs(tmp_path / "runs") == []
    with pytest.raises(StoreError):
        Run.open(tmp_path / "runs", "mood-1")
    assert not (elsewhere / ".lock").exists()


def test_what_a_killed_writer_left_goes_when_the_run_is_taken_up(run):
    left = [
        run.folder / ".overture-tmp-1-checkpoint.safetensors",
        run.folder / "seed-0" / ".overture-tmp-2-result.json",
    ]
    for path in left:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"half")
    with run.working():
        assert not any(path.exists() for path in left)


def test_looking_at_runs_sweeps_nothing(tmp_path, run):
    half = run.folder / ".overture-tmp-1-checkpoint.safetensors"
    half.write_bytes(b"half")
    unfinished_runs(tmp_path / "runs")
    assert half.exists()


@pytest.mark.parametrize("text", ["[1]", "1", "null", '"x"', "{", "\xff", "[" * 100_000])
def test_a_part_of_another_json_type_is_named(tmp_path, run, text):
    for name in ("controls.json", "run.json"):
        (run.folder / name).write_text(text, encoding="latin-1")
    for read in (lambda: run.read("controls.json", Controls), run.request):
        with pytest.raises(StoreError) as refused:
            read()
        assert refused.value.where.startswith(str(run.folder))
        assert refused.value.fix
    assert [row.run for row in unfinished_runs(tmp_path / "runs")] == ["mood-1"]


def test_a_run_keeps_its_prompt_once(tmp_path, run, make_manifest, tensors):
    store = Store(tmp_path)
    manifest = make_manifest(lineage=Lineage(run=run.name, seed=0))
    first = run.keep(store, manifest, tensors)
    # The process ended before the result was written; the resumed run comes to the same end.
    assert run.keep(store, manifest, tensors) == first
    other = {name: value + 1 for name, value in tensors.items()}
    assert run.keep(store, manifest, other).name == "v2"
    assert len(store.list()) == 2


def test_a_later_run_of_the_same_name_keeps_its_own(tmp_path, run, make_manifest, tensors):
    store, manifest = Store(tmp_path), make_manifest(lineage=Lineage(run=run.name, seed=0))
    first = run.keep(store, manifest, tensors)
    request = json.loads((run.folder / "run.json").read_text())
    (run.folder / "run.json").write_text(json.dumps(request | {"created": "2999-01-01T00:00:00+00:00"}))
    assert run.keep(store, manifest, tensors) != first


def test_sealed_values_come_back_with_their_facts(tmp_path):
    tensors = {"a": torch.arange(3.0), "b": torch.tensor(2), "c": torch.ones(2, 2, dtype=torch.bfloat16)}
    write_sealed(tmp_path / "file", tensors, {"step": 4, "names": ["x"]})
    values, facts = read_sealed(tmp_path / "file", "")
    assert facts == {"step": 4, "names": ["x"]}
    assert all(torch.equal(values[name], tensor) for name, tensor in tensors.items())
    assert {name: value.dtype for name, value in values.items()} == {name: t.dtype for name, t in tensors.items()}


@pytest.mark.parametrize("damage", ["a value", "a fact", "cut", "gone"])
def test_sealed_values_that_changed_are_refused(tmp_path, damage):
    path = tmp_path / "file"
    write_sealed(path, {"a": torch.arange(64.0)}, {"batch": 4})
    raw = bytearray(path.read_bytes())
    if damage == "a value":
        raw[-1] ^= 1
    if damage == "a fact":
        raw = raw.replace(b"batch", b"patch")
    path.write_bytes(raw[:40] if damage == "cut" else raw)
    if damage == "gone":
        path.unlink()
    with pytest.raises(ArtifactError) as refused:
        read_sealed(path, "train again")
    assert (refused.value.where, refused.value.fix) == (str(path), "train again")
