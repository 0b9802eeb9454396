"""What single methods say of the untouched model, beyond the keys and values that they give."""

from contextlib import contextmanager

import oracles
import pytest
import torch

from fakes import KINDS, Case, backbone_of, make_prompt, make_rows, reference_of
from overture.core.injection import Injection, LayerMemory, Memory, Vectors
from overture.engine.prompted import PromptedModel

CLOSE = {"rtol": 1e-8, "atol": 1e-8}


@contextmanager
def replaced(reference, values: torch.Tensor):
    """The untouched model with the first positions' hidden states replaced before every layer but the first."""

    def replacing(own: torch.Tensor):
        def hook(module, args):
            return torch.cat([own.expand(len(args[0]), -1, -1), args[0][:, len(own) :]], dim=1), *args[1:]

        return hook

    decoder = reference.base_model
    layers = decoder.h if hasattr(decoder, "h") else decoder.layers
    pairs = list(zip(layers, values, strict=True))[1:]
    hooks = [layer.register_forward_pre_hook(replacing(own)) for layer, own in pairs]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", ["llama", "gemma3_text", "gpt2", "qwen3"])
def test_deep_vectors_are_hidden_states_replaced_in_every_layer(family, kind):
    backbone, reference = backbone_of(family, torch.float64), reference_of(family, torch.float64)
    prompt = make_prompt(Case("deep", "memory"), backbone)
    # The first layer's vectors enter as embeddings, before learned positions are added.
    rows, first = make_rows(kind, (1, 0, 5, 12)), Injection(Vectors(prompt.values[0], "before"))
    ours = PromptedModel(backbone, prompt).loss(rows)
    with replaced(reference, prompt.values):
        theirs = oracles.loss(reference, [first] * len(rows), rows)
    torch.testing.assert_close(ours, theirs, **CLOSE)
    torch.testing.assert_close(
        torch.autograd.grad(ours, prompt.values), torch.autograd.grad(theirs, prompt.values), **CLOSE
    )


@contextmanager
def shifted(reference, by: int):
    """A model with learned positions that stand further on."""
    hook = reference.base_model.wpe.register_forward_pre_hook(lambda module, args: (args[0] + by,))
    try:
        yield
    finally:
        hook.remove()


def test_a_closed_last_column_is_a_shorter_prompt():
    # The last column: those before it stay where they are, and the text begins one further on in both.
    backbone, rows = backbone_of("gpt2", torch.float64), make_rows("one token", (4, 9))
    prompt = make_prompt(Case("gated", "memory", {"layers": False}), backbone)
    with torch.no_grad():
        prompt.column_gates[:] = torch.tensor([float("inf"), float("inf"), -float("inf")])
    memory = prompt.injection().memory.memory
    shorter = LayerMemory(memory.keys[:, :, :2], memory.values[:, :, :2])
    reference, cut = reference_of("gpt2", torch.float64), Injection(memory=Memory(shorter, "memory"))
    with shifted(reference, 1), torch.no_grad():
        wanted = oracles.loss(reference, [cut] * 2, rows)
        ours = PromptedModel(backbone, prompt).loss(rows)
    torch.testing.assert_close(ours, wanted, **CLOSE)
