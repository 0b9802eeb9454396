"""One attention function for every family: this layer's memory in front of the keys, then the library's kernel.

transformers calls the function by name from each attention module and hands through the keyword ``overture``.
Without it the function computes what the library would, so a model that we loaded stays usable as it is.

Shape letters: B rows, S live tokens, M memory columns, H key/value heads, G query heads for each of them, K head width,
R memories that the B rows share, Q queries: G*S.
"""

from collections.abc import Callable, Iterable, Sequence
from contextvars import ContextVar
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from overture.engine.joined import Joined
from overture.engine.step import Columns, KeysMade, Step

NAME = "overture"
READS = "reads_encoder"
"""Marks a decoder's cross-attentions."""
FULL_COLUMNS = 160
"""Up to so many columns a CPU's bfloat16 kernel is so slow in the backward pass (2 times float32's time at 70 columns,
0.8 times at 260) that attention is computed in float32, casts included."""
LONG_COLUMNS = 96
"""From so many columns on, training on a CPU is faster where those that nothing trains have products of their own: in
float32 1.2 to 1.4 times at 120 columns, 1.5 to 1.7 at 600; in bfloat16 1.2 to 1.5 and 2.4 to 2.7."""

SHARED_COLUMNS = 96
"""From so many columns on that all rows share, reading on a CPU is faster where they are not copied in front of each
row's own: ViT-S with 100 columns 1.03 to 1.08 times, SmolLM2 with 600 columns and short texts 1.36 times; with 100 and
texts it is as fast either way."""


def _additive_mask(mask: Tensor | None, query: Tensor, key: Tensor) -> Tensor:
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


