"""Images as pixels, decoded with `pillow`."""

import io
import warnings
from typing import TYPE_CHECKING

from overture.core.errors import ConfigError
from overture.core.packages import install

if TYPE_CHECKING:
    import numpy

MAX_PIXELS = 1 << 26
"""A photograph of 64 million pixels is the largest that is decoded: a file of a few bytes can claim any size."""
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")
_DEEP = ("I", "F", "I;16", "I;16B", "I;16L", "I;16N")
"""Pillow's modes of more than 8 bits for a value; converting them would cut off all that is above 255."""


def pixels_of(raw: bytes) -> "numpy.ndarray":
    """An image file's pixels, uint8 [H, W, 3]: RGB, turned as its EXIF data say.

    Raises:
        ValueError: it is no image, is broken, too large, moves, or has more than 8 bits for a value.
        ConfigError: pillow is not installed.
    """
    import numpy

    try:
        from PIL import Image, ImageOps, UnidentifiedImageError
    except ImportError:
        raise ConfigError("images need pillow", fix=install("vision")) from None
    with warnings.catch_warnings():
        # Sizes have a limit of our own, and odd EXIF data are no reason to speak.
        warnings.simplefilter("ignore")
        try:
            with Image.open(io.BytesIO(raw), formats=_FORMATS) as image:
                # Phones put a second, smaller picture behind a JPEG's own, which is then called MPO.
                num_frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
                _check(image.size, image.mode, num_frames)
                upright = ImageOps.exif_transpose(image)
                return numpy.array(upright.convert("RGB"))
        except (_Unfit, MemoryError):
            raise
        except UnidentifiedImageError:
            raise ValueError(f"not an image ({', '.join(_FORMATS)})") from None
        except Image.DecompressionBombError:
            raise ValueError(f"more than {MAX_PIXELS:,} pixels") from None
        except Exception as error:  # decoders raise errors of many types on broken files
            raise ValueError(f"a broken image: {error}") from None


class _Unfit(ValueError):
    """An image that could be decoded, and is not."""


def _check(size: tuple[int, int], mode: str, num_frames: int) -> None:
    width, height = size
    if width * height > MAX_PIXELS:
        raise _Unfit(f"{width} x {height} pixels; at most {MAX_PIXELS:,} are decoded")
    if mode in _DEEP:
        raise _Unfit("more than 8 bits for a value; save it with 8")
    if num_frames > 1:
        raise _Unfit(f"{num_frames} pictures in one file; save the one that counts")
