"""The measuring scripts: they load, and what they say of the methods follows from the cells alone."""

import importlib
import json
import re
import runpy
import sys
from pathlib import Path

import pytest

from overture.evaluate.intervals import paired_test

BENCH = Path(__file__).parents[2] / "bench"


FOLDERS = [*(BENCH / name for name in ("speed", "quality", "pages", "serve", "vision")), BENCH]
SCRIPTS = [path for folder in FOLDERS for path in sorted(folder.glob("*.py"))]


@pytest.fixture(autouse=True)
def bench_is_found(monkeypatch):
    monkeypatch.setattr(sys, "path", [*map(str, FOLDERS), *sys.path])


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_every_script_says_how_it_is_called(script, monkeypatch, capsys):
    """Run as a script is, with its own folder alone on the path."""
    if "def main(" not in script.read_text(encoding="utf-8"):
        assert importlib.import_module(script.stem).__doc__
        return
    monkeypatch.setattr(sys, "path", [str(script.parent), *(path for path in sys.path if "bench" not in path)])
    monkeypatch.setattr(sys, "argv", [str(script), "--help"])
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(str(script), run_name="__main__")
    assert stopped.value.code == 0
    assert "usage:" in capsys.readouterr().out


@pytest.mark.parametrize("file", sorted(path.name for path in (BENCH / "tasks").glob("*.yaml")))
def test_every_task_file_can_be_read(file):
    from overture.core.config import read_yaml
    from overture.data.task import Task
    from overture.jobs.run.request import TuneConfig

    values = read_yaml(BENCH / "tasks" / file)
    task_values = {key: values.pop(key) for key in [*values] if key in Task.model_fields}
    task = TuneConfig.model_validate({**values, "task": task_values}).task
    assert task.name == Path(file).stem
    words = [word for own in task.words.values() for word in own]
    assert len(set(words)) == len(words)


