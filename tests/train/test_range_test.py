"""The range test on losses whose best rate is known."""

import pytest
import torch
from tiny import ROWS, Recorded, config

from fakes import make_rows
from overture.core.errors import Diverged
from overture.train.range_test import range_test


class Bowl:
    """A quadratic of condition 1: gradient descent of any kind gets there in steps of its distance."""

    def __init__(self, distance: float, break_at: int | None = None) -> None:
        self.value = torch.full((4,), distance, requires_grad=True)
        self.steps, self.break_at, self.floor = 0, break_at, 0.1 * distance**2

    def loss(self, rows):
        self.steps += 1
        loss = (self.value.square().mean() + self.floor) * len(rows)
        return loss * torch.nan if self.break_at is not None and self.steps > self.break_at else loss

    def weight(self, rows) -> float:
        return len(rows)

    def rates(self) -> dict[str, float]:
        return {}

    def trainable(self) -> dict[str, torch.Tensor]:
        return {"value": self.value}


def test_suggestion_scales_with_the_problem() -> None:
    rows = make_rows("one token", (3,) * 8, seed=1)
    near = range_test(Bowl(0.1), rows, config(), 0, 1e-5, 10, 80)
    far = range_test(Bowl(10.0), rows, config(), 0, 1e-5, 1000, 100)
    assert near.blow_up
    assert near.suggested
    assert far.suggested
    assert near.steepest < near.blow_up
    assert 30 < far.suggested / near.suggested < 300
    # Adam moves by about the rate in every step: a rate of the distance overshoots, a hundredth crawls.
    assert 0.001 < near.suggested < 0.1
    assert 0.1 < far.suggested < 10


def test_stops_at_what_is_not_finite_and_tells_when_it_never_was() -> None:
    rows = make_rows("one token", (3,) * 8, seed=1)
    assert len(range_test(Bowl(1.0, break_at=20), rows, config(), 0, 1e-5, 10, 80).rates) == 20
    with pytest.raises(Diverged, match="first steps"):
        range_test(Bowl(1.0, break_at=0), rows, config(), 0, 1e-5, 10, 80)


def test_same_again_on_a_real_trainee() -> None:
    first, again = (range_test(Recorded(), ROWS, config(), 7, 1e-4, 10, 30) for _ in range(2))
    assert first == again
    assert first.rates[0] == pytest.approx(1e-4)


def test_nothing_is_suggested_where_nothing_blows_up() -> None:
    rows = make_rows("one token", (3,) * 8, seed=1)
    found = range_test(Bowl(1.0), rows, config(), 0, 1e-6, 1e-3, 40)
    assert (found.blow_up, found.suggested) == (None, None)
