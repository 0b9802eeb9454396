"""The model families that run here, and the few facts in which they differ.

A family is listed only when the contract suite covers it; anything else is refused.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor

from overture.core.errors import BackboneError
from overture.core.injection import ModelKind
from overture.core.media import Modality
from overture.engine import fronts, sound_fronts


@dataclass(frozen=True, slots=True)
class Family:
    """The facts of one family.

    Args:
        base: path, in the language model, of the module that runs the layers; empty where it is the model.
        layers: path of its list of layers.
        positions: path of its table of learned positions, added to whatever enters; empty where positions are rotary.
        norm: name of its last norm; None there in models without one; empty where no model has one.
        project_in: name of its map from token vectors to the layers' width, likewise; empty where no model has one.
        project_out: name of its map from the layers' width to the head's.
        is_causal: tokens see only what stands before them; else the model is an encoder.
        embeddings: name of the module that adds positions and a type to token vectors and applies a norm; empty where
            only positions are added.
        embedded_norm: name of a norm behind token vectors and learned positions; with one, positions are added here,
            since the model would count them itself.
        before_first: path of the number after which learned positions count; empty where they count from 0.
        pooler: name of a map of the whole text, which passes here leave out.
        transform: steps between the last layer and the head's rows: functions, and paths in the language model.
        encoder: the same facts of the encoder whose output the layers read; None for models of one stack.
        cross: name of a layer's cross-attention; empty without an encoder.
        cross_maps: names of its maps to keys and values.
        bias: path in the base of the attention with the table of biases by distance; empty where there is none.
        num_heads: the config's name for the number of heads.
        offset: the number that is added to a position before it is looked up.
        has_words: whether the model has a vector for each token; models of images or of sounds alone have none.
        is_stack: its layers run as a plain stack, since its own forward pass begins at pixels, samples or tokens.
        drops_keywords: its attention modules drop unknown keywords, so the step reaches the attention function through
            a context variable.
        front: maps an image's pixels, or a sound's features, to the vectors that enter the first layer
            (`engine.fronts`, `engine.sound_fronts`); None for texts.
        reads: the modality that `front` takes; None for texts.
        rotation: name of the module that turns the patches of an image by their places; empty where there is none.
        has_grid: a decoder's layers take three positions for each token: its own, and those of its row and column.
    """

    base: str = "base_model"
    layers: str = "layers"
    positions: str = ""
    norm: str = "norm"
    project_in: str = ""
    project_out: str = ""
    is_causal: bool = True
    embeddings: str = ""
    embedded_norm: str = ""
    before_first: str = ""
    pooler: str = ""
    transform: tuple[str | Callable[[Tensor], Tensor], ...] = ()
    encoder: "Family | None" = None
    cross: str = ""
    cross_maps: tuple[str, str] = ("", "")
    bias: str = ""
    num_heads: str = "num_attention_heads"
    offset: int = 0
    has_words: bool = True
    is_stack: bool = False
    drops_keywords: bool = False
    front: Callable[[Any, Tensor], Tensor] | None = None
    reads: Modality | None = None
    rotation: str = ""
    has_grid: bool = False

    @property
    def kind(self) -> ModelKind:
        """The architecture: decoder, encoder or encoder-decoder."""
        if self.encoder is not None:
            return "encoder-decoder"
        return "decoder" if self.is_causal else "encoder"

    @property
    def is_rotary(self) -> bool:
        """Positions are relative, so they may start anywhere, below zero too."""
        return not self.positions

    def base_of(self, model: Any) -> Any:
        """The module that runs the layers."""
        return attrgetter(self.base)(model) if self.base else model

    def layers_of(self, base: Any) -> Any:
        """The layers, lowest first."""
        return attrgetter(self.layers)(base)

    def norm_of(self, base: Any) -> Any:
        """The norm behind the last layer of a plain stack; None where it stands before the first instead."""
        return attrgetter(self.norm)(base) if getattr(base.config, "do_stable_layer_norm", True) else None

    def first_position(self, base: Any) -> int:
        """The model's number of the first position."""
        return int(attrgetter(self.before_first)(base)) + 1 if self.before_first else 0

    def transform_of(self, model: Any) -> Sequence[Callable[[Tensor], Tensor]]:
        """The modules that a hidden state passes before the head."""
        parts = [attrgetter(part)(model) if isinstance(part, str) else part for part in self.transform]
        if getattr(model.config, "scale_decoder_outputs", False):
            parts.append(partial(torch.mul, model.config.hidden_size**-0.5))
        return parts

    def bias_of(self, base: Any) -> Callable[[Tensor], Tensor] | None:
        """A map from distances of columns to live tokens, [B, S, M], to the bias of all layers, [B, H, S, M]."""
        return partial(_bias, attrgetter(self.bias)(base)) if self.bias else None

    def positioned(self, base: Any, vectors: Tensor, positions: Tensor) -> Tensor:
        """Add positions in families that would otherwise count them from the input's shape: [B, S, D]."""
        if not self.adds_positions:
            return vectors
        table = attrgetter(self.positions)(base).weight
        return vectors + table[positions + self.offset]

    @property
    def adds_positions(self) -> bool:
        """Whether learned positions are added here, and not by the model."""
        return bool(self.embedded_norm or (self.is_stack and self.positions))

    def entering(self, base: Any, vectors: Tensor) -> Tensor:
        """Token vectors, [..., E], as they enter the first layer, [..., D]."""
        projection = getattr(base, self.project_in) if self.project_in else None
        return vectors if projection is None else projection(vectors)


