import pytest
import yaml
from pydantic import ValidationError

from overture.core.errors import ConfigError
from overture.data.task import DataConfig, Task

GOOD = {
    "name": "movie",
    "data": {"train": "sub/train.jsonl"},
    "template": "{text}\nLabel:",
    "labels": {"pos": " positive", "neg": [" negative", " bad"]},
}


def write(folder, values):
    path = folder / "task.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def test_paths_are_relative_to_the_task_file(tmp_path, monkeypatch):
    monkeypatch.chdir("/")
    task = Task.load(write(tmp_path, GOOD))
    assert task.data.train == tmp_path.resolve() / "sub/train.jsonl"


def test_settings_win_over_the_file(tmp_path):
    task = Task.load(write(tmp_path, GOOD), ["data.seed=7", "data.train=other.csv"])
    assert task.data.seed == 7
    assert str(task.data.train) == "other.csv"


def test_dump_and_back():
    task = Task.model_validate(GOOD)
    assert Task(**task.dump()) == task
    assert task.dump()["data"]["train"] == "sub/train.jsonl"


def test_words_and_fields():
    task = Task.model_validate({**GOOD, "template": "{b} {{x}} {a} {b}"})
    assert task.words == {"pos": (" positive",), "neg": (" negative", " bad")}
    assert task.fields == ("b", "a")


def test_metric_follows_the_kind_of_task():
    answers = {**GOOD, "labels": None, "answer_field": "answer"}
    assert Task.model_validate(GOOD).metric == "accuracy"
    assert Task.model_validate(answers).metric == "exact_match"


@pytest.mark.parametrize("bare", ["1: ' one'\n  0: ' zero'", "true: ' one'\n  false: ' zero'"])
def test_bare_yaml_labels_become_text(tmp_path, bare):
    path = tmp_path / "task.yaml"
    path.write_text(f"name: x\ndata: {{path: a.csv}}\ntemplate: '{{text}}'\nlabels:\n  {bare}\n")
    assert set(Task.load(path).words) in ({"0", "1"}, {"true", "false"})


def test_every_mistake_in_one_error_with_the_nearest_key(tmp_path):
    bad = {
        **GOOD,
        "templat": "x",
        "too_long": "cut",
        "data": {"train": "a.csv", "sed": 1},
        "labels": {"a": 3, "b": "b"},
    }
    with pytest.raises(ConfigError) as caught:
        Task.load(write(tmp_path, bad))
    text = str(caught.value)
    for part in ("did you mean 'template'?", "did you mean 'seed'?", "too_long", "labels.a", "task.yaml"):
        assert part in text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": None}, "exactly one of labels and answer_field"),
        ({"answer_field": "answer"}, "exactly one of labels and answer_field"),
        ({"labels": {"pos": " positive"}}, "at least two labels"),
        ({"labels": {"pos": " ", "neg": " n"}}, "must not be blank"),
        ({"labels": {"pos": [], "neg": " n"}}, "labels.pos: must not be empty"),
        ({"labels": {1: " a", "1": " b"}}, "the same once written as text"),
        ({"template": "Text: {text} {label}"}, "shows 'label'"),
        ({"template": "{text} {label[0]}"}, "shows 'label'"),
        ({"template": "no field {{text}}"}, "shows no field"),
        ({"template": "{text.upper}"}, "is not a field"),
        ({"template": "{text!r}"}, "is not a field"),
        ({"template": "{text:>9}"}, "is not a field"),
        ({"template": "{text[-1]}"}, "is not a field"),
        ({"template": "{text[0][1]}"}, "is not a field"),
        ({"template": "{text[a]}"}, "is not a field"),
        ({"template": "{[0]}"}, r"write {name} for a field, {name[0]} for a list's first entry, {prompt:5}"),
        ({"template": "{text} {"}, "is not a field"),
        ({"template": [{"role": "system", "content": "{text}"}]}, "last message must be the user's"),
        ({"template": [{"role": "bot", "content": "{text}"}]}, "template.0.role: "),
        ({"name": "../x"}, "name: "),
        ({"name": "a" * 65}, "name: "),
        ({"stop": [""]}, "stop.0: must not be empty"),
        ({"data": {}}, "exactly one of train, path and dataset"),
        ({"data": {"train": "a", "path": "b"}}, "exactly one of train, path and dataset"),
        ({"data": {"path": "b", "test": "c"}}, "go with train"),
        ({"data": {"path": "b", "subset": "c"}}, "subset goes with dataset"),
        ({"data": {"path": "b", "test_share": 0.6, "validation_share": 0.4}}, "leave no training rows"),
        ({"data": {"path": "b", "train_rows": 0}}, "data.train_rows: must be at least 1"),
    ],
)
def test_refused(tmp_path, changes, message):
    values = {key: value for key, value in {**GOOD, **changes}.items() if value is not None}
    with pytest.raises(ConfigError) as caught:
        Task.load(write(tmp_path, values))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"metric": "exact_match"}, "metric"),
        ({"labels": None, "answer_field": "a", "metric": "macro_f1"}, "metric"),
        ({"labels": {"pos": " good", "neg": " good"}}, "labels.pos"),
        ({"labels": {"pos": [" good", " fine"], "neg": [" bad", " fine"]}}, "labels.pos"),
        ({"labels": {"pos": [" good", " good"], "neg": " bad"}}, "labels.pos"),
        ({"kind": "multilabel", "labels": {"a": " x", "b": " x"}}, "labels.b"),
        ({"labels": {"pos": " p"}}, "labels"),
        ({"template": "Text: {text} {label}"}, "template"),
        ({"options": {"calibrate": "none"}}, "options.calibrate"),
        ({"spellings": {"other": ["o"]}}, "spellings"),
        ({"kind": "choice"}, "labels"),
        ({"read": "mask"}, "read"),
    ],
)
def test_what_does_not_fit_together_names_its_field(tmp_path, changes, where):
    values = {key: value for key, value in {**GOOD, **changes}.items() if value is not None}
    with pytest.raises(ConfigError) as caught:
        Task.load(write(tmp_path, values))
    assert [problem.where for problem in caught.value.problems] == [where]


