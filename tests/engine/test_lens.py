"""Attention to a prompt and the logit lens equal the untouched model's own attentions and hidden states."""

import pytest
import torch

from fakes import backbone_of, make_rows, reference_of
from overture.core.errors import BackboneError
from overture.core.injection import Injection, Memory, Vectors
from overture.engine.answerer import LocalAnswerer
from overture.engine.cache import InputCache
from overture.engine.lens import attention_to_prompt, vectors_through_layers

IDS = [40, 41, 42]
ROWS = make_rows("one token", (5, 2, 7))


def outputs(family: str, place: str):
    """Of each row the untouched model's attentions and hidden states with the prompt's tokens in their place."""
    for row in ROWS:
        text, anchor = list(row.input_ids), list(row.anchor_elements)
        ids = [*IDS, *text, *anchor] if place != "after" else [*text, *IDS, *anchor]
        first = len(text) if place == "after" else 0
        yield first, reference_of(family)(torch.tensor([ids]), output_attentions=True, output_hidden_states=True)


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2"])
@pytest.mark.parametrize("place", ["before", "after", "memory"])
def test_attention_is_the_untouched_models(family, place):
    backbone = backbone_of(family)
    answerer = LocalAnswerer(backbone, InputCache(1 << 20))
    values = backbone.embed(IDS)
    if place == "memory":
        prompt = Injection(memory=Memory(backbone.memory_of(values), "memory"))
    else:
        prompt = Injection(Vectors(values, place))
    shares_NQP = attention_to_prompt(answerer, prompt, ROWS)
    wanted = [
        torch.stack([layer[0, :, -1, first : first + 3] for layer in output.attentions])
        for first, output in outputs(family, place)
    ]
    torch.testing.assert_close(shares_NQP, torch.stack(wanted).mean(0), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("family", "place"), [("llama", "before"), ("gpt2", "after"), ("gemma2", "after")])
def test_the_lens_reads_the_untouched_models_states(family, place):
    backbone = backbone_of(family)
    answerer = LocalAnswerer(backbone, InputCache(1 << 20))
    last = backbone.info.num_layers
    layers = [0, 1, last]
    logs = vectors_through_layers(answerer, Injection(Vectors(backbone.embed(IDS), place)), ROWS, layers)
    of_rows = []
    for first, output in outputs(family, place):
        # What leaves the last layer is kept behind its norm.
        final = output.logits[0, first : first + 3].log_softmax(-1)
        of_rows.append(final)
    torch.testing.assert_close(logs[-1], torch.stack(of_rows).mean(0), rtol=1e-4, atol=1e-4)
    assert logs.shape == (3, 3, backbone.info.vocab_size)


def test_memory_has_no_hidden_states_and_an_encoder_decoder_two_stacks():
    backbone = backbone_of("llama")
    memory = Injection(memory=Memory(backbone.memory_of(backbone.embed(IDS)), "memory"))
    with pytest.raises(BackboneError):
        vectors_through_layers(LocalAnswerer(backbone), memory, ROWS, [0])
    with pytest.raises(BackboneError):
        attention_to_prompt(LocalAnswerer(backbone_of("t5")), memory, ROWS)
