"""Models that read images and texts together: a tower whose states a connector maps to vectors among the tokens.

Behind the connector such a model is a language model like any other, and it runs as one: its family is that of its
texts. An image is a stretch of positions that the connector has filled.

Shape letters: B images, C channels, H height, W width, L positions of an image, D width of the language model.
"""

from collections.abc import Callable
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, Qwen2Config


@dataclass(frozen=True, slots=True)
class Connector:
    """The facts in which such models differ.

    Args:
        texts: path of the layers' module, in the model.
        connect: from the model and prepared images, [B, C, H, W], to vectors, [B, L, D].
        frame: texts in front of an image's positions, and behind them; each is one token.
        is_fixed: images have the size in the config, and no other.
        is_whole: an image's positions see each other both ways.
        has_grid: an image's positions are placed by rows and columns, and its size may be its own.
        has_texts_alone: without a processor for images, or shared by processes, it loads as a model of texts.
    """

    texts: str
    connect: Callable[[Any, Tensor], Tensor]
    frame: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())
    is_fixed: bool = False
    is_whole: bool = False
    has_grid: bool = False
    has_texts_alone: bool = False

    def side_of(self, config: Any) -> int:
        """Pixels that the sides of an image are multiples of: those of a patch, or of one position with a grid."""
        vision = config.vision_config
        return int(vision.patch_size) * (int(vision.spatial_merge_size) if self.has_grid else 1)


def _llava(model: Any, pixels: Tensor) -> Tensor:
    """LLaVA's: states of one layer or several, without the class token where the config says so."""
    config = model.config
    states = model.model.get_image_features(
        pixels,
        vision_feature_layer=config.vision_feature_layer,
        vision_feature_select_strategy=config.vision_feature_select_strategy,
        return_dict=True,
    )
    return torch.stack(list(states.pooler_output))


def _idefics(model: Any, pixels: Tensor) -> Tensor:
    """Idefics 3's and SmolVLM's: neighbouring patches are put together. The whole image, not cut into parts."""
    side = model.config.vision_config.patch_size
    patch_mask = torch.ones(len(pixels), pixels.shape[2] // side, pixels.shape[3] // side, dtype=torch.bool)
    # Calls the modules: the model's own method drops images that are all zero.
    states = model.model.vision_model(pixel_values=pixels, patch_attention_mask=patch_mask.to(pixels.device))
    vectors: Tensor = model.model.connector(states.last_hidden_state)
    return vectors


def _gemma(model: Any, pixels: Tensor) -> Tensor:
    """Gemma 3's: a tower whose patches are averaged in squares. The whole image, without further cuts of it."""
    vectors: Tensor = model.model.get_image_features(pixels, return_dict=True).pooler_output
    return vectors


def _qwen(model: Any, pixels: Tensor) -> Tensor:
    """Qwen 2.5's: images come cut into patches, those of one position behind each other, each frame twice."""
    vision = model.config.vision_config
    side, merge_size, frames = vision.patch_size, vision.spatial_merge_size, vision.temporal_patch_size
    num_images, num_channels, height, width = pixels.shape
    rows, columns = height // side, width // side
    blocks = pixels.reshape(
        num_images, num_channels, rows // merge_size, merge_size, side, columns // merge_size, merge_size, side
    )
    patches = blocks.permute(0, 2, 5, 3, 6, 1, 4, 7)[..., None, :, :].expand(*(-1,) * 6, frames, -1, -1)
    grids = torch.tensor([[1, rows, columns]] * num_images, device=pixels.device)
    states = model.model.get_image_features(patches.reshape(num_images * rows * columns, -1), grids, return_dict=True)
    return torch.stack(list(states.pooler_output))


_FRAMED = (("<fake_token_around_image>", "<global-img>"), ("<fake_token_around_image>",))
CONNECTORS = {
    "gemma3": Connector(
        "model.language_model",
        _gemma,
        (("\n\n", "<start_of_image>"), ("<end_of_image>", "\n\n")),
        is_fixed=True,
        is_whole=True,
        has_texts_alone=True,
    ),
    "idefics3": Connector("model.text_model", _idefics, _FRAMED),
    "llava": Connector("model.language_model", _llava),
    "qwen2_5_vl": Connector("model.language_model", _qwen, (("<|vision_start|>",), ("<|vision_end|>",)), has_grid=True),
    "smolvlm": Connector("model.text_model", _idefics, _FRAMED),
}
"""By the config's model type."""


def language_model(model: Any, connector: Connector) -> Any:
    """The language model inside, with its head, as transformers' class of its family; the tensors are the same."""
    config = model.config.text_config
    # Qwen 2.5-VL's text model has no class of its own with a head; Qwen 2's has the same modules around the layers.
    has_own_class = config.model_type != "qwen2_5_vl_text"
    with torch.device("meta"):
        shell = config if has_own_class else Qwen2Config(hidden_size=8, num_attention_heads=1, num_hidden_layers=0)
        texts: Any = AutoModelForCausalLM.from_config(shell, dtype=model.dtype)
    setattr(texts, texts.base_model_prefix, attrgetter(connector.texts)(model))
    texts.set_output_embeddings(model.get_output_embeddings())
    texts.config = config
    return texts.eval()