def test_the_commands_of_the_page_name_ways_that_there_are():
    from overture.jobs.compare.ways import WAYS

    page = (BENCH.parent / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    ways = set(re.findall(r"quality\.py .*--way (\S+)", page))
    assert "no-prompt" in ways
    assert ways <= set(WAYS)


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
    assert of("vectors", cells("vectors-after", better, seeds=(3,)) + cells("no-prompt", worse)) == "reproduced"


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


def test_a_long_prompts_own_rate_is_not_told_as_a_change():
    def cell(length, lr, dtype="float32", name=""):
        config = {"prompt": {"length": length, "init": "vocabulary"}, "train": {"lr": lr}}
        facts = {"way": "prefix-after", "task": "trec", "seed": 0, "trainable": 5, "cpu_seconds_with_validation": 7.0}
        file = f"prefix-after-{name}trec{'' if dtype == 'float32' else '-' + dtype}-seed0"
        return {**facts, "file": file, "config": config, "dtype": dtype, "test": {"accuracy": 0.5, "right": "10"}}

    cells = [cell(10, 0.1), cell(100, 0.03, name="own-"), cell(100, 0.1, name="same-"), cell(10, 0.1, "bfloat16")]
    text = importlib.import_module("studies").sensitivity_text(cells)
    whats = [line.split(" | ")[0] for line in text.splitlines() if line.startswith("| ") and "changed" not in line]
    assert [what for what in whats if "length 100" in what] == [
        "| lr 0.1, length 100",
        "| length 100 (its own rate, 0.03)",
    ]
    assert "#### prefix-after on trec, bfloat16" in text


def test_losses_of_reports_are_those_of_their_cells():
    def cell(way, seed, size, *losses):
        history = [{"train_loss": train, "validation_loss": held} for train, held in losses]
        scores = {"test": {"bleu": {"value": 0.2 + 0.1 * seed}}}
        facts = {"way": way, "seed": seed, "size": size, "trainable": 7, "history": history, "metrics": scores}
        return json.dumps(facts | {"ledger": {"training": {"cpu_seconds": 10.0 + seed}}})

    lines = [
        cell("lora", 0, 64, (2, 1.5), (1, 1.0), (0.5, 1.2)),
        cell("lora", 1, 64, (2, 1.1), (0.7, 1.4)),
        cell("lora", 0, 8, (9, 9)),
        json.dumps({"way": "no-prompt", "size": 0, "metrics": {}}),
    ]
    text = importlib.import_module("once").losses_text({"webnlg": "\n".join(lines)})
    (row,) = [line for line in text.splitlines() if " lora " in line]
    assert row == "| sentences from facts (64 rows, 2 seeds) | lora | 0.250 | 0.60 | 1.05 | 1.50 | 1.30 | 7 | 10 |"


def test_written_sentences_are_told_by_way():
    def cell(seed, bleu, tag=""):
        losses = {name: {"all": 1.0, "first": 2.0, "others": 0.5} for name in ("training", "validation")}
        facts = {"way": "lora:after", "tag": tag, "task": "webnlg", "size": 64, "seed": seed, "dtype": "bfloat16"}
        facts |= {"rows": {"validation": 32, "test": 100}, "steps": 32, "given": ["options.rank=2"] if tag else []}
        seconds = {"reading": 1.0, "training": 2.0}
        scores = {"bleu": {"value": bleu}}
        answers = {"predicted": ["one two", "one two three"]}
        return facts | {"losses_at_best": losses, "cpu_seconds": seconds, "test": scores, "trainable": 9} | answers

    text = importlib.import_module("once").written_text([cell(0, 0.2), cell(1, 0.4), cell(0, 0.3, "rank-2")])
    rows = [line for line in text.splitlines() if line.startswith("| lora:after")]
    assert rows[0].startswith("| lora:after | 0.300 | 0.000-1.000 | 2 | 2.5 | 1.00 | 1.00 | 2.00 | 0.50 | 9 | 3 |")
    assert rows[1].startswith("| lora:after, rank 2 | 0.300 | - | 1 |")
    assert '--way lora:after --tag rank-2 --set "options.rank=2"' in text


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


def side(way, right, task="trec", seed=0, **more):
    test = {"accuracy": right.count("1") / len(right), "n": len(right), "right": right}
    facts = {"way": way, "task": task, "seed": seed, "trainable": 5760, "cpu_seconds": 7.0, "train_rows": 64}
    config = {
        "prompt": {"method": "prefix", "place": "after", "length": 10, "options": {}},
        "train": {"lr": 0.1, "epochs": 5},
        "adapter": {"rank": 8},
    }
    return {**facts, "file": f"{way}-{task}-seed{seed}", "config": config, "test": test, **more}


def rows_in(text):
    lines = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    return {line[0]: line[1:] for line in lines}


def test_a_prompt_with_lora_is_told_beside_each_alone():
    worse, better = "10" * 100, "1" * 180 + "0" * 20
    found = [side("joint", better), side("prompt", worse), side("lora", better)]
    rows = rows_in(importlib.import_module("studies").together_text(found))
    head = ["test accuracy", "95% interval", "beside prompt alone", "beside LoRA alone", "trained values"]
    assert rows["way"][:5] == head
    assert rows["both at once"][2].startswith("+40.0 (")
    assert rows["both at once"][3].startswith("+0.0 (")
    assert rows["prompt alone"][2] == "-"
    assert rows["prompt alone"][3].startswith("-40.0 (")
    assert "prompt, then LoRA" not in rows


def test_seeds_widen_what_stands_beside():
    worse = "10" * 300
    better = ["1" * 480 + "0" * 120, worse, "1" * 420 + "0" * 180]
    cells = [
        side(way, own, seed=seed) for seed, one in enumerate(better) for way, own in [("lora", worse), ("joint", one)]
    ]
    row = rows_in(importlib.import_module("studies").together_text(cells))["both at once"]
    assert row[0] == "0.667"
    assert row[2].startswith("+16.7 (-")
    assert row[-1] == "3"


def test_shared_prompts_are_told_beside_the_task_alone_and_a_new_task_beside_the_ordinary_start():
    worse, better = "10" * 100, "1" * 180 + "0" * 20
    found = [side("alone", worse), side("mpt", better), side("alone", worse, "bbc")]
    found += [side("mpt-new", worse, "bbc"), side("mpt-started", better, "bbc")]
    text = importlib.import_module("studies").shared_text(found)
    bbc, trec = text.split("#### ")[1:]
    assert bbc.startswith("bbc")
    assert trec.startswith("trec")
    assert "which has 64 training rows" in text
    started = rows_in(bbc)["MPT, begun at the shared prompt"]
    assert started[2].startswith("+40.0 (")
    assert started[3].startswith("+40.0 (")
    assert rows_in(trec)["MPT together"][2].startswith("+40.0 (")
    assert "MPT, ordinary start" not in rows_in(trec)


def test_dept_of_equal_values_is_told_with_its_seconds_and_leaves_the_standing_alone():
    worse, better = "10" * 100, "1" * 180 + "0" * 20
    own = {"file": "dept-before-equal-trec-seed0", "trainable": 5509, "cpu_seconds_with_validation": 250.0}
    found = [
        side("dept-before", better, **own),
        side("vectors-before", worse, cpu_seconds_with_validation=300.0),
    ]
    rows = rows_in(importlib.import_module("studies").equal_text(found))
    assert rows["DePT, 4 vectors"][2].startswith("+40.0 (")
    assert rows["DePT, 4 vectors"][3:] == ["5,509", "250", "1"]
    assert not importlib.import_module("methods_page")._is_plain(found[0])


def test_a_study_without_cells_names_its_command():
    studies = importlib.import_module("studies")
    assert studies.together_text([]) == "Not measured yet: `python bench/quality/together.py --data DIR`."
    assert studies.shared_text([]) == "Not measured yet: `python bench/quality/shared.py --data DIR`."
    assert "--method dept" in studies.equal_text([side("vectors-before", "10")])


def test_dept_of_equal_values_has_no_more_of_them_than_ten_vectors():
    from overture.prompt.methods import METHODS

    methods = importlib.import_module("methods")
    (entry,) = (entry for entry in methods.PLAN if entry.tag == "equal")
    assert entry.file("trec", 0) == "dept-before-equal-trec-seed0.json"
    options, width = METHODS["dept"].options(**entry.options), 576
    count = entry.length * width + options.rank * (options.max_tokens + width)
    assert count == 5509
    assert count < 10 * width


def test_a_sitting_begins_nothing_after_its_time():
    common = importlib.import_module("common")
    assert [*common.in_time([1, 2], 1.0)] == [1, 2]
    assert [*common.in_time([1, 2], -1.0)] == []


def test_first_order_maml_is_told_as_reptile_is(tmp_path):
    compared = {"split": "validation", **paired_test("1" * 20, "1" * 15 + "0" * 5, "10" * 10).model_dump()}
    score = {"accuracy": {"value": 0.5}}
    few = [{"task": "trec", "metric": "accuracy", "is_unseen": True, "ordinary": score, "learnt": score}]
    seeds = {"test": {"mean": 0.6, "low": None, "high": None}, "each": [{"test": 0.6}]}
    settings = {"method": "prefix", "rows": [16], "epochs": 5, "seeds": 1, "visits": 16, "threads": 1}
    found = {"few_steps": [{**few[0], "compared": compared}], "tuned": {"16 rows, start": {"seeds": seeds}}}
    (tmp_path / "fomaml.json").write_text(json.dumps({"settings": settings, "found": found}))
    text = importlib.import_module("studies").starts_text(tmp_path)
    section = text.split("### A start learnt over tasks (first-order MAML)")[1]
    assert "| trec | no | 0.500 | 0.500 | +25.0 (" in section
    assert "| 16 rows | start | 0.600 | - | 0.600 |" in section
    assert "--study fomaml --rows 16" in section


def test_a_cell_that_is_there_is_not_run_again(tmp_path):
    from argparse import Namespace

    cells, together, shared = map(importlib.import_module, ("cells", "together", "shared"))
    args = Namespace(out=tmp_path, seeds=2, task=["trec"], way=["lora", "joint"])
    lab = cells.Lab(args, backbone=None)
    (tmp_path / "lora-trec-seed0.json").write_text("{}")
    left = [("joint", "trec", 0), ("lora", "trec", 1), ("joint", "trec", 1)]
    assert [*together.missing(lab)] == left

    args.way = ["mpt"]
    (tmp_path / "mpt-movie-seed0.json").write_text("{}")
    assert [(entry.way, seed) for entry, seed in shared.missing(lab)] == [("mpt", 0), ("mpt", 1)]
    (tmp_path / "mpt-trec-seed0.json").write_text("{}")
    assert [(entry.way, seed) for entry, seed in shared.missing(lab)] == [("mpt", 1)]


def test_written_rows_are_the_rows_that_were_drawn(tmp_path):
    from overture.data.row import Row
    from overture.data.splits import load_splits

    tasks = importlib.import_module("tasks")
    fields = [{"text": "Who?", "label": "person"}, {"text": 'A "quoted" \u00e9', "label": "number"}]
    splits = {split: [Row(one, line, "rows") for line, one in enumerate(fields)] for split in ("train", "validation")}
    task = tasks.written_task("trec", splits, tmp_path / "new" / "folder")
    assert [dict(row.fields) for row in load_splits(task).train] == fields
