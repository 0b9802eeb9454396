"""Long texts in memory have products of their own in training: the same losses and gradients as joined columns."""

import pytest
import torch

from fakes import Case, backbone_of, make_prompt, make_rows
from overture.engine import attention
from overture.engine.cache import InputCache
from overture.engine.prompted import PromptedModel

LENGTHS = (120, 97, 3, 110)
CASES = [
    ("llama", Case("prefix", "after")),
    ("llama", Case("vectors", "after")),
    ("gemma2", Case("prefix", "after")),
    ("gpt2", Case("prefix", "after")),
    ("t5", Case("prefix", "after")),
    ("t5", Case("vectors", "after")),
]


@pytest.mark.parametrize(("family", "case"), CASES, ids=str)
def test_losses_and_gradients_are_those_of_joined_columns(family, case, monkeypatch) -> None:
    backbone = backbone_of(family, torch.float64)
    prompt, rows = make_prompt(case, backbone), make_rows("several tokens", LENGTHS)
    found, kernels = [], []
    monkeypatch.setattr(
        torch.nn.functional, "scaled_dot_product_attention", counting(kernels, attention.torch.nn.functional)
    )
    for least in (96, 10**9):
        monkeypatch.setattr(attention, "LONG_COLUMNS", least)
        model = PromptedModel(backbone, prompt, InputCache(1 << 26))
        # Texts run first, by themselves: what is counted is training alone.
        model.loss(rows)
        kernels.clear()
        loss = model.loss(rows)
        found.append((loss, *torch.autograd.grad(loss, list(model.trainable().values())), len(kernels)))
    (*own, num_own), (*joined, num_joined) = found
    torch.testing.assert_close(own, joined, rtol=1e-9, atol=1e-9)
    if family != "gemma2":
        # Gemma 2 caps its logits, which no kernel does.
        assert num_own < num_joined


def counting(calls: list[int], functional):
    kernel = functional.scaled_dot_product_attention

    def counted(*args, **named):
        calls.append(1)
        return kernel(*args, **named)

    return counted
