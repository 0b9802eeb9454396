"""Embeddings of textual inversion as files: all forms, and what is refused."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load, save_file

from overture.core.errors import ArtifactError
from overture.core.records.prompt import Concept
from overture.exchange.embeddings import diffusers_files, fitted_vectors, read_embedding, webui_files
from overture.store.manifest import BackboneRef, Manifest

REF = BackboneRef(
    id="./sd",
    model_type="StableDiffusionPipeline",
    hidden_size=8,
    num_layers=2,
    weights_sha256="0",
    tokenizer_sha256="1",
)


def manifest_of(token: str = "<my cat's>") -> Manifest:
    concept = Concept(token=token)
    return Manifest(
        name="x", method="textual-inversion", place="caption", length=2, concept=concept, backbone=REF, trainable=16
    )


ONE = {"text_encoder": torch.arange(16.0).view(2, 8)}
BOTH = ONE | {"text_encoder_2": torch.arange(12.0).view(2, 6)}


def written(folder: Path, files: dict[str, bytes]) -> Path:
    for name, raw in files.items():
        (folder / name).write_bytes(raw)
    return folder


def test_each_form_is_written_and_read_back(tmp_path):
    forms = {
        "diffusers": (diffusers_files, ONE, {"<cat>"}, "<cat>"),
        "webui": (webui_files, ONE, {"emb_params"}, None),
        "diffusers-xl": (diffusers_files, BOTH, {"clip_l", "clip_g"}, None),
        "webui-xl": (webui_files, BOTH, {"clip_l", "clip_g"}, None),
    }
    for name, (write, vectors, keys, token) in forms.items():
        folder = tmp_path / name
        folder.mkdir()
        files = write(manifest_of("<cat>"), vectors)
        (safe,) = (file for file in files if file.endswith(".safetensors"))
        assert set(load(files[safe])) == keys
        embedding = read_embedding(written(folder, files))
        assert embedding.token == token
        again = fitted_vectors(embedding, {key: value.shape[1] for key, value in vectors.items()}, "model")
        assert all(torch.equal(again[key], vectors[key]) for key in vectors)
        assert set(again) == set(vectors)


def test_the_web_uis_word_is_a_files_name():
    assert list(webui_files(manifest_of("<a/../b>"), ONE)) == ["ab.safetensors"]
    assert list(webui_files(manifest_of("<>"), ONE)) == ["x.safetensors"]


def test_a_single_vector_may_stand_alone_and_half_precision_is_read(tmp_path):
    save_file({"<cat>": torch.ones(8, dtype=torch.float16)}, tmp_path / "a.safetensors")
    vectors = fitted_vectors(read_embedding(tmp_path / "a.safetensors"), {"text_encoder": 8}, "model")
    assert torch.equal(vectors["text_encoder"], torch.ones(1, 8))


def test_pickles_are_refused_unopened_with_a_command_that_works(tmp_path):
    import shlex
    import subprocess
    import sys

    pickled = tmp_path / "learned_embeds.bin"
    torch.save({"string_to_param": {"*": torch.ones(2, 8)}, "name": "cat"}, pickled)
    for path in (pickled, tmp_path):
        with pytest.raises(ArtifactError) as error:
            read_embedding(path)
        assert "pickle" in error.value.got
    words = shlex.split(error.value.fix.partition(": ")[2].replace("FILE", str(pickled), 1))
    subprocess.run([sys.executable, *words[1:]], check=True, cwd=tmp_path)
    read = read_embedding(tmp_path)
    assert (read.token, read.vectors["text_encoder"].shape) == ("cat", (2, 8))
    disguised = tmp_path / "x.safetensors"
    disguised.write_bytes(pickled.read_bytes())
    with pytest.raises(ArtifactError, match="not opened"):
        read_embedding(disguised)


def test_what_is_no_concept_is_refused(tmp_path):
    wrong = {
        "keys": {"a": torch.ones(1, 8), "b": torch.ones(1, 8)},
        "shape": {"a": torch.ones(1, 2, 8)},
        "lengths": {"clip_l": torch.ones(1, 8), "clip_g": torch.ones(2, 6)},
        "nan": {"a": torch.full((1, 8), float("nan"))},
    }
    for name, tensors in wrong.items():
        path = tmp_path / f"{name}.safetensors"
        save_file(tensors, path)
        with pytest.raises(ArtifactError):
            read_embedding(path)
    with pytest.raises(ArtifactError):
        read_embedding(tmp_path / "gone.safetensors")


def test_another_width_is_another_model(tmp_path):
    save_file({"a": torch.ones(1, 8)}, tmp_path / "a.safetensors")
    for widths in ({"text_encoder": 6}, {"text_encoder": 8, "text_encoder_2": 6}):
        with pytest.raises(ArtifactError) as error:
            fitted_vectors(read_embedding(tmp_path / "a.safetensors"), widths, "model")
        assert "8" in error.value.got


def test_a_manifest_of_a_concept_reads_back():
    manifest = manifest_of()
    assert Manifest.model_validate(json.loads(manifest.model_dump_json())) == manifest
