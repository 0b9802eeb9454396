"""The laws in bfloat16 on a CPU, at the tolerance of eight bits; oracles are the same weights in float64."""

import pytest
import torch

from fakes import Case, backbone_of, make_prompt, make_rows
from overture.core.contracts import Losses
from overture.engine import attention
from overture.engine.cache import InputCache
from overture.engine.compiled import compiled_prompt
from overture.engine.prompted import PromptedModel

HALF = torch.bfloat16
LENGTHS = (5, 19, 1, 40)
CASES = [Case("vectors", "before"), Case("vectors", "after"), Case("prefix", "after"), Case("prefix", "memory")]
FAMILIES = ["llama", "gpt2", "gemma3_text", "t5"]
CLOSE = {"rtol": 0.02, "atol": 0.05}


def losses_and_gradients(family, case, dtype, rows, cache=None):
    backbone = backbone_of(family, dtype)
    prompt = make_prompt(case, backbone_of(family, torch.float32))
    model = PromptedModel(backbone, prompt, cache)
    values = list(prompt.trainable().values())
    losses = torch.stack(model.ask(rows, Losses()))
    return losses.detach().double(), [g.double() for g in torch.autograd.grad(losses.sum(), values)]


def relative(ours, theirs) -> float:
    return float(torch.cat([(a - b).flatten() for a, b in zip(ours, theirs, strict=True)]).norm()) / float(
        torch.cat([b.flatten() for b in theirs]).norm()
    )


@pytest.mark.parametrize("is_long", [False, True], ids=["in float32", "in bfloat16"])
@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_losses_and_gradients_are_those_of_float64(family, case, is_long, monkeypatch):
    if is_long:
        monkeypatch.setattr(attention, "FULL_COLUMNS", 0)
    rows = make_rows("one token", LENGTHS)
    losses, gradients = losses_and_gradients(family, case, HALF, rows)
    exact_losses, exact_gradients = losses_and_gradients(family, case, torch.float64, rows)
    torch.testing.assert_close(losses, exact_losses, **CLOSE)
    assert relative(gradients, exact_gradients) < 0.1


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_batches_padding_and_caches_change_little(family, case):
    rows = make_rows("one token", LENGTHS)
    together, gradients = losses_and_gradients(family, case, HALF, rows)
    alone = torch.cat([losses_and_gradients(family, case, HALF, [row])[0] for row in rows])
    torch.testing.assert_close(together, alone, **CLOSE)
    cached, cached_gradients = losses_and_gradients(family, case, HALF, rows, InputCache(1 << 24))
    torch.testing.assert_close(cached, together, **CLOSE)
    assert relative(cached_gradients, gradients) < 0.1


@pytest.mark.parametrize("family", ["llama", "gemma3_text"])
def test_compiled_prompts_answer_alike(family):
    backbone, rows = backbone_of(family, HALF), make_rows("one token", LENGTHS)
    injection = make_prompt(CASES[0], backbone_of(family)).injection()
    live = PromptedModel(backbone, injection).label_scores(rows)
    compiled = PromptedModel(backbone, compiled_prompt(backbone, injection)).label_scores(rows)
    torch.testing.assert_close(compiled.double(), live.double(), **CLOSE)


def test_short_attention_is_trained_in_float32(monkeypatch):
    seen = []
    kernel = torch.nn.functional.scaled_dot_product_attention

    def noting(query, *args, **named):
        seen.append(query.dtype)
        return kernel(query, *args, **named)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", noting)
    rows = make_rows("one token", LENGTHS)
    losses_and_gradients("llama", CASES[0], HALF, rows)
    assert set(seen) == {torch.float32}
    seen.clear()
    PromptedModel(backbone_of("llama", HALF)).label_scores(rows)
    assert set(seen) == {HALF}
