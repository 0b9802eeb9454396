"""Images and sounds by what a row's field holds: a file's name, bytes, values, or a data URI.

A file is opened only within the folder that is given, links included. What was read once is remembered by the file's
size and times, so that rows may be checked and encoded without reading it twice, and on disk for later runs.
"""

import base64
import binascii
import hashlib
import re
import threading
from collections.abc import Callable, Mapping
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from overture.core.errors import DataError, OvertureError, Problem
from overture.core.media import Media, Modality
from overture.data.media import images, sounds
from overture.data.media.checked import CheckedFiles, State

if TYPE_CHECKING:
    import numpy

SUFFIXES: Mapping[Modality, tuple[str, ...]] = {"image": images.SUFFIXES, "audio": sounds.SUFFIXES}
MODALITIES: tuple[Modality, ...] = ("image", "audio")
_MAX_BYTES = 1 << 28
_URI = re.compile(r"data:[\w.+/-]*(?:;[\w.+=-]+)*;base64,", re.ASCII)
_WANTED = {
    "image": "wanted a file's name, or an object with bytes",
    "audio": "wanted a file's name, or an object with bytes, or with array and sampling_rate",
}
_known: dict[State, Media | Problem] = {}
_writing = threading.Lock()
_checked = CheckedFiles()


def modality_of(name: str) -> Modality | None:
    """Whether a file's name is that of an image or a sound; None for others."""
    lower_name = name.lower()
    return next((modality for modality in MODALITIES if lower_name.endswith(SUFFIXES[modality])), None)


def media_of(value: Any, modality: Modality, root: Path | None, where: str) -> Media | Problem:
    """The image or the sound that a field holds, decoded once to see that it can be.

    Args:
        value: the field's value.
        modality: the expected modality.
        root: the folder that files' names start at and may not leave; None where no file may be read.
        where: the row, for what has no file.

    Returns:
        The image or the sound, or the problem with it.

    Raises:
        ConfigError: the package that decodes it is not installed.
    """
    if isinstance(value, Media):
        return value if value.modality == modality else Problem(where, f"a value of type {value.modality}")
    if isinstance(value, Mapping):
        return _of_object(value, modality, root, where)
    if isinstance(value, bytes):
        return _of_bytes(value, modality, where, lambda: value)
    if isinstance(value, str):
        return _of_uri(value, modality, where) if value.startswith("data:") else _of_file(value, modality, root, where)
    if modality == "image" and hasattr(value, "__array_interface__"):
        import numpy

        return _of_pixels(numpy.asarray(value), where)
    return Problem(where, f"no {modality}, but a value of type {type(value).__name__}", _WANTED[modality])


def shown(value: Any, where: str) -> str:
    """A field's value for people: the file's name, or its row where it has none; never the folder of a row's file."""
    if isinstance(value, Mapping):
        value = value.get("path")
    if isinstance(value, Media):
        where = value.where
    elif isinstance(value, str) and not value.startswith("data:"):
        return value
    return PurePath(where).name


def plain(fields: Mapping[str, Any], where: str) -> dict[str, Any]:
    """A row's fields as a file can hold them: an image or a sound that is there as values is named by its row."""
    return {name: shown(value, where) if _is_content(value) else value for name, value in fields.items()}


def _is_content(value: Any) -> bool:
    is_packed = isinstance(value, Mapping) and ("bytes" in value or "array" in value)
    return is_packed or isinstance(value, bytes | Media) or hasattr(value, "__array_interface__")


def _of_object(value: Mapping[str, Any], modality: Modality, root: Path | None, where: str) -> Media | Problem:
    """As `datasets` and its Parquet files have it: {bytes, path}, or {array, sampling_rate}."""
    raw, path = value.get("bytes"), value.get("path")
    if isinstance(raw, bytes):
        name = f"{where} ({path})" if isinstance(path, str) and path else where
        return _of_bytes(raw, modality, name, lambda: raw)
    if modality == "audio" and value.get("array") is not None:
        return _of_samples(value["array"], value.get("sampling_rate"), where)
    if isinstance(path, str) and path:
        return _of_file(path, modality, root, where)
    return Problem(
        where, f"no {modality}, but an object with {', '.join(map(str, value)) or 'nothing'}", _WANTED[modality]
    )


def _of_uri(text: str, modality: Modality, where: str) -> Media | Problem:
    start = _URI.match(text)
    if start is None:
        return Problem(where, "a data URI without base64", "wanted data:image/png;base64,...")
    try:
        raw = base64.b64decode(text[start.end() :], validate=True)
    except (binascii.Error, ValueError) as error:
        return Problem(where, f"a data URI that is no base64: {error}")
    return _of_bytes(raw, modality, where, lambda: raw)


