"""A tiny random CLIP whose images are compared with texts, and published context optimisation to compare with."""

import functools
import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModel
from transformers.models import clip, siglip, siglip2
from transformers.models.clip import CLIPTokenizer

from fakes import source_of
from overture.core.rows import Candidates, Encoded, OneOf
from overture.engine.backbone import Backbone
from overture.engine.frontends.image import image_backbone
from overture.engine.load import caption_tower
from overture.prompt.source import PromptSource
from vision_fakes import LAYERS, PATCH, SIZE, WIDTH, image_rows, library_inputs, make_processor

CONFIGS = {"siglip": siglip.SiglipConfig, "siglip2": siglip2.Siglip2Config}
SPACE, TEXT_WIDTH, CONTEXT = 24, 16, 77
NAMES = ["".join(pair) for pair in itertools.product("abcdefghij", "klmnopqrst")]
"""A hundred labels, of two tokens each."""


def make_tokenizer() -> CLIPTokenizer:
    """Letters alone, each as the end of a word and not."""
    letters = "abcdefghijklmnopqrstuvwxyz.,"
    texts = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={text: number for number, text in enumerate(texts)}, merges=[])


def make_clip(dtype: torch.dtype = torch.float64, kind: str = "clip") -> Any:
    """A random model of both towers, in which every parameter counts; CLIP, SigLIP or SigLIP 2 with free sizes."""
    tower = {"intermediate_size": 48, "num_attention_heads": 4}
    size = len(make_tokenizer())
    texts = tower | {"hidden_size": TEXT_WIDTH, "num_hidden_layers": 2, "vocab_size": size}
    texts |= {"max_position_embeddings": CONTEXT, "eos_token_id": size - 1, "bos_token_id": size - 2}
    images = tower | {"hidden_size": WIDTH, "num_hidden_layers": LAYERS, "patch_size": PATCH}
    if kind == "clip":
        spaces = {"projection_dim": SPACE}
        images |= {"image_size": SIZE} | spaces
        config: Any = clip.CLIPConfig(text_config=texts | spaces, vision_config=images, **spaces)
    else:
        # The images' width is the common space.
        texts |= {"projection_size": WIDTH}
        images |= {"image_size": SIZE} if kind == "siglip" else {"num_patches": 16}
        config = CONFIGS[kind](text_config=texts, vision_config=images)
    with torch.random.fork_rng():
        torch.manual_seed(6)
        model = AutoModel.from_config(config, attn_implementation="sdpa", dtype=torch.float64)
        with torch.no_grad():
            for name, value in model.named_parameters():
                value.add_(0.2 * torch.randn_like(value)) if name != "logit_scale" else value.fill_(2.6)
    return model.float().to(dtype).eval().requires_grad_(False)


def make_caption_backbone(dtype: torch.dtype = torch.float64, kind: str = "clip") -> Backbone:
    """A backbone that no other test shares."""
    model, name = make_clip(dtype, kind), f"tiny-{kind}"
    backbone = image_backbone(model.vision_model, make_processor(f"{kind}_vision_model"), id=name)
    backbone.captions = caption_tower(model, make_tokenizer(), id=name, revision=None, weights_sha256="")
    return backbone


@functools.cache
def caption_backbone_of(dtype: torch.dtype = torch.float64, kind: str = "clip") -> Backbone:
    """A shared backbone; nothing may change it."""
    return make_caption_backbone(dtype, kind)


@functools.cache
def clip_reference_of(dtype: torch.dtype = torch.float64, kind: str = "clip") -> Any:
    """The same model, never touched by us."""
    return make_clip(dtype, kind)


def labels_of(names: Sequence[str]) -> Candidates:
    """The labels of rows."""
    return Candidates(tuple(names), tuple((number,) for number in range(len(names))), tuple(range(len(names))))


def caption_rows(backbone: Backbone, names: Sequence[str], num: int = 5) -> list[Encoded]:
    """Rows of images with labels in turn."""
    target = OneOf(labels_of(names), read=0)
    rows = image_rows(backbone, num)
    return [replace(row, target=replace(target, label=row.row * 7 % len(names))) for row in rows]


def caption_source(backbone: Backbone, names: Sequence[str]) -> PromptSource:
    """What prompts among the labels' words start from."""
    tower = backbone.captions
    assert tower is not None
    source = replace(source_of(backbone, labels_of(names)), has_words=False, label_texts=tuple(names))
    return replace(source, captions=tower, texts=source_of(tower.backbone, None))


def padded_logits(
    model: Any, rows: Sequence[Encoded], names: Sequence[str], context: Tensor, pattern: str, suffix: str = "."
) -> Tensor:
    """Scores [B, C] as published code has them; see `texts_of`."""
    both = images_of(model, rows), texts_of(model, names, context, pattern, suffix)
    unit = [torch.nn.functional.normalize(side, dim=-1) for side in both]
    return model.logit_scale.exp() * unit[0] @ unit[1].T


def images_of(model: Any, rows: Sequence[Encoded]) -> Tensor:
    """Images in the common space, [B, E], by the library."""
    named = [library_inputs(model.vision_model, row) for row in rows]
    return torch.cat([model.get_image_features(**inputs).pooler_output for inputs in named])


def texts_of(model: Any, names: Sequence[str], context: Tensor, pattern: str, suffix: str = ".") -> Tensor:
    """Captions [C, E] as published code has them: each padded to the model's context, vectors put in by place.

    Args:
        model: transformers' model.
        names: the labels' words.
        context: the vectors, [P, d] or [C, P, d].
        pattern: of a caption; each x in it is one vector, and {} the label's words.
        suffix: what ends each caption.
    """
    tokenizer = make_tokenizer()
    marker = tokenizer.encode("x", add_special_tokens=False)[0]
    texts = [pattern.replace("{}", name) + suffix for name in names]
    ids = tokenizer(texts, padding="max_length", max_length=CONTEXT, return_tensors="pt")["input_ids"]
    assert all("x" not in name for name in names)
    is_vector = ids == marker
    context = context.expand(len(names), -1, -1) if context.dim() == 2 else context

    def put_in(module: Any, args: Any, vectors: Tensor) -> Tensor:
        return vectors.masked_scatter(is_vector[..., None], context.to(vectors))

    hook = model.text_model.embeddings.token_embedding.register_forward_hook(put_in)
    try:
        return model.get_text_features(input_ids=ids).pooler_output
    finally:
        hook.remove()


def save_clip(folder: Path, processor: dict[str, Any], kind: str = "clip") -> None:
    """Both towers, the tokenizer and the preparation, as a checkpoint has them."""
    import json

    make_clip(torch.float32, kind).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(processor), encoding="utf-8")
