"""Tiny random vision encoders of every supported family, and rows of random images."""

import functools
from typing import Any

import numpy as np
import torch
from transformers import AutoModel
from transformers.models import (
    clip,
    deit,
    dinov2,
    dinov2_with_registers,
    dinov3_vit,
    siglip,
    siglip2,
    vit,
)
from transformers.models.siglip2.image_processing_pil_siglip2 import convert_image_to_patches

from overture.core.media import Media
from overture.core.rows import Candidates, Encoded, OneOf
from overture.engine.backbone import Backbone
from overture.engine.frontends.image import image_backbone
from overture.engine.frontends.pixels import ImageProcessor

PATCH, SIZE, LAYERS, WIDTH = 4, 16, 3, 32
LABELS = Candidates(("no", "maybe", "yes"), ((0,), (0,), (0,)), (0, 1, 2))
_COMMON = {"hidden_size": WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": 4, "patch_size": PATCH}
_SIZED = _COMMON | {"intermediate_size": 48, "image_size": SIZE, "initializer_range": 0.2}
_CONFIGS: dict[str, Any] = {
    "vit": lambda: vit.ViTConfig(**_SIZED),
    "deit": lambda: deit.DeiTConfig(**_SIZED),
    "dinov2": lambda: dinov2.Dinov2Config(**_COMMON, image_size=24, mlp_ratio=2, initializer_range=0.2),
    "dinov2_with_registers": lambda: dinov2_with_registers.Dinov2WithRegistersConfig(
        **_COMMON, image_size=24, mlp_ratio=2, num_register_tokens=2, initializer_range=0.2, use_swiglu_ffn=True
    ),
    "dinov3_vit": lambda: dinov3_vit.DINOv3ViTConfig(**_SIZED, num_register_tokens=3),
    "siglip_vision_model": lambda: siglip.SiglipVisionConfig(**_without(_SIZED, "initializer_range")),
    "siglip2_vision_model": lambda: siglip2.Siglip2VisionConfig(
        **_without(_SIZED, "initializer_range", "image_size"), num_patches=9
    ),
    "clip_vision_model": lambda: clip.CLIPVisionConfig(**_SIZED),
}
VISION = tuple(_CONFIGS)
NUM_OWN = {"deit": 2, "dinov2_with_registers": 3, "dinov3_vit": 4} | dict.fromkeys(
    ("siglip_vision_model", "siglip2_vision_model"), 0
)
"""Tokens of a family's own in front of the patches; 1 where it is not named."""


def _without(values: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name not in names}


def make_vision_model(family: str, dtype: torch.dtype = torch.float64) -> Any:
    """A random model in which every parameter counts."""
    with torch.random.fork_rng():
        torch.manual_seed(5)
        model = AutoModel.from_config(_CONFIGS[family](), attn_implementation="sdpa", dtype=torch.float64)
        with torch.no_grad():
            for value in model.parameters():
                value.add_(0.1 * torch.randn_like(value))
    return model.float().to(dtype).eval()


def make_processor(family: str) -> ImageProcessor:
    """As large as the model's images, or as many patches as it knows."""
    sizes: dict[str, Any] = {"height": SIZE, "width": SIZE}
    if family == "siglip2_vision_model":
        sizes = {"most_patches": 12}
    return ImageProcessor(**sizes, resample=2, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))


def make_vision_backbone(family: str, dtype: torch.dtype = torch.float64) -> Backbone:
    """A backbone that no other test shares."""
    return image_backbone(make_vision_model(family, dtype), make_processor(family), id=f"tiny-{family}")


@functools.cache
def vision_backbone_of(family: str, dtype: torch.dtype = torch.float64) -> Backbone:
    """A shared backbone; nothing may change it."""
    return make_vision_backbone(family, dtype)


@functools.cache
def vision_reference_of(family: str, dtype: torch.dtype = torch.float64) -> Any:
    """The same model, never touched by us."""
    return make_vision_model(family, dtype).requires_grad_(False)


def make_image(number: int, height: int = 20, width: int = 24) -> Media:
    """A random image; equal numbers and shapes are equal content."""
    random = np.random.default_rng(number)
    return Media.of_array(random.integers(0, 256, (height, width, 3), dtype=np.uint8), f"image {number}")


def image_rows(backbone: Backbone, num: int = 4, read: Any = None, seed: int = 0) -> list[Encoded]:
    """Rows of images of several shapes."""
    frontend = backbone.frontend_of("image")
    if read is None:
        read = 0 if frontend.num_own else "mean"
    shapes = ((20, 24), (30, 12), (16, 16), (9, 40))
    images = [make_image(seed + number, *shapes[number % len(shapes)]) for number in range(num)]
    return [
        Encoded(number, tuple(frontend.segments(image)), (), OneOf(LABELS, number % 3, read=read))
        for number, image in enumerate(images)
    ]


def library_inputs(model: Any, row: Encoded) -> dict[str, Any]:
    """An image as transformers' model takes it."""
    pixels = row.input[0].load()[None].to(model.dtype)
    if model.config.model_type == "siglip2_vision_model":
        side = model.config.patch_size
        patches = torch.from_numpy(convert_image_to_patches(pixels[0].numpy(), side))[None]
        shape = torch.tensor([[pixels.shape[2] // side, pixels.shape[3] // side]])
        mask = torch.ones(patches.shape[:2], dtype=torch.long)
        return {"pixel_values": patches, "pixel_attention_mask": mask, "spatial_shapes": shape}
    is_resampled = model.config.model_type in ("vit", "deit", "clip_vision_model", "siglip_vision_model")
    return {"pixel_values": pixels} | ({"interpolate_pos_encoding": True} if is_resampled else {})
