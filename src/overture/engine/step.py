"""Arguments of a forward pass for attention: masks, and the columns in front of the live tokens.

Shape letters are those of `engine.attention`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

FUSED = {"cuda": 0, "cpu": 512}
"""Number of live tokens from which on a device's causal kernel is used. Shorter batches on a CPU all go through one
kernel, so that their bits do not depend on the batch; the other would save them little."""
HALF = (torch.bfloat16, torch.float16)
"""Data types of a GPU's fast kernels."""
MaskKind = tuple[int | None, int, bool]
"""A mask's window, the number of query heads that share a key head, and whether it is causal."""


@dataclass(frozen=True, slots=True)
class Columns:
    """Keys and values that live tokens attend to and that this step does not compute.

    Rows may share memories, R of them where R divides B: then keys and values are never copied, one for each row.

    Args:
        keys: by layer [B, 1 or R, H, M, K].
        values: by layer [B, 1 or R, H, M, K].
        positions: [B or 1, M], for sliding windows.
        valid: [B or 1, M]; False where a row has no such column.
        weights: by layer [B or 1, M]: factors on the attention that a column gets; 1 when None.
        shared: of R memories row b attends to number b % R (``cycle``) or b // (B / R) (``run``).
        room: by layer the two buffers [B, H, more than M, K] whose beginnings are keys and values; live tokens are
            written behind these columns, which are then not copied. For use without gradients.
        ends: for rows of one live token each, and of unlike length, the index in the buffers where it is written, [B];
            the token is then one of the columns, in positions, valid and weights too.
    """

    keys: Mapping[int, Tensor]
    values: Mapping[int, Tensor]
    positions: Tensor
    valid: Tensor
    weights: Sequence[Tensor] | None = None
    shared: Literal["cycle", "run"] = "cycle"
    room: Mapping[int, tuple[Tensor, Tensor]] | None = None
    ends: Tensor | None = None

    def num_memories(self, layer: int) -> int:
        """R, or B, or 1."""
        return int(self.keys[layer].shape[0])


@dataclass(frozen=True, slots=True)
class Images:
    """The parts of images among live tokens, in models that treat them otherwise than tokens.

    Args:
        number: of the image that a token is part of and sees as a whole, -1 for all others, [B, S]; None where no image
            is seen as a whole.
        shifts: rows and columns by which a part is placed beyond its position, 0 for all others, [B, S, 2]; None where
            none is.
    """

    number: Tensor | None
    shifts: Tensor | None

    def of(self, indices: Tensor, length: int | None = None) -> "Images":
        """The facts of some rows, cut to a length."""
        parts = [None if part is None else part[indices, :length] for part in (self.number, self.shifts)]
        return Images(*parts)


class KeysMade(Exception):
    """Ends a pass of one layer as soon as its keys and values are computed."""


