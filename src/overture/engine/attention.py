"""One attention function for every family: this layer's memory in front of the keys, then the library's kernel.

transformers calls the function by name from each attention module and hands through the keyword ``overture``.
Without it the function computes what the library would, so a model that we loaded stays usable as it is.

Shape letters: B rows, S live tokens, M memory columns, H key/value heads, G query heads for each of them, K head width,
R memories that the B rows share, Q queries: G*S.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "overture"
FUSED = {"cuda": 0, "cpu": 512}
"""Devices whose causal kernels are used, from how many live tokens on. Shorter batches on a CPU go through one kernel,
whatever stands in them, bit for bit; the other would save them little."""
HALF = (torch.bfloat16, torch.float16)
"""Data types of a GPU's fast kernels."""
READS = "reads_encoder"
"""Marks a decoder's cross-attentions."""
FULL_COLUMNS = 160
"""Up to so many columns a CPU's bfloat16 kernel is so slow in the backward pass (2 times float32's time at 70 columns,
0.8 times at 260) that attention is computed in float32, casts included."""
LONG_COLUMNS = 96
"""From so many columns on, training on a CPU is faster where those that nothing trains have products of their own: in
float32 1.2 to 1.4 times at 120 columns, 1.5 to 1.7 at 600; in bfloat16 1.2 to 1.5 and 2.4 to 2.7."""
MaskKind = tuple[int | None, int, bool]
"""Of a mask: its window, how many query heads share a key head, whether it is causal."""


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
        room: by layer the two buffers [B, H, more than M, K] of which keys and values are the beginning; what is live
            behind these columns is written there instead of copying the columns. For use without gradients.
        ends: for rows of one live token each, and of unlike length, the index in their room where it is written, [B];
            then it is one of the columns, in positions, valid and weights too.
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
        """Those of some rows, cut to a length."""
        parts = [None if part is None else part[indices, :length] for part in (self.number, self.shifts)]
        return Images(*parts)


class KeysMade(Exception):
    """Ends a pass of one layer where its keys and values are all that was wanted."""


@dataclass(slots=True)
class Step:
    """The arguments that one forward pass hands to the attention function.

    Args:
        positions: of the live tokens, [B, S].
        valid: False for padding, [B, S].
        branch: 0 for the trunk; tokens of one branch see the trunk and themselves, not other branches. [B, S]
        memory: columns before the live tokens, in order.
        kept: per layer the live tokens' keys and values, filled in when it is a dict.
        shares: per layer the attention that live tokens give to columns and live tokens, [B, H*G, S, M+S], filled in
            when it is a dict; of a step that is not packed.
        read: columns that a decoder's cross-attention reads: its encoder's output; set by the pass that runs the step.
        bias: from distances of columns to live tokens, [B, S, M+S], to what is added to the logits, [B, H, S, M+S];
            set likewise.
        is_packed: in each row all padding stands behind what is valid, so causal kernels need no mask for it.
        layer: what the one layer that this step is for is called in it; None for a step of all layers.
        text_index: number of each live token among its row's own, -1 for prompt vectors, [B, S]; models that turn
            patches by their places need it. None where there are prompt vectors alone.
        images: parts of images among the live tokens; None where they are as tokens are.
        is_for_keys: the pass ends, by `KeysMade`, as soon as its first attention has keys and values to keep.
    """

    positions: Tensor
    valid: Tensor
    branch: Tensor | None = None
    memory: Sequence[Columns] = ()
    kept: dict[int, tuple[Tensor, Tensor]] | None = None
    shares: dict[int, Tensor] | None = None
    read: Columns | None = None
    bias: Callable[[Tensor], Tensor] | None = None
    is_packed: bool = False
    layer: int | None = None
    text_index: Tensor | None = None
    images: Images | None = None
    is_for_keys: bool = False
    _masks: dict[MaskKind, Tensor] = field(default_factory=dict)

    def mask(self, window: int | None, num_groups: int, dtype: torch.dtype, is_causal: bool = True) -> Tensor:
        """Who may attend to whom, 0 or minus infinity, and the bias of distances; made once per window width.

        [B, 1, G*S, M+S], or [B, H, S, M+S] where heads differ in their bias.

        Additive, since kernels would turn truth values into numbers anew in every layer.
        """
        key = (window, num_groups, is_causal)
        if key not in self._masks:
            num_rows, num_live = self.positions.shape
            if self.has_live_columns:
                seen = self.memory[0].valid[:, None, :]
                if window is not None:
                    seen = seen & (-self._distances() < window)
                self._masks[key] = self._added(seen, num_groups, dtype)
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
            seen = torch.cat([*blocks, live], dim=2)
            if window is not None:
                # An encoder's window is as wide on both sides.
                distance = -self._distances()
                seen = seen & ((distance if is_causal else distance.abs()) < window)
            # Padding attends to itself: a row of the softmax without any key would be NaN in some kernels.
            itself = torch.eye(num_live, dtype=torch.bool, device=seen.device)
            seen[:, :, -num_live:] |= itself
            self._masks[key] = self._added(seen, num_groups, dtype)
        return self._masks[key]

    def _added(self, seen: Tensor, num_groups: int, dtype: torch.dtype) -> Tensor:
        added = torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill_(~seen, float("-inf"))
        added = added.repeat(1, num_groups, 1).unsqueeze(1)
        return added if self.bias is None else added + self.bias(self._distances())

    @property
    def has_live_columns(self) -> bool:
        """Whether live tokens are among the memory's columns."""
        return bool(self.memory) and self.memory[0].ends is not None

    @property
    def mask_kinds(self) -> list[MaskKind]:
        """The masks that were asked for."""
        return list(self._masks)

    def is_plain(self, window: int | None, query: Tensor) -> bool:
        """Whether a kernel for causal attention, without any mask, gives every valid token what it should see.

        Those are faster on long inputs and keep nothing of the size S x S. Padding sees tokens instead of itself; what
        becomes of padding is meaningless anyway.
        """
        is_alone = not self.memory and self.branch is None and self.bias is None and window is None
        is_alone = is_alone and (self.images is None or self.images.number is None)
        device, length = query.device.type, self.positions.shape[1]
        is_served = device in FUSED and length >= FUSED[device] and (device == "cpu" or query.dtype in HALF)
        return is_alone and self.is_packed and is_served

    def mask_of_read(self, dtype: torch.dtype) -> Tensor:
        """The same for what cross-attention reads, [B, 1, 1, L]: everything but padding."""
        assert self.read is not None
        valid = self.read.valid[:, None, None, :]
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


