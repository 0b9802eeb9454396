"""``overture compare`` end to end on a tiny model."""

import json
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from comparisons import CELLS, FEW, SMALLEST, WORDS, cells, timeless

from overture.cli import compare as command
from overture.core.errors import BackboneError, Stopped
from overture.core.records.cells import DivergedCell, Key
from overture.core.records.events import Event, StepEvent
from overture.data.row import Row
from overture.data.splits import load_splits
from overture.engine.load import load_backbone
from overture.jobs.compare import compare as study
from overture.jobs.compare import ledger
from overture.jobs.compare.cells import CellContext
from overture.jobs.compare.compare import compare
from overture.jobs.compare.energy import EnergyMeter
from overture.jobs.compare.options import CompareConfig
from overture.jobs.compare.ways import WAYS, Resources
from overture.jobs.run.request import tune_config
from overture.store.store import Store


@pytest.fixture
def task(make_task: Callable[..., Path]) -> Path:
    return make_task(train={"epochs": 1, "batch_size": 4})


def test_compare_resume_and_one_cell(task, drawn, overture, monkeypatch) -> None:
    done = overture("compare", task, *WORDS, *FEW, "--price", "2", "--json")
    assert done.code == 0, done.err
    assert "plan:" in done.err
    assert "prefix-after: 4 trainings on 4, 8 rows" in done.err
    assert "up to 2 epochs in place of 1: every training has 2 optimiser steps" in done.err
    found = done.json
    assert (found["status"], found["largest"], found["seeds"]) == ("finished", 8, [0, 1])
    assert set(cells()) == CELLS
    assert Path(found["report"]).read_text().startswith("<!doctype html>")
    assert json.loads(Path("out/result.json").read_text()) == {k: v for k, v in found.items() if k != "report"}
    prompt = next(cost for cost in found["ledger"] if cost["way"] == "prefix-after" and cost["size"] == 8)
    assert set(found["metrics"][0]["values"]) >= {"accuracy", "macro_f1", "ece"}
    assert "<th>macro_f1</th>" in Path(found["report"]).read_text()
    # 3 columns of keys and values in three layers with two heads of eight.
    assert prompt["trainable"] == 3 * 2 * 3 * 2 * 8
    assert prompt["stored_bytes"] > 4 * prompt["trainable"]
    assert prompt["is_intact"]
    assert prompt["is_shared"]
    assert prompt["own_bytes"] == 0
    assert prompt["perplexity_after"] != prompt["perplexity_before"] > 1
    assert prompt["money"] == pytest.approx(prompt["seconds"] / 1800)
    assert prompt["flops"] > prompt["serving_flops_per_row"] > 0
    assert str(Path.cwd()) not in json.dumps(found)
    none = next(cost for cost in found["ledger"] if cost["way"] == "no-prompt")
    assert none["perplexity_after"] == pytest.approx(none["perplexity_before"])

    # Its charts were drawn once, and checked against their schema.
    monkeypatch.setattr("overture.report.compare_page.svgs", lambda make, title: None)
    # The cell's test scores are the same once more, and all other cells stay untouched.
    before = cells()
    times = {path.stem: path.stat().st_mtime_ns for path in Path("out/cells").glob("*.json")}
    again = overture("compare", task, *WORDS, *FEW, "--price", "2", "--json").json
    assert {path.stem: path.stat().st_mtime_ns for path in Path("out/cells").glob("*.json")} == times
    assert again == found
    Path("out/cells/prefix-after--8--1.json").unlink()
    Path("out/cells/prefix-after--4--0.json").unlink()
    assert overture("compare", task, *WORDS, *FEW, "--cell", "prefix-after:8:1", "--json").code == 0
    assert set(cells()) == CELLS - {"prefix-after--4--0"}
    shown = overture("compare", task, *WORDS, *FEW)
    assert shown.code == 0
    for text in ("8 training rows", "prefix-after", "What next: ", "The report:"):
        assert text in shown.out
    assert {name: timeless(cell) for name, cell in cells().items()} == {n: timeless(c) for n, c in before.items()}


