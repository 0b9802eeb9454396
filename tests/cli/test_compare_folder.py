"""The folder of a comparison: which cells it goes on with, and which it refuses."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from comparisons import FEW, cells

from overture.core.files import write_json
from overture.core.records.cells import BEFORE_RECORDED
from overture.jobs.compare import cells as cells_of_a_lab
from overture.jobs.compare import compare as study
from overture.jobs.verdict.files import CellFiles


@pytest.fixture
def task(make_task: Callable[..., Path]) -> Path:
    return make_task(train={"epochs": 1, "batch_size": 4})


def test_cells_of_another_request_are_not_mixed_in(task, overture) -> None:
    words = ["compare", task, "--way", "no-prompt", "--size", "4", "--seeds", "1", "-o", "out", "--json"]
    assert overture(*words).code == 0
    other = overture(*words, "--set", "data.test_rows=4")
    assert (other.code, other.json["error"]) == (2, "StoreError")
    assert "another data" in other.json["problems"][0]
    Path("out/cells/no-prompt--0--0.json").write_text("{")
    damaged = overture(*words)
    assert (damaged.code, damaged.json["what"]) == (2, "the file is damaged")


def test_cells_with_other_rows_are_not_mixed_in(task, overture, monkeypatch) -> None:
    """A version that draws rows otherwise does not go on with a folder as if it were its own."""
    words = ["compare", task, "--way", "linear", "--size", "4", "--seeds", "1", *FEW, "--json"]
    found = overture(*words).json
    monkeypatch.setattr(cells_of_a_lab, "ordered", lambda task, rows, seed, name: list(reversed(rows)))
    other = overture(*words)
    assert (other.code, other.json["problems"]) == (2, ["linear:4:0: another rows"])
    path = Path("out/cells/linear--4--0.json")
    cell = json.loads(path.read_text())
    del cell["config"]["rows"]
    path.write_text(json.dumps(cell))
    # Cells from before rows were recorded are taken as they are.
    assert overture(*words).json["scores"] == found["scores"]


def test_a_start_is_the_version_that_there_was(make_task, overture) -> None:
    """Cells name the version of the prompt they began with, so a later one is another request."""
    short = make_task(shots=0, train={"epochs": 1, "batch_size": 4})
    assert overture("tune", short, "--length", "3").code == 0
    start = ["--set", "prompt.init=prompt", "--set", "prompt.init_prompt=mood", "--set", "prompt.length=3"]
    words = ["compare", short, "--way", "prefix-after", "--size", "4", "--seeds", "1", *start, *FEW, "--json"]
    assert overture(*words).code == 0
    assert cells()["prefix-after--4--0"]["config"]["settings"]["init_prompt"] == "mood@1"
    assert overture("tune", short, "--length", "3").code == 0
    other = overture(*words)
    assert other.code == 2
    assert "another settings" in other.json["problems"][0]
    words[words.index("prompt.init_prompt=mood")] = "prompt.init_prompt=mood@1"
    assert overture(*words).code == 0


ONE = ["--way", "no-prompt", "--way", "prefix-after", "--seeds", "1", "--min-steps", "2", *FEW, "--json"]


def turn_labels() -> None:
    """As many test rows as before, with other labels."""
    rows = [json.loads(line) for line in Path("test.jsonl").read_text().splitlines()]
    for row in rows[3:]:
        row["label"] = {"good": "bad", "bad": "good"}[row["label"]]
    Path("test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_one_cell_is_not_mixed_with_those_of_another_request(task, overture) -> None:
    words = ["compare", task, *ONE, "--size", "4"]
    assert overture(*words).code == 0
    before = {path: path.read_text() for path in Path("out").rglob("*.json")}
    turn_labels()
    other = overture(*words, "--cell", "no-prompt:0:0")
    assert (other.code, other.json["error"]) == (2, "StoreError")
    cell, gold = other.json["problems"]
    assert cell.startswith("prefix-after:4:0: another data")
    assert gold == "gold.json: another data"
    assert {path: path.read_text() for path in Path("out").rglob("*.json")} == before


def test_cells_are_scored_by_their_own_right_answers(task, overture) -> None:
    """A folder takes sizes of one data set alone, even where no cell is asked for twice."""
    words = ["compare", task, *ONE[2:]]
    first = overture(*words, "--size", "4")
    assert first.code == 0
    turn_labels()
    other = overture(*words, "--size", "8")
    assert (other.code, other.json["error"]) == (2, "StoreError")
    assert other.json["problems"] == ["gold.json: another data"]
    assert json.loads(Path("out/gold.json").read_text())["data"] == first.json["data"]


def test_right_answers_that_are_lost_are_told_and_come_back(task, overture) -> None:
    words = ["compare", task, *ONE, "--size", "4"]
    found = overture(*words).json
    gold = Path("out/gold.json")
    gold.write_text("{}")
    damaged = overture(*words)
    assert (damaged.code, damaged.json["error"]) == (2, "StoreError")
    assert damaged.json["where"].endswith("gold.json")
    gold.unlink()
    missing = overture(*words)
    assert (missing.code, missing.json["what"]) == (2, "the right answers of the cells are missing")
    assert overture(*words, "--cell", "no-prompt:0:0").code == 0
    assert overture(*words).json["scores"] == found["scores"]
    Path("out/rates/prefix-after.json").write_text("{}")
    assert overture(*words).json["where"].endswith("prefix-after.json")


def test_two_at_once(task, overture, tmp_path) -> None:
    from overture.core.files import exclusive

    (tmp_path / "out").mkdir()
    with exclusive(tmp_path / "out" / ".lock", "this comparison"):
        done = overture("compare", task, "--way", "no-prompt", "--size", "4", "-o", "out", "--json")
    assert (done.code, done.json["error"]) == (2, "StoreLocked")


@pytest.mark.parametrize(
    ("way", "labels", "recorded", "fits"),
    [
        ("prefix-after", "words", 1.0, True),
        ("prefix-after", "vectors", 1.0, False),
        ("prefix-after", "vectors", None, True),
        ("deep-after", "vectors", 1.0, True),
    ],
)
def test_a_default_that_changed_matters_where_it_has_an_effect(task, overture, way, labels, recorded, fits) -> None:
    """The factor of label vectors' rate was 1 by default. Label words have none, and a slow method's is 1 still."""
    words = ["compare", task, "--way", way, "--seeds", "1", "--size", "4", *FEW, "--json"]
    words += ["--set", f"prompt.labels={labels}"]
    assert overture(*words).code == 0
    for path in (*Path("out/cells").glob("*.json"), *Path("out/rates").glob("*.json")):
        kept = json.loads(path.read_text())
        kept["config"]["settings"]["label_rate"] = recorded
        path.write_text(json.dumps(kept))
    again = overture(*words)
    if fits:
        assert again.code == 0, again.err
    else:
        assert (again.code, again.json["error"]) == (2, "StoreError")
        assert "settings.label_rate" in again.json["problems"][0]


def test_a_damaged_plan_is_told(task, overture) -> None:
    Path("out").mkdir()
    other = {"ways": ["lora"], "sizes": [4], "seeds": 1, "budget": None, "is_rate_tuned": True}
    write_json(Path("out/plan.json"), {"request": other, "plan": {"sizes": [2], "seeds": 1, "is_tuned": True}})
    done = overture("compare", task, "--way", "no-prompt", "--size", "4", "-o", "out", "--json")
    assert (done.code, done.json["sizes"]) == (0, [4])
    Path("out/plan.json").write_text("[]")
    done = overture("compare", task, "--way", "no-prompt", "--size", "4", "-o", "out", "--json")
    assert (done.code, done.json["error"]) == (2, "StoreError")
    assert done.json["where"].endswith("plan.json")


def test_a_packed_comparison_goes_on(task, overture, monkeypatch) -> None:
    words = ["compare", task, *ONE, "--size", "4"]
    before = overture(*words).json
    CellFiles(Path("out")).pack()
    assert {path.name for path in Path("out").iterdir()} == {"cells.jsonl", "report.html", "report.png", "result.json"}
    run, keys = study.measured, []
    monkeypatch.setattr(study, "measured", lambda *given: keys.append(str(given[2])) or run(*given))
    again = overture(*words)
    assert (again.code, again.json, keys) == (0, before, [])
    more = overture(*words, "--seeds", "2").json
    assert keys == ["prefix-after:4:1"]
    assert more["scores"][1]["each"][0] == before["scores"][1]["each"][0]
    # Cells of another request are refused in this form, too.
    assert overture(*words, "--set", "prompt.length=5").json["error"] == "StoreError"


def test_cells_of_a_version_without_an_option_are_gone_on_with(task, overture, monkeypatch) -> None:
    words = ["compare", task, *ONE, "--size", "4"]
    before = overture(*words).json
    for path in Path("out").glob("*/prefix-after*.json"):
        record = json.loads(path.read_text())
        for part, options in BEFORE_RECORDED.items():
            for option in options:
                del record["config"][part][option]
        path.write_text(json.dumps(record))
    run, keys = study.measured, []
    monkeypatch.setattr(study, "measured", lambda *given: keys.append(str(given[2])) or run(*given))
    again = overture(*words)
    assert (again.code, keys, again.err.count("chosen anew")) == (0, [], 0)
    assert again.json["scores"] == before["scores"]
    # Another value than what was done before is another request.
    other = overture(*words, "--set", "train.average=0.9")
    assert other.code == 2
    assert other.json["problems"][0].startswith("prefix-after:4:0: another train.average")