def _additive(mask: Tensor | None, query: Tensor, key: Tensor) -> Tensor:
    """The library's mask as numbers to add, [B or 1, 1, S, M+S]; None is its shorthand for a causal one."""
    num_live, num_columns = query.shape[2], key.shape[2]
    if mask is None:
        # A single token sees all; otherwise the first query is at the first column, as in SDPA.
        full = torch.ones(1, 1, num_live, num_columns, dtype=torch.bool, device=query.device)
        mask = full.tril() if num_live > 1 else full
    if mask.dtype != torch.bool:
        return mask
    # The least number, not minus infinity: padding sees nothing, and its NaN would reach other tokens as 0 * NaN.
    least = torch.finfo(query.dtype).min
    return torch.zeros(mask.shape, dtype=query.dtype, device=mask.device).masked_fill_(~mask, least)


def _shares(query: Tensor, key: Tensor, mask: Tensor, scaling: float | None, softcap: float | None) -> Tensor:
    """Softmax of the products, [B, H, Q, M+S], their logits squashed into ``softcap * (-1, 1)`` as Gemma 2 does it.

    Args:
        query: [B, H, Q, K].
        key: [B, H, M+S, K].
        mask: numbers added to the logits, [B or 1, 1, Q, M+S].
        scaling: of the products; ``K ** -0.5`` when None.
        softcap: the limit that no logit exceeds, where the family caps them.
    """
    logits = query @ key.transpose(2, 3) * (query.shape[3] ** -0.5 if scaling is None else scaling)
    if softcap is not None:
        logits = torch.tanh(logits / softcap) * softcap
    return (logits + mask).softmax(dim=-1, dtype=torch.promote_types(logits.dtype, torch.float32)).to(query.dtype)


def _alone(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None,
    softcap: float | None,
    **kwargs: Any,
) -> Tensor:
    """Attention as the library computes it for the unchanged model: [B, S, H*G, K]."""
    if softcap is None:
        out, _ = sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
        return out
    num_groups = query.shape[1] // key.shape[1]
    mask = _additive(attention_mask, query, key).repeat(1, 1, num_groups, 1)
    out = _shares(_stacked(query, key), key, mask, scaling, softcap) @ value
    return out.reshape(query.shape).transpose(1, 2).contiguous()


def _stacked(query: Tensor, key: Tensor) -> Tensor:
    """Query heads that share a key/value head as more queries of it: [B, H, G*S, K]."""
    num_rows, num_heads, num_live, width = query.shape
    num_groups = num_heads // key.shape[1]
    return query.reshape(num_rows, key.shape[1], num_groups * num_live, width)


def _with_memory(memory: Sequence[Columns], layer: int, live: Tensor, which: str) -> Tensor:
    if memory and memory[0].room is not None:
        return _written(memory[0], layer, live, which)
    parts = [getattr(part, which)[layer].to(live.dtype).expand(live.shape[0], -1, -1, -1) for part in memory]
    return torch.cat([*parts, live], dim=2) if parts else live


