"""Sounds from a folder through whole runs: a model that writes, and one without words."""

from pathlib import Path

import numpy
import pytest
import soundfile

from fakes import make_inner_tokenizer
from overture.cli.inputs import inputs_of_arguments
from overture.core.errors import DataError
from overture.data.task import Task
from sound_fakes import make_processor, make_sound_model

RATE = 16000


@pytest.fixture
def sounds(tmp_path: Path) -> Path:
    for split, num in (("train", 8), ("validation", 4), ("test", 4)):
        for label, pitch in (("low", 0.05), ("high", 0.8)):
            for number in range(num):
                file = tmp_path / "sounds" / split / label / f"{number}.wav"
                file.parent.mkdir(parents=True, exist_ok=True)
                tone = numpy.sin(numpy.arange(2400) * (pitch + 0.001 * number + 0.0001 * len(split)))
                soundfile.write(file, 0.3 * tone, RATE)
    return tmp_path / "sounds"


def folder_of(family: str, folder: Path) -> str:
    """A model's folder as checkpoints have it."""
    import torch

    model = make_sound_model(family, torch.float32)
    model.save_pretrained(folder)
    make_processor(family)._extractor.save_pretrained(folder)
    if family == "whisper":
        tokenizer = make_inner_tokenizer()
        tokenizer.add_special_tokens(
            {"additional_special_tokens": ["<|startoftranscript|>", "<|notimestamps|>", "<|startofprev|>"]}
        )
        tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("family", ["whisper", "hubert"])
def test_from_a_folder_to_predictions(family, sounds, tmp_path, overture):
    model = folder_of(family, tmp_path / "model")
    begun = overture("init", str(sounds), "--backbone", model, "--name", "tones", "--json")
    assert begun.code == 0, begun.err
    assert begun.json["report"]["media"]["rates"] == {"16000": 32}
    done = overture("tune", "task.yaml", "--seeds", "1", "--epochs", "1", "--json")
    assert done.code == 0, done.err
    place = "after" if family == "whisper" else "memory"
    assert done.json["place"] == place
    if family == "whisper":
        explained = overture("explain", "tones@1", "--rows", "4", "--texts", "2", "--json")
        assert explained.code == 0, explained.err
        (check,) = [check for check in explained.json["checks"] if check["name"] == "stretches of sound"]
        assert "words" not in check["text"]
    low = sounds / "test" / "low"
    answer = overture("predict", "tones@1", str(low / "0.wav")).json
    # A line of a sound's file means nothing.
    assert answer["where"] == str(low / "0.wav")
    assert (answer["row"], answer["label"] in ("low", "high")) == ({"audio": str(low / "0.wav")}, True)
    of_folder = overture("predict", "tones@1", str(low), "-o", "out.csv")
    assert of_folder.code == 0, of_folder.err
    lines = Path("out.csv").read_text().splitlines()
    assert len(lines) == 5
    assert lines[1].startswith("0.wav,")
    (low / "0.wav").write_bytes(b"RIFF")
    broken = overture("predict", "tones@1", str(low), "--on-error", "fail")
    assert broken.code == 2
    assert "0.wav" in broken.err
    refused = overture("tune", "task.yaml")
    assert refused.code == 2
    assert "low/0.wav" in refused.err


def test_arguments_name_files_and_folders(sounds):
    values = {"name": "t", "input": "audio", "labels": {"low": " low", "high": " high"}, "data": {"path": "x"}}
    tasks = [Task.model_validate(values)]
    inputs, file = inputs_of_arguments([str(sounds / "test"), str(sounds / "train" / "low" / "0.wav")], tasks)
    assert (len(inputs.rows), file, inputs.problems) == (9, None, {})
    with pytest.raises(DataError):
        inputs_of_arguments([str(sounds / "test"), "some words"], tasks)
    picture = sounds / "new.jpg"
    picture.touch()
    with pytest.raises(DataError) as caught:
        inputs_of_arguments([str(picture)], tasks)
    assert ("t reads sounds, not images" in caught.value.what, ".wav" in caught.value.wanted) == (True, True)
    of_texts = [Task.model_validate({**values, "input": "text", "template": "{text}"})]
    with pytest.raises(DataError) as caught:
        inputs_of_arguments([str(picture)], of_texts)
    assert "reads texts" in caught.value.what
    missing = inputs_of_arguments([str(sounds / "nowhere.wav")], tasks)[0]
    assert [problem.what for problem in missing.problems[0]] == ["no such file"]


def test_words_of_sounds_are_learnt_and_scored_by_their_errors(sounds, tmp_path, overture):
    for split in ("train", "validation", "test"):
        files = sorted((sounds / split).glob("*/*.wav"))
        rows = [f'{{"audio": "{file.relative_to(sounds)}", "words": " {file.parent.name}"}}' for file in files]
        (sounds / f"{split}.jsonl").write_text("\n".join(rows), encoding="utf-8")
    model = folder_of("whisper", tmp_path / "model")
    lines = ["name: words", f"backbone: {model}", "input: audio", "answer_field: words", "max_new_tokens: 4", "data:"]
    lines += [f"  {split}: {sounds / split}.jsonl" for split in ("train", "validation", "test")]
    Path("words.yaml").write_text("\n".join(lines), encoding="utf-8")
    done = overture("tune", "words.yaml", "--method", "vectors", "--length", "2", "--epochs", "1", "--json")
    assert done.code == 0, done.err
    assert done.json["metric"] == "word_accuracy"
    scores = done.json["metrics"]["test"]
    assert scores["wer"]["value"] == pytest.approx(1 - scores["word_accuracy"]["value"])
    explained = overture("explain", "words@1")
    assert explained.code == 2
    assert "transcription" in explained.err
    assert "loading" not in explained.err
    # The model knows one language alone.
    refused = overture("tune", "words.yaml", "--set", "language=de")
    assert refused.code == 2
    assert "language" in refused.err


def test_methods_of_images_are_not_advised_for_sounds(sounds, tmp_path, overture):
    model = folder_of("hubert", tmp_path / "model")
    assert overture("init", str(sounds), "--backbone", model, "--name", "tones").code == 0
    refused = overture("tune", "task.yaml", "--method", "kgcoop", "--place", "before")
    assert refused.code == 2
    assert ("clip" in refused.err.lower().partition("fix:")[2], "a model of sounds" in refused.err) == (False, True)


def test_init_tells_what_its_model_cannot_read(sounds, tmp_path, overture, make_task):
    model = folder_of("whisper", tmp_path / "model")
    begun = overture("init", str(sounds), "--backbone", f"{model}@0.1s", "--json")
    assert begun.code == 0, begun.err
    assert any("reads 0.1 at most" in note and "@1s" in note for note in begun.json["notes"])
    begun = overture("init", str(sounds), "--backbone", model, "--force")
    assert "at most" not in begun.out
    rows = "text,label\n" + "".join(f"text {i},{'ab'[i % 2]}\n" for i in range(24))
    (tmp_path / "rows.csv").write_text(rows)
    refused = overture("init", "rows.csv", "--backbone", model, "-o", "texts.yaml")
    assert (refused.code, Path("texts.yaml").exists()) == (2, False)
    assert "does not read texts" in refused.err
    refused = overture("init", str(sounds), "--backbone", "smollm2", "-o", "sounds.yaml")
    assert (refused.code, "does not read sounds" in refused.err) == (2, True)
