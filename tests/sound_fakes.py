"""Tiny random models of every family that reads sounds, and rows of random sounds."""

import functools
from collections.abc import Sequence
from typing import Any

import numpy
import torch
from transformers import AutoModel, AutoModelForSpeechSeq2Seq
from transformers.models import audio_spectrogram_transformer as ast
from transformers.models import hubert, wav2vec2, whisper

from fakes import ONE_TOKEN, make_inner_tokenizer
from overture.core.media import Media
from overture.core.rows import Candidates, Encoded, OneOf, Target, Tokens
from overture.engine.backbone import Backbone
from overture.engine.frontends.audio import sound_backbone
from overture.engine.frontends.samples import SoundProcessor
from overture.engine.tokenizer import Tokenizer
from tiny_configs import BOS, CONTEXT, EOS, VOCABULARY

RATE, WIDTH, LAYERS, STARTS = 16000, 32, 3, (BOS, 259)
LABELS = Candidates(("no", "maybe", "yes"), ((0,), (0,), (0,)), (0, 1, 2))
_COMMON = {"hidden_size": WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": 4, "intermediate_size": 48}
# As real configs have it, so that a switch to training mode would show.
_WAVES = _COMMON | {
    "conv_dim": (16, 16),
    "conv_stride": (40, 20),
    "conv_kernel": (80, 30),
    "num_feat_extract_layers": 2,
}
_WAVES |= {"num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 4, "layerdrop": 0.1, "hidden_dropout": 0.1}
_MELS = {"feature_extractor_type": "WhisperFeatureExtractor", "feature_size": 10, "chunk_length": 1}
_SAMPLES = {"feature_extractor_type": "Wav2Vec2FeatureExtractor", "do_normalize": True}
_CONFIGS: dict[str, Any] = {
    "whisper": lambda: whisper.WhisperConfig(
        # The tokenizer of a folder has Whisper's own tokens behind the others.
        vocab_size=VOCABULARY + 8,
        d_model=WIDTH,
        num_mel_bins=10,
        encoder_layers=LAYERS,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=2,
        encoder_ffn_dim=48,
        decoder_ffn_dim=40,
        max_source_positions=50,
        max_target_positions=CONTEXT,
        dropout=0.1,
        encoder_layerdrop=0.1,
        pad_token_id=EOS,
        bos_token_id=EOS,
        eos_token_id=EOS,
        decoder_start_token_id=BOS,
    ),
    "audio-spectrogram-transformer": lambda: ast.ASTConfig(
        **_COMMON, patch_size=8, frequency_stride=4, time_stride=6, max_length=50, num_mel_bins=16
    ),
    "wav2vec2": lambda: wav2vec2.Wav2Vec2Config(**_WAVES),
    "wav2vec2 stable": lambda: wav2vec2.Wav2Vec2Config(**_WAVES, do_stable_layer_norm=True, feat_extract_norm="layer"),
    "hubert": lambda: hubert.HubertConfig(**_WAVES),
}
SOUND_ENCODERS = tuple(family for family in _CONFIGS if family != "whisper")


def make_sound_model(family: str, dtype: torch.dtype = torch.float64) -> Any:
    """A random model in which every parameter counts."""
    with torch.random.fork_rng():
        torch.manual_seed(5)
        kind = AutoModelForSpeechSeq2Seq if family == "whisper" else AutoModel
        model = kind.from_config(_CONFIGS[family](), attn_implementation="sdpa", dtype=torch.float64)
        with torch.no_grad():
            for value in model.parameters():
                value.add_(0.1 * torch.randn_like(value))
    return model.float().to(dtype).eval()


def make_processor(family: str, window_s: float | None = None) -> SoundProcessor:
    """As the family's checkpoints have it, for sounds of a second or half of one."""
    values: dict[str, Any] = _MELS if family == "whisper" else _SAMPLES
    if family == "audio-spectrogram-transformer":
        values = {"feature_extractor_type": "ASTFeatureExtractor", "num_mel_bins": 16, "max_length": 50}
    return SoundProcessor(values, family, window_s)


def make_sound_backbone(family: str, dtype: torch.dtype = torch.float64, window_s: float | None = None) -> Backbone:
    """A backbone that no other test shares."""
    tokenizer = Tokenizer(make_inner_tokenizer(), CONTEXT, starts=STARTS) if family == "whisper" else None
    model, processor = make_sound_model(family, dtype), make_processor(family, window_s)
    return sound_backbone(model, processor, tokenizer, id=f"tiny-{family}")


@functools.cache
def sound_backbone_of(family: str, dtype: torch.dtype = torch.float64) -> Backbone:
    """A shared backbone; nothing may change it."""
    return make_sound_backbone(family, dtype)


@functools.cache
def sound_reference_of(family: str, dtype: torch.dtype = torch.float64) -> Any:
    """The same model, never touched by us."""
    return make_sound_model(family, dtype).requires_grad_(False)


def make_sound(number: int, seconds: float = 0.3, rate: int = RATE) -> Media:
    """Random noise; equal numbers, lengths and rates are equal content."""
    random = numpy.random.default_rng(number)
    return Media.of_array(random.normal(0, 0.2, int(seconds * rate)).astype(numpy.float32), f"sound {number}", rate)


def sound_rows(backbone: Backbone, num: int = 4, seed: int = 0, words: Sequence[int] = ()) -> list[Encoded]:
    """Rows of sounds of several lengths and rates; words stand behind the sound where the model has any."""
    lengths = ((0.3, RATE), (0.42, 8000), (0.2, 22050), (0.3, RATE))
    sounds = [make_sound(seed + number, *lengths[number % len(lengths)]) for number in range(num)]
    target: Target = OneOf(LABELS, read="mean") if backbone.encoder is None else OneOf(ONE_TOKEN)
    read = backbone.frontend_of("audio")
    return [
        Encoded(
            n, tuple(read.segments(sound)), (Tokens(tuple(words)),), OneOf(target.candidates, n % 3, read=target.read)
        )
        for n, sound in enumerate(sounds)
    ]
