"""Write a small random model in the layout of Stable Diffusion (or XL), with which to try `overture concept`.

    python bench/vision/small_diffusion.py FOLDER [--xl]

Its weights are random and what it draws is noise; every part, file and step is that of the real models. The tokenizer
knows letters, so that any word can be written.
"""

import argparse
from pathlib import Path
from typing import Any

import torch

CONTEXT = 77
WIDTH, WIDTH_2 = 32, 24


def make_parts(is_xl: bool = False, predicts: str = "epsilon", seed: int = 0) -> dict[str, Any]:
    """The parts of a pipeline by name.

    Args:
        is_xl: two text encoders, as Stable Diffusion XL has them.
        predicts: what the denoiser predicts, ``epsilon`` or ``v_prediction``.
        seed: of the weights.
    """
    from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        texts = {"intermediate_size": 48, "num_attention_heads": 4, "max_position_embeddings": CONTEXT}
        ids = len(make_tokenizer())
        texts |= {"vocab_size": ids, "bos_token_id": ids - 2, "eos_token_id": ids - 1, "pad_token_id": ids - 1}
        first = CLIPTextConfig(hidden_size=WIDTH, num_hidden_layers=2, **texts)
        second = CLIPTextConfig(hidden_size=WIDTH_2, num_hidden_layers=3, projection_dim=WIDTH_2, **texts)
        reads: dict[str, Any] = {"cross_attention_dim": WIDTH}
        if is_xl:
            reads = {"cross_attention_dim": WIDTH + WIDTH_2, "addition_embed_type": "text_time"}
            reads |= {"addition_time_embed_dim": 8, "projection_class_embeddings_input_dim": 6 * 8 + WIDTH_2}
        parts: dict[str, Any] = {
            "unet": UNet2DConditionModel(
                sample_size=16,
                in_channels=4,
                out_channels=4,
                block_out_channels=(16, 32),
                layers_per_block=1,
                norm_num_groups=8,
                attention_head_dim=8,
                down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
                up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
                **reads,
            ),
            "vae": AutoencoderKL(
                block_out_channels=(8, 16),
                down_block_types=("DownEncoderBlock2D",) * 2,
                up_block_types=("UpDecoderBlock2D",) * 2,
                norm_num_groups=8,
                latent_channels=4,
                sample_size=32,
            ),
            "scheduler": DDPMScheduler(
                beta_start=0.00085,
                beta_end=0.012,
                beta_schedule="scaled_linear",
                prediction_type=predicts,
                clip_sample=False,
                steps_offset=1,
            ),
            "text_encoder": CLIPTextModel(first),
            "tokenizer": make_tokenizer(),
        }
        if is_xl:
            parts |= {"text_encoder_2": CLIPTextModelWithProjection(second), "tokenizer_2": make_tokenizer()}
        with torch.no_grad():
            # Random values of the usual size are so small that a caption would hardly change the picture.
            for name in ("unet", *(name for name in parts if name.startswith("text_encoder"))):
                for key, value in parts[name].named_parameters():
                    if "attn" in key or "embedding" in key:
                        value.add_(0.2 * torch.randn_like(value))
    return parts


def make_tokenizer() -> Any:
    """Letters and marks, each as the end of a word and not."""
    from transformers import CLIPTokenizer

    letters = "abcdefghijklmnopqrstuvwxyz0123456789<>.,-"
    texts = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={text: number for number, text in enumerate(texts)}, merges=[], model_max_length=CONTEXT)


def make_pipeline(is_xl: bool = False, **options: Any) -> Any:
    """The whole pipeline of diffusers; options as of `make_parts`."""
    from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline

    parts = make_parts(is_xl, **options)
    if is_xl:
        return StableDiffusionXLPipeline(**parts, add_watermarker=False)
    return StableDiffusionPipeline(**parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False)


def main() -> None:
    """Write the folder."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path, help="folder that is written")
    parser.add_argument("--xl", action="store_true", help="two text encoders, as Stable Diffusion XL")
    options = parser.parse_args()
    make_pipeline(options.xl).save_pretrained(options.folder)


if __name__ == "__main__":
    main()
