"""Counted operations against torch's own counter, and what must cost nothing."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from fakes import SEQ2SEQ, backbone_of, log_loss, make_backbone
from overture.core.injection import Injection, LayerMemory, Memory, Vectors
from overture.core.rows import Answer, Encoded
from overture.engine.cache import InputCache
from overture.engine.operations import count_operations
from overture.engine.prompted import PromptedModel

ROWS = [Encoded.of_ids(n, tuple(range(10 + n, 40 + n)), (5, 6), Answer((7, 8, 9))) for n in range(4)]

SIDES = ("before", "after")


def prompt(backbone, place: str) -> Injection:
    # Of an encoder-decoder only what stands at `after` is the decoder's.
    info = (backbone.encoder or backbone).info if place == "memory" else backbone.info
    if place == "before":
        return Injection(Vectors(torch.randn(5, info.hidden_size, requires_grad=True), "before"))
    shape = (info.num_layers, info.num_kv_heads, 5, info.head_dim)
    return Injection(
        memory=Memory(LayerMemory(*(torch.randn(shape, requires_grad=True) for _ in "kv")), place)  # type: ignore[arg-type]
    )


@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen3", *SEQ2SEQ])
@pytest.mark.parametrize("place", ["before", "memory", "after"])
def test_against_torchs_counter(family: str, place: str) -> None:
    backbone = backbone_of(family)
    model = PromptedModel(backbone, prompt(backbone, place))
    with count_operations(backbone) as found:
        forward = log_loss(model, ROWS)
        after_forward = found.flops
        model.loss(ROWS)
        both = found.flops - after_forward
    assert not forward.requires_grad
    # torch's counter does not know the fused attention of the CPU, so attention is taken apart.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as oracle:
        log_loss(model, ROWS)
    assert after_forward == pytest.approx(oracle.get_total_flops(), rel=0.01)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as oracle:
        model.loss(ROWS).backward()
    # Below its attention the first layer needs no gradient under a memory; of two or three layers that is seen.
    assert both == pytest.approx(oracle.get_total_flops(), rel=0.1)


def test_positions_and_kept_inputs() -> None:
    backbone = backbone_of("llama")
    kept = PromptedModel(backbone, prompt(backbone, "after"), InputCache())
    with count_operations(backbone) as found:
        kept.warm(ROWS)
        assert found.positions == sum(len(row.input_ids) for row in ROWS)
        before = found.positions
        kept.loss(ROWS)
        # The anchor, and the answer but for its last token.
        assert found.positions - before == 4 * (2 + 2)


@pytest.mark.parametrize(
    ("family", "num_encoder", "num_decoder", "width", "num_maps"),
    [("t5", 3, 3, 32, 2), ("t5 gated", 4, 2, 40, 3), ("bart", 3, 2, 32, 2)],
)
def test_texts_of_encoder_decoders_cost_their_encoder_once(
    family: str, num_encoder: int, num_decoder: int, width: int, num_maps: int
) -> None:
    backbone = backbone_of(family)
    # The start tokens, and the answer but for its last token.
    num_live = len(backbone.info.start_ids) + 2
    at_before, at_after = [PromptedModel(backbone, prompt(backbone, place), InputCache()) for place in SIDES]
    with count_operations(backbone) as found:
        at_before.loss(ROWS)
    assert found.layer_positions == 4 * ((32 + 5) * num_encoder + num_live * num_decoder)
    assert found.positions == found.layer_positions / (num_encoder + num_decoder)
    with count_operations(backbone) as kept:
        at_after.warm(ROWS)
    assert kept.layer_positions == 4 * 32 * num_encoder
    # Four maps of attention, those behind it, and two for each decoder layer to what it reads; the hidden size is 32.
    matrices = (4 * 32 * width + num_maps * 32 * 48) * num_encoder + 2 * 32 * width * num_decoder
    assert kept.flops == 4 * 32 * (2 * matrices + 4 * width * 32 * num_encoder)
    with count_operations(backbone) as found:
        at_after.loss(ROWS)
    assert found.layer_positions == 4 * num_live * num_decoder


def test_late_prompts_enter_the_upper_layers_only() -> None:
    backbone = backbone_of("llama")
    values = torch.randn(3, backbone.info.hidden_size, requires_grad=True)
    model = PromptedModel(backbone, Injection(Vectors(values, "before", layer=2)), InputCache())
    model.warm(ROWS)
    with count_operations(backbone) as found:
        model.loss(ROWS)
    # 32 text tokens, 2 of the answer, 3 of the prompt, through one of three layers.
    assert found.positions == pytest.approx(4 * 37 / 3)


def test_trained_weights_cost_a_half_more() -> None:
    backbone = make_backbone("llama")
    model = PromptedModel(backbone, prompt(backbone, "before"))
    with count_operations(backbone) as frozen:
        model.loss(ROWS)
    backbone.model.requires_grad_(True)
    with count_operations(backbone) as trained:
        model.loss(ROWS)
    matrices = sum(v.numel() for layer in backbone.layers for v in layer.parameters() if v.dim() > 1)
    assert trained.flops - frozen.flops == pytest.approx(2 * matrices * frozen.positions)


def test_nothing_stays_behind() -> None:
    backbone = backbone_of("llama")
    with count_operations(backbone) as found:
        pass
    log_loss(PromptedModel(backbone), ROWS)
    assert found.flops == 0
    assert {"head", "cross_columns_of"}.isdisjoint(vars(backbone))
