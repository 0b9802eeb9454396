"""Images and sounds in every form, and what is refused of them, all in one report."""

import base64
import io
import os
import struct
from pathlib import Path

import numpy
import pytest
import soundfile
from PIL import Image

from overture.core.config import validated
from overture.core.errors import ConfigError, DataError, Problem
from overture.core.media import Media
from overture.data.fingerprint import facts_of
from overture.data.media import images
from overture.data.media.read import media_of
from overture.data.read import read_table
from overture.data.row import missing_field
from overture.data.rows import texts_of
from overture.data.splits import load_splits
from overture.data.task import Task
from overture.data.task_rows import rows_of_table

RATE = 8000


def png(colour: tuple[int, int, int], size: tuple[int, int] = (6, 4)) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", size, colour).save(out, "PNG")
    return out.getvalue()


def wav(pitch: float, seconds: float = 0.1, channels: int = 1) -> bytes:
    out = io.BytesIO()
    samples = numpy.sin(numpy.arange(int(seconds * RATE)) * pitch)[:, None].repeat(channels, axis=1)
    soundfile.write(out, samples, RATE, format="WAV")
    return out.getvalue()


@pytest.fixture
def sounds(tmp_path: Path) -> Path:
    """Two labels with two sounds each, for training and test."""
    for number, split in enumerate(("train", "test")):
        for label, pitch in (("low", 0.1), ("high", 0.9)):
            for take in range(2):
                file = tmp_path / split / label / f"{take}.wav"
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(wav(pitch + 0.01 * take + 0.001 * number))
    return tmp_path


def sound_task(folder: Path, **others: object) -> Task:
    values = {"name": "t", "input": "audio", "labels": {"low": " low", "high": " high"}, **others}
    data = values.pop("data", {"train": folder / "train", "test": folder / "test", "validation_share": 0.5})
    return Task.model_validate({**values, "data": data})


def test_a_folder_for_each_label(sounds):
    splits = load_splits(sound_task(sounds))
    assert [row.fields for row in splits.test] == [
        {"audio": f"{label}/{take}.wav", "label": label} for label in ("high", "low") for take in (0, 1)
    ]
    assert len({row.content for row in splits.test}) == 4


def test_a_table_beside_the_files_names_them(tmp_path):
    for number in range(3):
        (tmp_path / f"{number}.png").write_bytes(png((number, 0, 0)))
    (tmp_path / "metadata.csv").write_text("file_name,label,by\n0.png,a,me\n1.png,b,me\n")
    table = read_table(tmp_path)
    assert table.rows == [{"image": "0.png", "label": "a", "by": "me"}, {"image": "1.png", "label": "b", "by": "me"}]
    assert [(notice.kind, notice.count, notice.first) for notice in table.notices] == [
        ("image files that metadata.csv does not name", 1, "2.png")
    ]
    task = Task.model_validate(
        {"name": "t", "input": "image", "labels": {"a": " a", "b": " b"}, "data": {"path": tmp_path}}
    )
    rows = rows_of_table(task, table, str(tmp_path))
    assert [(row.where, row.root) for row in rows] == [
        (f"{tmp_path / 'metadata.csv'}:{line}", str(tmp_path)) for line in (2, 3)
    ]


def test_a_table_that_is_named_itself_sends_to_its_folder() -> None:
    fields = ["file_name", "text"]
    assert "name the folder" in missing_field("audio", "sounds/metadata.jsonl:3", fields).fix
    assert "rename one" in missing_field("audio", "sounds/rows.jsonl:3", fields).fix
    assert "rename one" in missing_field("words", "sounds/metadata.jsonl:3", fields).fix