def test_same_rows_for_all_ways_and_nested(task, tiny) -> None:
    config = tune_config(task)
    splits = load_splits(config.task)
    context = CellContext(
        Resources(load_backbone(str(tiny)), Store(Path("store"))),
        config.task,
        splits,
        1,
        ["a b c d e f g h"],
        max_validation=6,
    )

    def lines(found: list[Row]) -> list[int]:
        return [row.line for row in found]

    small, large = context.rows(4, 0), context.rows(8, 0)
    assert lines(large["train"])[:4] == lines(small["train"])
    assert lines(large["validation"])[:4] == lines(small["validation"])
    assert [len(large[name]) for name in ("train", "validation", "test")] == [8, 6, 8]
    assert {row.fields["label"] for row in context.rows(2, 3)["train"]} == {"good", "bad"}
    assert lines(context.rows(8, 1)["train"]) != lines(large["train"])


@pytest.mark.parametrize(
    ("kind", "ways", "left_out"),
    [
        ("decoder", ["no-prompt", "in-context", "linear", "lora", "prefix-after"], ()),
        ("whole", ["no-prompt", "linear", "lora", "prefix-memory"], ("in-context is left out",)),
        ("body", ["linear", "lora", "prefix-memory"], ("no-prompt is left out", "in-context is left out")),
    ],
)
def test_ways_that_nobody_named_are_those_that_fit(make_task, folders, tiny, overture, kind, ways, left_out) -> None:
    """Enough to say whether a prompt is worth tuning, on every kind of model."""
    backbone = str(folders.get(kind, tiny))
    template = {"whole": "{text} is {mask}", "body": "{text}"}.get(kind, "{text}\nMood:")
    labels = {"good": "g", "bad": "b"} if kind == "whole" else {"good": " good", "bad": " bad"}
    task = make_task(backbone=backbone, template=template, labels=labels, train={"epochs": 1, "batch_size": 4})
    done = overture("compare", task, "--size", "4", "--seeds", "1", "--min-steps", "1", *FEW, "--json")
    assert done.code == 0, done.err
    assert (done.json["ways"], done.json["reference"]) == (ways, "lora")
    assert all(text in done.err for text in left_out)
    assert done.err.count("is left out") == len(left_out)


def test_a_text_of_one_way_may_hold_a_colon(task, overture) -> None:
    words = ["--way", "text", "--size", "4", "--seeds", "1", *FEW, "--json"]
    done = overture("compare", task, *words, "--set-way", "text:options.text=Judge the mood: good or bad?")
    assert done.code == 0, done.err
    assert cells()["text--0--0"]["config"]["settings"]["text"] == "Judge the mood: good or bad?"


def test_settings_of_one_way(task, overture) -> None:
    words = ["--way", "late-before", "--way", "vectors-before", "--size", "4", "--seeds", "1", "--min-steps", "1"]
    own = ["--set-way", "late-before:prompt.options.layer=1", "--set-way", "late-before:train.lr=0.01"]
    found = overture("compare", task, *words, *own, *FEW, "--json").json
    assert cells()["late-before--4--0"]["lr"] == 0.01
    cost = {cost["way"]: cost for cost in found["ledger"]}
    # Two of three layers train, the rest is kept.
    assert cost["late-before"]["training_positions"] < cost["vectors-before"]["training_positions"]


def test_stop_and_go_on(task, overture, monkeypatch) -> None:
    run, calls = study.measured, []

    def stopping(context, way, key, rate):
        calls.append(key)
        if len(calls) == 3:
            raise Stopped
        return run(context, way, key, rate)

    with monkeypatch.context() as patch:
        patch.setattr(study, "measured", stopping)
        stopped = overture("compare", task, *WORDS, *FEW, "--json")
    assert (stopped.code, stopped.json["status"]) == (130, "interrupted")
    assert "overture compare" in stopped.json["resume"]
    assert len(cells()) == 2
    calls.clear()
    monkeypatch.setattr(study, "measured", lambda *given: calls.append(given[2]) or run(*given))
    assert overture("compare", task, *WORDS, *FEW, "--json").code == 0
    assert len(calls) == 3
    assert set(cells()) == CELLS


