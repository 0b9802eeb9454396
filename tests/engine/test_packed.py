"""Packed matrices give what plain ones give, and leave the model as it is."""

import copy

import pytest
import torch

from fakes import backbone_of
from overture.engine.packed import packed_bytes
from overture.engine.step import Step

FAMILIES = ("llama", "gpt2", "gemma3_text", "opt", "phi3", "bert")


def run(backbone, num_rows: int, num_tokens: int) -> torch.Tensor:
    ids = torch.arange(num_rows * num_tokens).view(num_rows, num_tokens) % 50
    positions = torch.arange(num_tokens).expand(num_rows, -1)
    return backbone.run(backbone.embed(ids), Step(positions, positions >= 0))


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_packed_layers_equal_plain_ones(family):
    backbone = backbone_of(family)
    before = copy.deepcopy(backbone.model.state_dict())
    packed = backbone.with_packed_matrices()
    for num_rows, num_tokens in ((1, 1), (4, 1), (3, 7), (80, 8)):
        hidden = run(backbone, num_rows, num_tokens)
        torch.testing.assert_close(run(packed, num_rows, num_tokens), hidden, rtol=1e-4, atol=1e-5)
        if backbone.has_head:
            torch.testing.assert_close(packed.head(hidden), backbone.head(hidden), rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(packed.head(hidden, torch.tensor([3, 5])), backbone.head(hidden)[..., [3, 5]])
    assert all(torch.equal(value, before[name]) for name, value in backbone.model.state_dict().items())
    assert not any("forward" in vars(module) for module in backbone.model.modules())


def test_half_precision_is_not_packed():
    backbone = backbone_of("llama", torch.bfloat16)
    assert packed_bytes(backbone.layers) == 0
