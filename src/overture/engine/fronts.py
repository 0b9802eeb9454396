"""Modules in front of the first layer of models that read images: one function for each form that families have.

Each takes the model and prepared pixels [B, C, H, W] and gives what enters layer 0, [B, L, D]: tokens of the model's
own (class, distillation, registers) first, then the patches, positions added. Positions of another size than the
model's own are resampled as the family's code does it.

Shape letters: B images, C channels, H height, W width, L positions, D width of the layers.
"""

from typing import Any

import torch
from torch import Tensor


def embedded(model: Any, pixels: Tensor) -> Tensor:
    """DINO's: the module resamples its positions, or has none."""
    states: Tensor = model.embeddings(pixels)
    return states


def resampled(model: Any, pixels: Tensor) -> Tensor:
    """ViT's, DeiT's and SigLIP's: resampling must be asked for."""
    states: Tensor = model.embeddings(pixels, interpolate_pos_encoding=True)
    return states


def resampled_and_normed(model: Any, pixels: Tensor) -> Tensor:
    """CLIP's: a norm stands in front of the first layer."""
    states: Tensor = model.pre_layrnorm(resampled(model, pixels))
    return states


def in_patches(model: Any, pixels: Tensor) -> Tensor:
    """SigLIP 2's: images come cut, rows of patches from the top, each as height, width and channels."""
    num_images, num_channels, height, width = pixels.shape
    side = model.config.patch_size
    rows, columns = height // side, width // side
    patches = pixels.reshape(num_images, num_channels, rows, side, columns, side).permute(0, 2, 4, 3, 5, 1)
    shapes = torch.tensor([[rows, columns]] * num_images, device=pixels.device)
    states: Tensor = model.embeddings(patches.reshape(num_images, rows * columns, -1), shapes)
    return states
