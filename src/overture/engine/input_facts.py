"""What a model on this disk reads, by its name and its small JSON files; imports no torch."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from overture.engine.options import EMBEDDED, ENCODERS, TOWERS, sized

OF_IMAGES = (
    "clip_vision_model",
    "deit",
    "dinov2",
    "dinov2_with_registers",
    "dinov3_vit",
    "siglip2_vision_model",
    "siglip_vision_model",
    "vit",
    *TOWERS,
)
"""Model types that read images and nothing else; `engine.families` has their other facts."""
OF_SOUNDS = ("audio-spectrogram-transformer", "hubert", "wav2vec2", "whisper")
"""Model types that read sounds and nothing else."""
OF_IMAGES_AND_TEXTS = ("gemma3", "idefics3", "llava", "qwen2_5_vl", "smolvlm")
"""Model types that read images among texts; `engine.connectors` has their other facts."""
_WHISPER_CHUNK_S, _AST_FRAMES, _AST_HOP_S = 30.0, 1024, 0.01


@dataclass(frozen=True, slots=True)
class InputFacts:
    """What a model reads.

    Args:
        modalities: image, audio or text.
        has_words: it has a vector for each word, so that labels may be words.
        window_s: seconds of the longest sound that it reads; None where there is no limit.
        longest_window_s: the longest window that its name may set.
    """

    modalities: frozenset[str]
    has_words: bool = True
    window_s: float | None = None
    longest_window_s: float | None = None


def input_facts(name: str) -> InputFacts | None:
    """What a model reads; None for one whose config file is not on this disk.

    Args:
        name: an alias, a Hub id, a folder or a ``.gguf`` file.
    """
    plain, size, unit = sized(name)
    if plain in EMBEDDED or plain.endswith(".gguf"):
        return InputFacts(frozenset({"text"}))
    config = _values(plain, "config.json")
    if not config:
        return None
    model_type = config.get("model_type")
    if model_type in OF_IMAGES_AND_TEXTS:
        return InputFacts(frozenset({"image", "text"}))
    if model_type in OF_IMAGES:
        return InputFacts(frozenset({"image"}), has_words=False)
    if model_type in OF_SOUNDS:
        longest = _longest_sound_s(_values(plain, "preprocessor_config.json"))
        window = size if unit == "s" else longest
        return InputFacts(frozenset({"audio"}), model_type not in ENCODERS, window, longest)
    return InputFacts(frozenset({"text"}))


def _longest_sound_s(preparation: Mapping[str, Any]) -> float | None:
    """Seconds that a model's preparation of sounds takes; None where it takes any."""
    kind = preparation.get("feature_extractor_type")
    if kind == "WhisperFeatureExtractor":
        return float(preparation.get("chunk_length", _WHISPER_CHUNK_S))
    return float(preparation.get("max_length", _AST_FRAMES)) * _AST_HOP_S if kind == "ASTFeatureExtractor" else None


def _values(name: str, file_name: str) -> dict[str, Any]:
    """The values of a model's JSON file; none where it cannot be read."""
    try:
        folder = Path(name).expanduser()
        if folder.is_dir():
            file: object = folder / file_name
        else:
            import huggingface_hub

            file = huggingface_hub.try_to_load_from_cache(name, file_name)
        values = json.loads(Path(file).read_text(encoding="utf-8")) if isinstance(file, str | Path) else {}
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}
