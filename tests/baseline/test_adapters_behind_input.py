"""Adapters behind the input, and caches while a model changes."""

from dataclasses import replace

import pytest
import torch
from baseline_requests import make_request

from fakes import (
    Case,
    make_backbone,
    make_prompt,
    make_rows,
)
from overture.core.contracts import Features
from overture.core.errors import BackboneError
from overture.engine.cache import InputCache
from overture.engine.heads import can_have_head
from overture.engine.lora import with_lora
from overture.engine.options import LoraOptions
from overture.engine.prompted import PromptedModel

# -- an adapter behind the input leaves the input to the frozen model


def shaken(backbone):
    with torch.no_grad():
        for value in backbone.inner.values():
            value.add_(0.1 * torch.randn_like(value))
    return backbone


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("kind", ["one token", "several tokens", "free text"])
def test_an_adapter_behind_the_input_is_the_same_with_and_without_kept_texts(family, kind):
    backbone, rows = make_backbone(family, dtype=torch.float64), make_rows(kind)
    adapted = shaken(with_lora(backbone, LoraOptions(rank=2, place="after")))
    outcomes = []
    for cache in (InputCache(1 << 20), None):
        model = PromptedModel(adapted, None, cache)
        model.warm(rows)
        loss = model.loss(rows)
        outcomes.append((loss, torch.autograd.grad(loss, list(adapted.inner.values()))))
        assert cache is None or len(cache) > 0
    torch.testing.assert_close(*outcomes)
    everywhere = shaken(with_lora(backbone, LoraOptions(rank=2)))
    for value, other in zip(everywhere.inner.values(), adapted.inner.values(), strict=True):
        value.data.copy_(other)
    assert not torch.allclose(outcomes[0][0], PromptedModel(everywhere).loss(rows))


def test_an_adapter_behind_the_input_reads_the_frozen_models_keys_and_values():
    backbone, rows = make_backbone("llama"), sorted(make_rows("free text"), key=lambda row: row.num_input)[-1:]
    adapted = shaken(with_lora(backbone, LoraOptions(rank=2, place="after")))
    row = rows[0]
    # The models' own code, with the library's cache between the two.
    past = backbone.model(torch.tensor([row.input_ids]), use_cache=True).past_key_values
    ids = [*row.anchor_ids, *row.target.ids]
    logits = adapted.model(torch.tensor([ids]), past_key_values=past).logits[0]
    start = len(row.anchor_ids) - 1
    expected = torch.nn.functional.cross_entropy(
        logits[start : start + len(row.target.ids)], torch.tensor(row.target.ids), reduction="sum"
    )
    torch.testing.assert_close(PromptedModel(adapted).loss(rows), expected)


@pytest.mark.parametrize(("method", "place"), [("prefix", "memory"), ("vectors", "before"), ("idpg", "before")])
def test_an_adapter_behind_the_input_refuses_prompts_that_change_the_input(method, place):
    backbone, rows = make_backbone("llama"), make_rows("one token")
    adapted = with_lora(backbone, LoraOptions(rank=2, place="after"))
    model = PromptedModel(adapted, make_prompt(Case(method, place), backbone))
    with pytest.raises(BackboneError, match="would change the input"):
        model.loss(rows)


def test_states_of_a_text_are_not_those_of_an_adapter_behind_it():
    backbone, rows = make_backbone("llama"), make_rows("one token")
    model = PromptedModel(with_lora(backbone, LoraOptions(rank=2, place="after")))
    with pytest.raises(BackboneError, match="states of a text"):
        model.ask(rows, Features(is_mean=True))
    row = replace(rows[0], slots=())
    assert not can_have_head(None, model.backbone, row)
    assert can_have_head(None, backbone, row)


@pytest.mark.parametrize("family", ["bert", "bart"])
def test_an_adapter_behind_the_input_needs_a_decoder(family):
    with pytest.raises(BackboneError, match="needs a decoder"):
        with_lora(make_backbone(family), LoraOptions(place="after"))


def test_one_cache_serves_the_model_and_an_adapter_behind_the_input():
    request = make_request("llama")
    cache, rows = InputCache(1 << 20), request.rows["train"]
    PromptedModel(request.backbone, None, cache).warm(rows)
    num_kept = len(cache)
    adapted = with_lora(request.backbone, LoraOptions(rank=2, place="after"))
    for _ in range(2):
        PromptedModel(adapted, None, cache).loss(rows)
        shaken(adapted)
    assert len(cache) == num_kept


# -- nothing is kept of inputs while the model changes


@pytest.mark.parametrize("checkpointing", [False, True])
def test_prompt_behind_the_input_gives_the_adapter_its_whole_gradient(checkpointing):
    backbone = make_backbone("llama")
    adapted = with_lora(backbone, LoraOptions(rank=2))
    prompt, rows = make_prompt(Case("prefix", "after"), backbone), make_rows("several tokens")
    with torch.no_grad():
        for value in adapted.inner.values():
            value.add_(0.1 * torch.randn_like(value))
    model = PromptedModel(adapted, prompt, InputCache(1 << 20))
    model.warm(rows)
    with adapted.checkpointing(checkpointing):
        model.loss(rows).backward()
    assert len(model.cache) == 0
    name, value = next(iter(adapted.inner.items()))
    for step in (1e-3,):
        with torch.no_grad():
            direction = value.grad / value.grad.norm()
            value.add_(step * direction)
            up = float(model.loss(rows))
            value.sub_(2 * step * direction)
            down = float(model.loss(rows))
        assert (up - down) / (2 * step) == pytest.approx(float(value.grad.norm()), rel=2e-2), name


def test_a_cache_is_of_one_model_in_one_state():
    request = make_request("llama")
    cache, adapted = InputCache(1 << 20), with_lora(request.backbone, LoraOptions(rank=2))
    adapted.freeze()
    rows = request.rows["train"]
    PromptedModel(adapted, None, cache).warm(rows)
    assert len(cache) > 0
    with pytest.raises(AssertionError, match="another"):
        PromptedModel(request.backbone, None, cache).warm(rows)
    with torch.no_grad():
        next(iter(adapted.inner.values())).add_(1.0)
    with pytest.raises(AssertionError, match="changed"):
        PromptedModel(adapted, None, cache).label_scores(rows)