def test_arrays_and_parquet_hold_the_values_themselves(tmp_path):
    import pyarrow
    from pyarrow import parquet

    pixels = numpy.arange(4 * 2 * 3 * 3, dtype=numpy.uint8).reshape(4, 2, 3, 3)
    numpy.savez(tmp_path / "train.npz", photo=pixels, label=numpy.array([0, 1, 0, 1]))
    files = [{"bytes": png((number, 9, 9)), "path": None} for number in range(4)]
    parquet.write_table(pyarrow.table({"photo": files, "label": [0, 1, 0, 1]}), tmp_path / "train.parquet")
    for name in ("train.npz", "train.parquet"):
        values = {"name": "t", "input": "image", "input_field": "photo", "labels": {0: " a", 1: " b"}}
        data = {"train": tmp_path / name, "validation_share": 0, "test_share": 0}
        task = Task.model_validate({**values, "data": data})
        rows = load_splits(task).train
        assert len({row.content for row in rows}) == 4
        media = media_of(rows[1].fields["photo"], "image", None, "row")
        assert isinstance(media, Media)
        expected = pixels[1] if name.endswith("npz") else numpy.tile([1, 9, 9], (4, 6, 1))
        assert numpy.array_equal(media.open(), expected)
        # Reports and results are passed on; the folders of a machine are nobody's business.
        assert [texts_of(task, row)["photo"] for row in rows] == [f"{name}:{number}" for number in (1, 2, 3, 4)]


def test_python_objects_in_arrays_are_refused(tmp_path):
    numpy.savez(tmp_path / "x.npz", image=numpy.array([{"a": 1}], dtype=object))
    with pytest.raises(DataError) as error:
        read_table(tmp_path / "x.npz")
    assert "never read" in error.value.problems[0].what


def test_pixels_are_turned_as_exif_says():
    image = Image.fromarray(numpy.arange(2 * 3 * 3, dtype=numpy.uint8).reshape(2, 3, 3))
    exif = Image.Exif()
    exif[0x0112] = 6
    out = io.BytesIO()
    image.save(out, "PNG", exif=exif)
    turned = images.pixels_of(out.getvalue())
    assert turned.shape == (3, 2, 3)
    assert numpy.array_equal(turned, numpy.rot90(numpy.asarray(image), -1))


def test_channels_are_averaged(tmp_path):
    (tmp_path / "two.wav").write_bytes(wav(0.3, channels=2))
    media = media_of("two.wav", "audio", tmp_path, "row")
    assert isinstance(media, Media)
    assert (media.rate, media.open().shape, media.open().dtype) == (RATE, (800,), numpy.float32)


