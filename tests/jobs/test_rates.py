"""Which learning rate a comparison tries next: the list, then beyond an end that is best."""

from collections.abc import Callable

import pytest

from overture.core.records.cells import Ledger, Trial
from overture.jobs.compare.rates import FURTHER, best_rate, next_rate

LEDGER = Ledger(peak_bytes=0, grown_bytes=0, energy_meter="")


def searched(rates: tuple[float, ...], score_of: Callable[[float], float | None]) -> list[Trial]:
    tried: list[Trial] = []
    while (rate := next_rate(rates, tried)) is not None:
        score = score_of(rate)
        loss = None if score is None else 1 - score
        tried.append(Trial(lr=rate, score=score, loss=loss, status="finished", ledger=LEDGER))
    return tried


def test_the_list_is_enough_where_its_middle_is_best() -> None:
    tried = searched((1e-3, 1e-4, 1e-2), lambda rate: 0.9 if rate == 1e-3 else 0.5)
    assert [one.lr for one in tried] == [1e-3, 1e-4, 1e-2]
    assert best_rate((1e-3,), tried) == 1e-3


@pytest.mark.parametrize(
    ("best", "beyond"), [(2e-4, [4e-4]), (4e-4, [4e-4, 8e-4]), (1.0, [4e-4, 8e-4]), (1e-5, [5e-6]), (0.0, [5e-6, 3e-6])]
)
def test_beyond_an_end_that_is_best(best: float, beyond: list[float]) -> None:
    rates = (5e-5, 1e-5, 2e-5, 1e-4, 2e-4)
    tried = searched(rates, lambda rate: 1 - abs(rate - best))
    assert [one.lr for one in tried] == [*rates, *beyond]
    assert len(beyond) <= FURTHER
    assert best_rate(rates, tried) == min((one.lr for one in tried), key=lambda rate: abs(rate - best))


def test_what_diverges_is_no_end_to_go_beyond() -> None:
    tried = searched((0.1, 0.03, 0.3), lambda rate: None if rate > 0.1 else 0.5 + rate)
    assert [one.lr for one in tried] == [0.1, 0.03, 0.3]
    assert best_rate((0.1, 0.03, 0.3), tried) == 0.1


def test_nothing_is_left_to_try_where_all_diverge() -> None:
    tried = searched((0.1, 0.03), lambda rate: None)
    assert [one.lr for one in tried] == [0.1, 0.03]
    assert best_rate((0.1, 0.03), tried) == 0.1
    assert [one.lr for one in searched((0.1,), lambda rate: 0.5)] == [0.1]