def _of_pixels(pixels: "numpy.ndarray", where: str) -> Media | Problem:
    """An image that is decoded: [H, W] of grey, [H, W, 3], or [H, W, 4] whose last values are left out."""
    import numpy

    if (
        pixels.dtype != numpy.uint8
        or pixels.ndim not in (2, 3)
        or (pixels.ndim == 3 and pixels.shape[2] not in (1, 3, 4))
    ):
        type_text = f"values of type {pixels.dtype} and shape {list(pixels.shape)}"
        return Problem(where, f"no image, but {type_text}", "wanted uint8 [height, width, 3]")
    if not 0 < pixels.shape[0] * pixels.shape[1] <= images.MAX_PIXELS:
        return Problem(where, f"an image of {pixels.shape[1]} x {pixels.shape[0]} pixels")
    colours = pixels[..., None] if pixels.ndim == 2 else pixels
    colours = colours.repeat(3, axis=2) if colours.shape[2] == 1 else colours[..., :3]
    return Media.of_array(numpy.ascontiguousarray(colours), where)


def _of_samples(values: Any, rate: Any, where: str) -> Media | Problem:
    import numpy

    try:
        samples = numpy.asarray(values, dtype=numpy.float32)
    except (TypeError, ValueError):
        return Problem(where, "no sound, but values that are no numbers")
    if not isinstance(rate, int) or not 0 < rate < 1 << 20:
        return Problem(where, f"a sound with the sampling_rate {rate!r:.20}", "wanted samples a second, such as 16000")
    if samples.ndim != 1 or not samples.size or not numpy.isfinite(samples).all():
        return Problem(
            where, f"no sound, but values of shape {list(samples.shape)}", "wanted finite numbers, [samples]"
        )
    return Media.of_array(samples, where, rate)


def _of_file(name: str, modality: Modality, root: Path | None, where: str) -> Media | Problem:
    """The file that a name stands for, if it lies in the folder."""
    if root is None:
        return Problem(where, "the name of a file, and none is read here", "send its bytes: data:...;base64,...")
    shown_name = str(root / name)
    try:
        path = _within(root, name)
        stat = path.stat()
        state = (modality, str(path), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino)
        if state not in _known:
            if not path.is_file():
                raise ValueError("a folder, not a file" if path.is_dir() else "no file that can be read")
            if stat.st_size > _MAX_BYTES:
                raise ValueError(f"{stat.st_size >> 20:,} MiB; at most {_MAX_BYTES >> 20} are read")
            with _writing:
                memo = _checked.get(state)
            if memo is not None:
                media: Media | Problem = _opened(modality, memo[0], shown_name, path.read_bytes, memo[1])
            else:
                media = _of_bytes(path.read_bytes(), modality, shown_name, path.read_bytes)
            with _writing:
                _known[state] = media
                if memo is None and isinstance(media, Media):
                    _checked.add(state, media.digest, media.rate)
        return _known[state]
    except _Outside:
        setting = "or set data.root to the folder that holds all files"
        return Problem(shown_name, f"it lies outside of {root}", "move it there", setting)
    except FileNotFoundError:
        return Problem(shown_name, "no such file", f"named in {where}" if where else "")
    except OSError as error:
        return Problem(shown_name, f"cannot be read: {error.strerror or error}")
    except ValueError as error:
        if isinstance(error, OvertureError):
            raise
        return Problem(repr(shown_name)[1:-1], str(error))


class _Outside(Exception):
    """A file that does not lie in the folder."""


def _within(root: Path, name: str) -> Path:
    """The file of a name that starts at a folder, links followed.

    Raises:
        ValueError: no system has such a name.
    """
    try:
        folder = root.resolve()
        path = (folder / name).resolve()
    except RuntimeError:
        raise ValueError("links in a circle") from None
    if not path.is_relative_to(folder):
        raise _Outside
    return path


def _of_bytes(raw: bytes, modality: Modality, where: str, read_bytes: Callable[[], bytes]) -> Media | Problem:
    digest = hashlib.sha256(raw).hexdigest()
    if not raw:
        return Problem(where, "an empty file")

    try:
        if modality == "image":
            images.pixels_of(raw)
            return _opened("image", digest, where, read_bytes, None)
        return _opened("audio", digest, where, read_bytes, sounds.samples_of(raw)[1])
    except ValueError as error:
        if isinstance(error, OvertureError):
            raise
        return Problem(where, str(error))


def _opened(modality: Modality, digest: str, where: str, read_bytes: Callable[[], bytes], rate: int | None) -> Media:
    """The image or sound in some bytes, decoded on first use."""

    def again() -> bytes:
        now = read_bytes()
        if hashlib.sha256(now).hexdigest() != digest:
            raise DataError("the file has changed since it was read first", where=where, fix="begin again")
        return now

    if modality == "image":
        return Media("image", digest, where, lambda: images.pixels_of(again()))
    return Media("audio", digest, where, lambda: sounds.samples_of(again())[0], rate)
