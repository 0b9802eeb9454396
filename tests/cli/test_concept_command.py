"""A concept from images to other programs' files, by commands."""

import shutil

import numpy as np
import pytest

pytest.importorskip("diffusers", reason="diffusers is not installed: pip install -e '.[diffusion]'")

from PIL import Image

from diffusion_fakes import saved_pipeline

FEW = ["--word", "a", "--length", "2", "--steps", "4", "--set", "draws=2", "--set", "train.epochs=2"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    saved_pipeline(folder)
    return folder


@pytest.fixture
def images(tmp_path):
    folder, random = tmp_path / "images", np.random.default_rng(0)
    folder.mkdir()
    for number in range(2):
        Image.fromarray(random.integers(0, 256, (40, 40, 3), np.uint8)).save(folder / f"{number}.png")
    return folder


def test_a_concept_is_learnt_shown_written_and_read(overture, model, images, tmp_path):
    done = overture("concept", images, "--backbone", model, "--token", "<new>", *FEW, "--lr", "0.01")
    assert done.code == 0, done.err
    assert "overture export new@1 --to diffusers" in done.out
    shown = overture("show", "new", "--json").json["manifest"]
    assert shown["concept"]["token"] == "<new>"
    assert shown["options"]["train"]["lr"] == 0.01
    assert "<new>, begun at 'a'" in overture("show", "new").out
    assert "textual-inversion" in overture("list").out
    for form in ("diffusers", "webui"):
        assert overture("export", "new", "--to", form).code == 0
    again = overture("import", "new.diffusers", "--backbone", model, "--name", "again", "--json").json
    assert (again["prompt"], again["token"], again["length"]) == ("again@1", "<new>", 2)
    named = overture("import", "new.webui", "--backbone", model, "--token", "<other>", "--json").json
    assert (named["prompt"], named["token"]) == ("other@1", "<other>")
    assert "bit-equal" in overture("diff", "new", "again").out
    for words in (["export", "new", "--to", "peft"], ["export", "new", "--to", "text"]):
        assert "--to diffusers or webui" in overture(*words).err


@pytest.mark.parametrize(
    "words",
    [
        ["predict", "x", "a row"],
        ["eval", "x"],
        ["explain", "x"],
        ["similar", "x"],
        ["prune", "x"],
        ["suggest", "f.csv", "--prompt", "x"],
    ],
)
def test_commands_on_rows_refuse_a_concept(words, overture, model, tmp_path):
    import torch
    from safetensors.torch import save_file

    save_file({"emb_params": torch.ones(1, 32)}, tmp_path / "x.safetensors")
    done = overture("import", "x.safetensors", "--backbone", model)
    assert done.code == 0, done.err
    done = overture(*words)
    assert done.code == 2
    assert "model that draws" in done.err
    assert "--to diffusers" in done.err


def test_wrong_settings_are_told_before_the_model_is_loaded(overture, model, images):
    cases = {
        ("--backbone", model, "--token", "<new>"): "word: this key is required",
        ("--backbone", model, "--token", "a b", "--word", "a"): "token",
        ("--backbone", "./gone", "--token", "<new>", "--word", "a"): "not on this machine",
        ("--backbone", model, "--token", "<new>", "--word", "a", "--set", "nothing=1"): "unknown key",
        ("--backbone", model, "--token", "<new>", "--word", "a", "--name", "../x"): "no name for a prompt",
    }
    for words, told in cases.items():
        done = overture("concept", images, *words)
        assert done.code == 2, words
        assert told in done.err
    assert "nothing to learn" in overture("concept", "gone", "--backbone", model, "--token", "<n>", "--word", "a").err


def test_without_diffusers_the_way_out_is_named(overture, model, images, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "diffusers", None)
    done = overture("concept", images, "--backbone", model, "--token", "<new>", "--word", "a")
    assert done.code == 2
    assert "need diffusers" in done.err


def test_import_wants_the_model_of_a_concept_and_the_task_of_an_adapter(overture, tmp_path):
    (tmp_path / "x.safetensors").write_bytes(b"")
    assert "--backbone" in overture("import", "x.safetensors").err
    (tmp_path / "adapter").mkdir()
    assert "--task" in overture("import", "adapter").err
    (tmp_path / "pickled").mkdir()
    (tmp_path / "pickled" / "learned_embeds.bin").write_bytes(b"\x80")
    done = overture("import", "pickled", "--backbone", "./gone")
    assert "weights_only=True" in done.err
    shutil.rmtree(tmp_path / "pickled")