_BERT = Family(
    layers="encoder.layer",
    positions="embeddings.position_embeddings",
    norm="",
    is_causal=False,
    embeddings="embeddings",
    pooler="pooler",
    transform=("cls.predictions.transform",),
)

_BART = Family(
    base="model.decoder",
    positions="embed_positions",
    norm="",
    embedded_norm="layernorm_embedding",
    offset=2,
    cross="encoder_attn",
    cross_maps=("k_proj", "v_proj"),
    num_heads="decoder_attention_heads",
)
_T5 = Family(
    base="decoder",
    layers="block",
    norm="final_layer_norm",
    bias="block.0.layer.0.SelfAttention",
    cross="layer.1.EncDecAttention",
    cross_maps=("k", "v"),
)

_IMAGES = Family(
    "", norm="layernorm", is_causal=False, has_words=False, is_stack=True, front=fronts.resampled, reads="image"
)
_TOWER = replace(_IMAGES, layers="encoder.layers", norm="post_layernorm")
_DINO = replace(_IMAGES, layers="encoder.layer", front=fronts.embedded)
_SOUNDS = replace(_IMAGES, reads="audio", front=sound_fronts.spectrogram)
_WAVES = replace(_SOUNDS, layers="encoder.layers", norm="encoder.layer_norm", front=sound_fronts.waves)
_CLIP_TEXTS = Family(
    base="",
    layers="encoder.layers",
    positions="embeddings.position_embedding",
    norm="final_layer_norm",
    is_stack=True,
)
_SIGLIP_TEXTS = replace(_CLIP_TEXTS, is_causal=False, drops_keywords=True)
_WHISPER = Family(
    base="model.decoder",
    positions="embed_positions",
    norm="layer_norm",
    cross="encoder_attn",
    cross_maps=("k_proj", "v_proj"),
    num_heads="decoder_attention_heads",
)


def _with_encoder(decoder: Family, base: str, **facts: Any) -> Family:
    encoder = replace(decoder, base=base, is_causal=False, cross="", cross_maps=("", ""), **facts)
    return replace(decoder, encoder=encoder)


FAMILIES = {
    "audio-spectrogram-transformer": _SOUNDS,
    "bart": _with_encoder(_BART, "model.encoder", num_heads="encoder_attention_heads"),
    "bert": _BERT,
    "clip_text_model": _CLIP_TEXTS,
    "clip_vision_model": replace(_TOWER, front=fronts.resampled_and_normed),
    "deit": _IMAGES,
    "dinov2": _DINO,
    "dinov2_with_registers": _DINO,
    "dinov3_vit": replace(_DINO, layers="model.layer", norm="norm", rotation="rope_embeddings"),
    "distilbert": replace(
        _BERT,
        layers="transformer.layer",
        pooler="",
        transform=("vocab_transform", "activation", "vocab_layer_norm"),
    ),
    "hubert": _WAVES,
    "llama": Family(),
    "gemma2": Family(),
    "gemma3_text": Family(),
    "gpt2": Family(layers="h", positions="wpe", norm="ln_f"),
    "gpt_neox": Family(norm="final_layer_norm"),
    "mistral": Family(),
    "modernbert": Family(norm="final_norm", is_causal=False, embeddings="embeddings", transform=("head",)),
    "opt": Family(
        "base_model.decoder",
        positions="embed_positions",
        norm="final_layer_norm",
        project_in="project_in",
        project_out="project_out",
    ),
    "phi3": Family(),
    "qwen2": Family(),
    "qwen2_5_vl_text": Family(has_grid=True),
    "qwen3": Family(),
    "roberta": replace(
        _BERT,
        before_first="embeddings.padding_idx",
        transform=("lm_head.dense", torch.nn.functional.gelu, "lm_head.layer_norm"),
    ),
    "siglip2_text_model": _SIGLIP_TEXTS,
    "siglip2_vision_model": replace(_TOWER, drops_keywords=True, front=fronts.in_patches),
    "siglip_text_model": _SIGLIP_TEXTS,
    "siglip_vision_model": replace(_TOWER, drops_keywords=True),
    "t5": _with_encoder(_T5, "encoder"),
    "vit": _IMAGES,
    "wav2vec2": _WAVES,
    "whisper": replace(
        _WHISPER,
        encoder=Family(
            base="model.encoder",
            norm="layer_norm",
            is_causal=False,
            num_heads="encoder_attention_heads",
            has_words=False,
            is_stack=True,
            front=sound_fronts.log_mel,
            reads="audio",
        ),
    ),
}


def family_of(model_type: str, where: str) -> Family:
    """The family's facts.

    Raises:
        BackboneError: no test covers this family yet.
    """
    if model_type not in FAMILIES:
        raise BackboneError(
            "this model family is not supported yet",
            where=where,
            got=model_type,
            wanted=", ".join(sorted(FAMILIES)),
            fix="choose a backbone of a supported family",
        )
    return FAMILIES[model_type]


