"""Prepares a decoded image for a checkpoint: resizes, crops, scales and normalises it.

    x = (s * crop(resize(image)) - mean) / std

It follows the checkpoint's own ``preprocessor_config.json``. Resizing is pillow's, on the eight-bit image: other
libraries give other pixels for the same names, so the fingerprint of a processor says what resized.

Shape letters: C channels, H height, W width.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from overture.core.config import Config, validated
from overture.core.errors import BackboneError
from overture.engine.frontends.preparation import preparation_of

_RESIZED_BY = "pillow"
_EPSILON = 1e-5
_BICUBIC = 3


class ImageProcessor(Config):
    """A checkpoint's preparation of images; equal records prepare alike."""

    height: int | None = Field(None, ge=1, description="Height of the resized image in pixels.")
    width: int | None = Field(None, ge=1, description="Width of the resized image in pixels.")
    shortest: int | None = Field(None, ge=1, description="The shorter edge of the resized image, instead of both.")
    most_patches: int | None = Field(None, ge=1, description="As many patches as fit in this number, instead of sizes.")
    pixels: tuple[int, int] | None = Field(
        None, description="Least and most pixels of an image that nearly keeps its shape, instead of sizes."
    )
    crop: tuple[int, int] | None = Field(None, description="Height and width that are cut from the middle.")
    resample: int = Field(ge=0, le=5, description="Number of pillow's filter: 2 bilinear, 3 bicubic.")
    scale: float | None = Field(1 / 255, gt=0, description="Factor on the eight-bit values; none leaves them.")
    mean: tuple[float, ...] | None = Field(None, description="Mean of each channel; none subtracts nothing.")
    std: tuple[float, ...] | None = Field(None, description="Deviation of each channel.")

    @classmethod
    def from_values(cls, values: Mapping[str, Any], where: str) -> Self:
        """The processor described by a checkpoint's preprocessor config.

        Args:
            values: of ``preprocessor_config.json``.
            where: the file, for errors.

        Raises:
            BackboneError: it asks for a preparation that is not made here.
        """
        kind = str(values.get("image_processor_type") or values.get("feature_extractor_type") or "")
        sizes: dict[str, Any] = {}
        if values.get("max_image_size"):
            # Idefics 3 and SmolVLM: the image as a whole, without the parts that large ones may be cut into as well.
            side = values["max_image_size"]["longest_edge"]
            sizes = {"height": side, "width": side}
        elif kind.startswith("Qwen2VL"):
            size = values.get("size") or {}
            least = values.get("min_pixels") or size.get("shortest_edge")
            sizes["pixels"] = (least, values.get("max_pixels") or size.get("longest_edge"))
            # Files of the published models do not say it.
            values = {"resample": _BICUBIC, **values}
        elif "max_num_patches" in values:
            sizes["most_patches"] = values["max_num_patches"]
        elif values.get("do_resize", True):
            sizes = _sizes(values.get("size"), kind, where)
        if values.get("do_center_crop") and values.get("crop_size"):
            crop = values["crop_size"]
            sizes["crop"] = (crop["height"], crop["width"]) if isinstance(crop, Mapping) else (crop, crop)
        fields = {"resample": values.get("resample", -1), **sizes}
        fields["scale"] = values.get("rescale_factor", 1 / 255) if values.get("do_rescale", True) else None
        if values.get("do_normalize", True):
            fields |= {"mean": values.get("image_mean"), "std": values.get("image_std")}
        return validated(cls, fields, where)

    @classmethod
    def of_folder(cls, folder: Path) -> Self:
        """The processor of a checkpoint's folder.

        Raises:
            BackboneError: the folder has none, or one that is not understood.
        """
        return cls.from_values(*preparation_of(folder, "image_processor", "images"))

    @property
    def sha256(self) -> str:
        """Fingerprint of all that decides which pixels an image becomes."""
        values = self.model_dump()
        if self.pixels is None:
            # Fingerprints from before there was this option stay what they were.
            del values["pixels"]
        return hashlib.sha256(json.dumps([_RESIZED_BY, values], sort_keys=True).encode()).hexdigest()

    @property
    def shape(self) -> tuple[int, int] | None:
        """Height and width of every prepared image; None where they depend on the image."""
        if self.crop:
            return self.crop
        return (self.height, self.width) if self.height and self.width else None

    def at(self, size: int) -> "ImageProcessor":
        """The same preparation for square images of another size; the share that is cropped stays.

        Args:
            size: height and width in pixels.
        """
        if self.crop is None:
            no_sizes = dict.fromkeys(("shortest", "most_patches", "pixels"))
            return self.model_copy(update={"height": size, "width": size, **no_sizes})
        factor = size / min(self.crop)
        scaled_sizes = {
            name: round(edge * factor) for name in ("height", "width", "shortest") if (edge := getattr(self, name))
        }
        return self.model_copy(update={**scaled_sizes, "crop": (size, size)})

    def size_of(self, height: int, width: int, patch: int) -> tuple[int, int]:
        """Height and width that an image is resized to.

        Args:
            height: of the image.
            width: of the image.
            patch: side of a patch.
        """
        if self.most_patches:
            return _most_patches(height, width, patch, self.most_patches)
        if self.pixels:
            return _near_shape(height, width, patch, self.pixels)
        if self.shortest:
            longest = int(self.shortest * max(height, width) / min(height, width))
            return (longest, self.shortest) if width <= height else (self.shortest, longest)
        return (self.height, self.width) if self.height and self.width else (height, width)

    def prepared(self, pixels: np.ndarray, patch: int, where: str) -> Tensor:
        """An image as the first layer is trained on it, float32 [C, H, W].

        Args:
            pixels: uint8 [H, W, 3].
            patch: side of a patch.
            where: the image, for errors.

        Raises:
            BackboneError: pillow is missing, or these are no pixels of an image.
        """
        if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or 0 in pixels.shape:
            got = f"{pixels.dtype} {list(pixels.shape)}"
            raise BackboneError("this is no RGB image", where=where, got=got, wanted="uint8 [height, width, 3]")
        height, width = self.size_of(pixels.shape[0], pixels.shape[1], patch)
        if (height, width) != pixels.shape[:2]:
            pixels = np.asarray(_pillow().fromarray(pixels).resize((width, height), resample=self.resample))
        if self.crop:
            pixels = _cropped(pixels, *self.crop)
        values = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1))).float()
        if self.scale is not None:
            values = values * self.scale
        if self.mean and self.std:
            mean, std = [torch.tensor(channels)[:, None, None] for channels in (self.mean, self.std)]
            values = (values - mean) / std
        return values


