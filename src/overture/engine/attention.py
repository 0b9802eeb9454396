"""One attention function for every family: this layer's memory in front of the keys, then the library's kernel.

transformers calls the function by name from each attention module and hands through the keyword ``overture``.
Without it the function is plain SDPA, so a model that we loaded stays usable as it is.

Shape letters: B rows, S live tokens, M memory columns, H key/value heads, G query heads for each of them, K head width.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "overture"


@dataclass(frozen=True, slots=True)
class Columns:
    """Keys and values that live tokens attend to and that this step does not compute.

    Args:
        keys: per layer [B or 1, H, M, K].
        values: per layer [B or 1, H, M, K].
        positions: [B or 1, M], for sliding windows.
        valid: [B or 1, M]; False where a row has no such column.
    """

    keys: Sequence[Tensor]
    values: Sequence[Tensor]
    positions: Tensor
    valid: Tensor


@dataclass(slots=True)
class Step:
    """What one forward pass tells the attention function.

    Args:
        positions: of the live tokens, [B, S].
        valid: False for padding, [B, S].
        branch: 0 for the trunk; tokens of one branch see the trunk and themselves, not other branches. [B, S]
        memory: columns before the live tokens, in order.
        kept: per layer the live tokens' keys and values, filled in when it is a dict.
    """

    positions: Tensor
    valid: Tensor
    branch: Tensor | None = None
    memory: Sequence[Columns] = ()
    kept: dict[int, tuple[Tensor, Tensor]] | None = None
    _masks: dict[tuple[int | None, int], Tensor] = field(default_factory=dict)

    def mask(self, window: int | None, num_groups: int, dtype: torch.dtype) -> Tensor:
        """Who may attend to whom, 0 or minus infinity: [B, 1, G*S, M+S]; made once per window width.

        Additive, since kernels would turn truth values into numbers anew in every layer.
        """
        key = (window, num_groups)
        if key not in self._masks:
            seen = self._seen(window)
            added = torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill_(~seen, float("-inf"))
            self._masks[key] = added.repeat(1, num_groups, 1).unsqueeze(1)
        return self._masks[key]

    def _seen(self, window: int | None) -> Tensor:
        num_rows, num_live = self.positions.shape
        live = torch.ones(num_live, num_live, dtype=torch.bool, device=self.positions.device).tril()
        live = live & self.valid[:, None, :]
        if self.branch is not None:
            live = live & ((self.branch[:, None, :] == 0) | (self.branch[:, None, :] == self.branch[:, :, None]))
        blocks = [part.valid[:, None, :].expand(num_rows, num_live, -1) for part in self.memory]
        seen = torch.cat([*blocks, live], dim=2)
        if window is not None:
            at = [part.positions.expand(num_rows, -1) for part in self.memory]
            columns = torch.cat([*at, self.positions], dim=1)
            seen = seen & (self.positions[:, :, None] - columns[:, None, :] < window)
        # Padding attends to itself: a row of the softmax without any key would be NaN in some kernels.
        itself = torch.eye(num_live, dtype=torch.bool, device=seen.device)
        seen[:, :, -num_live:] |= itself
        return seen


def _with_memory(memory: Sequence[Columns], layer: int, own: Tensor, which: str) -> Tensor:
    parts = [getattr(part, which)[layer].to(own.dtype).expand(own.shape[0], -1, -1, -1) for part in memory]
    return torch.cat([*parts, own], dim=2) if parts else own


def attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    overture: Step | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention over memory and live tokens; the signature is transformers' attention interface.

    Query heads that share a key/value head are stacked as more queries, so keys and values are never repeated.
    """
    if overture is None:
        out, _ = sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
        return out, None
    layer = int(module.layer_idx)  # type: ignore[arg-type]
    if overture.kept is not None:
        overture.kept[layer] = (key, value)
    key = _with_memory(overture.memory, layer, key, "keys")
    value = _with_memory(overture.memory, layer, value, "values")
    num_rows, num_heads, num_live, width = query.shape
    num_groups = num_heads // key.shape[1]
    out = torch.nn.functional.scaled_dot_product_attention(
        query.reshape(num_rows, key.shape[1], num_groups * num_live, width),
        key,
        value,
        attn_mask=overture.mask(sliding_window, num_groups, query.dtype),
        scale=scaling,
    )
    out = out.reshape(num_rows, num_heads, num_live, width)
    return out.transpose(1, 2).contiguous(), None


def install(model: Any) -> None:
    """Make a loaded model use this attention; its outputs stay what they were."""
    AttentionInterface.register(NAME, attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    model.set_attn_implementation(NAME)
