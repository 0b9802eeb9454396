"""What is refused before any parser sees it."""

import json
import os
import pickle
import struct
import time
import zipfile

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from overture.core.errors import ArtifactError
from overture.store import precheck
from overture.store.artifact import load_artifact, save_artifact

ONE = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


def spec(**changes):
    return {**ONE, **changes}


@pytest.mark.parametrize(
    ("header", "data", "message"),
    [
        ({"a": spec(), "b": spec(data_offsets=[4, 12])}, 12, "overlap"),
        ({"a": spec(), "b": spec(data_offsets=[12, 20])}, 20, "hole"),
        ({"a": spec(data_offsets=[8, 16])}, 16, "hole"),
        ({"a": spec()}, 9, "the tensors end at 8, the file at 9"),
        ({"a": spec()}, 7, "the tensors end at 8, the file at 7"),
        ({"a": spec(shape=[0], data_offsets=[0, 0])}, 0, "positive integers"),
        ({"a": spec(shape=[3])}, 8, "its shape wants 12"),
        ({"a": spec(shape=[-2])}, 8, "positive integers"),
        ({"a": spec(shape=[True, 2])}, 8, "positive integers"),
        ({"a": spec(shape=[2**62, 2**62])}, 8, "its shape wants"),
        ({"a": spec(shape=[1] * 9 + [2])}, 8, "positive integers"),
        ({"a": spec(data_offsets=[0])}, 8, "two positions"),
        ({"a": spec(dtype="I64")}, 8, "dtype 'I64'"),
        ({"a": spec(dtype=["F32"])}, 8, "dtype"),
        ({"a": spec(extra=1)}, 8, "exactly"),
        ({"a": 1}, 8, "exactly"),
        ({"a": spec(), "__metadata__": {"x": 1}}, 8, "text to text"),
        ({}, 0, "number of tensors"),
        ({f"t{i}": spec(data_offsets=[8 * i, 8 * i + 8]) for i in range(4097)}, 32776, "number of tensors"),
        (b'{"a": {"dtype": "F32", "dtype": "F16", "shape": [2], "data_offsets": [0, 8]}}', 8, "'dtype' stands more"),
        (b'{"a": NaN}', 8, "NaN is not"),
        (b'{"a": 1e999}', 8, "too large"),
        (b'{"a": \xff}', 8, "cannot be read"),
        (b'{"a": ' + b"[" * 100_000, 8, "cannot be read"),
    ],
)
def test_a_wrong_header_is_refused(rewrite, packed, header, data, message):
    with pytest.raises(ArtifactError, match=message):
        load_artifact(rewrite(packed(header, b"\0" * data)))


def test_duplicate_tensor_names_are_refused(rewrite, packed):
    one = json.dumps(ONE)
    with pytest.raises(ArtifactError, match="'a' stands more than once"):
        load_artifact(rewrite(packed(f'{{"a": {one}, "a": {one}}}'.encode(), b"\0" * 8)))


def test_a_name_that_stands_twice_is_found_in_one_pass():
    # Counted name by name, a header of this length takes over a minute.
    pairs = [f'"{number}":1' for number in [*range(80_000), 7]]
    raw = f"{{{','.join(pairs)}}}".encode()
    assert len(raw) < precheck.MAX_HEADER_BYTES
    start = time.perf_counter()
    with pytest.raises(ArtifactError, match="'7' stands more than once"):
        precheck.strict_json(raw, "here")
    assert time.perf_counter() - start < 10


