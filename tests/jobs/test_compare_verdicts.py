"""What a comparison makes of its cells, without a model: scores, verdicts, advice."""

import itertools
import re
from typing import Any

import pytest

from compare_cells import cell, cells_of, diverged, history, hits, summed, trial, without_score
from overture.core.records.cells import CELLS, RateChoice, RowText
from overture.core.records.compare import Enough
from overture.jobs.compare.budget import Speed
from overture.jobs.verdict.scores import pair_of
from overture.report.compare_page import page


def test_the_best_way_is_recommended_where_it_was_shown_to_be_the_best() -> None:
    found = summed(cells_of({"a": 0.9, "b": 0.6}), ["a", "b"])
    advice = found.advice
    assert advice.way == "a"
    assert advice.rivals == ()
    assert "a" in advice.what
    assert "points" in advice.why
    assert "400 bytes" in advice.next
    assert found.pairs[0].verdict == "better"


def test_no_recommendation_where_intervals_overlap() -> None:
    advice = summed(cells_of({"a": 0.80, "b": 0.79, "c": 0.5}), ["a", "b", "c"]).advice
    assert advice.way is None
    assert advice.rivals == ("b",)
    assert "a and b" in advice.what
    # Of ways that score alike the cheapest to train is named: a takes half as long as b.
    assert advice.next.startswith("Take a")


def test_the_cheapest_of_equals_is_never_one_that_scores_lower() -> None:
    """What is far behind, but was not shown to be, costs nothing and is no way out."""
    right = [True] * 51 + [False] * 9
    cells = [cell(way, 64, seed, right[k:] + right[:k]) for k, way in enumerate("ab") for seed in range(3)]
    cells.append(cell("free", 0, 0, hits(0.72, 5, 60)))
    advice = summed(cells, ["a", "b", "free"]).advice
    assert advice.way is None
    assert "free" in advice.rivals
    assert advice.what.startswith("a and b")
    assert "free" not in advice.next


def test_a_paired_test_alone_is_not_enough() -> None:
    """Better on the same rows, though the intervals of both scores overlap: ahead, but not recommended."""
    import numpy as np

    base = np.random.default_rng(0).random(400)
    ahead = [cell("a", 64, seed, (base < 0.72).tolist()) for seed in range(4)]
    behind = [cell("b", 64, seed, (base < 0.68).tolist(), seconds=1.0) for seed in range(4)]
    found = summed(ahead + behind, ["a", "b"])
    assert found.pairs[0].verdict == "better"
    assert (found.advice.way, found.advice.rivals) == (None, ("b",))
    assert "b is worse by the paired test" in found.advice.why
    # Beside one that scores alike, what the test puts behind is not the cheap way out.
    alike = [cell("c", 64, seed, (base[::-1] < 0.72).tolist(), seconds=99.0) for seed in range(4)]
    advice = summed([*ahead, *behind, *alike], ["a", "b", "c"]).advice
    assert {"a", "c"} <= set(re.findall(r"\b[abc]\b", advice.what))
    assert advice.next.startswith("Take a")


def test_only_ways_without_a_verdict_are_named_as_not_shown_to_be_worse() -> None:
    import numpy as np

    base = np.random.default_rng(0).random(400)
    hits_of = {"a": base < 0.72, "b": base < 0.68, "c": base[::-1] < 0.68}
    cells = [cell(way, 64, seed, right.tolist()) for way, right in hits_of.items() for seed in range(4)]
    found = summed(cells, [*hits_of])
    assert [(pair.b, pair.verdict) for pair in found.pairs if pair.a == "a"] == [("b", "better"), ("c", "undecided")]
    assert set(re.findall(r"\b[abc]\b", found.advice.what)) == {"a", "c"}
    assert "b is worse by the paired test" in found.advice.why
    assert set(found.advice.rivals) == {"b", "c"}


@pytest.mark.parametrize("names", ["ab", "abc", "abcd", "abcde"])
def test_every_way_that_was_not_shown_to_be_worse_is_a_rival(names: str) -> None:
    advice = summed(cells_of(dict.fromkeys(names, 0.5)), [*names]).advice
    assert len(advice.rivals) == len(names) - 1
    assert all(re.search(rf"\b{way}\b", advice.what + advice.why) for way in names)
    assert advice.next


@pytest.mark.parametrize(
    ("shares", "words"), [((0.80, 0.76), "test rows, and more seeds"), ((0.8000, 0.7999), "More test rows")]
)
def test_what_more_rows_would_bring_is_computed(shares: tuple[float, float], words: str) -> None:
    advice = summed(cells_of(dict(zip("ab", shares, strict=True)), n=200), ["a", "b"]).advice
    assert words in advice.next
    if "use about" in advice.next:
        wanted = int(re.findall(r"about ([\d,]+) test rows", advice.next)[0].replace(",", ""))
        assert wanted > 200