def test_a_request_to_stop_ends_a_cell_in_training(task, tmp_path) -> None:
    config = CompareConfig(
        tune=tune_config(task), ways=("prefix-after",), sizes=(8,), seeds=1, min_steps=50, is_rate_tuned=False
    )
    steps: list[Any] = []

    def listen(event: Event) -> None:
        if isinstance(event, StepEvent):
            steps.append(event)

    found = compare(config, tmp_path / "out", Store(tmp_path / "store"), listen, lambda: len(steps) >= 3)
    assert (found.status, len(steps)) == ("interrupted", 3)
    assert not list((tmp_path / "out").glob("cells/*.json"))


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--way", "prefx-after"], "the nearest: prefix-after"),
        (["--size", "99"], "there are 16 training rows"),
        (["--size", "1"], "two at least"),
        (["--seeds", "0"], "must be at least 1"),
        (["--reference", "lora"], "not compared"),
        (["--cell", "no-prompt"], "WAY:SIZE:SEED"),
        (["--cell", "prefix-after:99:0"], "no such number of training rows"),
        (["--cell", "deep-after:4:0"], "not compared"),
        (["--cell", "prefix-after:7:0"], "not a cell of this comparison"),
        (["--cell", "prefix-after:4:5"], "of 4 rows, of seeds 0, 1, 2"),
        (["--set-way", "train.lr=1"], "WAY:KEY=VALUE"),
        (["--set-way", "lora:options.rank=2"], "--way prefix-after --way lora"),
        (["--way", "no-prompt", "--set-way", "no-prompt:train.lr=1"], "no setting of its training has an effect"),
        (["--way", "lora", "--set-way", "lora:rank=4"], "--set-way lora:options.rank=..."),
        (["--way", "text"], '--set-way "text:options.text='),
        (["--set-way", "prefix-after:seeds=3"], "no such setting"),
        (["--set-way", "prefix-after:prompt.place=memory"], "cannot change method or place"),
        (["--set-way", "prefix-after:prompt.lenth=3"], "did you mean 'length'?"),
        (["--set-way", "prefix-after:prompt.init_text=mood"], "init_text has no effect"),
        (["--set", "prompt.init_text=mood"], "init_text has no effect"),
        (["--way", "warp-after", "--set-way", "warp-after:prompt.labels=words"], "always compares labels with vectors"),
        (["--set", "prompt.init=prompt", "--set", "prompt.init_prompt=nowhere"], "nowhere"),
        (["--unrelated", "nothing.txt"], "unrelated text cannot be read"),
        (["--way", "late-before"], "layer"),
        (["-o", "task.yaml"], "is a file"),
    ],
)
def test_mistakes_are_told_before_anything_runs(task, overture, words, told) -> None:
    base = [] if "--way" in words else ["--way", "prefix-after"]
    base += [] if "--size" in words else ["--size", "4"]
    done = overture("compare", task, *base, *([] if "-o" in words else ["-o", "out"]), *words)
    assert done.code == 2
    assert told in done.err
    assert not Path("out/cells").exists()


@pytest.mark.parametrize("command", ["compare", "tune"])
def test_ray_that_is_missing_is_told_before_anything_runs(task, overture, monkeypatch, command) -> None:
    monkeypatch.setattr("overture.jobs.run.where.find_spec", lambda name: None)
    done = overture(command, task, "--on", "ray", *(["-o", "out"] if command == "compare" else []))
    assert done.code == 2
    assert "Ray is not installed" in done.err
    assert "loading" not in done.err
    assert not Path("out").exists()
    assert not Path("store/runs").exists()


