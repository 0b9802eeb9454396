"""A vision encoder and folders of pictures through whole runs: no words, no template, a label for each folder."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from overture.core.errors import ArtifactError
from overture.engine.load import load_backbone
from overture.evaluate.host import Host
from overture.store.store import Store
from vision_fakes import SIZE, make_processor, make_vision_model

COLOURS = {"warm": (220, 90, 40), "cold": (40, 90, 220)}
SPLITS = {"train": 6, "validation": 4, "test": 4}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    """Two colours under noise, a folder for each, and a model beside them."""
    folder, random = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for split, num_rows in SPLITS.items():
        for label, colour in COLOURS.items():
            (folder / split / label).mkdir(parents=True)
            for number in range(num_rows):
                noise = random.integers(-35, 36, (20, 24, 3))
                pixels = np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / split / label / f"{number}.png")
    make_vision_model("dinov2", torch.float32).save_pretrained(folder / "model")
    values = make_processor("dinov2")
    processor = {"size": {"height": SIZE, "width": SIZE}, "resample": 2}
    processor |= {"image_mean": values.mean, "image_std": values.std}
    (folder / "model" / "preprocessor_config.json").write_text(json.dumps(processor), encoding="utf-8")
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


@pytest.mark.parametrize(("method", "place"), [("deep", "memory"), ("vectors", "before")], ids=["deep", "vectors"])
def test_from_folders_to_answers(task, pictures, overture, method, place):
    small = ("--length", 2, "--set", "train.epochs=2", "--set", "keep=prompt")
    done = overture("tune", task, "--method", method, "--place", place, *small, "--json")
    assert done.code == 0, done.err
    assert any("linear probe" in notice for notice in done.json["notices"])
    assert done.json["no_prompt"]["metrics"]["test"]["accuracy"]["n"] == 8
    # Label vectors and a bias for each of two labels beside the prompt.
    width, of_prompt = 32, {"deep": 3 * 2 * 32, "vectors": 2 * 32}[method]
    assert done.json["trainable"] == of_prompt + 2 * width + 2
    # What was stored answers as it did when it was scored.
    found = overture("eval", "colours@1", "--json")
    assert found.code == 0, found.err
    scores = found.json["metrics"]["test"]["accuracy"]["value"]
    assert scores == done.json["metrics"]["test"]["accuracy"]["value"]


def test_a_probe_is_kept_where_a_prompt_is_not_shown_to_be_better(task, overture, tmp_path):
    done = overture("tune", task, "--method", "deep", "--length", 2, "--set", "train.epochs=1", "--json")
    assert done.code == 0, done.err
    lines = (Path(done.json["folder"]).parents[2] / "runs" / done.json["run"] / "events.jsonl").read_text().splitlines()
    (plan,) = [event for event in map(json.loads, lines) if event.get("steps")]
    # An encoder reads no examples, so none are in the plan.
    assert [step["what"].partition(" ")[0] for step in plan["steps"]] == ["train", "measure"]
    kept = done.json["kept"]
    # Eight validation rows show nothing.
    assert kept["what"] == "probe"
    assert kept["compared"]["p_value"] > 0.05
    assert any("a linear probe is kept" in notice for notice in done.json["notices"])
    stored = json.loads(Path(done.json["folder"], "prompt.json").read_text(encoding="utf-8"))
    width = 2 if kept["probe"]["features"] == "read+mean" else 1
    assert (stored["length"], stored["trainable"]) == (0, 2 * width * 32 + 2)
    assert stored["options"]["prompt"]["read_layer"] == kept["probe"]["layer"]
    again = overture("eval", "colours@1", "--json")
    assert again.code == 0, again.err
    assert again.json["metrics"]["test"] == done.json["no_prompt"]["metrics"]["test"]
    assert done.json["no_prompt"]["trainable"] == stored["trainable"]
    # What is printed of mistakes is what was stored.
    wrong = overture("errors", "colours@1", "--json").json
    assert (done.json["num_wrong"], done.json["wrong"]) == (len(wrong["wrong"]), wrong["wrong"][:5])
    assert "linear probe" in overture("list").out
    assert "linear probe, beside deep at memory" in overture("show", "colours@1").out


def test_the_printed_result_names_the_probe_that_is_stored(task, overture):
    done = overture("tune", task, "--method", "deep", "--length", 2, "--set", "train.epochs=1")
    assert done.code == 0, done.err
    assert "no-prompt" not in done.out
    assert "A linear probe is kept" in done.out
    assert "the linear probe. Next:" in done.out


def test_peft_is_refused_and_arrays_are_written(task, overture, tmp_path):
    # A prefix at `memory` would be an adapter, were it for a model of texts.
    done = overture("tune", task, "--length", 2, "--set", "train.epochs=1", "--set", "keep=prompt", "--json")
    assert done.code == 0, done.err
    assert done.json["method"] == "prefix"
    assert "which reads images" in done.json["peft_gap"]
    refused = overture("export", "colours@1", "--to", "peft", "-o", tmp_path / "peft")
    assert refused.code == 2
    assert "--to npy" in refused.err
    assert not (tmp_path / "peft").exists()
    written = overture("export", "colours@1", "--to", "npy", "-o", tmp_path / "arrays")
    assert written.code == 0, written.err
    assert (tmp_path / "arrays" / "keys.npy").is_file()


def test_a_search_chooses_among_prompts_for_images(task, overture):
    settings = (
        "--set",
        "search.tunes=2",
        "--set",
        "search.length=[2]",
        "--set",
        "search.cohort=2",
        "--set",
        "train.epochs=1",
    )
    done = overture("search", task, *settings, "--json")
    assert done.code == 0, done.out
    words = overture("search", task, "--form", "hard")
    assert words.code == 2, words.out
    assert "rows of texts" in words.err


def test_a_probe_is_not_explained_as_a_prompt(task, overture):
    done = overture("tune", task, "--length", 2, "--set", "train.epochs=1", "--json")
    assert done.json["kept"]["what"] == "probe"
    refused = overture("explain", "colours@1")
    assert refused.code == 2
    assert "linear probe" in refused.err
    assert "loading" not in refused.err


def test_an_explanation_shows_where_images_speak_for_their_labels(task, overture):
    done = overture("tune", task, "--length", 2, "--set", "train.epochs=1", "--set", "keep=prompt", "--json")
    assert done.code == 0, done.err
    explained = overture("explain", "colours@1", "--rows", 4, "--texts", 2, "--json")
    assert explained.code == 0, explained.err
    heat = explained.json["texts"][0]
    assert (len(heat["words"]), heat["columns"]) == (36, 6)
    assert heat["words"][7]["word"] == "row 2, column 2"
    is_same = [word["without"] == pytest.approx(word["with_prompt"], abs=1e-5) for word in heat["words"]]
    assert not all(is_same)
    (check,) = [check for check in explained.json["checks"] if check["name"] == "tiles"]
    assert "words" not in check["text"]
    assert any("label vectors alone" in notice for notice in explained.json["notices"])
    page = Path(explained.json["page"]).read_text(encoding="utf-8")
    assert "Piece by piece" in page
    assert "row 2, column 2" in page


@pytest.mark.parametrize("layer", ["search", "1", "last"])
def test_a_prompt_that_is_read_in_another_layer_answers_as_it_did(task, overture, layer):
    read = ("--set", f"prompt.read_layer={layer}", "--set", "prompt.read_features=read+mean", "--set", "keep=prompt")
    done = overture("tune", task, "--method", "deep", "--length", 2, "--set", "train.epochs=1", *read, "--json")
    assert done.code == 0, done.err
    again = overture("eval", "colours@1", "--json")
    assert again.code == 0, again.err
    assert again.json["metrics"]["test"] == done.json["metrics"]["test"]
    # What is counted is what is trained: two vectors in each layer that runs, and labels that read two states.
    manifest = overture("show", "colours@1", "--json").json["manifest"]
    chosen = manifest["options"]["prompt"]["read_layer"]
    num_layers = 3 if chosen == "last" else chosen
    assert done.json["trainable"] == manifest["trainable"] == num_layers * 2 * 32 + 2 * 2 * 32 + 2


@pytest.mark.parametrize(
    "options",
    [
        ("--method", "deep", "--set", "prompt.read_layer=9"),
        ("--method", "late", "--place", "before", "--set", "prompt.options.layer=1", "--set", "prompt.read_layer=1"),
    ],
    ids=["no such layer", "below the prompt"],
)
def test_a_layer_that_cannot_be_read_is_refused(task, overture, options):
    done = overture("tune", task, *options)
    assert done.code == 2, done.out
    assert "prompt.read_layer" in done.err


def test_another_size_is_drift(task, pictures, overture, tmp_path):
    done = overture("tune", task, "--method", "deep", "--set", "train.epochs=1", "--set", "baselines=false", "--json")
    assert done.code == 0, done.err
    other = load_backbone(f"{pictures / 'model'}@12px", notify=lambda text: None)
    with pytest.raises(ArtifactError) as error:
        Host(other, Store(tmp_path / "store")).open("colours@1")
    assert "processor_sha256" in str(error.value)


def test_the_usual_ways_are_those_that_need_no_words(task, overture):
    done = overture("compare", task, "--size", 4, "--seeds", 1, "--default-rates", "--min-steps", 2, "--json")
    assert done.code == 0, done.err
    assert set(done.json["ways"]) == {"linear", "lora", "prefix-memory"}


@pytest.mark.parametrize(
    "options",
    [
        ("--set", "template={image} is"),
        ("--set", "prompt.init=text", "--set", "prompt.init_text=warm"),
        ("--set", "prompt.labels=words"),
        ("--set", "compile_layers=true"),
    ],
    ids=["a template with words", "a start from words", "label words", "compiled layers"],
)
def test_what_needs_words_is_refused(task, overture, options):
    done = overture("tune", task, "--method", "deep", *options)
    assert done.code == 2, done.out
    assert "error:" in done.err
