"""What a run says of several seeds."""

import pytest

from overture.jobs.tune.result import _spread


@pytest.mark.parametrize(
    ("metric", "values", "end"), [("accuracy", (0.9, 1.0), "high"), ("squad_em", (0.0, 0.1), "low")]
)
def test_the_interval_over_seeds_ends_where_a_score_does(metric: str, values: tuple[float, float], end: str) -> None:
    seeds = [
        {"seed": seed, "status": "finished", "seconds": 1.0, "metrics": {"test": {metric: {"value": value}}}}
        for seed, value in enumerate(values)
    ]
    found = _spread(metric, seeds)["test"]
    assert found["mean"] == pytest.approx(sum(values) / 2)
    assert found[end] == (1 if end == "high" else 0)