def broken_files(folder: Path) -> dict[str, str]:
    """Files with the beginning of what is said of them."""
    whole = wav(0.2)
    deep = io.BytesIO()
    Image.fromarray(numpy.zeros((2, 2), dtype=numpy.uint16)).save(deep, "PNG")
    moving = io.BytesIO()
    frames = [Image.new("L", (2, 2), colour) for colour in (0, 200)]
    frames[0].save(moving, "GIF", save_all=True, append_images=frames[1:])
    plain = io.BytesIO()
    Image.new("RGB", (2, 2)).save(plain, "BMP")
    bomb = bytearray(plain.getvalue())
    bomb[18:26] = struct.pack("<ii", 1 << 15, 1 << 14)
    endless = io.BytesIO()
    soundfile.write(endless, numpy.zeros(0), RATE, format="WAV")
    (folder.parent / "outside.png").write_bytes(png((1, 2, 3)))
    os.symlink(folder.parent / "outside.png", folder / "link.png")
    contents = {
        "text.png": (b"just words", "not an image"),
        "half.png": (png((7, 7, 7), (50, 50))[:-30], "a broken image"),
        "deep.png": (deep.getvalue(), "more than 8 bits"),
        "moving.gif": (moving.getvalue(), "2 pictures"),
        "bomb.bmp": (bytes(bomb), "more than 67,108,864 pixels"),
        "none.png": (b"", "an empty file"),
        "words.wav": (b"just words", "not a sound"),
        "half.wav": (whole[: len(whole) // 2], "cut off"),
        "silent.wav": (endless.getvalue(), "a sound of 0 seconds"),
    }
    for name, (raw, _) in contents.items():
        (folder / name).write_bytes(raw)
    outside = {"link.png": "it lies outside", "../outside.png": "it lies outside", "gone.png": "no such file"}
    return {name: what for name, (_, what) in contents.items()} | outside


def test_what_is_broken_or_unsafe_is_refused(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    for name, what in broken_files(folder).items():
        problem = media_of(name, "audio" if name.endswith(".wav") else "image", folder, "row 1")
        assert isinstance(problem, Problem), name
        assert problem.what.startswith(what), (name, problem)
        assert name in problem.where


def test_all_broken_files_are_in_one_report(sounds):
    bad = [sounds / "train" / "low" / "0.wav", sounds / "train" / "high" / "1.wav", sounds / "test" / "low" / "1.wav"]
    for file in bad:
        file.write_bytes(b"RIFF")
    with pytest.raises(DataError) as error:
        load_splits(sound_task(sounds))
    assert sorted(problem.where for problem in error.value.problems) == sorted(map(str, bad))


def test_names_start_at_the_root_that_is_set(tmp_path, jsonl):
    (tmp_path / "files").mkdir()
    for number in range(4):
        (tmp_path / "files" / f"{number}.wav").write_bytes(wav(0.1 * number + 0.1))
    (tmp_path / "tables").mkdir()
    rows = [{"audio": f"{number}.wav", "label": ("low", "high")[number % 2]} for number in range(4)]
    data = {"train": jsonl(rows, "tables/rows.jsonl"), "validation_share": 0, "test_share": 0}
    with pytest.raises(DataError):
        load_splits(sound_task(tmp_path, data=data))
    assert len(load_splits(sound_task(tmp_path, data={**data, "root": tmp_path / "files"})).train) == 4


def test_repeats_are_told_by_content(sounds):
    again = sounds / "test" / "low" / "7.wav"
    again.write_bytes((sounds / "train" / "low" / "0.wav").read_bytes())
    notices = load_splits(sound_task(sounds)).notices
    assert any("repeat a training row" in text and "test" in text for text in notices)


def test_a_file_that_was_exchanged_is_another_row(sounds):
    before = load_splits(sound_task(sounds)).test
    (sounds / "test" / "low" / "0.wav").write_bytes(wav(2.5, 0.2))
    after = load_splits(sound_task(sounds)).test
    assert facts_of(before) != facts_of(after)
    media = media_of("low/1.wav", "audio", sounds / "test", "row")
    assert isinstance(media, Media)
    (sounds / "test" / "low" / "1.wav").write_bytes(wav(2.9))
    with pytest.raises(DataError) as error:
        media.open()
    assert "changed" in error.value.what


def test_without_a_folder_only_the_value_itself_is_read(sounds):
    assert isinstance(media_of("train/low/0.wav", "audio", None, "row"), Problem)
    uri = "data:audio/wav;base64," + base64.b64encode(wav(0.4)).decode()
    assert isinstance(media_of(uri, "audio", None, "row"), Media)
    assert isinstance(media_of("data:audio/wav;base64,???", "audio", None, "row"), Problem)


def test_the_template_shows_the_input_once():
    values = {"name": "t", "input": "image", "labels": {"a": " a", "b": " b"}, "data": {"train": "x"}}
    task = Task.model_validate(values)
    assert (task.template, task.spec.sample(task)) == ("{image}", {"image": "some.png"})
    for template in ("{text}", "{image} {image}"):
        with pytest.raises(ConfigError) as error:
            validated(Task, {**values, "template": template}, "t")
        assert error.value.problems[0].where == "template"
    with pytest.raises(ConfigError):
        validated(Task, {**values, "input": "text", "template": "{photo}", "input_field": "photo"}, "t")
