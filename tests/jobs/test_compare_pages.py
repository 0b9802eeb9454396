"""The page of a comparison, made of its cells without a model."""

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from compare_cells import cell, cells_of, hits, interval, summed, trial
from overture.core.records.cells import FailedCell, RateChoice
from overture.core.records.compare import Summary, WayMistakes
from overture.core.records.scores import LabelScore
from overture.report.compare_charts import costs
from overture.report.compare_page import page, write_report
from overture.report.units import energy_text, share_text


class Links(HTMLParser):
    """Whatever a page would load from elsewhere, and scripts."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.add(tag)
        self.found += [value for name, value in attrs if name in ("src", "href", "xlink:href", "data", "action")]


@pytest.fixture(scope="module")
def result() -> Summary:
    cells = [one for size in (16, 64) for one in cells_of({"a": 0.6 + size / 256, "b": 0.55}, seeds=2, size=size)]
    return summed(cells, ["a", "b"], (16, 64), price=1.0)


def test_page_needs_nothing_else(result: Summary, tmp_path: Path) -> None:
    path = write_report(result.model_copy(update={"command": "overture compare task.yaml"}), tmp_path)
    text = path.read_text()
    links = Links()
    links.feed(text)
    assert [link for link in links.found if not link.startswith(("#", "data:"))] == []
    assert not {"script", "link", "iframe", "img"} & links.tags
    assert re.search(r"url\((?!#)", text) is None
    assert "@import" not in text
    # Quality, curve, costs, serving and forgetting, each for wide and narrow screens.
    assert text.count("<svg") == 10
    assert len(text.encode()) < 300_000
    assert "prefers-color-scheme: dark" in text
    assert "<details open" not in text
    assert "overture compare task.yaml" in text
    assert {path.name for path in tmp_path.iterdir()} == {"report.html", "report.png", "result.json"}
    assert Summary.model_validate_json((tmp_path / "result.json").read_text()).ledger == result.ledger
    for part in (result.advice.what, result.advice.why, result.advice.next):
        assert part in text


def test_costs_show_every_way() -> None:
    """What has examples in front trains nothing; its score lies across the chart."""
    few = cells_of({"shown": 0.7}, seeds=2)
    for one in few:
        one["trainable"] = 0
    trained = [cell("trained", 64, seed, hits(0.8, seed)) for seed in range(2)]
    chart = costs(summed([*few, *trained], ["shown", "trained"]))
    assert chart is not None
    for panel in chart.to_dict()["hconcat"]:
        drawn = {row["way"] for layer in panel["layer"] for row in layer["data"]["values"]}
        assert drawn == {"shown", "trained"}


def test_what_users_write_is_escaped(result: Summary) -> None:
    nasty = '<script>alert("x")</script>'
    changed = {"task": nasty, "notices": (nasty,), "left_out": (nasty,), "command": f"overture compare {nasty}"}
    text = page(result.model_copy(update=changed))
    assert "<script" not in text
    assert text.count("&lt;script&gt;") == 5


def test_page_of_one_size_and_one_way() -> None:
    found = summed(cells_of({"a": 0.9}, seeds=1), ["a"])
    assert found.advice.what in page(found)
    assert found.worth == ()


def test_a_way_that_could_not_be_run_is_told_and_the_rest_compared() -> None:
    cells = [one for one in cells_of({"a": 0.9, "b": 0.6}) if one["way"] == "a"]
    cells += cells_of({"a": 0.9, "b": 0.6}, size=16)
    failed = [FailedCell(way="b", size=64, seed=0, what="the model said no")]
    found = summed(cells, ["a", "b"], (16, 64), failed=failed)
    assert found.status == "incomplete"
    assert "b, 64 rows, seed 0: the model said no" in page(found)
    assert found.advice.way is None
    assert {(pair.size, pair.a, pair.b) for pair in found.pairs} == {(16, "a", "b")}


def test_energy_of_a_meter_that_some_cells_lacked_is_an_estimate() -> None:
    cells = cells_of({"a": 0.8, "b": 0.8}, seeds=2)
    for one in cells:
        one["ledger"] = {
            name: {**account, "joules": 360.0} if isinstance(account, dict) else account
            for name, account in one["ledger"].items()
        }
        one["ledger"]["energy_meter"] = "processor"
    cells[0]["ledger"]["energy_meter"] = ""
    found = summed(cells, ["a", "b"], watts=100.0)
    some, whole = found.ledger
    assert (some.energy, some.kwh) == ("estimate: 100 W", pytest.approx(some.seconds * 100 / 3.6e6))
    # Building, reading, training, validation.
    assert (whole.energy, whole.kwh) == ("measured: processor", pytest.approx(4 * 360 / 3.6e6))
    assert energy_text(some.kwh, some.energy).endswith(" (estimate)")
    assert energy_text(whole.kwh, whole.energy) == "0.4"
    text = page(found)
    # In the ledger and in what it costs to serve.
    assert text.count("(estimate)</td>") == 2
    assert "<td>0.4</td>" in text
    assert "estimate: 100 W; measured: processor" in text


def test_a_busy_machine_is_told() -> None:
    cells = cells_of({"a": 0.8, "b": 0.6})
    assert summed(cells, ["a", "b"]).notices == ()
    for account in {id(one): one for one in cells[0]["ledger"].values() if isinstance(one, dict)}.values():
        account["cpu_seconds"] = account["seconds"] / 2
    (told,) = summed(cells, ["a", "b"]).notices
    assert told.startswith("1 of 8 cells waited")


def test_what_was_odd_about_the_rows_is_told_once_with_its_ways() -> None:
    cells = cells_of({"a": 0.8, "b": 0.6, "c": 0.6}) + cells_of({"a": 0.8, "b": 0.6, "c": 0.6}, size=16)
    for one in cells:
        if one["way"] != "c":
            one["notices"] = [f"{one['size'] + one['seed']} rows were shortened"]
    assert summed(cells, ["a", "b", "c"], (16, 64)).notices == ("64 rows were shortened (a, b)",)


@pytest.mark.parametrize(
    ("threads", "text"),
    [((1, 1), "cpu (1 thread);"), ((2, 2), "cpu (2 threads);"), ((1, 2), "cpu (1 or 2 threads);"), ((), "cpu; 64")],
)
def test_threads_are_those_that_the_cells_had(threads: tuple[int, ...], text: str) -> None:
    cells = cells_of({"a": 0.9}, seeds=2)
    for number, one in enumerate(cells):
        del one["threads"]
        if threads:
            one["threads"] = threads[number]
    assert text in page(summed(cells, ["a"]))


def test_what_needs_no_training_is_the_cheapest() -> None:
    right = [True] * 160 + [False] * 40
    cells = [cell("a", 64, seed, right) for seed in range(3)] + [cell("b", 0, 0, right[1:] + right[:1])]
    found = summed(cells, ["a", "b"])
    assert found.advice.next.startswith("Take b, which needs no training")


def test_how_rates_were_chosen_is_told_as_it_was(result: Summary) -> None:
    tried = RateChoice(way="a", lr=0.1, size=64, seed=0, tried=(trial(0.1, 0.5),))
    default = RateChoice(way="b", lr=0.1, size=64, seed=0)

    def shown(rates: dict[str, RateChoice], **settings: tuple[str, ...]) -> str:
        request = result.request.model_copy(update={"settings": settings})
        return page(result.model_copy(update={"rates": rates, "request": request}))

    assert "chosen among its few" not in shown({"b": default})
    assert "none was chosen on this task" in shown({"b": default})
    mixed = shown({"a": tried, "b": default})
    assert "a: chosen among its few on validation rows, at 64 rows with seed 0; b: ran at their default" in mixed
    assert mixed.count("<td>its default, not tuned</td>") == 1
    given = shown({"a": tried, "b": default}, b=("train.lr=0.1",))
    assert "; b: set by hand." in given
    assert "<td>set by hand</td>" in given
    assert "default" not in given


def test_validation_rows_are_those_that_the_cells_had(result: Summary) -> None:
    text = page(result)
    assert "Validation rows: 16 at 16 training rows, 32 at 64 training rows; as many as training rows if" in text
    assert "is given 60 optimiser steps at least, however few the rows, and ends before" in text


@pytest.mark.parametrize(
    ("share", "text"), [(None, "-"), (0.0, "0%"), (1e-6, "< 0.01%"), (0.012, "1.20%"), (0.5, "50%")]
)
def test_shares(share: float | None, text: str) -> None:
    assert share_text(share) == text


def test_every_metric_has_the_interval_of_its_score_and_stays_within_its_bounds() -> None:
    """Over seeds and rows as the score itself, and no share above 1 or below 0."""
    near = [cell("a", 64, seed, hits(share, seed, 100)) for seed, share in enumerate((0.9, 1.0, 1.0))]
    for seed, one in enumerate(near):
        one["metrics"]["test"] |= {"macro_f1": interval(0.5), "ece": interval(0.01 + 0.1 * (seed == 0))}
    found = summed([*near, cell("b", 0, 0, hits(0.5, 9, 100))], ["a", "b"])
    values = found.metrics[0].values
    score = found.scores[0]
    assert [getattr(values["accuracy"], end) for end in ("value", "low", "high")] == [
        getattr(score, end) for end in ("value", "low", "high")
    ]
    assert values["accuracy"].high == 1
    assert "rows" in values["macro_f1"].method
    assert values["ece"].low == 0
    assert "over seeds and test rows, of ece over the seeds alone." in page(found)


def test_of_many_labels_the_worst_are_shown() -> None:
    labels = [
        LabelScore(label=f"label{n}", precision=1, recall=1, f1=n / 100, num_gold=1, num_predicted=1) for n in range(77)
    ]
    mistakes = tuple(WayMistakes(way=way, n_seeds=1, labels=tuple(labels)) for way in ("a", "b", "c"))
    few = page(summed(cells_of({"a": 0.9}), ["a"]).model_copy(update={"mistakes": mistakes}))
    assert "label24<" in few
    assert "label25<" not in few