def test_no_recommendation_from_one_seed() -> None:
    advice = summed(cells_of({"a": 0.9, "b": 0.5}, seeds=1), ["a", "b"]).advice
    assert (advice.way, advice.rivals) == (None, ("b",))
    assert "--seeds" in advice.next


def test_what_diverged_is_never_recommended() -> None:
    advice = summed(diverged(cells_of({"a": 0.95, "b": 0.6}), "a", 0, 2), ["a", "b"]).advice
    assert advice.way is None
    assert "over 2 to 4 seeds" in advice.why
    assert advice.why.endswith("a diverged with 2 of 4 seeds.")
    assert "a:train.lr" in advice.next


def test_the_verdict_counts_the_seeds_that_there_are() -> None:
    advice = summed(diverged(cells_of({"a": 0.95, "b": 0.6}), "b", 0), ["a", "b"]).advice
    assert advice.way == "a"
    assert "over 4 seeds" in advice.why
    assert "over the 3 seeds that both have" in advice.why
    assert advice.why.endswith("b diverged with 1 of 4 seeds.")
    # Only one seed of the rival is left, which is no ground for a recommendation.
    few = summed(diverged(cells_of({"a": 0.8, "b": 0.77}), "b", 0, 1, 2), ["a", "b"]).advice
    assert few.way is None
    assert "over 1 to 4 seeds" in few.why


def test_ways_that_know_no_seeds_are_judged_without() -> None:
    constant = [cell("a", 0, 0, hits(0.9, 0)), cell("b", 0, 0, hits(0.6, 1))]
    found = summed(constant, ["a", "b"], (16, 64))
    assert found.advice.way == "a"
    assert "n 400 test rows" in found.advice.why
    assert "seed" not in found.advice.why
    assert len(found.pairs) == 1
    # Beside trained ways of one seed, another seed may turn the order.
    one = [*constant, *cells_of({"c": 0.7}, seeds=1)]
    assert "--seeds" in summed(one, ["a", "b", "c"]).advice.next


def test_no_recommendation_from_one_way() -> None:
    advice = summed(cells_of({"a": 0.9}), ["a"]).advice
    assert advice.way is None
    assert "--way" in advice.next


def test_level_is_an_interval_within_the_margin() -> None:
    same = [cell(way, 64, seed, hits(0.8, seed, 4000)) for way in "ab" for seed in range(4)]
    assert summed(same, ["a", "b"]).pairs[0].verdict == "level"
    few = [cell(way, 64, seed, hits(0.8, seed + 10 * number, 40)) for number, way in enumerate("ab") for seed in (0, 1)]
    assert summed(few, ["a", "b"]).pairs[0].verdict == "undecided"


def test_level_is_asked_of_all_pairs_at_once() -> None:
    """What one pair alone may be called, it may not be called among fifteen."""
    ways = "abcdef"
    seeds = {way: [(0.8, seed + 10 * number) for seed in range(3)] for number, way in enumerate(ways)}
    cells = [cell(way, 64, seed, hits(*at, 2500)) for way in ways for seed, at in enumerate(seeds[way])]
    alone = {pair: summed(cells, list(pair)).pairs[0] for pair in itertools.combinations(ways, 2)}
    table = {(pair.a, pair.b): pair for pair in summed(cells, list(ways)).pairs}
    for names, pair in table.items():
        assert pair.together.level == pytest.approx(1 - 0.05 / 15)
        assert pair.together.low < pair.difference.low <= pair.difference.high < pair.together.high
        assert pair.verdict != "level" or alone[names].verdict == "level"
    assert [pair.verdict for pair in alone.values()].count("level") > [pair.verdict for pair in table.values()].count(
        "level"
    )
    turned = pair_of(list(table.values()), "b", "a", 64)
    assert turned is not None
    assert turned.together.low == -table["a", "b"].together.high


def test_p_values_are_corrected_within_a_size() -> None:
    found = summed(cells_of({"a": 0.8, "b": 0.75, "c": 0.7}), ["a", "b", "c"])
    raw = sorted(pair.p_value for pair in found.pairs)
    assert min(pair.p_corrected for pair in found.pairs) == pytest.approx(min(1, 3 * raw[0]))
    assert all(pair.p_corrected >= pair.p_value for pair in found.pairs)


def test_against_the_reference_by_shares() -> None:
    found = summed(cells_of({"a": 0.8, "b": 0.8}), ["a", "b"])
    assert found.reference == "b"
    (one,) = found.against
    assert (one.way, one.reference) == ("a", "b")
    assert one.shares.seconds == pytest.approx(0.5)
    assert one.shares.trainable == 1
    assert summed(cells_of({"a": 0.8, "b": 0.8}), ["a", "b"], reference="a").against[0].way == "b"


