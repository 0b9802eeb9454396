"""A small random model that draws, made by `bench/vision/small_diffusion.py`, and pictures to learn a concept from."""

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import torch

from overture.core.media import Media
from overture.engine.diffusion import Diffusion, load_diffusion

_SCRIPT = Path(__file__).parents[1] / "bench" / "vision" / "small_diffusion.py"
_spec = importlib.util.spec_from_file_location("small_diffusion", _SCRIPT)
assert _spec is not None
assert _spec.loader is not None
small_diffusion: Any = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(small_diffusion)


def saved_pipeline(folder: Path, is_xl: bool = False, **options: Any) -> Any:
    """A pipeline of diffusers, never touched by us, whose copy lies in a folder."""
    pipeline = small_diffusion.make_pipeline(is_xl, **options)
    pipeline.save_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    for name in ("unet", "vae", "text_encoder", "text_encoder_2"):
        if part := getattr(pipeline, name, None):
            part.eval().requires_grad_(False)
    return pipeline


def loaded(folder: Path) -> Diffusion:
    """The model in a folder."""
    return load_diffusion(str(folder), notify=lambda text: None)


def pictures(count: int = 3) -> list[Media]:
    """Random images of odd sizes."""
    random = np.random.default_rng(4)
    shapes = [(40 + 3 * number, 36, 3) for number in range(count)]
    return [Media.of_array(random.integers(0, 256, shape, np.uint8), f"{shape[0]}.png") for shape in shapes]


def vectors_of(model: Diffusion, length: int, seed: int = 0) -> dict[str, torch.Tensor]:
    """Random vectors of a concept."""
    generator = torch.Generator().manual_seed(seed)
    return {name: 0.3 * torch.randn(length, width, generator=generator) for name, width in model.info.widths.items()}