def test_diverged_seed_is_told(task, overture, monkeypatch) -> None:
    run = study.measured

    def diverging(context, way, key, rate):
        cell = run(context, way, key, rate)
        if key != Key(way="prefix-after", size=4, seed=1):
            return cell
        values = {name: value for name, value in cell if name in DivergedCell.model_fields}
        return DivergedCell(**values | {"kind": "diverged", "status": "diverged"})

    monkeypatch.setattr(study, "measured", diverging)
    done = overture("compare", task, *WORDS, *FEW)
    assert done.code == 0
    assert "prefix-after, 4 rows, seed 1: training diverged" in done.out
    assert "prefix-after, 4 rows, seed 1: diverged" in done.err


def test_a_way_that_fails_does_not_stop_the_others(task, overture, monkeypatch) -> None:
    run, asked, tensors = study.measured, [], []

    def failing(context, way, key, rate):
        asked.append(str(key))
        assert all(tensor() is None for tensor in tensors), "a cell that failed stays in memory"
        if way.name == "vectors-before" and key.size == 8:
            held = torch.zeros(1)
            tensors.append(weakref.ref(held))
            try:
                raise torch.OutOfMemoryError("full")
            except torch.OutOfMemoryError as error:
                raise BackboneError("the model said no", where="/secret/place") from error
        return run(context, way, key, rate)

    words = ["compare", task, "--way", "vectors-before", *WORDS, *FEW]
    with monkeypatch.context() as patch:
        patch.setattr(study, "measured", failing)
        done = overture(*words)
        assert done.code == 1
        assert "failed: vectors-before, 8 rows, seed 0: the model said no" in done.out
        assert "the model said no" in Path("out/report.html").read_text()
        found = json.loads(Path("out/result.json").read_text())
        assert found["status"] == "incomplete"
        assert "/secret" not in json.dumps(found)
        assert {(score["way"], score["size"]) for score in found["scores"]} == {
            ("no-prompt", 0),
            ("prefix-after", 4),
            ("prefix-after", 8),
            ("vectors-before", 4),
        }
        # The second seed does not try what failed; fewer rows it does.
        assert [key for key in asked if key.startswith("vectors")] == [
            f"vectors-before:{n}" for n in ("4:0", "8:0", "4:1")
        ]
        assert overture(*words, "--json").json["failed"] == found["failed"]
    mended = overture(*words, "--json")
    assert (mended.code, mended.json["status"], mended.json["failed"]) == (0, "finished", [])


def test_where_nothing_can_be_run_the_reason_is_the_error(task, overture, monkeypatch) -> None:
    def failing(*given):
        raise BackboneError("the model said no")

    monkeypatch.setattr(study, "measured", failing)
    done = overture("compare", task, *WORDS, *FEW, "--json")
    assert (done.code, done.json["what"]) == (2, "the model said no")
    assert not Path("out/report.html").exists()


def test_reports_have_no_paths_of_the_machine(make_task, tiny, overture, tmp_path, monkeypatch) -> None:
    cut = {"too_long": "trim", "max_length": 16}
    task = make_task(backbone=str(tiny), train={"epochs": 1, "batch_size": 4}, **cut)
    words = ["compare", str(Path(task).resolve()), "--way", "no-prompt", "--way", "prefix-after", "--size", "4"]
    words += ["--seeds", "1", "--min-steps", "1", "--default-rates", "-o", str(tmp_path / "there")]
    words += ["--set", f"data.train={tmp_path / 'train.jsonl'}", "--backbone", str(tiny)]
    monkeypatch.setattr("sys.argv", ["overture", *words])
    assert overture(*words).code == 0
    written = [path for path in (tmp_path / "there").rglob("*") if path.is_file() and path.suffix != ".png"]
    assert len(written) > 5
    for path in written:
        text = path.read_text()
        assert str(tmp_path) not in text, path
        assert str(Path(tiny).parent) not in text, path
    page = (tmp_path / "there" / "report.html").read_text()
    assert f"--backbone {Path(tiny).name}" in page
    assert "were shortened to fit 16 tokens, first test.jsonl:" in page


