"""Counted operations against torch's own counter, and what must cost nothing."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from fakes import backbone_of, make_backbone
from overture.core.types import Encoded, Injection, LayerMemory, Memory, Vectors
from overture.engine import InputCache, PromptedModel
from overture.engine.operations import counted

ROWS = [Encoded(n, tuple(range(10 + n, 40 + n)), (5, 6), answer_ids=(7, 8, 9)) for n in range(4)]


def prompt(backbone, place: str) -> Injection:
    info = backbone.info
    if place == "before":
        return Injection(Vectors(torch.randn(5, info.hidden_size, requires_grad=True), "before"))
    shape = (info.num_layers, info.num_kv_heads, 5, info.head_dim)
    return Injection(
        memory=Memory(LayerMemory(*(torch.randn(shape, requires_grad=True) for _ in "kv")), place)  # type: ignore[arg-type]
    )


@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen3"])
@pytest.mark.parametrize("place", ["before", "memory"])
def test_against_torchs_counter(family: str, place: str) -> None:
    backbone = backbone_of(family)
    model = PromptedModel(backbone, prompt(backbone, place))
    with counted(backbone) as found:
        forward = model.log_loss(ROWS)
        after_forward = found.flops
        model.loss(ROWS)
        both = found.flops - after_forward
    assert not forward.requires_grad
    # torch's counter does not know the fused attention of the CPU, so attention is taken apart.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as oracle:
        model.log_loss(ROWS)
    assert after_forward == pytest.approx(oracle.get_total_flops(), rel=0.01)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as oracle:
        model.loss(ROWS).backward()
    # Below its attention the first layer needs no gradient under a memory; of two or three layers that is seen.
    assert both == pytest.approx(oracle.get_total_flops(), rel=0.01 if place == "before" else 0.1)


def test_positions_and_kept_inputs() -> None:
    backbone = backbone_of("llama")
    kept = PromptedModel(backbone, prompt(backbone, "after"), InputCache())
    with counted(backbone) as found:
        kept.warm(ROWS)
        assert found.positions == sum(len(row.input_ids) for row in ROWS)
        before = found.positions
        kept.loss(ROWS)
        # The anchor, and the answer but for its last token.
        assert found.positions - before == 4 * (2 + 2)


def test_late_prompts_enter_the_upper_layers_only() -> None:
    backbone = backbone_of("llama")
    values = torch.randn(3, backbone.info.hidden_size, requires_grad=True)
    model = PromptedModel(backbone, Injection(Vectors(values, "before", layer=2)), InputCache())
    model.warm(ROWS)
    with counted(backbone) as found:
        model.loss(ROWS)
    # 32 text tokens, 2 of the answer, 3 of the prompt, through one of three layers.
    assert found.positions == pytest.approx(4 * 37 / 3)


def test_trained_weights_cost_a_half_more() -> None:
    backbone = make_backbone("llama")
    model = PromptedModel(backbone, prompt(backbone, "before"))
    with counted(backbone) as frozen:
        model.loss(ROWS)
    backbone.model.requires_grad_(True)
    with counted(backbone) as trained:
        model.loss(ROWS)
    matrices = sum(v.numel() for layer in backbone.layers for v in layer.parameters() if v.dim() > 1)
    assert trained.flops - frozen.flops == pytest.approx(2 * matrices * frozen.positions)


def test_nothing_stays_behind() -> None:
    backbone = backbone_of("llama")
    with counted(backbone) as found:
        pass
    PromptedModel(backbone).log_loss(ROWS)
    assert found.flops == 0
    assert "head" not in vars(backbone)