def _written(part: Columns, layer: int, live: Tensor, which: str) -> Tensor:
    """Columns with what is live behind them, in the room that they have there."""
    assert part.room is not None
    buffer = part.room[layer][0 if which == "keys" else 1]
    if part.ends is not None:
        buffer[torch.arange(len(buffer), device=buffer.device), :, part.ends] = live[:, :, 0]
        return buffer[:, :, : part.valid.shape[1]]
    end = part.valid.shape[1] + live.shape[2]
    buffer[:, :, part.valid.shape[1] : end] = live
    return buffer[:, :, :end]


def is_shared(memory: Sequence[Columns], layer: int, num_rows: int) -> bool:
    """Whether some of the rows, but not all, share a memory: each of its parts has products of its own then."""
    return any(1 < part.num_memories(layer) < num_rows for part in memory)


def _keeps_long(step: Step, layer: int, query: Tensor) -> bool:
    """Whether long columns that nothing trains stand before trained tokens.

    With products of their own such columns are not copied behind each other, and get no gradients, which kernels for
    whole attention compute for every column.
    """
    keys = [part.keys[layer] for part in step.memory]
    is_used = query.device.type == "cpu" and step.shares is None and _is_trained(query, *keys)
    return is_used and any(map(_is_long_and_frozen, keys))


def _is_long_and_frozen(keys: Tensor) -> bool:
    return keys.shape[2] >= LONG_COLUMNS and not keys.requires_grad


def _is_trained(*values: Tensor) -> bool:
    return torch.is_grad_enabled() and any(value.requires_grad for value in values)


def _folded(rows: Tensor, part: Columns, num_memories: int) -> Tensor:
    """Fold rows, [B, H, Q, *], into queries of the memory that they share: [R, H, B/R*Q, *]."""
    num_rows, num_heads, num_queries, width = rows.shape
    share = num_rows // num_memories
    if share == 1:
        return rows
    if part.shared == "cycle":
        regrouped = rows.view(share, num_memories, num_heads, num_queries, width).permute(1, 2, 0, 3, 4)
    else:
        regrouped = rows.view(num_memories, share, num_heads, num_queries, width).transpose(1, 2)
    return regrouped.reshape(num_memories, num_heads, share * num_queries, width)


def _unfolded(folded: Tensor, part: Columns, num_rows: int) -> Tensor:
    """The inverse of `_folded`."""
    num_memories, num_heads, _, width = folded.shape
    share = num_rows // num_memories
    if share == 1:
        return folded
    regrouped = folded.view(num_memories, num_heads, share, -1, width)
    regrouped = regrouped.permute(2, 0, 1, 3, 4) if part.shared == "cycle" else regrouped.transpose(1, 2)
    return regrouped.reshape(num_rows, num_heads, -1, width)


def _attention_by_parts(
    step: Step,
    layer: int,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor,
    scaling: float | None,
    softcap: float | None,
) -> Tensor:
    """Attention in which no part of the memory is copied: each has products of its own, all have one softmax.

    Args:
        step: the memory.
        layer: which layer's.
        query: [B, H, Q, K].
        key: of the live tokens, [B, H, S, K].
        value: as the keys.
        mask: numbers added to the logits, [B or 1, 1, Q, M+S].
        scaling: of the products; ``K ** -0.5`` when None.
        softcap: what no logit exceeds, where the family caps them.
    """
    num_rows = query.shape[0]
    query = query * (query.shape[3] ** -0.5 if scaling is None else scaling)
    keys = [part.keys[layer].to(query.dtype) for part in step.memory]
    memory_logits = [
        _unfolded(_folded(query, part, len(part_keys)) @ part_keys.transpose(2, 3), part, num_rows)
        for part, part_keys in zip(step.memory, keys, strict=True)
    ]
    logits = torch.cat([*memory_logits, query @ key.transpose(2, 3)], dim=3)
    if softcap is not None:
        logits = torch.tanh(logits / softcap) * softcap
    weights = (logits + mask).softmax(dim=-1, dtype=torch.promote_types(logits.dtype, torch.float32)).to(query.dtype)
    *shares, last = torch.split(weights, [*(part_keys.shape[2] for part_keys in keys), key.shape[2]], dim=3)
    out = last @ value
    for part, share in zip(step.memory, shares, strict=True):
        values = part.values[layer].to(query.dtype)
        out = out + _unfolded(_folded(share, part, len(values)) @ values, part, num_rows)
    return out


def attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    overture: Step | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention over memory and live tokens; the signature is transformers' attention interface.

    Query heads that share a key/value head are stacked as more queries, so keys and values are never repeated.
    """
    overture = _handed.get() if overture is None else overture
    if overture is None:
        return _alone(module, query, key, value, attention_mask, scaling, softcap, **kwargs), None
    layer = int(module.layer_idx) if overture.layer is None else overture.layer  # type: ignore[arg-type]
    if getattr(module, READS, False):
        return _reading(query, overture, layer, scaling), None
    if overture.kept is not None:
        overture.kept[layer] = (key, value)
        if overture.is_for_keys:
            raise KeysMade
    num_groups = query.shape[1] // key.shape[1]
    # Every attention says so of itself, to the library's own kernels too.
    is_causal = bool(getattr(module, "is_causal", True))
    if is_causal and softcap is None and overture.is_plain(sliding_window, query):
        out = torch.nn.functional.scaled_dot_product_attention(
            query, key, value, is_causal=True, scale=scaling, enable_gqa=num_groups > 1
        )
        return out.transpose(1, 2).contiguous(), None
    mask = overture.weighted(overture.mask(sliding_window, num_groups, query.dtype, is_causal), layer)
    stacked = _stacked(query, key)
    if is_shared(overture.memory, layer, len(query)) or _keeps_long(overture, layer, stacked):
        out = _attention_by_parts(overture, layer, stacked, key, value, mask, scaling, softcap)
        return out.reshape(query.shape).transpose(1, 2).contiguous(), None
    key = _with_memory(overture.memory, layer, key, "keys")
    value = _with_memory(overture.memory, layer, value, "values")
    if overture.shares is not None:
        overture.shares[layer] = _shares(stacked, key, mask, scaling, softcap).reshape(*query.shape[:3], -1)
    # SDPA has no kernel for logits that are capped.
    if softcap is None:
        out = _scaled_dot_product(stacked, key, value, mask, scaling)
    else:
        out = _shares(stacked, key, mask, scaling, softcap) @ value
    return out.reshape(query.shape).transpose(1, 2).contiguous(), None


def _scaled_dot_product(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scaling: float | None) -> Tensor:
    """SDPA with an additive mask, in the data type whose kernels are faster; the result has the query's."""
    kernel = torch.nn.functional.scaled_dot_product_attention
    is_slow = query.dtype == torch.bfloat16 and query.device.type == "cpu" and key.shape[2] <= FULL_COLUMNS
    if not (is_slow and _is_trained(query, key, value)):
        return kernel(query, key, value, attn_mask=mask, scale=scaling)
    return kernel(query.float(), key.float(), value.float(), attn_mask=mask.float(), scale=scaling).to(query.dtype)


def _reading(query: Tensor, step: Step, layer: int, scaling: float | None) -> Tensor:
    """Cross-attention: keys and values are those that the encoder's output has, not those that the module made."""
    assert step.read is not None
    key, value = [part[layer].to(query.dtype) for part in (step.read.keys, step.read.values)]
    # Texts that several rows share are there once; in turn, so the first rows have each of them.
    num_rows, num_texts = len(query), len(key)
    mask = step.mask_of_read(query.dtype)[:num_texts]
    folded = _folded(query, step.read, num_texts)
    if query.device.type == "cpu" and _is_trained(query) and _is_long_and_frozen(key):
        out = _shares(folded, key, mask, scaling, None) @ value
    else:
        out = _scaled_dot_product(folded, key, value, mask, scaling)
    return _unfolded(out, step.read, num_rows).transpose(1, 2).contiguous()


_handed: ContextVar[Step | None] = ContextVar("step", default=None)
"""The step of an attention module that drops it: set while the module runs, see `_handing`."""


def _handing(forward: Callable[..., Any], *args: Any, overture: Step | None = None, **named: Any) -> Any:
    """Run an attention module with the step beside its arguments."""
    token = _handed.set(overture)
    try:
        return forward(*args, **named)
    finally:
        _handed.reset(token)


def install(model: Any, layers: Iterable[torch.nn.Module], cross: str = "", drops_keywords: bool = False) -> None:
    """Make a loaded model use this attention; its outputs stay what they were.

    Args:
        model: the model.
        layers: its layers, lowest first; where a family does not number its attentions, they are numbered here.
        cross: name of a layer's cross-attention, if it has one.
        drops_keywords: its attentions do not hand on the step, so it is handed beside them.
    """
    AttentionInterface.register(NAME, attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    model.set_attn_implementation(NAME)
    for number, layer in enumerate(layers):
        for module in layer.modules():
            if hasattr(module, "is_causal") and getattr(module, "layer_idx", None) is None:
                module.layer_idx = number  # type: ignore[assignment]
            # A copy of a model brings its own such call with it.
            if drops_keywords and hasattr(module, "is_causal") and "forward" not in vars(module):
                module.forward = partial(_handing, module.forward)
        if cross:
            setattr(layer.get_submodule(cross), READS, True)
