"""Files that were decoded once are not decoded again by a later run."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from overture.core.errors import DataError
from overture.core.media import Media
from overture.data.media import images, read
from overture.data.media.checked import CheckedFiles


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    file = tmp_path / "data" / "a.png"
    file.parent.mkdir()
    Image.fromarray(np.full((4, 5, 3), 7, np.uint8)).save(file)
    # As a file that nobody writes any more: the time of its last change cannot be set, so the memo is told below.
    os.utime(file, (1, 1))
    return file


def run_of(monkeypatch, memo: Path) -> list[bytes]:
    """A process that has read nothing yet; the list holds what it decodes."""
    decoded: list[bytes] = []

    def counted(raw: bytes) -> np.ndarray:
        decoded.append(raw)
        return pixels_of(raw)

    pixels_of = images.pixels_of
    monkeypatch.setattr(images, "pixels_of", counted)
    monkeypatch.setattr(read, "_known", {})
    monkeypatch.setattr(read, "_checked", CheckedFiles(memo))
    monkeypatch.setattr("overture.data.media.checked._SETTLED_S", -1e9)
    return decoded


def test_a_second_run_decodes_only_what_it_shows(picture, tmp_path, monkeypatch):
    memo = tmp_path / "cache" / "memo.jsonl"
    with monkeypatch.context() as first:
        decoded = run_of(first, memo)
        before = read.media_of("a.png", "image", picture.parent, "row 1")
        assert len(decoded) == 1
    # What a killed run left of its last line is nothing.
    memo.write_text(memo.read_text(encoding="utf-8") + '["image", "/b.p', encoding="utf-8")
    with monkeypatch.context() as second:
        decoded = run_of(second, memo)
        again = read.media_of("a.png", "image", picture.parent, "row 1")
        assert again == before
        assert not decoded
        assert isinstance(again, Media)
        assert (again.open() == 7).all()
        assert len(decoded) == 1


def test_another_file_in_its_place_is_decoded(picture, tmp_path, monkeypatch):
    memo = tmp_path / "memo.jsonl"
    with monkeypatch.context() as first:
        run_of(first, memo)
        before = read.media_of("a.png", "image", picture.parent, "row 1")
    Image.fromarray(np.full((4, 5, 3), 9, np.uint8)).save(picture)
    with monkeypatch.context() as second:
        decoded = run_of(second, memo)
        after = read.media_of("a.png", "image", picture.parent, "row 1")
        assert decoded
        assert after != before
        # Bytes that change while a run goes on are refused when they are opened.
        picture.write_bytes(b"other")
        assert isinstance(after, Media)
        with pytest.raises(DataError):
            after.open()
