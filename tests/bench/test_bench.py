"""The measuring scripts: they load, and what they say of the methods follows from the cells alone."""

import importlib
import json
import sys
from pathlib import Path

import pytest

from overture.evaluate import paired_test

BENCH = Path(__file__).parents[2] / "bench"


@pytest.fixture(autouse=True)
def bench_is_found(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(BENCH), *sys.path])


@pytest.mark.parametrize("script", sorted(path.stem for path in BENCH.glob("*.py")))
def test_every_script_loads(script):
    assert importlib.import_module(script).__doc__


@pytest.mark.parametrize("file", sorted(path.name for path in (BENCH / "tasks").glob("*.yaml")))
def test_every_task_file_can_be_read(file):
    from overture.study.api import request

    task = request(BENCH / "tasks" / file, {}).task
    assert task.name == Path(file).stem
    words = [word for own in task.words.values() for word in own]
    assert len(set(words)) == len(words)


def cells(way, right, task="movie", seeds=(0,)):
    return [{"way": way, "task": task, "seed": seed, "test": {"right": right}} for seed in seeds]


def of(name, found):
    return importlib.import_module("effects").standings(found, {})[name]


def test_a_method_that_is_clearly_ahead_is_reproduced():
    worse, better = "10" * 100, "1" * 180 + "0" * 20
    assert of("prefix", cells("prefix-after", better) + cells("vectors-after", worse)) == "reproduced"
    assert of("prefix", cells("prefix-after", worse) + cells("vectors-after", better)) == "experimental"


def test_a_gain_that_two_seeds_have_and_one_has_not_is_not_shown():
    """Test rows of several seeds are not so many rows more: seeds are what differs."""
    worse, better = "10" * 300, "1" * 480 + "0" * 120
    found = cells("prefix-after", better, seeds=(0, 1)) + cells("prefix-after", worse, seeds=(2,))
    assert of("prefix", found + cells("vectors-after", worse, seeds=(0, 1, 2))) == "experimental"
    found = cells("prefix-after", better, seeds=(0, 1)) + cells("prefix-after", better[1:] + "0", seeds=(2,))
    assert of("prefix", found + cells("vectors-after", worse, seeds=(0, 1, 2))) == "reproduced"


def test_the_spread_over_seeds_is_told():
    shares = {"residual-after": (50, 52, 51), "vectors-after": (40, 60, 50)}
    found = [
        one
        for way, counts in shares.items()
        for seed, count in enumerate(counts)
        for one in cells(way, "1" * count + "0" * (100 - count), seeds=(seed,))
    ]
    text = importlib.import_module("effects").spread_text(found)
    assert "movie 1.0 beside 10.0 points (ratio of variances 0.01, 0.00026 to 0.39, 3 and 3 seeds)" in text
    assert importlib.import_module("effects").spread_text(found[:4]) == ""


def test_a_gain_on_one_task_and_a_loss_on_another_shows_nothing():
    worse, better = "10" * 100, "1" * 180 + "0" * 20
    mixed = cells("prefix-after", better) + cells("vectors-after", worse)
    mixed += cells("prefix-after", worse, "trec") + cells("vectors-after", better, "trec")
    assert of("prefix", mixed) == "experimental"


def test_only_seeds_that_both_have_are_compared():
    worse, better = "10" * 100, "1" * 180 + "0" * 20
    assert of("prefix", cells("prefix-after", better, seeds=(1,)) + cells("vectors-after", worse)) == "experimental"


def test_asking_the_model_has_no_seed():
    worse, better = "10" * 100, "1" * 180 + "0" * 20
    assert of("vectors", cells("vectors-after", better, seeds=(3,)) + cells("none", worse)) == "reproduced"


def test_a_smaller_prompt_that_may_have_lost_much_is_not_said_to_keep_the_accuracy():
    same = "110" * 600
    assert of("ulpt", cells("ulpt-after", same) + cells("vectors-after", same)) == "reproduced"
    assert (
        of("ulpt", cells("ulpt-after", "110" * 20) + cells("vectors-after", "110" * 18 + "111" * 2)) == "experimental"
    )


def test_a_method_without_cells_is_experimental():
    assert set(importlib.import_module("effects").standings([], {}).values()) == {"experimental"}


@pytest.mark.parametrize(("values", "standing"), [(30, "reproduced"), (50, "experimental")])
def test_a_pruned_prompt_keeps_the_accuracy_only_with_a_third_of_the_values(tmp_path, values, standing):
    compared = paired_test("1" * 900, "110" * 300, "110" * 300).model_dump()
    found = {"trainable": values, "whole": {"trainable": 90}}
    found["compared"] = {"whole": {"split": "test", **compared}}
    (tmp_path / "pruned.json").write_text(json.dumps({"found": found}))
    studies = importlib.import_module("studies").pruned_differences(tmp_path)
    assert importlib.import_module("effects").standings([], studies)["pruned"] == standing