def _library_attention(
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
    mask = _additive_mask(attention_mask, query, key).repeat(1, 1, num_groups, 1)
    out = _shares(_stacked(query, key), key, mask, scaling, softcap) @ value
    return out.reshape(query.shape).transpose(1, 2).contiguous()


def _stacked(query: Tensor, key: Tensor) -> Tensor:
    """Query heads that share a key/value head as more queries of it: [B, H, G*S, K]."""
    num_rows, num_heads, num_live, width = query.shape
    num_groups = num_heads // key.shape[1]
    return query.reshape(num_rows, key.shape[1], num_groups * num_live, width)


def _with_memory(memory: Sequence[Columns], layer: int, live: Tensor, which: str) -> Tensor:
    if memory and memory[0].room is not None:
        return _append_in_place(memory[0], layer, live, which)
    parts = [getattr(part, which)[layer].to(live.dtype).expand(live.shape[0], -1, -1, -1) for part in memory]
    return torch.cat([*parts, live], dim=2) if parts else live


def _append_in_place(part: Columns, layer: int, live: Tensor, which: str) -> Tensor:
    """Memory columns followed by the live ones, which are written into the buffer behind the memory."""
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


def _has_long_frozen_columns(step: Step, layer: int, query: Tensor) -> bool:
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


def _is_read_apart(step: Step, layer: int, query: Tensor, key: Tensor, value: Tensor, window: int | None) -> bool:
    """Whether all rows read a long memory that is one and the same for all, and nothing is trained."""
    parts, num_rows = step.memory, len(query)
    num_columns = sum(part.keys[layer].shape[2] for part in parts)
    if query.device.type != "cpu" or num_rows == 1 or num_columns < SHARED_COLUMNS or torch.compiler.is_compiling():
        return False
    is_plain = step.shares is None and step.bias is None and window is None and not step.has_live_columns
    return (
        is_plain
        and all(part.num_memories(layer) == 1 and part.room is None and part.weights is None for part in parts)
        and not _is_trained(query, key, value, *(kept[layer] for part in parts for kept in (part.keys, part.values)))
        and all(bool(part.valid.all()) for part in parts)
    )


def _attention_apart(
    step: Step, layer: int, query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scaling: float | None
) -> Tensor:
    """Attention to the memory and to the live tokens, each by the kernel, as their mean by sums of exponentials.

    The memory is there once: all rows' queries are queries of one row. The kernel's second result is the logarithm of
    the sum that its softmax divided by, by which two softmaxes are joined exactly (Milakov and Gimelshein 2018).

    Args:
        step: the memory.
        layer: which layer's.
        query: [B, H, Q, K].
        key: of the live tokens, [B, H, S, K].
        value: as the keys.
        mask: numbers added to the logits, [B or 1, 1, Q, M+S]; none hides a column of the memory.
        scaling: of the products; ``K ** -0.5`` when None.
    """
    kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    num_rows, num_heads, num_queries, width = query.shape
    live, live_sums = kernel(query, key, value, attn_mask=mask[..., -key.shape[2] :], scale=scaling)
    folded = query.transpose(0, 1).reshape(1, num_heads, num_rows * num_queries, width)
    keys, values = [
        torch.cat([getattr(part, which)[layer].to(query.dtype) for part in step.memory], dim=2)
        for which in ("keys", "values")
    ]
    memory, memory_sums = kernel(folded, keys, values, scale=scaling)
    memory = memory.view(num_heads, num_rows, num_queries, width).transpose(0, 1)
    memory_sums = memory_sums.view(num_heads, num_rows, num_queries).transpose(0, 1)
    share = torch.sigmoid(live_sums - memory_sums).unsqueeze(3)
    return torch.lerp(memory, live, share.to(query.dtype))


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
        softcap: the limit that no logit exceeds, where the family caps them.
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
    *memory_weights, live_weights = torch.split(
        weights, [*(part_keys.shape[2] for part_keys in keys), key.shape[2]], dim=3
    )
    out = live_weights @ value
    for part, part_weights in zip(step.memory, memory_weights, strict=True):
        values = part.values[layer].to(query.dtype)
        out = out + _unfolded(_folded(part_weights, part, len(values)) @ values, part, num_rows)
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
    overture: Step | Joined | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention over memory and live tokens; the signature is transformers' attention interface.

    Query heads that share a key/value head are stacked as more queries, so keys and values are never repeated.
    """
    overture = _step_beside.get() if overture is None else overture
    if isinstance(overture, Joined):
        options = {"scaling": scaling, "sliding_window": sliding_window, "softcap": softcap, **kwargs}
        return overture.attended(partial(attention, module, attention_mask=None, **options), query, key, value), None
    if overture is None:
        return _library_attention(module, query, key, value, attention_mask, scaling, softcap, **kwargs), None
    layer = int(module.layer_idx) if overture.layer is None else overture.layer  # type: ignore[arg-type]
    if getattr(module, READS, False):
        return _cross_attention(query, overture, layer, scaling), None
    if overture.key_values is not None:
        overture.key_values[layer] = (key, value)
        if overture.is_for_keys:
            raise KeysMade
    num_groups = query.shape[1] // key.shape[1]
    # Each attention module has this attribute; the library's own kernels read it too.
    is_causal = bool(getattr(module, "is_causal", True))
    if is_causal and softcap is None and overture.is_plain(sliding_window, query):
        out = torch.nn.functional.scaled_dot_product_attention(
            query, key, value, is_causal=True, scale=scaling, enable_gqa=num_groups > 1
        )
        return out.transpose(1, 2).contiguous(), None
    mask = overture.weighted(overture.mask(sliding_window, num_groups, query.dtype, is_causal), layer)
    stacked = _stacked(query, key)
    if softcap is None and _is_read_apart(overture, layer, stacked, key, value, sliding_window):
        out = _attention_apart(overture, layer, stacked, key, value, mask, scaling)
    elif is_shared(overture.memory, layer, len(query)) or _has_long_frozen_columns(overture, layer, stacked):
        out = _attention_by_parts(overture, layer, stacked, key, value, mask, scaling, softcap)
    else:
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


def _cross_attention(query: Tensor, step: Step, layer: int, scaling: float | None) -> Tensor:
    """Cross-attention over the keys and values in `Step.cross_columns`; those that the module computed are ignored."""
    assert step.cross_columns is not None
    key, value = [part[layer].to(query.dtype) for part in (step.cross_columns.keys, step.cross_columns.values)]
    # A text that several rows share is there once. Rows take the texts in turn, so the first rows have one of each.
    num_rows, num_texts = len(query), len(key)
    mask = step.cross_mask(query.dtype)[:num_texts]
    folded = _folded(query, step.cross_columns, num_texts)
    if query.device.type == "cpu" and _is_trained(query) and _is_long_and_frozen(key):
        out = _shares(folded, key, mask, scaling, None) @ value
    else:
        out = _scaled_dot_product(folded, key, value, mask, scaling)
    return _unfolded(out, step.cross_columns, num_rows).transpose(1, 2).contiguous()


_step_beside: ContextVar[Step | None] = ContextVar("step", default=None)
"""The step for attention modules that drop unknown keywords; `_call_with_step` sets it while the module runs."""


def _call_with_step(forward: Callable[..., Any], *args: Any, overture: Step | None = None, **keywords: Any) -> Any:
    """Run an attention module that drops unknown keywords: the step goes through `_step_beside`."""
    token = _step_beside.set(overture)
    try:
        return forward(*args, **keywords)
    finally:
        _step_beside.reset(token)


def install(model: Any, layers: Iterable[torch.nn.Module], cross: str = "", drops_keywords: bool = False) -> None:
    """Make a loaded model use this attention; its outputs stay what they were.

    Args:
        model: the model.
        layers: its layers, lowest first; where a family does not number its attentions, they are numbered here.
        cross: name of a layer's cross-attention, if it has one.
        drops_keywords: its attention modules drop the step, so it is passed through a context variable.
    """
    AttentionInterface.register(NAME, attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    model.set_attn_implementation(NAME)
    for number, layer in enumerate(layers):
        for module in layer.modules():
            if hasattr(module, "is_causal") and getattr(module, "layer_idx", None) is None:
                module.layer_idx = number  # type: ignore[assignment]
            # The modules of a copied model have this wrapper already.
            if drops_keywords and hasattr(module, "is_causal") and "forward" not in vars(module):
                module.forward = partial(_call_with_step, module.forward)
        if cross:
            setattr(layer.get_submodule(cross), READS, True)
