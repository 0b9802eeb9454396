"""Label vectors beside every method: the laws, the start, what is stored."""

import dataclasses

import pytest
import torch

from fakes import CASES, ONE_TOKEN, Case, backbone_of, make_backbone, make_rows, moved, source_of
from overture.core.contracts import RowMethod
from overture.core.errors import ConfigError
from overture.engine.cache import InputCache
from overture.engine.prompted import PromptedModel
from overture.prompt.build import build_prompt
from overture.prompt.config import PromptConfig
from overture.prompt.labels import label_start, with_labels
from overture.prompt.pack import prompt_from, prompt_tensors
from overture.prompt.registry import method_of

METHODS = [("vectors", "after"), ("prefix", "after"), ("prefix", "memory"), ("late", "before"), ("idpg", "before")]
EACH = pytest.mark.parametrize(("method", "place"), METHODS, ids=str)


def labelled(backbone, method, place, noise=0.1, **changes):
    options = {case.method: case.options for case in reversed(CASES)}[method]
    config = PromptConfig(method=method, place=place, length=3, options=options, labels="vectors", **changes)
    rows = make_rows("one token", (1, 1, 1), num_anchor=1)
    prompt = build_prompt(config, source_of(backbone, ONE_TOKEN, rows), 0).to(backbone.dtype)
    generator = torch.Generator().manual_seed(1)
    return config, moved(prompt, generator, noise)


@EACH
def test_gradient_reaches_every_value_and_cached_equals_uncached(method, place):
    backbone = backbone_of("llama", torch.float64)
    _, prompt = labelled(backbone, method, place)
    rows, found = make_rows("one token"), []
    for cache in (None, InputCache(1 << 24)):
        model = PromptedModel(backbone, prompt, cache)
        model.warm(rows)
        loss = model.loss(rows)
        values = model.trainable()
        assert "labels" in values
        assert set(values) == {"labels"} | {f"method.{name}" for name in prompt.method.trainable()}
        gradients = torch.autograd.grad(loss, list(values.values()))
        assert all((gradient != 0).any() for gradient in gradients)
        found.append((loss.detach(), gradients))
    torch.testing.assert_close(*found, rtol=1e-8, atol=1e-8)


@EACH
def test_saved_and_loaded_is_bit_equal(method, place):
    backbone = backbone_of("llama")
    config, prompt = labelled(backbone, method, place)
    again = prompt_from(prompt_tensors(prompt), config, source_of(backbone, ONE_TOKEN))
    rows = make_rows("one token")
    ours, theirs = [PromptedModel(backbone, found).label_scores(rows) for found in (prompt, again)]
    assert torch.equal(ours, theirs)
    assert isinstance(again, RowMethod) == isinstance(prompt, RowMethod)


def test_vectors_with_label_vectors_are_warp():
    backbone = backbone_of("llama")
    source, rows = source_of(backbone, ONE_TOKEN), make_rows("one token")
    own = PromptConfig(method="vectors", place="before", length=3, labels="vectors")
    theirs = PromptConfig(method="warp", place="before", length=3)
    losses = [PromptedModel(backbone, build_prompt(each, source, 0)).loss(rows) for each in (own, theirs)]
    assert torch.equal(*losses)


def test_label_vectors_alone_start_at_the_label_words():
    backbone = make_backbone("qwen2")
    source, rows = source_of(backbone, ONE_TOKEN), make_rows("one token")
    alone = PromptedModel(backbone, with_labels(None, label_start(source)[0]))
    plain = PromptedModel(backbone).label_scores(rows)
    ours = alone.label_scores(rows)
    # Two labels have one word each; they stand to each other as their words do.
    torch.testing.assert_close(ours[:, 0] - ours[:, 1], plain[:, 0] - plain[:, 1], rtol=1e-4, atol=1e-4)


def test_the_rate_is_their_own():
    _, prompt = labelled(backbone_of("llama"), "prefix", "memory", label_rate=0.5)
    assert prompt.rates() == {"labels": 0.5}


def test_beside_any_prompt_they_learn_at_a_hundredth_or_as_slowly_as_the_prompt():
    for method, place, length in [("prefix", "memory", 2), ("prefix", "memory", 60), ("deep", "memory", 2)]:
        config = PromptConfig(method=method, place=place, length=length, labels="vectors")
        prompt = build_prompt(config, source_of(backbone_of("llama"), ONE_TOKEN), 0)
        rate = method_of(config).rate(place, length)
        assert rate * prompt.rates()["labels"] == pytest.approx(min(rate, 0.01))
        of_tokens = dataclasses.replace(ONE_TOKEN, is_of_tokens=True)
        prompt = build_prompt(config, source_of(backbone_of("llama"), of_tokens), 0)
        assert prompt.rates() == {"labels": 1.0}


def test_words_or_vectors_by_what_the_model_predicts():
    source = source_of(backbone_of("llama"), ONE_TOKEN)
    config = PromptConfig(method="vectors", place="before", length=2)
    assert "labels" not in build_prompt(config, source, 0).trainable()
    blind = dataclasses.replace(source, predicts_words=False)
    assert "labels" in build_prompt(config, blind, 0).trainable()
    words = config.model_copy(update={"labels": "words"})
    assert "labels" not in build_prompt(words, blind, 0).trainable()
    vectors = config.model_copy(update={"labels": "vectors"})
    with pytest.raises(ConfigError, match="label vectors need labels"):
        build_prompt(vectors, dataclasses.replace(source, candidates=None), 0)


def test_cases_are_known():
    assert {method for method, _ in METHODS} <= {case.method for case in CASES}
    assert Case("prefix", "after") in CASES
