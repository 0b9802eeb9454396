"""What a run says of several seeds."""

import pytest

from overture.core.records.scores import Interval, SplitScores
from overture.core.records.tune import SeedResult
from overture.jobs.tune.result import seed_spread


@pytest.mark.parametrize(
    ("metric", "values", "end"), [("accuracy", (0.9, 1.0), "high"), ("squad_em", (0.0, 0.1), "low")]
)
def test_the_interval_over_seeds_ends_where_a_score_does(metric: str, values: tuple[float, float], end: str) -> None:
    seeds = []
    for seed, value in enumerate(values):
        scores = SplitScores(scores={metric: Interval(value=value, low=0.0, high=1.0, n=10)}, loss=0.5)
        facts = {"status": "finished", "lr": 0.1, "trainable": 1, "seconds": 1.0, "peak_bytes": 1, "best_epoch": 0}
        seeds.append(SeedResult(seed=seed, metrics={"validation": scores, "test": scores}, history=[], **facts))
    spread = seed_spread(metric, seeds).test
    assert spread is not None
    assert spread.mean == pytest.approx(sum(values) / 2)
    assert getattr(spread, end) == (1 if end == "high" else 0)