@dataclass(slots=True)
class Step:
    """The arguments of one forward pass for the attention function.

    Args:
        positions: of the live tokens, [B, S].
        valid: False for padding, [B, S].
        branch: 0 for the trunk; tokens of one branch see the trunk and themselves, not other branches. [B, S]
        memory: columns before the live tokens, in order.
        key_values: per layer the live tokens' keys and values, filled in when it is a dict.
        shares: per layer the attention that live tokens give to columns and live tokens, [B, H*G, S, M+S], filled in
            when it is a dict; of a step that is not packed.
        cross_columns: the encoder's output as a decoder's cross-attention reads it; set by the pass that runs the step.
        bias: a map from distances of columns to live tokens, [B, S, M+S], to the bias of the logits, [B, H, S, M+S];
            set by that pass too.
        is_packed: in each row all padding stands behind what is valid, so causal kernels need no mask for it.
        layer: key of the only layer that this step is for; None for a step of all layers.
        text_index: number of each live token among its row's own, -1 for prompt vectors, [B, S]; models that turn
            patches by their places need it. None where there are prompt vectors alone.
        images: facts of images among the live tokens; None where they are treated like tokens.
        is_for_keys: the pass ends, by `KeysMade`, as soon as its first attention has keys and values to keep.
    """

    positions: Tensor
    valid: Tensor
    branch: Tensor | None = None
    memory: Sequence[Columns] = ()
    key_values: dict[int, tuple[Tensor, Tensor]] | None = None
    shares: dict[int, Tensor] | None = None
    cross_columns: Columns | None = None
    bias: Callable[[Tensor], Tensor] | None = None
    is_packed: bool = False
    layer: int | None = None
    text_index: Tensor | None = None
    images: Images | None = None
    is_for_keys: bool = False
    _masks: dict[MaskKind, Tensor] = field(default_factory=dict)

    def mask(self, window: int | None, num_groups: int, dtype: torch.dtype, is_causal: bool = True) -> Tensor:
        """The additive mask, 0 or minus infinity plus the bias of distances; computed once for each kind of mask.

        [B, 1, G*S, M+S], or [B, H, S, M+S] where heads differ in their bias. It is additive because kernels would
        convert a boolean mask in every layer.
        """
        key = (window, num_groups, is_causal)
        if key not in self._masks:
            num_rows, num_live = self.positions.shape
            if self.has_live_columns:
                visible = self.memory[0].valid[:, None, :]
                if window is not None:
                    visible = visible & (-self._distances() < window)
                self._masks[key] = self._additive(visible, num_groups, dtype)
                return self._masks[key]
            live = torch.ones(num_live, num_live, dtype=torch.bool, device=self.positions.device)
            live = live.tril() if is_causal else live
            if self.images is not None and self.images.number is not None:
                number = self.images.number
                live = live | ((number[:, None, :] == number[:, :, None]) & (number[:, None, :] >= 0))
            live = live & self.valid[:, None, :]
            if self.branch is not None:
                live = live & ((self.branch[:, None, :] == 0) | (self.branch[:, None, :] == self.branch[:, :, None]))
            blocks = [part.valid[:, None, :].expand(num_rows, num_live, -1) for part in self.memory]
            visible = torch.cat([*blocks, live], dim=2)
            if window is not None:
                # An encoder's window is as wide on both sides.
                distance = -self._distances()
                visible = visible & ((distance if is_causal else distance.abs()) < window)
            # Padding attends to itself: a row of the softmax without any key would be NaN in some kernels.
            diagonal = torch.eye(num_live, dtype=torch.bool, device=visible.device)
            visible[:, :, -num_live:] |= diagonal
            self._masks[key] = self._additive(visible, num_groups, dtype)
        return self._masks[key]

    def _additive(self, visible: Tensor, num_groups: int, dtype: torch.dtype) -> Tensor:
        mask = torch.zeros(visible.shape, dtype=dtype, device=visible.device).masked_fill_(~visible, float("-inf"))
        mask = mask.repeat(1, num_groups, 1).unsqueeze(1)
        return mask if self.bias is None else mask + self.bias(self._distances())

    @property
    def has_live_columns(self) -> bool:
        """Whether live tokens are among the memory's columns."""
        return bool(self.memory) and self.memory[0].ends is not None

    @property
    def mask_kinds(self) -> list[MaskKind]:
        """The kinds of masks that layers have used."""
        return list(self._masks)

    def is_plain(self, window: int | None, query: Tensor) -> bool:
        """Whether a kernel for causal attention without a mask computes the same for every valid token.

        Such kernels are faster on long inputs and store nothing of size S x S. Results at padding are meaningless.
        """
        is_alone = not self.memory and self.branch is None and self.bias is None and window is None
        is_alone = is_alone and (self.images is None or self.images.number is None)
        device, length = query.device.type, self.positions.shape[1]
        has_kernel = device in FUSED and length >= FUSED[device] and (device == "cpu" or query.dtype in HALF)
        return is_alone and self.is_packed and has_kernel

    def cross_mask(self, dtype: torch.dtype) -> Tensor:
        """The additive mask of cross-attention, [B, 1, 1, L]: everything but padding."""
        assert self.cross_columns is not None
        valid = self.cross_columns.valid[:, None, None, :]
        return torch.zeros(valid.shape, dtype=dtype, device=valid.device).masked_fill_(~valid, float("-inf"))

    def weighted(self, mask: Tensor, layer: int) -> Tensor:
        """The mask with the logarithms of a layer's column weights added, so that they multiply the softmax's terms."""
        if all(part.weights is None for part in self.memory):
            return mask
        num_rows, num_live = self.positions.shape
        column_weights = [
            mask.new_ones(num_rows, part.valid.shape[1])
            if part.weights is None
            else part.weights[layer].to(mask).expand(num_rows, -1)
            for part in self.memory
        ]
        if not self.has_live_columns:
            column_weights.append(mask.new_ones(num_rows, num_live))
        return mask + torch.cat(column_weights, dim=1).log()[:, None, None, :]

    def _distances(self) -> Tensor:
        """Positions of columns less those of live tokens, [B, S, M+S]."""
        column_positions = [part.positions.expand(len(self.positions), -1) for part in self.memory]
        if not self.has_live_columns:
            column_positions.append(self.positions)
        return torch.cat(column_positions, dim=1)[:, None, :] - self.positions[:, :, None]