def test_costs_are_counted_once() -> None:
    found = summed(cells_of({"a": 0.8}, seeds=2), ["a"], price=3.6, watts=100.0)
    (cost,) = found.ledger
    assert cost.seconds == pytest.approx(40)
    assert cost.money == pytest.approx(0.04)
    assert cost.kwh == pytest.approx(40 * 100 / 3.6e6)
    assert cost.energy == "estimate: 100 W"
    assert cost.serving_seconds_per_1000 == pytest.approx(100)
    assert cost.serving_money_per_1000 == pytest.approx(0.1)


def test_steps_to_the_best_epoch_are_told() -> None:
    trained: list[dict[str, Any]] = [
        {"kind": "trained", "steps": 60, "best_epoch": 2, "history": history(6)},
        {"kind": "trained", "steps": 40, "best_epoch": 3, "history": history(4)},
    ]
    cells = [cell("a", 64, seed, hits(0.8, seed), **facts) for seed, facts in enumerate(trained)]
    found = summed([*cells, *cells_of({"b": 0.7}, seeds=2)], ["a", "b"])
    of_a, of_b = found.ledger
    assert (of_a.steps, of_a.best_steps) == (50, 35)
    assert (of_b.steps, of_b.best_steps) == (0, 0)
    text = page(found)
    assert "<td>50</td><td>35</td>" in text


def test_mistakes_and_curves_are_those_of_the_largest_size() -> None:
    sure, unsure = {"confidences": [0.9, 0.9, 0.9]}, {"confidences": [0.6, 0.55, 0.97]}
    cells = [
        cell("a", 64, 0, [True, True, False], **sure),
        cell("a", 64, 1, [True, True, False], **sure),
        cell("b", 64, 0, [False, True, True], **unsure),
        cell("b", 64, 1, [False, False, True], **unsure),
        cell("b", 16, 0, [False, False, False]),
        cell("free", 0, 0, [True, False, False]),
    ]
    cells[2] |= {"kind": "trained", "steps": 6, "best_epoch": 1, "history": history(3)}
    rows = tuple(RowText(where=f"rows.csv:{n}", text=f"text <{n}>") for n in range(3))
    summed_up = summed(cells, ["free", "b", "a"], (16, 64), rows=rows)
    (curve,) = summed_up.curves
    assert (curve.way, curve.seed, curve.best_epoch, curve.validation_losses) == ("b", 0, 1, (1.0, 1.0, 1.0))
    best, second, third = summed_up.mistakes
    assert (best.way, best.n_seeds, third.way) == ("a", 2, "free")
    assert best.confusion is not None
    assert best.confusion.counts[0] == (4, 2, 0)
    assert second.confusion is not None
    assert third.confusion is None
    assert next((score.label, score.recall) for score in best.labels) == ("good", pytest.approx(2 / 3))
    disagreement = summed_up.disagreement
    assert disagreement is not None
    assert (disagreement.num_right, disagreement.num_wrong, disagreement.num_disputed) == (0, 0, 3)
    # a is wrong with 0.9, b is wrong on row 0 with 0.6; on row 1 half of b's seeds are wrong, with 0.55.
    assert [row.where for row in disagreement.rows] == ["rows.csv:2", "rows.csv:0", "rows.csv:1"]
    assert disagreement.rows[0].errors == {"bad": ["a (90% sure)", "free"]}
    assert disagreement.rows[2].errors == {"bad": ["b (55% sure, 1 of 2 seeds)", "free"]}
    text = page(summed_up)
    assert "text &lt;2&gt;" in text
    assert "F1 of each label by way" in text
    assert len(text) < 300_000
    assert summed([cell("a", 64, 0, [True])], ["a"]).disagreement is None


def test_a_rate_that_diverged_before_its_first_validation_costs_what_it_took() -> None:
    tried = [
        trial(0.1, 0.5, training={"seconds": 3.0}, validation={"seconds": 1.0}),
        trial(0.3, None, training={"seconds": 2.0}),
    ]
    rates = {"a": RateChoice(way="a", lr=0.1, size=64, seed=0, tried=tried)}
    found = summed(cells_of({"a": 0.8}), ["a"], rates=rates)
    assert found.ledger[0].choosing_seconds == 6
    assert "0.1: 0.500; 0.3: diverged" in page(found)


