"""What a run says of several seeds."""

import numpy as np
import pytest

from overture.core.records.scores import Interval, SplitScores
from overture.core.records.tune import SeedResult, SeedSpread
from overture.evaluate.over_seeds import interval_over_seeds, resampled
from overture.jobs.tune.result import seed_spread

GOLD = ("a", "b") * 12


def spread_of(metric: str, predicted: list[tuple[str, ...]]) -> SeedSpread:
    seeds = []
    for seed, answers in enumerate(predicted):
        value = float(np.mean([right == given for right, given in zip(GOLD, answers, strict=True)]))
        scores = SplitScores(scores={metric: Interval(value=value, low=0.0, high=1.0, n=len(GOLD))}, loss=0.5)
        facts = {"status": "finished", "lr": 0.1, "trainable": 1, "seconds": 1.0, "peak_bytes": 1, "best_epoch": 0}
        by_split = {"validation": answers, "test": answers}
        metrics = {"validation": scores, "test": scores}
        seeds.append(SeedResult(seed=seed, metrics=metrics, predicted=by_split, history=[], **facts))
    return seed_spread(metric, seeds, {"validation": GOLD, "test": GOLD})


@pytest.mark.parametrize(("num_wrong", "end", "bound"), [((1, 0), "high", 1), ((24, 23), "low", 0)])
def test_the_interval_over_seeds_ends_where_a_score_does(num_wrong: tuple[int, ...], end: str, bound: int) -> None:
    answers = [("c",) * number + GOLD[number:] for number in num_wrong]
    spread = spread_of("accuracy", answers).test
    assert spread is not None
    assert spread.mean == pytest.approx(1 - sum(num_wrong) / 48)
    assert getattr(spread, end) == bound


def test_seeds_that_agree_on_few_rows_are_not_certain() -> None:
    """Three seeds with the same answers on 24 rows: the rows alone leave the score uncertain."""
    answers = [("c", *GOLD[1:])] * 3
    spread = spread_of("accuracy", answers).test
    assert spread is not None
    assert spread.sd == 0
    assert spread.low < 0.9 < spread.mean < spread.high


def test_the_interval_is_that_of_a_comparison() -> None:
    answers = [("c",) * number + GOLD[number:] for number in (2, 5, 3)]
    spread = spread_of("accuracy", answers).test
    wanted = interval_over_seeds(resampled("accuracy", GOLD, answers))
    assert spread is not None
    assert (spread.mean, spread.low, spread.high) == (wanted.value, wanted.low, wanted.high)
    alone = spread_of("accuracy", answers[:1]).test
    assert alone is not None
    assert (alone.sd, alone.low, alone.high) == (None, None, None)
