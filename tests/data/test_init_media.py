"""A first task file for images and sounds, and what is said of them."""

import io
from pathlib import Path

import numpy
import pytest
import soundfile
from PIL import Image

from overture.core.config import read_yaml
from overture.core.errors import DataError
from overture.data.init_task import StartedTask, starting_task
from overture.data.splits import load_splits
from overture.data.task import Task

RATE = 8000


def write_sound(file: Path, pitch: float, seconds: float = 0.1, rate: int = RATE) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(file, numpy.sin(numpy.arange(int(seconds * rate)) * pitch), rate)


def picture(seed: int) -> Image.Image:
    """Large patches of grey, which another size or quality keeps."""
    patches = numpy.random.default_rng(seed).integers(0, 256, (8, 8), dtype=numpy.uint8)
    return Image.fromarray(patches.repeat(10, axis=0).repeat(10, axis=1)).convert("RGB")


def begun(folder: Path) -> tuple[StartedTask, Task]:
    started = starting_task(folder, folder)
    (folder / "task.yaml").write_text(started.text)
    return started, Task.load(folder / "task.yaml")


@pytest.fixture
def sounds(tmp_path: Path) -> Path:
    """Two labels, three speakers who say both, in two splits."""
    for split in ("train", "test"):
        for label, pitch in (("low", 0.1), ("high", 0.9)):
            for number, speaker in enumerate(("ann", "bob", "cem")):
                for take in (1, 2):
                    name = f"{speaker}_{take}.wav"
                    shift = 0.01 * number + 0.002 * take + 0.0005 * (split == "test")
                    write_sound(tmp_path / split / label / name, pitch + shift, 0.1 * take)
    return tmp_path


def test_a_folder_of_sounds(sounds):
    started, task = begun(sounds)
    assert (task.input, task.template, list(task.words)) == ("audio", "{audio}", ["high", "low"])
    assert len(load_splits(task).train) > 0
    media = started.report.media
    assert media is not None
    assert (media.modality, media.seconds, media.rates) == ("audio", [0.1, 0.2, 0.2], {"8000": 24})
    assert (media.broken, media.alike, media.sources, started.report.repeats) == (0, [], [], 0)
    assert "template" not in read_yaml(sounds / "task.yaml")


def test_a_speaker_of_each_label_is_warned_of(tmp_path):
    for label, speakers in (("de", ("ann", "bob")), ("fr", ("cem", "dot"))):
        for speaker in speakers:
            for take in range(4):
                write_sound(tmp_path / label / f"{speaker}_{take}.wav", 0.1 + 0.05 * take + 0.001 * ord(speaker[0]))
    (source,) = begun(tmp_path)[0].report.media.sources
    assert (source.what, source.values) == ("part 1 of the file's name", 4)
    assert source.examples[0] == "'ann' in ann_0.wav: de"
    (tmp_path / "table").mkdir()
    rows = ["file_name,label,patient"]
    for number in range(12):
        write_sound(tmp_path / "table" / f"{number}.wav", 0.1 + 0.03 * number)
        rows.append(f"{number}.wav,{'ab'[number % 2]},{'xyzw'[number % 4]}")
    (tmp_path / "table" / "metadata.csv").write_text("\n".join(rows))
    (source,) = begun(tmp_path / "table")[0].report.media.sources
    assert (source.what, source.values) == ("column patient", 4)


def test_broken_silent_and_repeated_files_are_told(sounds):
    (sounds / "train" / "low" / "ann_1.wav").write_bytes(b"RIFF")
    soundfile.write(sounds / "train" / "low" / "bob_1.wav", numpy.zeros(800), RATE)
    # The same samples, packed otherwise.
    samples, rate = soundfile.read(sounds / "train" / "low" / "cem_1.wav")
    soundfile.write(sounds / "test" / "low" / "cem_9.flac", samples, rate)
    (sounds / "test" / "high" / "copy.wav").write_bytes((sounds / "train" / "high" / "cem_2.wav").read_bytes())
    report = begun(sounds)[0].report
    assert report.media is not None
    assert (report.media.broken, report.repeats) == (1, 1)
    assert "ann_1.wav" in report.media.first_broken[0]
    assert report.media.constant == ["low/bob_1.wav"]
    assert report.media.alike == [("low/cem_1.wav", "low/cem_9.flac")]


