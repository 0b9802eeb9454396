"""Sounds as samples, decoded with `soundfile`."""

import io
from typing import TYPE_CHECKING

from overture.core.errors import ConfigError
from overture.core.packages import install

if TYPE_CHECKING:
    import numpy

MAX_SECONDS = 3600
MAX_SAMPLES = 1 << 28
"""Of all channels: a header of a few bytes can claim any number, and room for it is made before it is read."""
SUFFIXES = (".wav", ".flac", ".ogg", ".opus", ".mp3", ".aif", ".aiff")
_UNKNOWN_SIZES = (0, 0x7FFFFFFF, 0x80000000)
"""Sizes that programs write into a WAV header while they do not know the sound's length; all from the second on."""


def samples_of(raw: bytes) -> "tuple[numpy.ndarray, int]":
    """A sound file's samples, float32 [T], the mean of its channels, and how many of them are a second.

    Raises:
        ValueError: it is no sound, is broken, empty, too long, or holds values that are not finite.
        ConfigError: soundfile is not installed.
    """
    import numpy

    try:
        import soundfile
    except (ImportError, OSError):
        # Its package brings the library; without it, importing fails with an OSError.
        raise ConfigError("sounds need soundfile", fix=install("audio")) from None
    try:
        with soundfile.SoundFile(io.BytesIO(raw)) as file:
            num_samples, rate = file.frames, file.samplerate
            _check_size(num_samples, file.channels, rate)
            samples = file.read(dtype="float32", always_2d=True)
    except soundfile.LibsndfileError:
        raise ValueError("not a sound, or a broken one (WAV, FLAC, OGG, MP3, AIFF)") from None
    missing = _missing_bytes(raw)
    if missing or len(samples) < num_samples:
        raise ValueError(f"cut off: {missing:,} bytes are missing" if missing else "cut off")
    if not len(samples):
        raise ValueError("a sound of 0 seconds")
    if not numpy.isfinite(samples).all():
        raise ValueError("samples that are not finite numbers")
    return samples.mean(axis=1), rate


def _check_size(num_samples: int, num_channels: int, rate: int) -> None:
    if num_samples > MAX_SECONDS * rate or num_samples * num_channels > MAX_SAMPLES:
        seconds = num_samples / rate
        raise ValueError(f"{seconds:,.0f} seconds in {num_channels} channels; at most {MAX_SECONDS:,} are read")


def _missing_bytes(raw: bytes) -> int:
    """How many bytes of a WAV file's own size are not there; libsndfile reads what there is, and says nothing."""
    if raw[:4] != b"RIFF":
        return 0
    size = int.from_bytes(raw[4:8], "little")
    is_known = size != _UNKNOWN_SIZES[0] and size < _UNKNOWN_SIZES[1]
    return max(size + 8 - len(raw), 0) if is_known else 0
