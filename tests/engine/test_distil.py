"""What is said where predictions count, against the losses and scores that have oracles; divergences by value."""

import pytest
import torch

from fakes import KINDS, Case, backbone_of, make_prompt, make_rows
from overture.core.contracts import Losses, Readout, Readouts
from overture.engine.distil import distance, divergence, log_probabilities, right
from overture.engine.prompted import PromptedModel

CLOSE = {"rtol": 1e-9, "atol": 1e-9}


@pytest.fixture(params=["llama", "gpt2"])
def backbone(request):
    return backbone_of(request.param, torch.float64)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "case", [Case("vectors", "after"), Case("prefix", "memory"), Case("late", "before", {"layer": 1})]
)
def test_what_is_said_gives_the_loss_and_its_gradient(backbone, case, kind):
    prompt, rows = make_prompt(case, backbone), make_rows(kind)
    model = PromptedModel(backbone, prompt)
    ours, theirs = right(backbone, model.ask(rows, Readouts()), rows), torch.stack(model.ask(rows, Losses()))
    torch.testing.assert_close(ours, theirs, **CLOSE)
    values = list(prompt.trainable().values())
    torch.testing.assert_close(
        torch.autograd.grad(ours.sum(), values), torch.autograd.grad(theirs.sum(), values), **CLOSE
    )


@pytest.mark.parametrize("kind", KINDS)
def test_rows_come_back_in_order(backbone, kind):
    model, rows = PromptedModel(backbone, make_prompt(Case("vectors", "before"), backbone)), make_rows(kind)
    together, alone = model.ask(rows, Readouts()), [model.ask([row], Readouts())[0] for row in rows]
    for one, other in zip(together, alone, strict=True):
        torch.testing.assert_close(one.hidden, other.hidden, **CLOSE)
        assert (one.scores is None) == (kind == "free text")
    if kind != "free text":
        torch.testing.assert_close(log_probabilities(backbone, together), model.label_scores(rows), **CLOSE)


@pytest.mark.parametrize("kind", ["one token", "free text"])
@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_divergence_and_distance_by_their_definitions(backbone, kind, temperature):
    rows, case = make_rows(kind), Case("vectors", "before")
    models = [PromptedModel(backbone, make_prompt(case, backbone, seed=seed)) for seed in (0, 1)]
    one, other = [[said.kept() for said in model.ask(rows, Readouts())] for model in models]
    shares = [(log_probabilities(backbone, said) / temperature).softmax(-1) for said in (one, other)]
    pairs = [map(torch.distributions.Categorical, pair) for pair in zip(*shares, strict=True)]
    wanted = temperature**2 * sum(torch.distributions.kl_divergence(*pair) for pair in pairs)
    torch.testing.assert_close(divergence(backbone, one, other, temperature).sum(), wanted, rtol=1e-6, atol=1e-8)
    assert float(divergence(backbone, one, one, temperature).sum()) == pytest.approx(0, abs=1e-9)
    states = [torch.cat([said.hidden for said in each]) for each in (one, other)]
    wanted = ((states[0] - states[1]) ** 2).sum() / backbone.info.hidden_size
    assert float(distance(one, other).sum()) == pytest.approx(float(wanted), rel=1e-5)
    alone = [divergence(backbone, [a], [b], temperature) for a, b in zip(one, other, strict=True)]
    torch.testing.assert_close(divergence(backbone, one, other, temperature), torch.cat(alone), **CLOSE)
    alone = [distance([a], [b]) for a, b in zip(one, other, strict=True)]
    torch.testing.assert_close(distance(one, other), torch.cat(alone), **CLOSE)


def test_what_is_kept_is_constant():
    said = Readout(torch.zeros(2, 3, requires_grad=True) + 1, torch.zeros(1, 2, requires_grad=True) + 1)
    kept = said.kept()
    assert not kept.hidden.requires_grad
    assert not kept.scores.requires_grad
