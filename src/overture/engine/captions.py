"""The tower of texts of a model that compares images with texts, such as CLIP.

Captions of labels have a common beginning, the trunk; what follows it in each of them is a branch. The trunk runs once,
and all branches attend to its keys and values:

    w_c = T h_c,   h_c the last state of caption c at its end token,   s_c = exp(t) cos(V v, w_c)

with v an image's first state, V and T the model's maps of images and texts into one space, and t its scale. A step of
a prompt in the trunk thus costs the trunk and the branches' own tokens; captions that are padded to the model's length
and run one by one cost the length for each label. SigLIP's captions do cost that: their tokens see each other both
ways, and those that fill the context are part of them. They are read at its last token, and images from all states.

Shape letters: C captions, T tokens of the trunk, S tokens of the longest branch, D width, E width of the common space,
P prompt length.

Source: Radford et al. 2021, "Learning Transferable Visual Models From Natural Language Supervision", section 2.3, and
Zhai et al. 2023, "Sigmoid Loss for Language Image Pre-Training".
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from overture.core.errors import ConfigError
from overture.engine.backbone import Backbone
from overture.engine.step import Columns, Step
from overture.engine.transfer import sent


class CaptionTower:
    """Meets `prompt.source.Captions`.

    Args:
        backbone: the tower of texts.
        text_map: T, a linear map.
        image_map: V, a linear map; where the tower reads in both directions, a module that pools an image's states.
        scale: t, a number.
        pad_id: the token that fills captions up to the tower's context, where it reads in both directions.

    Attributes:
        scale: the factor on cosines, exp(t), float32 on the CPU.
        pools: whether images are read from all of their states together.
    """

    def __init__(
        self, backbone: Backbone, text_map: Any, image_map: Any, scale: Tensor, pad_id: int | None = None
    ) -> None:
        self.backbone, self._pad_id = backbone, pad_id
        self._text_map, self._image_map = text_map.requires_grad_(False), image_map.requires_grad_(False)
        self.scale = scale.detach().float().exp().reshape(()).cpu()
        self.pools = pad_id is not None

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
        mapped: Tensor = states if self.pools else self._image_map(states)
        return mapped

    def pooled(self, hidden: Tensor, is_text: Tensor) -> Tensor:
        """The one state that each image is read from where the model pools its states, [B, D].

        Args:
            hidden: last states of the live tokens, [B, S, D].
            is_text: where an image's own states are, [B, S].
        """
        lengths = is_text.sum(1)
        if bool((lengths == is_text.shape[1]).all()):
            pooled: Tensor = self._image_map(hidden)
            return pooled
        return torch.cat([self._image_map(states[mask][None]) for states, mask in zip(hidden, is_text, strict=True)])

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
        length, most = len(trunk) + max(map(len, branches)), self.backbone.info.max_length
        if length > most:
            raise ConfigError(
                "a label's text does not fit the model's context",
                where="prompt.length",
                got=f"{length} tokens",
                wanted=f"at most {most}",
                fix="a shorter prompt, or shorter words for the labels",
            )
        trunk = trunk.to(self.backbone.device, self.backbone.dtype)
        ends = self._ends(trunk, branches, deep) if self._pad_id is None else self._padded_ends(trunk, branches, deep)
        mapped: Tensor = self._text_map(ends)
        return mapped

    def _ends(self, trunk: Tensor, branches: Sequence[Tensor], deep: Tensor | None) -> Tensor:
        """Last states of captions at their ends, [C, D]; what they begin with runs once."""
        columns = self._trunk(trunk, deep)
        lengths = sent([len(branch) for branch in branches], trunk.device)
        live = torch.nn.utils.rnn.pad_sequence(list(branches), batch_first=True).to(columns.keys[0])
        index = torch.arange(live.shape[1], device=live.device)[None].expand(len(branches), -1)
        step = Step(len(trunk) + index, index < lengths[:, None].to(live.device), memory=[columns], is_packed=True)
        hidden = self.backbone.run(live, step)
        return hidden[torch.arange(len(branches), device=live.device), lengths.to(live.device) - 1]

    def _padded_ends(self, trunk: Tensor, branches: Sequence[Tensor], deep: Tensor | None) -> Tensor:
        """Last states at the end of the context, [C, D]; tokens see each other both ways, those that fill it too."""
        assert self._pad_id is not None
        most = self.backbone.info.max_length
        filler = self.embed([self._pad_id]).to(trunk)
        captions = [torch.cat([trunk, branch.to(trunk)]) for branch in branches]
        live = torch.stack([torch.cat([c, filler.expand(most - len(c), -1)]) for c in captions])
        positions = torch.arange(most, device=live.device)[None].expand(len(live), -1)
        valid = torch.ones_like(positions, dtype=torch.bool)
        return self._replacing(live, len(trunk), positions, valid, deep)[:, -1]

    def _replacing(
        self,
        hidden: Tensor,
        end: int,
        positions: Tensor,
        valid: Tensor,
        deep: Tensor | None,
        key_values: dict[int, tuple[Tensor, Tensor]] | None = None,
    ) -> Tensor:
        """Last states of captions; deep vectors replace the tokens before ``end`` where they enter layers."""
        if deep is None:
            return self.backbone.run(hidden, Step(positions, valid, key_values=key_values, is_packed=True))
        num_layers = self.backbone.info.num_layers
        for layer in range(num_layers):
            if 0 < layer <= len(deep):
                deep_vectors = deep[layer - 1].to(hidden).expand(len(hidden), -1, -1)
                hidden = torch.cat([hidden[:, : end - deep_vectors.shape[1]], deep_vectors, hidden[:, end:]], dim=1)
            step = Step(positions, valid, key_values=key_values, is_packed=True)
            hidden = self.backbone.run(hidden, step, layer, layer + 1 if layer + 1 < num_layers else None)
        return hidden

    def _trunk(self, trunk: Tensor, deep: Tensor | None) -> Columns:
        """Keys and values of the trunk in every layer, there once for all branches."""
        positions = torch.arange(len(trunk), device=trunk.device)[None]
        valid = torch.ones_like(positions, dtype=torch.bool)
        layer_pairs = dict[int, tuple[Tensor, Tensor]]()
        self._replacing(trunk[None], len(trunk), positions, valid, deep, layer_pairs)
        keys, values = [{layer: pair[which] for layer, pair in layer_pairs.items()} for which in (0, 1)]
        return Columns(keys, values, positions, valid)
