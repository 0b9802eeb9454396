"""Images and sounds as the data room hands them to a model's frontends."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import numpy

Modality = Literal["image", "audio"]
PLURALS: Mapping[str, str] = {"image": "images", "audio": "sounds", "text": "texts"}
"""What several inputs of a modality are called in sentences."""


@dataclass(frozen=True, slots=True)
class Media:
    """An image or a sound that is decoded when it is needed.

    Equal digests mean equal content.

    Args:
        modality: which of the two it is.
        digest: SHA-256 of its bytes, as they lie in the file or the array.
        where: the file, or the place in one, for errors.
        open: decodes it: an image is uint8 [H, W, 3], RGB and turned as its EXIF data say; a sound is float32 [T],
            one channel.
        rate: samples per second of a sound; None for an image.
    """

    modality: Modality
    digest: str
    where: str = field(compare=False)
    open: "Callable[[], numpy.ndarray]" = field(compare=False, repr=False)
    rate: int | None = None

    def __post_init__(self) -> None:
        if (self.rate is None) != (self.modality == "image"):
            raise ValueError("sounds have a rate, and images have none")

    @classmethod
    def of_array(cls, values: "numpy.ndarray", where: str, rate: int | None = None) -> "Media":
        """Values that are decoded already.

        Args:
            values: an image, uint8 [H, W, 3], or a sound, float32 [T].
            where: for errors.
            rate: samples per second of a sound; None for an image.
        """
        content = hashlib.sha256(f"{values.dtype} {values.shape} {rate}".encode())
        content.update(values.tobytes())
        return cls("image" if rate is None else "audio", content.hexdigest(), where, lambda: values, rate)
