"""Training in half precision: the model is in bfloat16, what is trained and what is compared are not."""

import pytest
import torch

from fakes import CASES, KINDS, Case, make_backbone, make_rows, source_of
from overture.engine.cache import InputCache
from overture.engine.prompted import PromptedModel
from overture.evaluate.scoring import mean_loss
from overture.prompt.build import build_prompt
from overture.prompt.config import PromptConfig
from overture.train.fit import Fit, FitResult, Validation
from overture.train.options import TrainConfig

HALF = torch.bfloat16
WAYS = [case for case in CASES if case.method in ("vectors", "prefix", "gated", "low_rank", "late", "idpg", "warp")]


def model_of(case: Case, dtype: torch.dtype) -> PromptedModel:
    backbone = make_backbone("llama", dtype)
    rows = make_rows("one token")
    length = 2 if case.place == "slots" else 3
    config = PromptConfig(method=case.method, place=case.place, length=length, options=case.options)
    prompt = build_prompt(config, source_of(backbone, rows[0].target.candidates, rows), 0)
    return PromptedModel(backbone, prompt, InputCache(1 << 20))


def trained(model: PromptedModel) -> tuple[Fit, FitResult]:
    rows = make_rows("one token", seed=3)

    def validate() -> Validation:
        loss = mean_loss(model, rows)
        return Validation(-loss, loss)

    # As many epochs as it takes to learn five rows by heart, nearly.
    config = TrainConfig(epochs=8, batch_size=5, lr=0.1, warmup_steps=0, patience=8)
    fit = Fit(model, rows, validate, config, 0)
    return fit, fit.run()


@pytest.mark.parametrize("case", WAYS, ids=str)
def test_values_and_optimiser_stay_in_full_precision(case: Case) -> None:
    fit, result = trained(model_of(case, HALF))
    assert result.status == "finished"
    state = [value for each in fit.optimiser.state.values() for value in each.values()]
    tensors = [*fit.values.values(), *result.best.values(), *state]
    assert state
    assert {value.dtype for value in tensors} == {torch.float32}
    losses = [entry.train_loss for entry in result.progress.history]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("case", WAYS[:3], ids=str)
def test_it_learns_what_full_precision_learns(case: Case) -> None:
    half, full = [trained(model_of(case, dtype))[1].progress.history[-1] for dtype in (HALF, torch.float32)]
    start = mean_loss(model_of(case, torch.float32), make_rows("one token", seed=3))
    gained = start - full.validation_loss
    assert gained > 0
    assert abs(half.validation_loss - full.validation_loss) < 0.25 * gained


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
def test_scores_are_near_those_of_full_precision(family: str, kind: str) -> None:
    rows = make_rows(kind)
    half, full = [PromptedModel(make_backbone(family, dtype)) for dtype in (HALF, torch.float32)]
    assert half.loss(rows).dtype == torch.float32
    torch.testing.assert_close(half.loss(rows), full.loss(rows), rtol=0.05, atol=0.05)
    if kind != "free text":
        scores = half.label_scores(rows)
        assert scores.dtype == torch.float32
        torch.testing.assert_close(scores, full.label_scores(rows), rtol=0.05, atol=0.1)
        torch.testing.assert_close(scores.exp().sum(1), torch.ones(len(rows)))


def test_like_words_are_told_apart() -> None:
    backbone = make_backbone("llama", HALF)
    hidden = torch.full((1, backbone.info.hidden_size), 1.0, dtype=HALF)
    weight = backbone.words_head.map.weight
    with torch.no_grad():
        weight[50] = 8.0
        weight[51] = 8.0
        # Half precision has no number between the two logits, 256 and 256.06.
        weight[51, 0] = 8.0625
    found = backbone.head(hidden, torch.tensor([50, 51]))
    assert found[0, 1] > found[0, 0]
