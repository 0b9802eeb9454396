"""Images as vectors among a language model's tokens, made by a tower and a connector.

Shape letters: L positions of an image, D width of the language model.
"""

import hashlib
from collections.abc import Sequence
from functools import cached_property, partial
from random import Random
from typing import Any

import torch
from torch import Tensor

from overture.core.contracts import Frontend
from overture.core.errors import BackboneError
from overture.core.media import Media
from overture.core.rows import Segment, Signal, Tokens
from overture.engine.backbone import Backbone
from overture.engine.connectors import CONNECTORS, language_model
from overture.engine.frontends.image import KeptVectors
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
        BackboneError: images are not all prepared to one size, or the vocabulary lacks the tokens around them.
    """

    modalities = frozenset({"image"})

    def __init__(self, whole: Any, processor: ImageProcessor, tokenizer: Tokenizer, backbone: Backbone) -> None:
        self.whole, self.processor, self.backbone = whole.requires_grad_(False), processor, backbone
        self._connector = CONNECTORS[whole.config.model_type]
        self._patch = int(whole.config.vision_config.patch_size)
        self._frame = [_ids(tokenizer, texts, backbone.info.id) for texts in self._connector.frame]
        self._kept = KeptVectors(self._entered)
        shape = processor.shape
        if shape is None or any(edge % self._patch for edge in shape):
            raise BackboneError(
                "this model's images must all have one size, a multiple of its patches",
                where=backbone.info.id,
                got="a processor whose size depends on the image" if shape is None else f"{shape[0]} x {shape[1]}",
                wanted=f"a multiple of {self._patch}",
                fix=f"name the size: {backbone.info.id}@{16 * self._patch}px",
            )
        self._shape = shape

    @property
    def fingerprint(self) -> str:
        """Of all that decides which pixels an image becomes."""
        return self.processor.sha256

    @cached_property
    def _length(self) -> int:
        """Positions of an image, found by one."""
        channels = getattr(self.whole.config.vision_config, "num_channels", 3)
        return int(self._connected(torch.zeros(1, channels, *self._shape)).shape[1])

    def segments(self, value: object) -> list[Segment]:
        """An image as one signal, between the tokens that the model expects around it.

        Raises:
            BackboneError: it is no image.
        """
        if not isinstance(value, Media) or value.modality != "image":
            got = value.modality if isinstance(value, Media) else type(value).__name__
            raise BackboneError("this model reads texts and images", where=self.backbone.info.id, got=got)
        key = hashlib.sha256(f"{value.digest} {self.fingerprint}".encode()).hexdigest()
        front, back = self._frame
        signal = Signal("image", key, self._length, partial(self._prepared, value))
        segments: list[Segment] = [*([Tokens(front)] if front else []), signal, *([Tokens(back)] if back else [])]
        return segments

    def _prepared(self, image: Media) -> Tensor:
        return self.processor.prepared(image.open(), self._patch, image.where)

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

    def _entered(self, signal: Signal) -> Tensor:
        return self._connected(signal.load()[None])[0]

    @torch.no_grad()
    def _connected(self, pixels: Tensor) -> Tensor:
        """Vectors of prepared images, [B, L, D]."""
        return self._connector.connect(self.whole, pixels.to(self.backbone.device, self.backbone.dtype))


def _ids(tokenizer: Tokenizer, texts: Sequence[str], where: str) -> tuple[int, ...]:
    ids = [tokenizer.encode_template(text) for text in texts]
    odd = [text for text, tokens in zip(texts, ids, strict=True) if len(tokens) != 1]
    if odd:
        raise BackboneError(
            "the model's tokenizer has no such token, which stands beside each image",
            where=where,
            got=", ".join(odd),
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
        id: how the user named it.
        revision: of a Hub model.
        weights_sha256: fingerprint of the weight files; from the tensors of the language model when empty.

    Raises:
        BackboneError: the family is not supported, or processor or tokenizer do not fit it.
    """

    def images(backbone: Backbone) -> Frontend:
        return ConnectedImages(whole, processor, tokenizer, backbone)

    texts = language_model(whole, CONNECTORS[whole.config.model_type])
    return text_backbone(texts, tokenizer, images, id=id, revision=revision, weights_sha256=weights_sha256)