def test_sensitivity_is_told_beside_the_way_as_it_comes():
    def cell(file, right, lr=0.1, length=10):
        config = {"prompt": {"length": length, "init": "vocabulary"}, "train": {"lr": lr}}
        test = {"accuracy": right.count("1") / len(right), "right": right}
        facts = {"way": "prefix-after", "task": "trec", "seed": 0, "trainable": 5, "cpu_seconds_with_validation": 7.0}
        return {**facts, "file": file, "config": config, "test": test}

    better = cell("prefix-after-trec-seed0", "1" * 180 + "0" * 20)
    worse = cell("prefix-after-lr-1-trec-seed0", "10" * 100, lr=1)
    long = cell("prefix-after-length-30-trec-seed0", "1" * 180 + "0" * 20, length=30)
    text = importlib.import_module("studies").sensitivity_text([long, worse, better])
    rows = [line for line in text.splitlines() if line.startswith("| ")][2:]
    assert rows[0].startswith("| nothing: lr 0.1, length 10, init vocabulary | 0.900 | - |")
    assert rows[1].startswith("| lr 1 | 0.500 | -40.0 (")
    assert rows[2].startswith("| length 30 | 0.900 | +0.0 (")


@pytest.mark.parametrize(
    ("way", "wanted"),
    [
        ("vectors-after", "yes"),
        ("prefix-after", "yes"),
        ("vectors-before", "no"),
        ("prefix-memory", "no"),
        ("dept-after", "no"),
        ("split-around", "no"),
        ("late-before", "partly"),
        ("late-after", "partly"),
    ],
)
def test_whether_inputs_are_kept_is_said(way, wanted):
    assert importlib.import_module("methods_grid").cached(*way.rsplit("-", 1)) == wanted


def test_the_table_says_what_is_cached_and_why_some_ways_have_one_seed():
    def cell(way, seed, seconds):
        method, place = way.rsplit("-", 1)
        options = {"layer": 1} if method == "late" else {}
        return {
            "file": f"{way}-trec-seed{seed}",
            "way": way,
            "task": "trec",
            "seed": seed,
            "test": {"accuracy": 0.5},
            "config": {
                "prompt": {"method": method, "place": place, "length": 3, "options": options},
                "train": {"lr": 0.1, "epochs": 5},
            },
            "trainable": 12,
            "cache_seconds": 7.0,
            "cpu_seconds_with_validation": seconds,
        }

    cells = [cell("vectors-after", 0, 10), cell("vectors-after", 1, 10), cell("vectors-before", 0, 45)]
    text = importlib.import_module("methods_page").measured_text([*cells, cell("late-before", 0, 20)])
    assert "4.5 to 4.5 times as long" in text
    rows = [[part.strip() for part in line.split("|")] for line in text.splitlines() if line.startswith("| ")]
    shown = {row[1]: dict(zip(rows[0], row, strict=True)) for row in rows[2:]}
    assert {way: row["cached"] for way, row in shown.items()} == {
        "vectors-after": "yes",
        "vectors-before": "no",
        "late-before": "partly",
    }
    assert shown["vectors-before"]["inputs' one run, s"] == "-"
    assert shown["late-before"]["inputs' one run, s"] == "7"


def test_the_grid_says_where_no_text_becomes_a_memory():
    text = importlib.import_module("methods_grid").grid_text()
    refused = [line for line in text.splitlines() if line.startswith("- `overture cartridge` (")]
    assert ["(encoder)" in refused[0], "(encoder-decoder)" in refused[1]] == [True, True]
    assert "writes no answers" in refused[0]


@pytest.mark.parametrize(("ours", "standing"), [("10" * 50, "reproduced"), ("0" * 60 + "10" * 20, "experimental")])
def test_a_cartridge_is_held_against_the_beginning_of_its_text(tmp_path, ours, standing):
    f1 = {"value": 0.1, "low": 0.0, "high": 0.2, "n": 9}
    talk = {"perplexity": 9.0, "divergence": 0.5, "columns": 4}
    right = {"beginning": "10" * 20 + "0" * 60, "cartridge": ours}
    for title in ("One", "Two"):
        article = {
            "article": title,
            "text_tokens": 900,
            "settings": {"length": 4, "conversations": 2, "seed": 0, "threads": 1},
            "ways": dict.fromkeys(right, talk),
            "questions": {way: {"perplexity": 20.0, "right": own, "squad_f1": f1} for way, own in right.items()},
        }
        (tmp_path / f"{title}-4.json").write_text(json.dumps(article))
    studies, effects = importlib.import_module("studies"), importlib.import_module("effects")
    found = studies.cartridge_differences(tmp_path)
    (pair,) = found["cartridge"].values()
    assert pair.difference.n == 200
    assert effects.standings([], found)["cartridge"] == standing
    share = f"{ours.count('1') / 100:.3f} (n = 100)"
    assert f"| One (900 tokens) | cartridge | 4 | 9.00 | 0.500 | 20.0 | {share} |" in studies.cartridge_text(tmp_path)
