"""Prepares a decoded sound for a checkpoint: resampled, then log-mel bands or normalised samples.

The maps from samples to features are those of the checkpoint's own feature extractor in transformers, by the values of
``preprocessor_config.json``. Resampling is soxr's; the fingerprint names both.

Shape letters: T samples, M bands, F frames.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import Tensor
from transformers import ASTFeatureExtractor, Wav2Vec2FeatureExtractor, WhisperFeatureExtractor

from overture.core.errors import BackboneError, ConfigError, DataError
from overture.core.packages import install
from overture.engine.frontends.preparation import preparation_of

_KINDS: dict[str, Any] = {
    "ASTFeatureExtractor": ASTFeatureExtractor,
    "Wav2Vec2FeatureExtractor": Wav2Vec2FeatureExtractor,
    "WhisperFeatureExtractor": WhisperFeatureExtractor,
}
_NO_EFFECT = ("processor_class", "feature_extractor_type", "mel_filters", "window", "return_attention_mask")
_RESAMPLED_BY = "soxr HQ"


class SoundProcessor:
    """A checkpoint's preparation of sounds.

    Args:
        values: of ``preprocessor_config.json``.
        where: the file, for errors.
        window_s: seconds that a shorter sound is filled up to with silence, instead of the checkpoint's own; for models
            that take sounds of one length.

    Raises:
        BackboneError: the feature extractor is none of those that are known, or has no window.
    """

    def __init__(self, values: Mapping[str, Any], where: str, window_s: float | None = None) -> None:
        kind = str(values.get("feature_extractor_type"))
        if kind not in _KINDS:
            raise BackboneError(
                "the model's sounds are prepared in an unknown way", where=where, got=kind, wanted=", ".join(_KINDS)
            )
        self._extractor = _KINDS[kind](**{name: value for name, value in values.items() if name not in _NO_EFFECT})
        self.where, self.window_s = where, window_s
        if window_s is not None and (kind != "WhisperFeatureExtractor" or not 0 < window_s <= self._chunk_s):
            most = f"at most {self._chunk_s:g} seconds" if kind == "WhisperFeatureExtractor" else "no window"
            raise BackboneError("this model takes no such window", where=where, got=f"{window_s:g} s", wanted=most)

    @classmethod
    def of_folder(cls, folder: Path, window_s: float | None = None) -> "SoundProcessor":
        """The processor of a checkpoint's folder.

        Raises:
            BackboneError: the folder has none, or one that is not understood.
        """
        values, where = preparation_of(folder, "feature_extractor", "sounds")
        return cls(values, where, window_s)

    @property
    def rate(self) -> int:
        """Samples a second."""
        return int(self._extractor.sampling_rate)

    @property
    def sha256(self) -> str:
        """Fingerprint of all that decides which features a sound becomes."""
        values = {name: value for name, value in self._extractor.to_dict().items() if name not in _NO_EFFECT}
        facts = [type(self._extractor).__name__, _RESAMPLED_BY, self.window_s, values]
        return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()

    @property
    def num_frames(self) -> int | None:
        """Frames of every prepared sound; None where they depend on the sound."""
        if isinstance(self._extractor, WhisperFeatureExtractor):
            return int(self._num_window // self._extractor.hop_length)
        return int(self._extractor.max_length) if isinstance(self._extractor, ASTFeatureExtractor) else None

    def num_samples(self, num_samples: int, rate: int) -> int:
        """How many samples a sound has at the model's rate."""
        return num_samples if rate == self.rate else math.ceil(num_samples * self.rate / rate)

    def check(self, num_samples: int, rate: int, where: str) -> None:
        """Refuse a sound that would be cut.

        Raises:
            DataError: it is longer than the model's window.
        """
        most = self.num_frames
        hop = getattr(self._extractor, "hop_length", 160)
        if most is not None and self.num_samples(num_samples, rate) > most * hop + self.rate // 100:
            raise DataError(
                f"a sound of {num_samples / rate:.1f} seconds, and the model takes {most * hop / self.rate:g}",
                where=where,
                fix="cut it" if self.window_s is None else f"cut it, or name a longer window than {self.window_s:g}s",
            )

    def prepared(self, samples: numpy.ndarray, rate: int) -> Tensor:
        """Features as the model's front takes them: log-mel [M, F] for Whisper, [F, M] for AST, samples [T] else.

        Args:
            samples: float32 [T].
            rate: samples a second.

        Raises:
            ConfigError: soxr is needed and not installed.
        """
        samples = _resampled(samples, rate, self.rate)
        options: dict[str, Any] = {"sampling_rate": self.rate, "return_tensors": "np"}
        if isinstance(self._extractor, WhisperFeatureExtractor):
            options |= {"max_length": self._num_window, "padding": "max_length"}
            (features,) = self._extractor(samples, **options)["input_features"]
        else:
            (features,) = self._extractor(samples, **options)["input_values"]
        return torch.from_numpy(numpy.ascontiguousarray(features, dtype=numpy.float32))

    @property
    def _chunk_s(self) -> float:
        return float(getattr(self._extractor, "chunk_length", 0))

    @property
    def _num_window(self) -> int:
        """Samples of the window, in whole pairs of frames, since a convolution halves them."""
        pair = 2 * self._extractor.hop_length
        return round((self.window_s or self._chunk_s) * self.rate / pair) * pair


def _resampled(samples: numpy.ndarray, rate: int, target_rate: int) -> numpy.ndarray:
    if rate == target_rate:
        return samples
    try:
        import soxr
    except ImportError:
        raise ConfigError(f"sounds of {rate} samples a second need soxr", fix=install("audio")) from None
    return numpy.asarray(soxr.resample(samples, rate, target_rate, quality="HQ"), dtype=numpy.float32)