def test_energy_is_marked_as_an_estimate_where_there_is_no_meter(task, overture, monkeypatch) -> None:
    monkeypatch.setattr(ledger, "energy_meter", lambda device: None)
    words = ["compare", task, "--way", "prefix-after", "--size", "4", "--seeds", "1", "--min-steps", "1", *FEW]
    done = overture(*words, "--watts", "50")
    assert "(estimate)" in done.out
    (cost,) = json.loads(Path("out/result.json").read_text())["ledger"]
    assert cost["energy"] == "estimate: 50 W"
    assert cost["kwh"] == pytest.approx(cost["seconds"] * 50 / 3.6e6)
    assert "(estimate)</td>" in Path("out/report.html").read_text()


def test_measured_energy_is_not(task, overture, monkeypatch) -> None:
    """A meter by which all work takes ten megawatts: nothing that is assumed comes near."""
    made = lambda device: EnergyMeter("processor", lambda seconds: seconds * 1e7 / 3.6e6)  # noqa: E731
    monkeypatch.setattr(ledger, "energy_meter", made)
    words = ["compare", task, "--way", "prefix-after", "--size", "4", "--seeds", "1", "--min-steps", "1", *FEW]
    done = overture(*words)
    assert "estimate" not in done.out
    (cost,) = json.loads(Path("out/result.json").read_text())["ledger"]
    assert cost["energy"] == "measured: processor"
    assert cost["kwh"] > 1000 * cost["seconds"] * 65 / 3.6e6
    assert "(estimate)" not in Path("out/report.html").read_text()


def test_free_text(make_task, overture, drawn, tmp_path) -> None:
    for name, count in {"train": 8, "validation": 4, "test": 6}.items():
        rows = [{"text": f"{name} {n}", "answer": "yes"} for n in range(count)]
        (tmp_path / f"qa-{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = make_task(
        data={name: f"qa-{name}.jsonl" for name in ("train", "validation", "test")},
        template="{text}:",
        labels=None,
        answer_field="answer",
        max_new_tokens=3,
        train={"epochs": 1},
    )
    words = ["--way", "no-prompt", "--way", "vectors-before", "--size", "4", "--seeds", "1", "--min-steps", "1", *FEW]
    found = overture("compare", task, *words, "--json").json
    assert found["metric"] == "exact_match"
    assert len(cells()["no-prompt--0--0"]["predicted"]) == 6


def test_every_way_has_a_name_that_files_can_have() -> None:
    assert {"no-prompt", "in-context", "prefix-after", "vectors-before", "late-before"} <= set(WAYS)
    assert all(Key.parse(f"{name}:4:0").way == name for name in WAYS)


def test_words_of_the_command(monkeypatch) -> None:
    monkeypatch.setattr("sys.argv", ["overture", "compare", "a b.yaml", "--seeds", "2"])
    assert list(command._words()) == ["compare", "a b.yaml", "--seeds", "2"]
    monkeypatch.setattr("sys.argv", ["pytest", "-x"])
    assert list(command._words()) == ["compare"]


