"""Temperature and biases fitted to shares of labels, beside a general optimiser and beside what predictions do."""

import pytest
import torch
from scipy.optimize import minimize

from overture.core.config import validated
from overture.core.errors import ConfigError
from overture.core.records.hard import Candidate, Wording
from overture.data.kinds.classification import corrected
from overture.data.task import Task
from overture.hard.scaling import fitted, rescaled, scaling_of
from text_prompts import LABELS, scorer_of


def drawn(num_rows: int, num_labels: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (2 * torch.randn(num_rows, num_labels, generator=generator, dtype=torch.float64)).log_softmax(-1)


def test_known_temperature_and_biases_are_found_from_many_rows():
    scores_BC = drawn(4000, 3)
    target_BC = (scores_BC / 0.4 + torch.tensor([0.5, -0.3, -0.2])).log_softmax(-1)
    (values_F,) = fitted(scores_BC[None], target_BC.exp())
    scaling = scaling_of(values_F, ["a", "b", "c"])
    assert scaling.temperature == pytest.approx(0.4, rel=0.01)
    assert [*scaling.label_bias.values()] == pytest.approx([0.5, -0.3, -0.2], abs=0.02)


@pytest.mark.parametrize(("num_rows", "num_labels"), [(1, 2), (4, 2), (64, 6)])
def test_the_loss_is_the_least_that_a_general_optimiser_finds(num_rows, num_labels):
    scores_JBC = torch.stack([drawn(num_rows, num_labels, seed) for seed in (1, 2)])
    shares_BC = drawn(num_rows, num_labels, 3).exp()

    def loss(values, scores_BC):
        values = torch.tensor(values)
        logs_BC = rescaled(scores_BC[None], values[None])[0]
        prior = (values[0] - 1).square() + values[1:].square().sum()
        return float(-(shares_BC * logs_BC).sum() + prior / 8)

    values_JF = fitted(scores_JBC, shares_BC)
    for scores_BC, values_F in zip(scores_JBC, values_JF, strict=True):
        bounds = [(1e-3, None), *[(None, None)] * num_labels]
        least = minimize(loss, [1.0, *[0.0] * num_labels], args=(scores_BC,), bounds=bounds, method="L-BFGS-B")
        assert loss(values_F.tolist(), scores_BC) <= least.fun + 1e-6


def test_scores_against_the_shares_keep_a_temperature_above_0():
    scores_BC = torch.tensor([[-9.0, 0.0], [0.0, -9.0]] * 20, dtype=torch.float64).log_softmax(-1)
    shares_BC = torch.tensor([[0.9, 0.1], [0.1, 0.9]] * 20, dtype=torch.float64)
    (values_F,) = fitted(scores_BC[None], shares_BC)
    assert 0 < values_F[0] < 0.1
    assert torch.isfinite(values_F).all()


def test_a_scaled_candidate_scores_as_its_stored_task_predicts():
    unscaled = Candidate(text=" Well?")
    (values_F,) = fitted(scorer_of("llama").scores([unscaled], "validation", range(5)), torch.tensor([[0.9, 0.1]] * 5))
    scaling = scaling_of(values_F, list(LABELS))
    scaled = unscaled.model_copy(update={"wording": Wording(scaling=scaling)})
    for options in ({}, {"calibration": "contextual"}):
        scorer = scorer_of("llama", options=options)
        scores_JBC = scorer.scores([unscaled, scaled], "validation", range(5))
        task = scorer.task_of(Wording(scaling=scaling))
        torch.testing.assert_close(scores_JBC[1], corrected(task, scores_JBC[0], None))
        losses_JB = scorer.losses([scaled], "validation", range(5))
        torch.testing.assert_close(losses_JB[0], -scores_JBC[1][range(5), [0, 1, 0, 1, 0]])
    assert "scaled scores" in scaled.title


@pytest.mark.parametrize(
    "options", [{"label_bias": {"no such label": 1.0}}, {"temperature": 0}, {"temperature": "nan"}]
)
def test_options_that_name_no_label_or_no_temperature_are_refused(options):
    task = scorer_of("llama").task
    with pytest.raises(ConfigError):
        validated(Task, {**task.dump(), "options": options}, "task.yaml")
