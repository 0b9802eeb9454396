"""Overture from Python: rows in memory, results at a glance, and mistakes that say how to mend them."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

import overture
from overture import Prediction, UserError
from overture.core.errors import ConfigError, DataError
from overture.core.records.events import NoticeEvent


def rows_of(count: int, start: int = 0) -> list[dict[str, str]]:
    words = {"good": ("fine", "great", "glad"), "bad": ("poor", "dull", "grim")}
    labels = [("good", "bad")[number % 2] for number in range(start, start + count)]
    return [{"text": f"{words[label][n % 3]} {n}", "label": label} for n, label in enumerate(labels, start)]


@pytest.fixture
def values(tiny: Path) -> dict[str, Any]:
    """A task as a mapping, without data."""
    return {
        "name": "mood",
        "backbone": str(tiny),
        "template": "{text}\nMood:",
        "labels": {"good": " good", "bad": " bad"},
        "shots": 0,
        "prompt": {"length": 2},
        "train": {"epochs": 1, "passes": 1, "batch_size": 8},
    }


@pytest.fixture
def prompt(values: dict[str, Any]) -> Any:
    return overture.load(overture.tune(values, rows_of(24)).prompt)


# -- predictions


def test_a_text_or_a_mapping_is_one_row(prompt):
    (of_text,) = prompt.predict("great")
    (of_mapping,) = prompt.predict({"text": "great", "id": 7})
    (of_list,) = prompt.predict(["great"])
    assert of_text == of_mapping == of_list
    assert isinstance(of_text, Prediction)
    assert len(prompt.predict("good film")) == 1
    assert len(prompt.predict(iter(["great", {"text": "poor"}]))) == 2


def test_a_prediction_names_its_label_and_probabilities(prompt):
    (answer,) = prompt.predict("great")
    assert answer.label == answer.text
    assert set(answer.probabilities) == {"good", "bad"}
    assert sum(answer.probabilities.values()) == pytest.approx(1)
    assert answer.confidence == answer.probabilities[answer.label] == max(answer.probabilities.values())
    assert answer.label in repr(answer)
    assert f"{answer.confidence:.3f}" in repr(answer)


def test_data_frames_are_rows(prompt):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"id": [1, 2, 3], "text": ["fine 1", "poor 2", "glad 3"]}, index=[7, 8, 9])
    assert prompt.predict(frame) == prompt.predict(["fine 1", "poor 2", "glad 3"]) == prompt.predict(frame["text"])
    frame.loc[8, "text"] = None
    with pytest.raises(DataError) as caught:
        prompt.predict(frame)
    assert [problem.where for problem in caught.value.problems] == ["input:2"]
    first, last = prompt.predict(["fine 1", "glad 3"])
    assert prompt.predict(frame, on_error="null") == [first, None, last]
    assert prompt.predict(frame, on_error="skip") == [first, last]
    assert prompt.predict([""], on_error="null") == [None]
    pyarrow = pytest.importorskip("pyarrow")
    table = pyarrow.table({"text": ["fine 1", "poor 2"]})
    assert prompt.predict(table) == prompt.predict(["fine 1", "poor 2"])


@pytest.mark.parametrize("rows", [None, 7, [7], ["fine", None], [["fine"]], b"fine", [{"txt": "fine"}]])
def test_what_is_no_row_is_an_error_of_the_user(prompt, rows):
    with pytest.raises(DataError):
        prompt.predict(rows)


# -- rows in memory


def test_rows_in_memory_are_tuned_kept_and_scored_again(values):
    result = overture.tune(values, rows_of(40))
    assert result.rows["train"] + result.rows["validation"] + result.rows["test"] == 40
    (kept,) = Path("store/rows").glob("*.jsonl")
    assert [json.loads(line) for line in kept.read_text().splitlines()] == rows_of(40)
    assert overture.tune(values, rows_of(40)).metrics == result.metrics
    assert len(list(Path("store/rows").iterdir())) == 1
    again = overture.evaluate(result.prompt)
    assert again.metrics["test"]["accuracy"] == result.metrics["test"]["accuracy"]
    assert again.wrong == result.wrong
    assert again.wrong[0].where.startswith(str(kept.absolute()))


def test_a_data_frame_equals_its_rows_and_splits_can_be_given(values):
    pandas = pytest.importorskip("pandas")
    plain = overture.tune(values, rows_of(40))
    assert overture.tune(values, pandas.DataFrame(rows_of(40))).metrics == plain.metrics
    splits = {"train": rows_of(16), "validation": rows_of(8, 100), "test": pandas.DataFrame(rows_of(6, 200))}
    assert overture.tune(values, splits).rows == {"train": 16, "validation": 8, "test": 6}


def test_rows_take_the_place_of_those_of_a_task_file(values):
    values["data"] = {"path": "missing.jsonl", "test_share": 0.5}
    Path("task.yaml").write_text(yaml.safe_dump(values))
    result = overture.tune("task.yaml", rows_of(40))
    assert result.rows["test"] == 20
    with pytest.raises(UserError):
        overture.tune("task.yaml")


def test_evaluate_takes_a_file_rows_or_the_runs_own(values):
    prompt = overture.load(overture.tune(values, rows_of(24)).prompt)
    rows = rows_of(10, 50)
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    of_file, of_rows = overture.evaluate(prompt, "rows.jsonl"), overture.evaluate(prompt.manifest.ref, rows)
    assert of_file.metrics == of_rows.metrics
    assert of_rows.metrics["data"]["accuracy"].n == 10
    assert [row.where.rpartition(":")[2] for row in of_file.wrong] == [
        row.where.rpartition(":")[2] for row in of_rows.wrong
    ]
    with pytest.raises(ConfigError):
        overture.evaluate(prompt, rows, split="test")
    with pytest.raises(DataError):
        overture.evaluate(prompt, [{"text": "fine"}])


def test_what_is_left_out_of_rows_is_told(values):
    events: list[Any] = []
    rows = [{"instruction": f"say {n}", "input": "", "output": "yes"} for n in range(20)]
    task = {**values, "template": "{instruction}\n", "labels": None, "answer_field": "output", "max_new_tokens": 3}
    overture.tune(task, rows, listener=events.append)
    assert any("Alpaca" in event.text for event in events if isinstance(event, NoticeEvent))


# -- search, compare


def test_search_and_compare(values):
    values["search"] = {"method": ["vectors"], "place": ["before"], "tunes": 2}
    found = overture.search(values, rows_of(24))
    assert found.run == "mood-search-1"
    assert "candidates were tried" in repr(found)
    del values["search"]
    summary = overture.compare(values, rows_of(40), ways=["no-prompt"], sizes=[8], seeds=1, output="out")
    assert summary.ways == ("no-prompt",)
    assert "no-prompt" in str(summary)
    assert summary.advice.what in summary._repr_html_()
    assert Path("out/result.json").is_file()


# -- short forms


def test_results_show_their_short_form(values):
    values["name"] = "mood"
    result = overture.tune(values, rows_of(24))
    prompt = overture.load(result.prompt)
    evaluation = overture.evaluate(prompt)
    for shown in (result, prompt, evaluation):
        text, page = repr(shown), shown._repr_html_()
        assert str(shown) == text
        assert max(map(len, text.splitlines())) <= 120
        assert "mood@1" in text
        assert "mood@1" in page
        assert page.startswith("<table>")
    assert f"{result.metrics['test']['accuracy'].value:.3f}" in repr(evaluation)
    assert "no prompt" in repr(result)


def test_short_forms_are_escaped(prompt):
    task = prompt.task.model_copy(update={"labels": {"<b>": " a", "&": " b"}})
    from dataclasses import replace

    assert "<b>" not in replace(prompt, task=task)._repr_html_()


# -- mistakes


def test_a_keyword_of_a_section_is_suggested_as_python(values):
    with pytest.raises(ConfigError) as caught:
        overture.tune(values, rows_of(24), epochs=3)
    (problem,) = caught.value.problems
    assert problem.where == "epochs"
    assert 'train={"epochs": 3}' in problem.fix
    with pytest.raises(ConfigError) as caught:
        overture.tune(values, rows_of(24), metod="vectors")
    assert "method" in caught.value.problems[0].fix


@pytest.mark.parametrize("task", [None, 7, ["task.yaml"], {"name": "x"}, "missing.yaml", {}])
def test_what_is_no_task_is_an_error_of_the_user(task):
    for function in (overture.tune, overture.search, overture.compare):
        with pytest.raises(UserError):
            function(task)


@pytest.mark.parametrize("rows", [7, "rows", [7], [], {"text": "fine"}])
def test_what_are_no_rows_is_an_error_of_the_user(values, rows):
    with pytest.raises(UserError):
        overture.tune(values, rows)


@pytest.mark.parametrize("ref", [None, 7, "no such prompt", "nothing"])
def test_what_is_no_prompt_is_an_error_of_the_user(ref):
    with pytest.raises(UserError):
        overture.load(ref)


# -- the package


def test_the_package_is_typed_and_light():
    assert (Path(overture.__file__).parent / "py.typed").is_file()
    assert len(overture.__all__) <= 12
    for name in overture.__all__:
        assert getattr(overture, name) is not None
    assert callable(overture.evaluate)
    code = (
        "import sys, overture\n"
        "try: overture.tune('missing.yaml')\n"
        "except overture.UserError: pass\n"
        "assert not [name for name in ('torch', 'transformers') if name in sys.modules]"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
