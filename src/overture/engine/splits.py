"""The gradient of the loss with respect to the split of vectors around an input.

With the split s as a one-hot vector z, the live tokens are x = sum_s z[s] x_s, where x_s are the tokens in the order
that split s gives them. All x_s have the same length, so only the one that is chosen runs, and dL/dz[s] = <dL/dx, x_s>.

Shape letters: S live tokens, L input tokens, P prompt length, D width.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from overture.core.injection import Injection
from overture.core.rows import Encoded


def with_splits(live: Tensor, rows: Sequence[Encoded], injections: Sequence[Injection | None]) -> Tensor:
    """The same live tokens, [B, S, D], through which gradients reach the splits that require them."""
    splits = [injection.vectors.split if injection and injection.vectors else None for injection in injections]
    if not any(split is not None and split.requires_grad for split in splits):
        return live
    facts = zip(live, splits, rows, strict=True)
    apply_split: Any = _Split.apply
    return torch.stack([vectors if s is None else apply_split(vectors, s, row.num_input) for vectors, s, row in facts])


class _Split(torch.autograd.Function):
    """One row's live tokens, [S, D], which the split, [P + 1], has put in order."""

    @staticmethod
    def forward(ctx: Any, live: Tensor, split: Tensor, num_text: int) -> Tensor:
        ctx.save_for_backward(live, split)
        ctx.num_text = num_text
        return live.view_as(live)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        (grad,), (live, split) = grads, ctx.saved_tensors
        length = len(split) - 1
        orders = torch.stack([_order(front, length, ctx.num_text) for front in range(length + 1)]).to(live.device)
        num_moved = orders.shape[1]
        # [S, S]: the gradient at a place times each element; elements are in the order of the present split.
        products = grad[:num_moved] @ live[:num_moved].T
        place_of = orders[int(split.argmax())].argsort()
        place = torch.arange(num_moved, device=live.device)
        return grad, products[place, place_of[orders]].sum(1).to(split.dtype), None


def _order(num_before: int, length: int, num_text: int) -> Tensor:
    """The number of the element at each place: vectors are numbered first, then the text."""
    vectors, text = torch.arange(length), torch.arange(length, length + num_text)
    return torch.cat([vectors[:num_before], text, vectors[num_before:]])
