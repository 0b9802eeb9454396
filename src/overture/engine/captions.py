"""The tower of texts of a model that compares images with texts, such as CLIP.

Captions of labels have a common beginning, the trunk; what follows it in each of them is a branch. The trunk runs once,
and all branches attend to its keys and values:

    w_c = T h_c,   h_c the last state of caption c at its end token,   s_c = exp(t) cos(V v, w_c)

with v an image's first state, V and T the model's maps of images and texts into one space, and t its scale. A step of
a prompt in the trunk thus costs the trunk and the branches' own tokens; captions that are padded to the model's length
and run one by one cost the length for each label.

Shape letters: C captions, T tokens of the trunk, S tokens of the longest branch, D width, E width of the common space,
P prompt length.

Source: Radford et al. 2021, "Learning Transferable Visual Models From Natural Language Supervision", section 2.3.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from overture.core.errors import ConfigError
from overture.engine.attention import Columns, Step
from overture.engine.backbone import Backbone
from overture.engine.transfer import sent


class CaptionTower:
    """Meets `prompt.source.Captions`.

    Args:
        backbone: the tower of texts.
        text_map: T, a linear map.
        image_map: V, a linear map.
        scale: t, a number.

    Attributes:
        scale: the factor on cosines, exp(t), float32 on the CPU.
    """

    def __init__(self, backbone: Backbone, text_map: Any, image_map: Any, scale: Tensor) -> None:
        self.backbone = backbone
        self._text_map, self._image_map = text_map.requires_grad_(False), image_map.requires_grad_(False)
        self.scale = scale.detach().float().exp().cpu()

    @property
    def width(self) -> int:
        """Width of the common space, E."""
        return int(self._text_map.weight.shape[0])

    @property
    def begin_ids(self) -> tuple[int, ...]:
        """Tokens that every caption begins with."""
        return self.backbone.text.tokenizer.bos_ids

    @property
    def end_ids(self) -> tuple[int, ...]:
        """Tokens that every caption ends with; the last one is read."""
        return self.backbone.text.tokenizer.end_ids

    def encode(self, text: str) -> list[int]:
        """Tokens of a piece of a caption."""
        return self.backbone.text.tokenizer.encode_plain(text)

    def embed(self, ids: Sequence[int]) -> Tensor:
        """Vectors of tokens without their positions, [n, D], on the tower's device."""
        return self.backbone.embed(list(ids))

    def images(self, states: Tensor) -> Tensor:
        """Images in the common space, [..., E], from the states that they are read from, [..., D]."""
        mapped: Tensor = self._image_map(states)
        return mapped

    def features(self, trunk: Tensor, branches: Sequence[Tensor], deep: Tensor | None = None) -> Tensor:
        """Captions in the common space, [C, E]; differentiable.

        Args:
            trunk: what all captions begin with, [T, D], at positions from 0.
            branches: what follows in each, [1 to S, D]; it ends with the end tokens.
            deep: vectors that replace the states of the trunk's last P tokens where they enter the layers from 1 on,
                [layers, P, D]; behind the last of these layers the tokens run on.

        Raises:
            ConfigError: a caption is longer than the tower's context.
        """
        length = len(trunk) + max(map(len, branches))
        if length > self.backbone.info.max_length:
            raise ConfigError(
                "a label's text does not fit the model's context",
                where="prompt.length",
                got=f"{length} tokens",
                wanted=f"at most {self.backbone.info.max_length}",
                fix="a shorter prompt, or shorter words for the labels",
            )
        columns = self._trunk(trunk.to(self.backbone.device, self.backbone.dtype), deep)
        lengths = sent([len(branch) for branch in branches], trunk.device)
        live = torch.nn.utils.rnn.pad_sequence(list(branches), batch_first=True).to(columns.keys[0])
        index = torch.arange(live.shape[1], device=live.device)[None].expand(len(branches), -1)
        step = Step(len(trunk) + index, index < lengths[:, None].to(live.device), memory=[columns], is_packed=True)
        hidden = self.backbone.run(live, step)
        ends = hidden[torch.arange(len(branches), device=live.device), lengths.to(live.device) - 1]
        mapped: Tensor = self._text_map(ends)
        return mapped

    def _trunk(self, trunk: Tensor, deep: Tensor | None) -> Columns:
        """Keys and values of the trunk in every layer, there once for all branches."""
        positions = torch.arange(len(trunk), device=trunk.device)[None]
        valid = torch.ones_like(positions, dtype=torch.bool)
        if deep is None:
            return self.backbone.remember(trunk[None], positions, valid)
        hidden, kept = trunk[None], dict[int, tuple[Tensor, Tensor]]()
        num_layers = self.backbone.info.num_layers
        for layer in range(num_layers):
            if 0 < layer <= len(deep):
                replaced = deep[layer - 1].to(hidden)
                hidden = torch.cat([hidden[:, : len(trunk) - len(replaced)], replaced[None]], dim=1)
            step = Step(positions, valid, kept=kept, is_packed=True)
            hidden = self.backbone.run(hidden, step, layer, layer + 1)
        keys, values = [{layer: pair[which] for layer, pair in kept.items()} for which in (0, 1)]
        return Columns(keys, values, positions, valid)