def test_a_wrong_value_is_told_once(tmp_path):
    """And not once more for every default that follows from it."""
    with pytest.raises(ConfigError) as caught:
        Task.load(write(tmp_path, {**GOOD, "name": "../x"}))
    assert len(caught.value.problems) == 1


@pytest.mark.parametrize("file", ["a\0b", "~no-such-user/x", "\ud800"])
def test_a_path_that_no_system_has(tmp_path, file):
    with pytest.raises(ConfigError) as caught:
        Task.load(write(tmp_path, {**GOOD, "data": {"train": file}}))
    assert caught.value.where == "data.train"


def test_frozen():
    with pytest.raises(ValidationError):
        Task.model_validate(GOOD).name = "other"


@pytest.mark.parametrize("model", [Task, DataConfig])
def test_every_field_is_described_in_one_sentence(model):
    for name, field in model.model_fields.items():
        assert field.description, name
        assert field.description.endswith("."), name
        assert "\n" not in field.description, name


def test_numbers_of_a_regression_differ(make_task):
    with pytest.raises(ValidationError, match="same number"):
        make_task(kind="regression", labels={"1": " a", "3": " b", "3.0": " c"})


def test_other_spellings_of_labels():
    labels = {"pos": {"words": " positive", "also": ["Pos", "1", 2]}, "neg": " negative", "odd": {"also": ["?"]}}
    task = Task.model_validate({**GOOD, "labels": labels})
    assert task.words == {"pos": (" positive",), "neg": (" negative",), "odd": (" odd",)}
    assert [task.label_named(text) for text in ("pos", "Pos", "1", "2", "?", "POS", "neg ")] == (
        ["pos", "pos", "pos", "pos", "odd", None, None]
    )
    assert Task(**task.dump()) == task


def test_labels_alike_but_for_case_and_white_space():
    task = Task.model_validate({**GOOD, "data": {"path": "a", "normalise_labels": True}})
    assert [task.label_named(text) for text in ("POS", " neg\t", "other")] == ["pos", "neg", None]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": {"a": {"words": " a", "also": ["x"]}, "b": {"words": " b", "also": ["x"]}}}, "two labels"),
        ({"labels": {"a": {"words": " a", "also": ["b"]}, "b": " b"}}, "two labels"),
        ({"labels": {"a": {"word": " a"}, "b": " b"}}, "known: words, also"),
        ({"spellings": {"x": ["y"]}}, "'x'"),
        ({"spellings": {"pos": "y"}}, "spellings.pos"),
        ({"labels": {"A": " a", "a": " b"}, "data": {"path": "a", "normalise_labels": True}}, "normalise_labels"),
    ],
)
def test_spellings_that_are_refused(tmp_path, changes, message):
    with pytest.raises(ConfigError) as caught:
        Task.load(write(tmp_path, {**GOOD, **changes}))
    assert message in str(caught.value.problems)
