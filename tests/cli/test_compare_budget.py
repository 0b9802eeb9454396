"""Learning rates and budgets of ``overture compare`` on a tiny model."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from comparisons import FEW, SMALLEST, cells

from overture.core.errors import Stopped
from overture.core.records.cells import Key, Trial
from overture.jobs.compare import compare as study
from overture.jobs.compare.cells import CellContext
from overture.jobs.compare.forecast import Forecast
from overture.jobs.compare.rates import next_rate
from overture.jobs.compare.ways import way_named
from overture.jobs.run.request import tune_config


@pytest.fixture
def task(make_task: Callable[..., Path]) -> Path:
    return make_task(train={"epochs": 1, "batch_size": 4})


def test_rates_are_chosen_on_validation_and_kept(task, overture) -> None:
    words = ["--way", "prefix-after", "--size", "4", "--seeds", "1", "--min-steps", "1", "-o", "out", "--json"]
    found = overture("compare", task, *words).json
    rates = found["rates"]["prefix-after"]
    assert [one["lr"] for one in rates["tried"]][:3] == [0.1, 0.03, 0.3]
    # Beyond an end that is best, until it is not.
    assert next_rate((0.1, 0.03, 0.3), list(map(Trial.model_validate, rates["tried"]))) is None
    best = max(rates["tried"], key=lambda one: (one["score"], -one["loss"]))
    assert rates["lr"] == best["lr"] == cells()["prefix-after--4--0"]["lr"]
    (cost,) = found["ledger"]
    assert cost["choosing_seconds"] > 0
    # A further way and size later: the rate stays, so that cells belong together.
    more = ["--way", "prefix-after", "--way", "in-context", "--size", "4", "--size", "8", *words[4:]]
    assert overture("compare", task, *more).json["rates"]["prefix-after"] == rates


def test_rates_of_another_request_are_chosen_anew(task, overture) -> None:
    words = ["--way", "prefix-after", "--size", "4", "--seeds", "1", "--min-steps", "1", "-o", "out", "--json"]
    assert overture("compare", task, *words).code == 0
    rates = Path("out/rates/prefix-after.json")
    rates.write_text(json.dumps(json.loads(rates.read_text()) | {"lr": 0.07}))
    longer = ["compare", task, *words, "--set", "prompt.length=5"]
    refused = overture(*longer)
    assert refused.code == 2
    assert "delete its cells" in refused.json["fix"]
    Path("out/cells/prefix-after--4--0.json").unlink()
    done = overture(*longer)
    assert "prefix-after was chosen for another request, and is chosen anew" in done.err
    chosen = json.loads(rates.read_text())
    assert chosen["config"]["settings"]["length"] == 5
    assert done.json["rates"]["prefix-after"] == chosen
    assert cells()["prefix-after--4--0"]["lr"] == chosen["lr"] != 0.07


def test_a_rate_that_is_given_is_taken(task, overture) -> None:
    words = ["compare", task, "--way", "prefix-after", "--size", "4", "--seeds", "1", "--min-steps", "1", *FEW]
    assert overture(*words).code == 0
    Path("out/cells/prefix-after--4--0.json").unlink()
    assert overture(*words, "--set-way", "prefix-after:train.lr=0.2").code == 0
    assert cells()["prefix-after--4--0"]["lr"] == 0.2
    assert "<td>set by hand</td>" in Path("out/report.html").read_text()


def test_rates_that_are_chosen_cost_no_time_of_a_budget(task, overture, monkeypatch) -> None:
    from overture.jobs.compare.budget import Speed

    monkeypatch.setattr(Forecast, "timed", lambda forecast, way, size: Speed(6.0, 0.0, 0.0, 0.0, 0.0))
    words = ["compare", task, "--way", "bitfit:norms", "--size", "4", "--seeds", "1", "--min-steps", "1"]
    words += ["-o", "out", "--json", "--budget", "9"]
    planned = []
    for _ in range(2):
        assert overture(*words).code == 0
        planned.append(json.loads(Path("out/plan.json").read_text())["plan"]["seconds"])
        Path("out/plan.json").unlink()
    # A cell and its rates' trials of six seconds each; then both are there.
    assert planned[0] >= 18
    assert planned[1] < 6


def test_choosing_a_rate_goes_on_where_it_was_stopped(task, overture, monkeypatch) -> None:
    words = ["compare", task, *SMALLEST]
    tried = []

    def counted(context: CellContext, way: Any, key: Key, rate: float) -> Any:
        if len(tried) == 2:
            raise Stopped
        tried.append(rate)
        return trial(context, way, key, rate)

    trial = study.trial
    monkeypatch.setattr(study, "trial", counted)
    assert overture(*words, "--json").json["status"] == "interrupted"
    assert json.loads(Path("out/rates/prefix-after.json").read_text())["lr"] is None
    monkeypatch.setattr(study, "trial", lambda *asked: tried.append(asked[-1]) or trial(*asked))
    found = overture(*words, "--json").json
    assert tried == [one["lr"] for one in found["rates"]["prefix-after"]["tried"]]
    assert tried[:3] == [0.1, 0.03, 0.3]


def test_rates_that_stay_at_their_default_are_told(task, overture) -> None:
    words = ["compare", task, *SMALLEST]
    assert "keeps the default" not in overture(*words, "--default-rates").err
    assert "prefix-after keeps the default learning rate" in overture(*words, "--tune-rates").err


def test_budget_leaves_out_what_does_not_fit(task, overture, monkeypatch) -> None:
    from overture.jobs.compare.budget import Speed

    # Each cell takes six seconds, whatever its size.
    monkeypatch.setattr(Forecast, "timed", lambda forecast, way, size: Speed(6.0, 0.0, 0.0, 0.0, 0.0))
    words = ["--way", "prefix-after", "--size", "4", "--size", "8", "--seeds", "3", "--min-steps", "1", *FEW]
    found = overture("compare", task, *words, "--budget", "0.35", "--json").json
    assert (found["sizes"], found["seeds"]) == ([4], [0, 1, 2])
    assert "8 rows" in found["left_out"][0]
    assert "Left out" in Path("out/report.html").read_text()
    too_small = overture("compare", task, *words[:-1], "other", "--budget", "0.05", "--json")
    assert (too_small.code, too_small.json["what"]) == (2, "the budget is too small for any comparison")


def test_measured_speed_plans(task, overture) -> None:
    words = ["--way", "no-prompt", "--way", "prefix-after", "--size", "4", "--seeds", "1", "--min-steps", "1", *FEW]
    found = overture("compare", task, *words, "--budget", "30", "--json").json
    plan = json.loads(Path("out/plan.json").read_text())["plan"]
    assert 0 < plan["seconds"] < 1800
    assert found["left_out"] == []


def test_choosing_rates_does_not_make_the_next_seed_seem_late(task, overture, monkeypatch) -> None:
    """Three seeds of 8 minutes, and up to six trials of 5 minutes before them, fit into an hour."""
    clock = slow(monkeypatch, cell=480.0, trial=300.0)
    words = ["compare", task, "--way", "bitfit:norms", "--size", "4", "--seeds", "3", "--min-steps", "1"]
    found = overture(*words, "-o", "out", "--json", "--budget", "60").json
    assert (found["seeds"], found["left_out"]) == ([0, 1, 2], [])
    assert 2400 < clock[0] < 3600


def test_a_seed_that_would_end_after_the_time_is_left_out(task, overture, monkeypatch) -> None:
    """Slower than what was timed: two seeds of 40 minutes are all that an hour holds, and the second was begun."""
    slow(monkeypatch, cell=1900.0, trial=0.0)
    words = ["compare", task, "--way", "prefix-after", "--size", "4", "--seeds", "3", "--min-steps", "1", *FEW]
    found = overture(*words, "--json", "--budget", "60").json
    assert found["seeds"] == [0, 1]
    assert "would have ended after the time" in found["left_out"][0]
    again = overture(*words, "--json", "--budget", "60").json
    assert again["seeds"] == [0, 1]


def slow(monkeypatch, cell: float, trial: float) -> list[float]:
    """A clock that only cells and trials move on; timing the ways promises ten seconds each."""
    from overture.jobs.compare.budget import Speed

    clock = [0.0]

    def taking(seconds: float, work: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any) -> Any:
            clock[0] += seconds
            return work(*args)

        return timed

    monkeypatch.setattr(study.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(Forecast, "timed", lambda forecast, way, size: Speed(10.0, 0.0, 0.0, 0.0, 0.0))
    monkeypatch.setattr(study, "measured", taking(cell, study.measured))
    monkeypatch.setattr(study, "trial", taking(trial, study.trial))
    return clock


def test_timing_counts_in_the_budget(task, overture, monkeypatch) -> None:
    from overture.jobs.compare.budget import Speed

    clock = iter(range(0, 10**6, 30))
    monkeypatch.setattr(study.time, "monotonic", lambda: float(next(clock)))
    monkeypatch.setattr(Forecast, "timed", lambda forecast, way, size: Speed(6.0, 0.0, 0.0, 0.0, 0.0))
    words = ["compare", task, "--way", "prefix-after", "--size", "4", "--seeds", "1", "--min-steps", "1", *FEW]
    done = overture(*words, "--budget", "0.5", "--json")
    assert (done.code, done.json["what"]) == (2, "the budget is too small for any comparison")


def test_what_was_timed_is_kept_when_a_budget_is_refused(task, overture, monkeypatch) -> None:
    from overture.jobs.compare.budget import Speed

    timed: list[str] = []

    def speed(_: Any, way: Any, size: int) -> Speed:
        timed.append(way.name)
        return Speed(100.0, 0.0, 0.0, 0.0, 1.0)

    monkeypatch.setattr(Forecast, "timed", speed)
    words = ["compare", task, "--way", "no-prompt", "--way", "prefix-after", "--size", "4", "--seeds", "1", *FEW]
    refused = overture(*words, "--budget", "0.1", "--json")
    assert (refused.code, refused.json["error"]) == (2, "ConfigError")
    # One way was enough to know.
    assert timed == ["no-prompt"]
    assert overture(*words, "--budget", "60", "--json").code == 0
    assert timed == ["no-prompt", "prefix-after"]
    other = ["--set-way", "prefix-after:prompt.length=2", "--set", "data.test_rows=4", "--budget", "0.1"]
    assert overture(*words, *other, "--json").code == 2


def test_a_file_rate_is_not_taken_for_all_ways(make_task) -> None:
    config = tune_config(make_task())
    assert config.train.lr == 0.01
    assert way_named("prefix-after", config).rates == (0.1, 0.03, 0.3)
    assert way_named("prefix-after", config, ["train.lr=0.2"]).rates == (0.2,)


def test_a_comparison_without_its_rates_goes_on_with_those_of_its_cells(task, overture, monkeypatch) -> None:
    words = ["compare", task, *SMALLEST, "--json"]
    assert overture(*words).code == 0
    rates = Path("out/rates/prefix-after.json")
    chosen = json.loads(rates.read_text())["lr"]
    rates.unlink()
    Path("out/plan.json").unlink()
    monkeypatch.setattr(study, "trial", lambda *given: pytest.fail("rates are chosen again"))
    again = overture(*words, "--seeds", "2")
    assert again.code == 0, again.err
    assert [cell["lr"] for cell in cells().values()] == [chosen, chosen]
    # A rate that is set by hand is another request.
    assert overture(*words, "--set-way", "prefix-after:train.lr=0.007").json["error"] == "StoreError"
