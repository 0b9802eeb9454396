"""A model that compares images with texts, in whole runs: prompts among the labels' words, its own captions."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from caption_fakes import save_clip
from vision_fakes import SIZE, make_processor

COLOURS = {"warm": (220, 90, 40), "cold": (40, 90, 220)}
SPLITS = {"train": 6, "validation": 4, "test": 4}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    """Two colours under noise, a folder for each, and a model beside them."""
    folder, random = tmp_path_factory.mktemp("captioned"), np.random.default_rng(0)
    for split, num_rows in SPLITS.items():
        for label, colour in COLOURS.items():
            (folder / split / label).mkdir(parents=True)
            for number in range(num_rows):
                noise = random.integers(-35, 36, (20, 24, 3))
                pixels = np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / split / label / f"{number}.png")
    values = make_processor("clip_vision_model")
    processor = {"size": {"height": SIZE, "width": SIZE}, "resample": 2}
    save_clip(folder / "model", processor | {"image_mean": values.mean, "image_std": values.std})
    return folder


@pytest.fixture
def task(pictures, tmp_path) -> Path:
    """A task file on the pictures."""
    lines = ["name: colours", f"backbone: {pictures / 'model'}", "input: image", "data:"]
    lines += [f"  {split}: {pictures / split}" for split in SPLITS]
    lines += ["labels:", *(f"  {label}: {label}" for label in COLOURS)]
    file = tmp_path / "task.yaml"
    file.write_text("\n".join(lines), encoding="utf-8")
    return file


@pytest.mark.parametrize("method", ["coop", "kgcoop"])
def test_from_folders_to_answers(task, pictures, overture, method):
    settings = ("--set", "train.epochs=2", "--set", "prompt.init=text", "--set", "prompt.init_text=a photo of a")
    done = overture("tune", task, "--method", method, "--length", 4, *settings, "--json")
    assert done.code == 0, done.err
    assert any("written by hand" in notice for notice in done.json["notices"])
    assert done.json["no_prompt"]["metrics"]["test"]["accuracy"]["n"] == 8
    assert done.json["trainable"] == 4 * 16
    assert '"place": "before"' in overture("show", "colours@1", "--json").out
    found = overture("eval", "colours@1", "--json")
    assert found.code == 0, found.err
    scores = found.json["metrics"]["test"]["accuracy"]["value"]
    assert scores == done.json["metrics"]["test"]["accuracy"]["value"]
    image = next((pictures / "test" / "warm").glob("*.png"))
    answered = overture("predict", "colours@1", image)
    assert answered.code == 0, answered.err
    assert any(label in answered.out for label in COLOURS)
    refused = overture("export", "colours@1", "--to", "peft", "-o", pictures.parent / f"{method}-peft")
    assert refused.code == 2
    assert "peft has no" in refused.err


def test_beside_the_probe_and_captions_written_by_hand(task, overture):
    ways = ("coop-before", "maple-memory", "promptsrc-memory", "linear", "no-prompt", "text")
    settings = ["--set-way", "text:options.text=a {} in a picture"]
    for method in ("maple", "promptsrc"):
        settings += ["--set-way", f"{method}-memory:prompt.options.depth=2"]
    options = ("--size", 4, "--seeds", 1, "--default-rates", "--min-steps", 2, "--json")
    done = overture("compare", task, *(part for way in ways for part in ("--way", way)), *settings, *options)
    assert done.code == 0, done.err
    assert set(done.json["ways"]) == set(ways)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--set", "prompt.labels=vectors"), "prompt.labels"),
        (("--set", "prompt.init=labels"), "prompt.init"),
        (("--length", 90), "prompt.length"),
    ],
    ids=["label vectors", "a start from labels", "too long"],
)
def test_what_does_not_fit_is_refused(task, overture, options, said):
    done = overture("tune", task, "--method", "coop", "--place", "before", *options)
    assert done.code == 2, done.out
    assert said in done.err


def test_without_a_tokenizer_there_is_no_tower_of_texts(task, pictures, overture, tmp_path):
    bare = tmp_path / "bare"
    bare.mkdir()
    for file in (pictures / "model").iterdir():
        if not file.name.startswith(("tokenizer", "vocab", "merges", "special")):
            (bare / file.name).write_bytes(file.read_bytes())
    done = overture("tune", task, "--method", "coop", "--place", "before", "--backbone", bare)
    assert done.code == 2, done.out
    assert "tokenizer" in done.err