def test_only_the_length_of_a_huge_header_is_read(saved, monkeypatch):
    header = b"{" + b" " * 2_000_000 + b"}"
    (saved / "prompt.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    with precheck.open_plain(saved / "prompt.safetensors") as handle:
        with pytest.raises(ArtifactError, match="a header of 2000002 bytes"):
            precheck.check_tensors(handle, "here")
        assert handle.tell() == 9


@pytest.mark.parametrize("raw", [b"", b"\x10", struct.pack("<Q", 100) + b"{}", struct.pack("<Q", 2) + b"{"])
def test_torn_starts_are_refused(rewrite, raw):
    with pytest.raises(ArtifactError, match=r"safetensors file|cut off"):
        load_artifact(rewrite(raw))


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_pickle_under_our_name_is_named(rewrite, protocol):
    with pytest.raises(ArtifactError, match="a pickle; it was not opened"):
        load_artifact(rewrite(pickle.dumps({"a": [1.0] * 100}, protocol=protocol)))


def test_a_zip_under_our_name_is_named(rewrite, tmp_path):
    torch.save({"a": torch.ones(2)}, tmp_path / "z")
    with pytest.raises(ArtifactError, match="a zip file"):
        load_artifact(rewrite((tmp_path / "z").read_bytes()))


def test_a_trailing_zip_is_refused(saved, rewrite):
    with zipfile.ZipFile(saved.parent / "z.zip", "w") as archive:
        archive.writestr("x", "y")
    raw = (saved / "prompt.safetensors").read_bytes() + (saved.parent / "z.zip").read_bytes()
    with pytest.raises(ArtifactError, match="the tensors end at"):
        load_artifact(rewrite(raw))


@pytest.mark.parametrize("length", [0x80, 0x0280, 0x0480, 0x4B50])
def test_a_header_whose_length_looks_like_a_pickle_or_a_zip_is_read(rewrite, packed, length):
    bare = len(json.dumps({"values": ONE, "__metadata__": {"x": ""}}))
    header = json.dumps({"values": ONE, "__metadata__": {"x": "x" * (length - bare)}}).encode()
    assert len(header) == length
    _, tensors = load_artifact(rewrite(packed(header, struct.pack("<2f", 1.5, 2.5))))
    assert tensors["values"].tolist() == [1.5, 2.5]


@pytest.mark.parametrize("suffix", [".bin", ".pt", ".pth", ".pkl", ".PT"])
def test_a_folder_with_a_pickle_is_refused_unread(saved, suffix):
    # A pipe without a writer would hang whoever opened it.
    os.mkfifo(saved / f"prompt{suffix}")
    with pytest.raises(ArtifactError, match="it was not opened"):
        load_artifact(saved)


@pytest.mark.parametrize("name", ["prompt.safetensors", "prompt.json", "extra"])
def test_links_are_refused(saved, tmp_path, name):
    target = tmp_path / "elsewhere"
    target.write_bytes((saved / name).read_bytes() if name != "extra" else b"")
    (saved / name).unlink(missing_ok=True)
    (saved / name).symlink_to(target)
    with pytest.raises(ArtifactError, match="symbolic link"):
        load_artifact(saved)
    with pytest.raises(ArtifactError, match="symbolic link"):
        precheck.open_plain(saved / name)


@pytest.mark.parametrize("name", ["prompt.safetensors", "prompt.json"])
def test_a_pipe_is_refused_without_waiting(saved, name):
    (saved / name).unlink()
    os.mkfifo(saved / name)
    with pytest.raises(ArtifactError, match="plain file"):
        load_artifact(saved)


@pytest.mark.parametrize("name", ["prompt.safetensors", "prompt.json"])
def test_a_missing_file_is_named(saved, name):
    (saved / name).unlink()
    with pytest.raises(ArtifactError, match=rf"(?s){name}.*No such file"):
        load_artifact(saved)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(ArtifactError, match="nowhere"):
        load_artifact(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b'{"seconds": NaN}', "NaN is not"),
        (b'{"name": "a", "name": "b"}', "'name' stands more"),
        (b"[" * 50_000, "cannot be read"),
        (b"{", "cannot be read"),
        (b" " * 1_000_001, "too long"),
        (b"[]", "cannot be read"),
        (b'{"a": ' + b"1" * 10_000 + b"}", "cannot be read"),
    ],
)
def test_a_wrong_manifest_is_refused(saved, raw, message):
    (saved / "prompt.json").write_bytes(raw)
    with pytest.raises(ArtifactError, match=message):
        load_artifact(saved)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_damage_is_an_artifact_error_or_harmless(tmp_path_factory, make_manifest, tensors, data):
    """Whatever bytes change, either the error is ours or the tensors are what the file's header says."""
    import hashlib

    folder = tmp_path_factory.mktemp("damage") / "p"
    manifest = save_artifact(folder, make_manifest(), tensors)
    raw = bytearray((folder / "prompt.safetensors").read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(raw) - 1))
        raw[place] = data.draw(st.integers(0, 255))
    raw = raw[: data.draw(st.integers(0, len(raw)))] if data.draw(st.booleans()) else raw
    (folder / "prompt.safetensors").write_bytes(raw)
    agreed = manifest.model_copy(update={"tensors_sha256": hashlib.sha256(raw).hexdigest()})
    (folder / "prompt.json").write_text(agreed.model_dump_json())
    try:
        _, found = load_artifact(folder)
    except ArtifactError:
        return
    assert sum(t.numel() * t.element_size() for t in found.values()) == 4 * 8 * 4 + 3 * 2
    assert all(t.isfinite().all() for t in found.values())
