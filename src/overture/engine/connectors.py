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
from transformers import AutoModelForCausalLM


@dataclass(frozen=True, slots=True)
class Connector:
    """How such models differ.

    Args:
        texts: path of the layers' module, in the model.
        connect: from the model and prepared images, [B, C, H, W], to vectors, [B, L, D].
        frame: special tokens in front of an image's positions, and behind them.
    """

    texts: str
    connect: Callable[[Any, Tensor], Tensor]
    frame: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())


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
    there = torch.ones(len(pixels), pixels.shape[2] // side, pixels.shape[3] // side, dtype=torch.bool)
    # Asked for by its modules: the model's own way drops images that are all zero.
    states = model.model.vision_model(pixel_values=pixels, patch_attention_mask=there.to(pixels.device))
    vectors: Tensor = model.model.connector(states.last_hidden_state)
    return vectors


_FRAMED = (("<fake_token_around_image>", "<global-img>"), ("<fake_token_around_image>",))
CONNECTORS = {
    "idefics3": Connector("model.text_model", _idefics, _FRAMED),
    "llava": Connector("model.language_model", _llava),
    "smolvlm": Connector("model.text_model", _idefics, _FRAMED),
}
"""By the config's model type."""


def language_model(whole: Any, connector: Connector) -> Any:
    """The language model inside, with its head, as transformers' class of its family; the tensors are the same."""
    with torch.device("meta"):
        texts: Any = AutoModelForCausalLM.from_config(whole.config.text_config, dtype=whole.dtype)
    setattr(texts, texts.base_model_prefix, attrgetter(connector.texts)(whole))
    texts.set_output_embeddings(whole.get_output_embeddings())
    return texts.eval()
