"""Sounds as a model's first layer gets them: a vector for each stretch of time.

A model's own tokens (AST's class and distillation) are part of the sound's signal: they come first in it.

Shape letters: L positions of a sound, D width of the layers.
"""

import hashlib
from collections.abc import Callable, Sequence
from functools import partial
from random import Random
from typing import Any

import numpy
import torch
from torch import Tensor

from overture.core.contracts import Frontend
from overture.core.errors import BackboneError
from overture.core.media import Media
from overture.core.rows import Segment, Signal
from overture.engine.backbone import Backbone
from overture.engine.families import Family
from overture.engine.frontends.samples import SoundProcessor
from overture.engine.frontends.text import text_backbone
from overture.engine.frontends.wordless import NoWords
from overture.engine.tokenizer import Tokenizer

_SAMPLED_S = 1.0
_NOISE = 0.1
"""Loudness of the noise that `AudioFrontend.sample` draws vectors from."""


class AudioFrontend:
    """Meets `core.contracts.Frontend`.

    Args:
        processor: prepares the samples.
        backbone: has the maps from features to vectors, in its encoder where it has one.
    """

    modalities = frozenset({"audio"})

    def __init__(self, processor: SoundProcessor, backbone: Backbone) -> None:
        self.processor, self.backbone = processor, backbone
        family: Family = backbone.family.encoder or backbone.family
        assert family.front is not None
        self._front: Callable[[Any, Tensor], Tensor] = family.front
        self._base = family.base_of(backbone.model)
        # None where the number of positions depends on the number of samples.
        self._length: int | None = None
        if processor.num_frames:
            silence = processor.prepared(numpy.zeros(processor.rate, numpy.float32), processor.rate)
            self._length = self._vectors(silence).shape[0]
        self._lengths: dict[int, int] = {}

    @property
    def fingerprint(self) -> str:
        """Of all that decides which features a sound becomes."""
        return self.processor.sha256

    def segments(self, value: object) -> list[Segment]:
        """A sound as one signal.

        Raises:
            BackboneError: it is no sound.
            DataError: it is longer than the model's window, or too short to give a vector.
        """
        if not isinstance(value, Media) or value.modality != "audio" or value.rate is None:
            got = value.modality if isinstance(value, Media) else type(value).__name__
            raise BackboneError("a model of sounds reads nothing else", where=self.backbone.info.id, got=got)
        key = hashlib.sha256(f"{value.digest} {self.fingerprint}".encode()).hexdigest()
        return [Signal("audio", key, self._positions(value), partial(self._features, value))]

    def _positions(self, sound: Media) -> int:
        assert sound.rate is not None
        num_samples = len(sound.open())
        self.processor.check(num_samples, sound.rate, sound.where)
        if self._length is not None:
            return self._length
        num_own = self.processor.num_samples(num_samples, sound.rate)
        if num_own not in self._lengths:
            self._lengths[num_own] = _num_positions(self._base, num_own, sound.where)
        return self._lengths[num_own]

    def _features(self, sound: Media) -> Tensor:
        assert sound.rate is not None
        return self.processor.prepared(sound.open(), sound.rate)

    def enter(self, segments: Sequence[Segment]) -> Tensor:
        """Vectors of all positions, [L, D].

        Raises:
            BackboneError: a segment is no sound.
        """
        signals = [segment for segment in segments if isinstance(segment, Signal) and segment.modality == "audio"]
        if len(signals) < len(segments):
            raise BackboneError("a model of sounds reads nothing else", where=self.backbone.info.id)
        return torch.cat([self._vectors(signal.load()) for signal in signals])

    def sample(self, num: int, random: Random) -> Tensor:
        """Vectors of a second of noise, [num, D]; training rows have better ones, see the start `patches`."""
        rate = self.processor.rate
        noise = numpy.random.default_rng(random.randrange(1 << 30)).normal(0, _NOISE, int(_SAMPLED_S * rate))
        vectors = self._vectors(self.processor.prepared(noise.astype(numpy.float32), rate))
        return vectors[random.choices(range(len(vectors)), k=num)]

    @torch.no_grad()
    def _vectors(self, features: Tensor) -> Tensor:
        """Vectors of a prepared sound, [L, D]."""
        return self._front(self._base, features[None].to(self.backbone.device, self.backbone.dtype))[0]


def _num_positions(base: Any, num_samples: int, where: str) -> int:
    """Positions that convolutions make of so many samples."""
    count = num_samples
    for kernel, stride in zip(base.config.conv_kernel, base.config.conv_stride, strict=True):
        count = (count - kernel) // stride + 1
    if count < 1:
        raise BackboneError(f"a sound of {num_samples} samples gives this model nothing to read", where=where)
    return count


def sound_backbone(
    model: Any,
    processor: SoundProcessor,
    tokenizer: Tokenizer | None = None,
    *,
    id: str,
    revision: str | None = None,
    weights_sha256: str = "",
) -> Backbone:
    """A frozen model that reads sounds.

    Args:
        model: as in `Backbone`.
        processor: the checkpoint's.
        tokenizer: of the words that it writes; None for models without any.
        id: the user's name for it.
        revision: commit of a Hub model.
        weights_sha256: fingerprint of the weight files; computed from the tensors when empty.

    Raises:
        BackboneError: the family is not supported.
    """

    def frontend(backbone: Backbone) -> Frontend:
        return AudioFrontend(processor, backbone)

    words: Any = tokenizer or NoWords(id, "sounds")
    if isinstance(words, NoWords):
        # AST has a class token in front of its patches; positions of the others are stretches of the sound.
        words.reading = "first" if model.config.model_type == "audio-spectrogram-transformer" else "mean"
    return text_backbone(model, words, frontend, id=id, revision=revision, weights_sha256=weights_sha256)
