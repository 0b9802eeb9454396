"""Views of a prompt in a forward pass: how much the answer attends to it, and the tokens that its vectors resemble.

Shape letters: B rows, S live tokens, M memory columns, N layers, Q query heads, P prompt length, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from overture.core.errors import BackboneError
from overture.core.injection import Injection
from overture.core.rows import Encoded
from overture.engine.answerer import LocalAnswerer
from overture.engine.passes import Pass, prepared
from overture.engine.readers import reader_of


@torch.no_grad()
def attention_to_prompt(answerer: LocalAnswerer, prompt: Injection, rows: Sequence[Encoded]) -> Tensor:
    """Share of attention that the token which the answer is read from gives to each prompt column, [N, Q, P].

    A mean over rows. Vectors are numbered first, then memory; layers below the prompt give nothing.

    Raises:
        BackboneError: the model is an encoder-decoder, whose prompt two stacks read.
    """
    a_pass = _pass(answerer, prompt, rows)
    layout, shares = a_pass.layout, dict[int, Tensor]()
    # Rows that are cut by length would run in steps of their own.
    step = replace(a_pass.step, shares=shares, is_packed=False)
    answerer.backbone.run(a_pass.live, step, a_pass.layer)
    num_rows = torch.arange(len(rows))
    widths = [part.valid.shape[1] for part in step.memory]
    of_layers: dict[int, Tensor] = {}
    for layer in shares:
        read_BQC = shares[layer][num_rows, :, layout.read].float()
        columns = []
        if layout.is_vector is not None:
            live_BQS = read_BQC[:, :, sum(widths) :]
            columns.append(live_BQS.transpose(1, 2)[layout.is_vector].view(len(rows), -1, live_BQS.shape[1]))
        if prompt.memory:
            columns.append(read_BQC[:, :, sum(widths[:-1]) : sum(widths)].transpose(1, 2))
        of_layers[layer] = torch.cat(columns, dim=1).mean(0).T.cpu()
    nothing = torch.zeros_like(next(iter(of_layers.values())))
    return torch.stack([of_layers.get(layer, nothing) for layer in range(answerer.backbone.info.num_layers)])


@torch.no_grad()
def vectors_through_layers(
    answerer: LocalAnswerer, prompt: Injection, rows: Sequence[Encoded], layers: Sequence[int]
) -> Tensor:
    """Log-probabilities of the next token that the head reads from each prompt vector, [len(layers), P, V].

    The logit lens: the last norm and the head applied to hidden states below each of some layers (nostalgebraist 2020,
    "Interpreting GPT: the logit lens"). A mean over rows.

    Args:
        answerer: the model, which has a head.
        prompt: with vectors.
        rows: the rows that the vectors stand in.
        layers: numbers of layers, N for what leaves the last one; those below the prompt are left out.

    Raises:
        BackboneError: the model is an encoder-decoder, or the prompt has no vectors.
    """
    if prompt.vectors is None:
        raise BackboneError("a logit lens reads hidden states", got="a prompt without vectors", wanted="vectors")
    backbone, a_pass = answerer.backbone, _pass(answerer, prompt, rows)
    step, hidden, is_vector = replace(a_pass.step, is_packed=False), a_pass.live, a_pass.layout.is_vector
    assert is_vector is not None
    num_layers = backbone.info.num_layers
    of_layers = []
    for layer in range(a_pass.layer, num_layers + 1):
        if layer in layers:
            states = backbone.run(hidden, step, num_layers)[is_vector].view(len(rows), prompt.vectors.length, -1)
            of_layers.append(torch.stack([backbone.head(of_row).log_softmax(-1) for of_row in states]).mean(0).cpu())
        if layer < num_layers:
            hidden = backbone.run(hidden, step, layer, layer + 1)
    return torch.stack(of_layers)


def _pass(answerer: LocalAnswerer, prompt: Injection, rows: Sequence[Encoded]) -> Pass:
    if answerer.backbone.encoder is not None:
        raise BackboneError(
            "two stacks read such a prompt", where=answerer.backbone.info.id, got="an encoder-decoder",
            wanted="a decoder or an encoder",
        )  # fmt: skip
    make = reader_of(rows[0].target, prompt).make
    return prepared(answerer.inputs, rows, [prompt] * len(rows), make, is_whole=True)
