"""Images as a vision model's first layer gets them: a vector for each patch, behind the model's own tokens.

A model's own tokens (class, distillation, registers) are part of the image's signal: they come first in it, have their
positions added, and a label is read at the first of them, or at the mean where there is none.

Shape letters: C channels, H height, W width, L positions of an image, D width of the layers.
"""

import hashlib
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

import torch
from torch import Tensor

from overture.core.contracts import Frontend
from overture.core.errors import BackboneError
from overture.core.media import Media
from overture.core.rows import Segment, Signal
from overture.engine.backbone import Backbone
from overture.engine.frontends.pixels import ImageProcessor
from overture.engine.frontends.text import text_backbone
from overture.engine.frontends.wordless import NoWords

_KEPT_BYTES = 1 << 28
"""Memory for vectors of images; also models under training, which keep nothing else, read each image once."""
_SAMPLED = 16
"""Random images that `ImageFrontend.sample` draws patches from."""


class KeptVectors:
    """Vectors of the first images, as many as there is memory for.

    Args:
        make: the vectors of an image, [L, D].
    """

    def __init__(self, make: Callable[[Signal], Tensor]) -> None:
        self._make = make
        self._kept: dict[str, Tensor] = {}
        self._num_bytes = 0

    def of(self, signal: Signal) -> Tensor:
        """The vectors of an image, [L, D]."""
        if signal.key in self._kept:
            return self._kept[signal.key]
        vectors = self._make(signal)
        num_bytes = vectors.numel() * vectors.element_size()
        if self._num_bytes + num_bytes <= _KEPT_BYTES:
            self._kept[signal.key] = vectors
            self._num_bytes += num_bytes
        return vectors


def checked_image(value: object, what: str, where: str) -> Media:
    """A value that is an image.

    Args:
        value: of a row.
        what: what the error says of others.
        where: the model.

    Raises:
        BackboneError: it is no image.
    """
    if not isinstance(value, Media) or value.modality != "image":
        raise BackboneError(what, where=where, got=value.modality if isinstance(value, Media) else type(value).__name__)
    return value


def grid_of(image: Media, processor: ImageProcessor, side: int) -> tuple[int, int]:
    """Rows and columns of squares, whose side is in pixels, that an image has once it is prepared."""
    size = processor.shape
    if size is None:
        height, width = image.open().shape[:2]
        size = processor.size_of(height, width, side)
    return size[0] // side, size[1] // side


def image_signal(image: Media, processor: ImageProcessor, side: int, length: int, **facts: Any) -> Signal:
    """The signal of an image.

    Args:
        image: the image.
        processor: prepares its pixels.
        side: pixels that its sides become multiples of, where its size is its own.
        length: its positions.
        facts: as in `Signal`.
    """
    key = hashlib.sha256(f"{image.digest} {processor.sha256}".encode()).hexdigest()

    def load() -> Tensor:
        return processor.prepared(image.open(), side, image.where)

    return Signal("image", key, length, load, **facts)