def test_baselines_beside_prompts(task, overture) -> None:
    ways = ["no-prompt", "in-context:nearest", "linear", "bitfit:norms", "lora", "full", "prefix-after"]
    words = [word for way in ways for word in ("--way", way)]
    own = ["--size", "8", "--seeds", "1", "--min-steps", "2", "--set-way", "lora:options.rank=2", *FEW]
    found = overture("compare", task, *words, *own, "--json").json
    assert found["reference"] == "lora"
    assert {one["way"] for one in found["against"]} == {*ways} - {"lora"}
    cost = {one["way"]: one for one in found["ledger"]}
    assert all(one["is_intact"] for one in found["ledger"])
    assert {way for way, one in cost.items() if not one["is_shared"]} == {"bitfit:norms", "full"}
    assert cost["full"]["trainable"] > cost["lora"]["trainable"] > cost["bitfit:norms"]["trainable"] > 0
    assert cost["full"]["own_bytes"] == 4 * cost["full"]["trainable"]
    assert cost["linear"]["perplexity_after"] is None
    assert cost["lora"]["perplexity_after"] != cost["lora"]["perplexity_before"]
    # Gradients of weights cost more than those of activations alone.
    assert cost["full"]["flops"] > cost["lora"]["flops"] > cost["prefix-after"]["flops"] > 0
    assert cells()["lora--8--0"]["config"]["settings"] == {"baseline": "lora", "rank": 2}


def test_finding_the_nearest_examples_is_a_part_of_serving(make_task, overture) -> None:
    """The training rows' embeddings are made once; each test row's own is served with it."""
    spent = {}
    for rows in (4, 8):
        task = make_task(data={name: f"{name}.jsonl" for name in ("train", "validation", "test")} | {"test_rows": rows})
        words = ["--way", "in-context:nearest", "--size", "4", "--seeds", "1", "--default-rates", "-o", f"of-{rows}"]
        assert overture("compare", task, *words, "--json").code == 0
        spent[rows] = cells(f"of-{rows}")["in-context_nearest--4--0"]["ledger"]
    assert spent[4]["building"]["positions"] == spent[8]["building"]["positions"] > 0
    assert spent[8]["serving"]["positions"] > spent[4]["serving"]["positions"]


def test_baselines_that_do_not_fit_are_told_at_once(task, overture) -> None:
    done = overture("compare", task, "--way", "bitfit", "--size", "4", *FEW)
    assert done.code == 2
    assert "--way bitfit" in done.err
    assert "no biases" in done.err
    typo = overture("compare", task, "--way", "lora", "--set-way", "lora:options.rnk=4", "--size", "4", *FEW)
    assert "did you mean 'rank'?" in typo.err


def test_what_is_odd_about_rows_is_told(task, overture) -> None:
    short = ["--set", "max_length=16", "--set", "too_long=trim", "--way", "no-prompt", "--way", "in-context:nearest"]
    found = overture(
        "compare", task, *short, "--way", "prefix-after", "--size", "4", "--seeds", "1", *FEW, "--json"
    ).json
    told = [text for text in found["notices"] if "shortened to fit 16 tokens" in text]
    assert any(text.endswith("(no-prompt)") for text in told)
    assert cells()["prefix-after--4--0"]["notices"]
    assert cells()["prefix-after--4--0"]["threads"] in found["threads"]


def test_a_label_without_training_rows_is_calibrated_too(make_task, overture, tmp_path) -> None:
    for name, count in {"train": 9, "validation": 9, "test": 9}.items():
        rows = [{"text": f"{name} {n}", "label": ("good", "bad", "odd")[n % 3]} for n in range(count)]
        (tmp_path / f"three-{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = make_task(
        data={name: f"three-{name}.jsonl" for name in ("train", "validation", "test")},
        labels={"good": " good", "bad": " bad", "odd": " odd"},
        options={"calibration": "contextual"},
    )
    done = overture(
        "compare", task, "--way", "no-prompt", "--way", "linear", "--size", "2", "--seeds", "1", *FEW, "--json"
    )
    assert done.code == 0, done.err
    cell = next(found for name, found in cells().items() if name.startswith("linear"))
    assert 0 <= cell["metrics"]["test"]["ece"]["value"] <= 1


def test_a_learning_rate_for_all_ways_is_not_dropped_silently(task, overture) -> None:
    done = overture("compare", task, *SMALLEST, "--default-rates", "--set", "train.lr=0.007")
    assert done.code == 0, done.err
    assert "--set-way WAY:train.lr=0.007" in done.err
