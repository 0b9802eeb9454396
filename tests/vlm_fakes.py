"""Tiny random models that read images and texts together, and rows of both."""

import functools
import json
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForImageTextToText, masking_utils
from transformers.models import gemma3, idefics3, llava, qwen2_5_vl, smolvlm

from fakes import ONE_TOKEN, SEVERAL_TOKENS, make_inner_tokenizer
from overture.core.rows import Answer, Encoded, OneOf, Target, Tokens
from overture.engine.backbone import Backbone
from overture.engine.frontends.connected import connected_backbone
from overture.engine.frontends.pixels import ImageProcessor
from overture.engine.tokenizer import Tokenizer
from tiny_configs import BOS, CONTEXT, EOS
from vision_fakes import PATCH, SIZE, make_image

IMAGE = "<image>"
_AROUND = ("<fake_token_around_image>", "<global-img>", "<start_of_image>", "<end_of_image>", "\n\n")
_AROUND += ("<|vision_start|>", "<|vision_end|>")
VOCABULARY = 312
_TEXTS = {"vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4}
_TEXTS |= {"num_hidden_layers": 3, "num_key_value_heads": 2, "max_position_embeddings": CONTEXT}
_TEXTS |= {"bos_token_id": BOS, "eos_token_id": EOS, "pad_token_id": 261, "initializer_range": 0.2}
_TOWER = {"hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}
_TOWER |= {"patch_size": PATCH, "image_size": SIZE}
VLMS = ("llava", "idefics3", "smolvlm", "gemma3", "qwen2_5_vl")
NUM_POSITIONS = {"llava": {16}, "idefics3": {4}, "smolvlm": {4}, "gemma3": {4}, "qwen2_5_vl": {2, 3, 4, 6}}


def make_vlm_tokenizer() -> Any:
    """The other models' tokenizer with the tokens that stand for images, and beside them."""
    inner = make_inner_tokenizer()
    inner.add_special_tokens({"additional_special_tokens": [*inner.extra_special_tokens, IMAGE, *_AROUND]})
    return inner


def _config(family: str) -> Any:
    image_token = make_vlm_tokenizer().convert_tokens_to_ids(IMAGE)
    if family == "llava":
        vision = {**_TOWER, "model_type": "clip_vision_model", "projection_dim": 24}
        texts = {**_TEXTS, "model_type": "llama"}
        return llava.LlavaConfig(vision_config=vision, text_config=texts, image_token_index=image_token)
    if family == "gemma3":
        vision = {**_TOWER, "vision_use_head": False}
        # Windows shorter than a row, so that an image is not within reach of all that follows it.
        texts = {**_TEXTS, "head_dim": 8, "sliding_window": 5, "query_pre_attn_scalar": 8}
        texts |= {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}
        whole = {"mm_tokens_per_image": 4, "image_token_index": image_token}
        return gemma3.Gemma3Config(vision_config=vision, text_config=texts, **whole)
    if family == "qwen2_5_vl":
        vision = {"depth": 2, "hidden_size": 32, "intermediate_size": 40, "num_heads": 2, "patch_size": PATCH}
        vision |= {"window_size": 4 * PATCH, "fullatt_block_indexes": [1], "out_hidden_size": 32}
        turned = {"rope_type": "default", "rope_theta": 100.0, "mrope_section": [1, 1, 2]}
        texts = {**_TEXTS, "rope_parameters": turned}
        return qwen2_5_vl.Qwen2_5_VLConfig(vision_config=vision, text_config=texts, image_token_id=image_token)
    kind = idefics3.Idefics3Config if family == "idefics3" else smolvlm.SmolVLMConfig
    texts = {**_TEXTS, "model_type": "llama"}
    return kind(vision_config=_TOWER, text_config=texts, image_token_id=image_token, scale_factor=2)


def make_vlm(family: str, dtype: torch.dtype = torch.float64) -> Any:
    """A random model in which every parameter counts."""
    with torch.random.fork_rng():
        torch.manual_seed(8)
        config = _config(family)
        model = AutoModelForImageTextToText.from_config(config, attn_implementation="sdpa", dtype=torch.float64)
        with torch.no_grad():
            for value in model.parameters():
                value.add_(0.05 * torch.randn_like(value))
    return model.float().to(dtype).eval().requires_grad_(False)


def make_vlm_processor(family: str = "llava") -> ImageProcessor:
    """As large as the tower's images, or of nearly their own shape."""
    sizes = {"pixels": (100, 400)} if family == "qwen2_5_vl" else {"height": SIZE, "width": SIZE}
    return ImageProcessor(**sizes, resample=2, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))


def make_vlm_backbone(family: str, dtype: torch.dtype = torch.float64) -> Backbone:
    """A backbone that no other test shares."""
    tokenizer = Tokenizer(make_vlm_tokenizer(), CONTEXT)
    return connected_backbone(make_vlm(family, dtype), make_vlm_processor(family), tokenizer, id=f"tiny-{family}")


@functools.cache
def vlm_backbone_of(family: str, dtype: torch.dtype = torch.float64) -> Backbone:
    """A shared backbone; nothing may change it."""
    return make_vlm_backbone(family, dtype)


@functools.cache
def vlm_reference_of(family: str, dtype: torch.dtype = torch.float64) -> Any:
    """The same model, never touched by us."""
    if family == "gemma3":
        # Its masks need a part of torch's compiler, for which there is a stand-in where the library came lean.
        from torch._dynamo._trace_wrapped_higher_order_op import TransformGetItemToIndex

        masking_utils.TransformGetItemToIndex = TransformGetItemToIndex
    return make_vlm(family, dtype)


def vlm_rows(backbone: Backbone, kind: str = "one token", num: int = 4) -> list[Encoded]:
    """Rows of an image between two texts of several lengths; slots stand behind the image, two vectors wide."""
    frontend = backbone.frontend_of("image")
    words = {"one token": ONE_TOKEN, "several tokens": SEVERAL_TOKENS}
    rows = []
    for number in range(num):
        target: Target = Answer((70 + number, 71, EOS)) if kind == "free text" else OneOf(words[kind], number % 3)
        front, back = Tokens((BOS, 50 + number)), Tokens(tuple(range(60, 61 + number)))
        segments = tuple(frontend.segments(make_image(number % 3, 20 - 4 * (number % 3), 24 + 8 * (number % 3))))
        place = sum(map(len, (front, *segments)))
        rows.append(Encoded(number, (front, *segments, back), (Tokens((90, 91)),), target, slots=((place, 2),)))
    return rows


def save_vlm(folder: Path, family: str) -> None:
    """The model, its tokenizer and the preparation, as a checkpoint has them."""
    make_vlm(family, torch.float32).save_pretrained(folder)
    make_vlm_tokenizer().save_pretrained(folder)
    values = make_vlm_processor()
    processor: dict[str, Any] = {"size": {"height": SIZE, "width": SIZE}, "resample": 2}
    if family == "qwen2_5_vl":
        processor = {"image_processor_type": "Qwen2VLImageProcessor", "min_pixels": 100, "max_pixels": 400}
        processor |= {"resample": 2}
    elif family in ("idefics3", "smolvlm"):
        processor = {"size": {"longest_edge": 64}, "max_image_size": {"longest_edge": SIZE}, "resample": 2}
    processor |= {"image_mean": values.mean, "image_std": values.std}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor), encoding="utf-8")