def test_diverged_cells_are_told_and_left_out() -> None:
    cells = cells_of({"a": 0.9, "b": 0.6})
    cells[0] = without_score(cells[0])
    found = summed(cells, ["a", "b"])
    assert "diverged" in found.notices[0]
    assert found.scores[0].n_seeds == 3
    assert found.pairs[0].n_seeds == 3


def test_worth_is_over_seeds_that_both_have() -> None:
    """Seeds differ more than ways; a lost seed must not pair the others wrongly."""

    def right(way: str, size: int, seed: int) -> list[bool]:
        num_right = 500 + 40 * seed + {16: 0, 64: 50, 256: 100}[size] + (50 if way == "a" else 0)
        return [True] * num_right + [False] * (1000 - num_right)

    cells = [
        cell(way, size, seed, right(way, size, seed)) for way in "ab" for size in (16, 64, 256) for seed in range(5)
    ]
    (whole,) = summed(cells, ["a", "b"], (16, 64, 256), reference="b").worth
    lost = [one for one in cells if (one["way"], one["seed"]) != ("a", 0)]
    (one,) = summed(lost, ["a", "b"], (16, 64, 256), reference="b").worth
    assert whole.times == pytest.approx(4, rel=0.01)
    assert one.times == pytest.approx(4, rel=0.01)
    assert one.times_low <= one.times <= one.times_high
    none = [one for one in lost if (one["way"], one["seed"]) == ("b", 0) or one["way"] == "a"]
    (apart,) = summed(none, ["a", "b"], (16, 64, 256), reference="b").worth
    assert apart.rows is None


def test_from_how_many_rows_on_training_beats_none() -> None:
    # Cells of earlier versions call the model alone "none".
    cells = [cell("none", 0, 0, hits(0.6, 7, 2000))]
    shares = {16: 0.6, 64: 0.75, 256: 0.8}
    cells += [
        cell("a", size, seed, hits(share, size + seed, 2000)) for size, share in shares.items() for seed in range(4)
    ]
    cells += [cell("b", size, seed, hits(0.6, 1 + size + seed, 2000)) for size in shares for seed in range(4)]
    found = summed(cells, ["none", "a", "b"], (16, 64, 256))
    assert found.enough == (Enough(way="a", than="no-prompt", size=64), Enough(way="b", than="no-prompt", size=None))
    text = page(found)
    assert "Better than no-prompt: a from 64 rows on." in text
    assert "Not shown to be better than no-prompt at any size here: b." in text


def test_what_building_takes_grows_with_the_rows() -> None:
    """Features for a head, or the nearest examples, are found while a way that is not trained is built."""
    spent = {"building": {"seconds": 8.0}, "scoring": {"seconds": 5.0}}
    ledger = {"peak_bytes": 1, "grown_bytes": 0, "energy_meter": "", **spent}
    built = cell("linear", 32, 0, [True], ledger=ledger, rows={"train": 32, "validation": 32, "test": 100})
    speed = Speed.of(CELLS.validate_python(built), 15.0)
    assert speed.building(32, 32) == pytest.approx(10)
    assert speed.building(256, 256) == pytest.approx(2 + 64)


def test_worth_over_sizes() -> None:
    def score(way: str, size: int) -> float:
        return {"a": {16: 0.7, 64: 0.8, 256: 0.9}, "b": {16: 0.6, 64: 0.7, 256: 0.8}}[way][size]

    cells = [
        cell(way, size, seed, hits(score(way, size), size * 10 + seed + 5 * (way == "b"), 2000))
        for way in "ab"
        for size in (16, 64, 256)
        for seed in range(4)
    ]
    found = summed(cells, ["a", "b"], (16, 64, 256), reference="b")
    (one,) = found.worth
    assert one.times_low < 4 < one.times_high
    assert one.times == pytest.approx(4, rel=0.6)


@pytest.mark.parametrize(
    ("scores", "told"),
    [
        ((0.50, 0.45, 0.48), "0.450 to 0.500 on 32 rows"),
        ((0.0, 0.0), "0.000 to 0.000 on 32 rows"),
        ((1.0, 0.99, None), "0.990 to 1.000 on 32 rows"),
        ((0.80, 0.50), ""),
        ((0.80, None), ""),
        ((0.80,), ""),
    ],
)
def test_a_rate_that_chance_may_have_chosen_is_told(scores: tuple[float | None, ...], told: str) -> None:
    tried = tuple(trial(0.1 * 3**k, score) for k, score in enumerate(scores))
    rates = {"a": RateChoice(way="a", size=64, seed=0, lr=0.1, tried=tried)}
    notices = [
        text for text in summed(cells_of({"a": 0.9, "b": 0.6}), ["a", "b"], rates=rates).notices if "chance" in text
    ]
    assert len(notices) == bool(told)
    assert all(told in text and "a:" in text for text in notices)