def _pillow() -> Any:
    try:
        from PIL import Image
    except ImportError:
        raise BackboneError(
            "pillow resizes images, and it is not installed", where="image", fix="pip install 'overture[vision]'"
        ) from None
    return Image


def _sizes(size: Any, kind: str, where: str) -> dict[str, Any]:
    """The sizes that a config names, in any of the forms that transformers has written."""
    if isinstance(size, int):
        # Early files hold a number; what it meant depended on the class that read it.
        size = {"shortest_edge": size} if kind.startswith("CLIP") else {"height": size, "width": size}
    given_sizes = {name: value for name, value in (size or {}).items() if value is not None}
    if given_sizes.keys() == {"height", "width"}:
        return dict(given_sizes)
    if given_sizes.keys() == {"shortest_edge"}:
        return {"shortest": given_sizes["shortest_edge"]}
    raise BackboneError(
        "the model's images are resized in a way that is not supported",
        where=where,
        got=f"size: {json.dumps(size)}",
        wanted="height and width, or shortest_edge",
    )


def _cropped(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """The middle of an image; one that is too small gets black borders."""
    missing = [max(0, target - size) for target, size in zip((height, width), pixels.shape[:2], strict=True)]
    borders = [(math.ceil(edge / 2), edge // 2) for edge in missing]
    pixels = np.pad(pixels, [*borders, (0, 0)])
    top, left = (pixels.shape[0] - height) // 2, (pixels.shape[1] - width) // 2
    return pixels[top : top + height, left : left + width]


def _near_shape(height: int, width: int, side: int, pixels: tuple[int, int]) -> tuple[int, int]:
    """The size nearest to an image's own whose edges are multiples of a side, within least and most pixels."""
    least, most = pixels
    rows, columns = [round(edge / side) for edge in (height, width)]
    area = rows * columns * side * side
    if area > most:
        factor = math.sqrt(height * width / most)
        rows, columns = [max(1, math.floor(edge / factor / side)) for edge in (height, width)]
    elif area < least:
        factor = math.sqrt(least / (height * width))
        rows, columns = [math.ceil(edge * factor / side) for edge in (height, width)]
    return rows * side, columns * side


def _most_patches(height: int, width: int, patch: int, most: int) -> tuple[int, int]:
    """The largest size of about the image's own shape whose patches are at most so many."""

    def scaled(factor: float) -> tuple[int, int]:
        rows, columns = (max(1, math.ceil(edge * factor / patch)) for edge in (height, width))
        return rows * patch, columns * patch

    low, high = _EPSILON / 10, 100.0
    while high - low >= _EPSILON:
        middle = (low + high) / 2
        rows, columns = scaled(middle)
        low, high = (middle, high) if rows * columns <= most * patch * patch else (low, middle)
    return scaled(low)
