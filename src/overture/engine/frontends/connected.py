"""Images as vectors among a language model's tokens, made by a tower and a connector.

Shape letters: L positions of an image, D width of the language model.
"""

from collections.abc import Sequence
from functools import cached_property
from random import Random
from typing import Any

import torch
from torch import Tensor

from overture.core.contracts import Frontend
from overture.core.errors import BackboneError
from overture.core.rows import Segment, Signal, Tokens
from overture.engine.backbone import Backbone
from overture.engine.connectors import CONNECTORS, language_model
from overture.engine.frontends.image import KeptVectors, checked_image, grid_of, image_signal
from overture.engine.frontends.pixels import ImageProcessor
from overture.engine.frontends.text import text_backbone
from overture.engine.tokenizer import Tokenizer


class ConnectedImages:
    """Meets `core.contracts.Frontend`.

    Args:
        whole: transformers' model of images and texts.
        processor: prepares the pixels.
        tokenizer: has the tokens around an image.
        backbone: the language model inside.

    Raises:
        BackboneError: images are not prepared to sizes that the tower takes, or the vocabulary lacks the tokens around
            them, or layers with windows would have to place images by rows and columns.
    """

    modalities = frozenset({"image"})

    def __init__(self, whole: Any, processor: ImageProcessor, tokenizer: Tokenizer, backbone: Backbone) -> None:
        self.whole, self.processor, self.backbone = whole.requires_grad_(False), processor, backbone
        self._connector = CONNECTORS[whole.config.model_type]
        self._side = self._connector.side_of(whole.config)
        self._frame = [_frame_ids(tokenizer, texts, backbone.info.id) for texts in self._connector.frame]
        self._kept = KeptVectors(lambda signal: self._vectors(signal.load()[None])[0])
        self._check_size()
        if self._connector.has_grid and "sliding_attention" in (backbone.model.config.layer_types or ()):
            raise BackboneError(
                "windows of a model that places images by rows and columns are not supported",
                where=backbone.info.id,
                got="use_sliding_window: true",
                fix="a model whose config says use_sliding_window: false, as those that were published do",
            )

    def _check_size(self) -> None:
        """Whether the tower takes the sizes that images are prepared to."""
        name, shape = self.backbone.info.id, self.processor.shape
        if self._connector.is_fixed:
            size = int(self.whole.config.vision_config.image_size)
            if shape != (size, size):
                raise BackboneError(
                    "this model's images have one size, which nothing changes",
                    where=name,
                    got="a processor whose size depends on the image" if shape is None else f"{shape[0]} x {shape[1]}",
                    wanted=f"{size} x {size} pixels",
                    fix=f"leave out what follows @ in the model's name, or name {size}px",
                )
            return
        if (shape is None and not self._connector.has_grid) or any(edge % self._side for edge in shape or ()):
            raise BackboneError(
                "this model's images must all have one size, a multiple of its patches",
                where=name,
                got="a processor whose size depends on the image" if shape is None else f"{shape[0]} x {shape[1]}",
                wanted=f"a multiple of {self._side}",
                fix=f"name the size: {name}@{16 * self._side}px",
            )

    @property
    def fingerprint(self) -> str:
        """Of all that decides which pixels an image becomes."""
        return self.processor.sha256

    @cached_property
    def _length(self) -> int:
        """Positions of an image, found by one; where all have one size."""
        assert self.processor.shape is not None
        channels = getattr(self.whole.config.vision_config, "num_channels", 3)
        return int(self._vectors(torch.zeros(1, channels, *self.processor.shape)).shape[1])

    def segments(self, value: object) -> list[Segment]:
        """An image as one signal, between the tokens that the model expects around it.

        Raises:
            BackboneError: it is no image.
        """
        image = checked_image(value, "this model reads texts and images", self.backbone.info.id)
        front, back = self._frame
        grid = grid_of(image, self.processor, self._side) if self._connector.has_grid else None
        length = grid[0] * grid[1] if grid else self._length
        facts = {"is_whole": self._connector.is_whole, "grid": grid}
        signal = image_signal(image, self.processor, self._side, length, **facts)
        segments: list[Segment] = [*([Tokens(front)] if front else []), signal, *([Tokens(back)] if back else [])]
        return segments

    def enter(self, segments: Sequence[Segment]) -> Tensor:
        """Vectors of all positions, [L, D]; those of the first images are kept."""
        return torch.cat(
            [
                self._kept.of(segment) if isinstance(segment, Signal) else self.backbone.text.enter([segment])
                for segment in segments
            ]
        )

    def sample(self, num: int, random: Random) -> Tensor:
        """Vectors of common tokens, [num, D]: prompts of such a model start from words."""
        return self.backbone.text.sample(num, random)

    @torch.no_grad()
    def _vectors(self, pixels: Tensor) -> Tensor:
        """Vectors of prepared images, [B, L, D]."""
        return self._connector.connect(self.whole, pixels.to(self.backbone.device, self.backbone.dtype))


def _frame_ids(tokenizer: Tokenizer, texts: Sequence[str], where: str) -> tuple[int, ...]:
    ids = [tokenizer.encode_template(text) for text in texts]
    unknown_texts = [text for text, tokens in zip(texts, ids, strict=True) if len(tokens) != 1]
    if unknown_texts:
        raise BackboneError(
            "the model's tokenizer has no such token, which stands beside each image",
            where=where,
            got=", ".join(unknown_texts),
            fix="fetch tokenizer.json of the same model again",
        )
    return tuple(tokens[0] for tokens in ids)


def connected_backbone(
    whole: Any,
    processor: ImageProcessor,
    tokenizer: Tokenizer,
    *,
    id: str,
    revision: str | None = None,
    weights_sha256: str = "",
) -> Backbone:
    """A frozen language model that reads images among its tokens.

    Args:
        whole: transformers' model of images and texts.
        processor: the checkpoint's.
        tokenizer: the checkpoint's.
        id: the user's name for it.
        revision: commit of a Hub model.
        weights_sha256: fingerprint of the weight files; from the tensors of the language model when empty.

    Raises:
        BackboneError: the family is not supported, or processor or tokenizer do not fit it.
    """

    def images(backbone: Backbone) -> Frontend:
        return ConnectedImages(whole, processor, tokenizer, backbone)

    texts = language_model(whole, CONNECTORS[whole.config.model_type])
    return text_backbone(texts, tokenizer, images, id=id, revision=revision, weights_sha256=weights_sha256)