def test_images_in_another_size_and_quality_are_nearly_the_same(tmp_path):
    for split in ("train", "test"):
        for label in ("cat", "dog"):
            for number in range(3):
                file = tmp_path / split / label / f"{number}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                picture(len(split) * 100 + len(list(tmp_path.rglob("*.png")))).save(file)
    out = io.BytesIO()
    Image.open(tmp_path / "train" / "cat" / "1.png").resize((64, 64)).save(out, "JPEG", quality=60)
    (tmp_path / "test" / "cat" / "z.jpg").write_bytes(out.getvalue())
    Image.new("RGB", (80, 80), (9, 9, 9)).save(tmp_path / "test" / "dog" / "black.png")
    report = begun(tmp_path)[0].report.media
    assert report is not None
    assert report.alike == [("cat/1.png", "cat/z.jpg")]
    assert report.constant == ["dog/black.png"]
    assert report.sizes == {"80 x 80": 13, "64 x 64": 1}


def test_words_beside_sounds_are_what_is_written(tmp_path):
    rows = ["file_name,transcription"]
    for number in range(6):
        write_sound(tmp_path / f"{number}.wav", 0.1 + 0.1 * number)
        rows.append(f"{number}.wav,words of number {number}")
    (tmp_path / "metadata.csv").write_text("\n".join(rows))
    task = begun(tmp_path)[1]
    assert (task.kind, task.answer_field, task.template) == ("transcription", "transcription", "{audio}")
    assert task.metric == "word_accuracy"


def test_a_folder_without_labels_says_so(tmp_path):
    write_sound(tmp_path / "a.wav", 0.1)
    with pytest.raises(DataError):
        starting_task(tmp_path)


@pytest.mark.parametrize(
    ("files", "what", "fix"),
    [
        (["cat/1.jpg", "cat/2.jpg"], "2 images of one label", "another label"),
        (["train/cat/1.jpg", "train/cat/2.jpg", "test/cat/3.jpg"], "2 images of one label", "another label"),
        (["1.wav", "2.wav"], "sounds without labels", "metadata.csv"),
        (["low/1.wav", "2.wav"], "sounds without labels", "metadata.csv"),
        (["train/1.png", "test/2.png"], "images without labels", "one folder for each label"),
        ([], "the folder is empty", ""),
        (["notes.md", "cat/1.jpg"], "no training rows in the folder", "name a file"),
    ],
)
def test_folders_that_cannot_be_read_say_what_they_hold(tmp_path, files, what, fix):
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    with pytest.raises(DataError) as caught:
        starting_task(tmp_path)
    assert what in caught.value.what
    assert fix in caught.value.fix


def test_numbers_in_names_are_called_numbers(tmp_path):
    for label, stem in (("cat", ""), ("dog", "dog_")):
        for number in range(4):
            file = tmp_path / label / f"{stem}{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            picture(len(label + stem) * 100 + number).save(file)
    (source,) = begun(tmp_path)[0].report.media.sources
    assert (source.what, source.examples[0]) == ("part 1 of the file's name", "a number in 0.png: cat")


def test_labels_for_a_model_without_words_are_no_words(tmp_path):
    for label in ("cat", "dog"):
        for number in range(3):
            file = tmp_path / label / f"{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            picture(len(list(tmp_path.rglob("*.png")))).save(file)
    started, task = begun(tmp_path)
    assert task.words == {"cat": ("cat",), "dog": ("dog",)}
    assert ("leading space" in started.text, "reads no words" in started.text) == (False, True)
    started = starting_task(tmp_path, tmp_path, "some/model-with-words")
    assert "leading space" in started.text


def test_a_named_model_without_words_has_no_words_for_sounds_either(sounds):
    started = starting_task(sounds, sounds, "some/hubert", lambda words: "vectors", has_words=False)
    assert 'low: "low"' in started.text