def layers_view(base: Any, family: Family, layers: Any, start_layer: int, end_layer: int | None = None) -> Any:
    """Some neighbouring layers of the base model; weights are shared, nothing is copied.

    Args:
        base: the base model.
        family: its facts.
        layers: its layers, or the modules that run in their place.
        start_layer: the first layer that runs, from 0.
        end_layer: the first that does not run any more; None runs to the end and the last norm.
    """
    if family.is_stack:
        return LayerStack(layers[start_layer:end_layer], family.norm_of(base) if end_layer is None else None)
    view = copy.copy(base)
    view._modules = dict(base._modules)
    _put_module(view, family.layers, layers[start_layer:end_layer])
    if family.project_in:
        view._modules[family.project_in] = None
    if family.pooler:
        view._modules[family.pooler] = None
    if end_layer is not None:
        if family.norm:
            view._modules[family.norm] = torch.nn.Identity()
        if family.project_out:
            view._modules[family.project_out] = None
    if getattr(base.config, "layer_types", None):
        view.config = copy.copy(base.config)
        view.config.layer_types = base.config.layer_types[start_layer:end_layer]
    # States that enter an upper layer have their positions; with an embedded norm `positioned` has added them before.
    if family.embedded_norm:
        view._modules[family.positions] = _ZeroPositions()
        if start_layer:
            view._modules[family.embedded_norm] = torch.nn.Identity()
    elif family.embeddings and start_layer:
        view._modules[family.embeddings] = _PassThrough()
    elif family.positions and start_layer:
        zeros = copy.copy(getattr(base, family.positions))
        zeros._parameters = {"weight": torch.nn.Parameter(torch.zeros_like(zeros.weight), requires_grad=False)}
        view._modules[family.positions] = zeros
    return view


@dataclass(frozen=True, slots=True)
class States:
    """Output of the layers, under the name that transformers' models use."""

    last_hidden_state: Tensor


class LayerStack(torch.nn.Module):
    """Layers of a model whose own forward pass does not begin at vectors, and the norm behind them, if any."""

    def __init__(self, layers: Any, norm: Any) -> None:
        super().__init__()
        self.layers, self.norm = layers, norm

    def forward(
        self, inputs_embeds: Tensor, attention_mask: Tensor, use_cache: bool, position_ids: Tensor, **keywords: Any
    ) -> "States":
        """Hidden states of what enters the first of the layers; the signature is that of transformers' models."""
        hidden = inputs_embeds
        for layer in self.layers:
            states = layer(hidden, attention_mask, **keywords)
            hidden = states[0] if isinstance(states, tuple) else states
        return States(hidden if self.norm is None else self.norm(hidden))


def _put_module(view: Any, path: str, module: Any) -> None:
    """Replace the module at a path of a copied tree; the modules on the way to it are copied too."""
    *parents, name = path.split(".")
    for parent in parents:
        inner = copy.copy(view._modules[parent])
        inner._modules = dict(inner._modules)
        view._modules[parent] = inner
        view = inner
    view._modules[name] = module


class _PassThrough(torch.nn.Module):
    """Returns embeddings unchanged: they were made before. It takes the arguments of the module that it replaces."""

    def forward(
        self, input_ids: Tensor | None = None, inputs_embeds: Tensor | None = None, *arguments: Any, **keywords: Any
    ) -> Tensor:
        """Embeddings as they enter the first layer."""
        assert inputs_embeds is not None
        return inputs_embeds


class _ZeroPositions(torch.nn.Module):
    """A position table that adds nothing, since positions were added before."""

    def forward(self, shaped: Tensor | None, *arguments: Any, **keywords: Any) -> Tensor:
        """Zero."""
        return torch.zeros(())


def _bias(attention: Any, distances: Tensor) -> Tensor:
    """T5's bias, [B, H, S, M]: a number for each head and bucket of distances."""
    buckets = attention._relative_position_bucket(
        distances,
        bidirectional=not attention.is_decoder,
        num_buckets=attention.relative_attention_num_buckets,
        max_distance=attention.relative_attention_max_distance,
    )
    return attention.relative_attention_bias(buckets).permute(0, 3, 1, 2)


def max_length(config: Any) -> int:
    """The number of positions up to which a model's keys can be kept.

    With `longrope` all angles change where a text outgrows the original length, so keys that were kept before, or that
    share a batch with a longer row, would no longer fit. Such a model ends at the original length.
    """
    if not hasattr(config, "max_position_embeddings"):
        # T5's distances have no limit; 512 is its length in training, which newer configs no longer name.
        return int(getattr(config, "max_target_positions", None) or getattr(config, "n_positions", None) or 512)
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type") == "longrope":
        return int(min(config.max_position_embeddings, rope["original_max_position_embeddings"]))
    if FAMILIES[config.model_type].before_first:
        # The table begins with the positions of padding.
        return int(config.max_position_embeddings - config.pad_token_id - 1)
    return int(config.max_position_embeddings)