class ImageFrontend:
    """Meets `core.contracts.Frontend`.

    Args:
        processor: prepares the pixels.
        backbone: has the maps from pixels to vectors.

    Attributes:
        num_own: tokens of the model's own in front of the patches.

    Raises:
        BackboneError: the processor's images cannot be cut into whole patches.
    """

    modalities = frozenset({"image"})

    def __init__(self, processor: ImageProcessor, backbone: Backbone) -> None:
        self.processor, self.backbone = processor, backbone
        config = backbone.model.config
        self.patch, self.num_channels = int(config.patch_size), int(config.num_channels)
        self._check_shape()
        self._kept = KeptVectors(lambda signal: self._vectors(signal.load()[None])[0])
        side = processor.shape or (4 * self.patch, 4 * self.patch)
        self._length = self._vectors(torch.zeros(1, self.num_channels, *side)).shape[1]
        self.num_own = self._length - (side[0] // self.patch) * (side[1] // self.patch)
        if backbone.family.rotation:
            backbone.stack.rotations = self._rotations(side)

    @property
    def fingerprint(self) -> str:
        """Of all that decides which pixels an image becomes."""
        return self.processor.sha256

    def segments(self, value: object) -> list[Segment]:
        """An image as one signal.

        Raises:
            BackboneError: it is no image.
        """
        image = checked_image(value, "a model of images reads nothing else", self.backbone.info.id)
        rows, columns = grid_of(image, self.processor, self.patch)
        return [image_signal(image, self.processor, self.patch, self.num_own + rows * columns)]

    def enter(self, segments: Sequence[Segment]) -> Tensor:
        """Vectors of all positions, [L, D]; those of the first images are kept, since nothing trains what makes them.

        Raises:
            BackboneError: a segment is no image.
        """
        signals = [segment for segment in segments if isinstance(segment, Signal) and segment.modality == "image"]
        if len(signals) < len(segments):
            raise BackboneError("a model of images reads nothing else", where=self.backbone.info.id)
        return torch.cat([self._kept.of(signal) for signal in signals])

    def sample(self, num: int, random: Random) -> Tensor:
        """Vectors of patches of images of noise, [num, D]; training rows have better ones, see the start `patches`."""
        side = self.processor.shape or (4 * self.patch, 4 * self.patch)
        generator = torch.Generator().manual_seed(random.randrange(1 << 30))
        noise = torch.randn(_SAMPLED, self.num_channels, *side, generator=generator)
        patches = self._vectors(noise)[:, self.num_own :].flatten(0, 1)
        return patches[random.choices(range(len(patches)), k=num)]

    @torch.no_grad()
    def _vectors(self, pixels: Tensor) -> Tensor:
        """Vectors of prepared images of one size, [B, L, D]."""
        front = self.backbone.family.front
        assert front is not None
        vectors: Tensor = front(self.backbone.base, pixels.to(self.backbone.device, self.backbone.dtype))
        return vectors

    def _rotations(self, side: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Cosine and sine by index, [L + 1, K]: the model's own tokens and prompt vectors are not turned."""
        pixels = torch.zeros(1, self.num_channels, *side, dtype=self.backbone.dtype, device=self.backbone.device)
        cosine, sine = getattr(self.backbone.base, self.backbone.family.rotation)(pixels)
        model_tokens, beyond = [cosine.new_ones(num, cosine.shape[1]) for num in (self.num_own, 1)]
        return torch.cat([model_tokens, cosine, beyond]), torch.cat([0 * model_tokens, sine, 0 * beyond])

    def _check_shape(self) -> None:
        shape = self.processor.shape
        if shape is None:
            if self.backbone.family.rotation:
                raise BackboneError(
                    "this family's images must all have one size",
                    where=self.backbone.info.id,
                    got="a processor whose size depends on the image",
                    fix=f"name the size: {self.backbone.info.id}@{14 * self.patch}px",
                )
            return
        if any(edge % self.patch for edge in shape):
            near = [max(1, round(shape[0] / self.patch) + step) * self.patch for step in (0, 1)]
            raise BackboneError(
                "the image's size is no multiple of the model's patches",
                where=self.backbone.info.id,
                got=f"{shape[0]} x {shape[1]} pixels",
                wanted=f"a multiple of {self.patch}, such as {near[0]} or {near[1]}",
            )


def image_backbone(
    model: Any, processor: ImageProcessor, *, id: str, revision: str | None = None, weights_sha256: str = ""
) -> Backbone:
    """A frozen model that reads images and no words.

    Args:
        model: as in `Backbone`.
        processor: the checkpoint's.
        id: the user's name for it.
        revision: commit of a Hub model.
        weights_sha256: fingerprint of the weight files; computed from the tensors when empty.

    Raises:
        BackboneError: the family is not supported, or the processor does not fit it.
    """

    def frontend(backbone: Backbone) -> Frontend:
        return ImageFrontend(processor, backbone)

    tokenizer = NoWords(id, "images")
    backbone = text_backbone(model, tokenizer, frontend, id=id, revision=revision, weights_sha256=weights_sha256)
    images = backbone.frontend_of("image")
    assert isinstance(images, ImageFrontend)
    tokenizer.reading = "first" if images.num_own else "mean"
    return backbone
