"""How a request is made of defaults, task file, named settings and assignments, and how mistakes in it are told."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from overture.core.errors import ConfigError, DataError
from overture.jobs.run.request import TuneConfig, resolved, tune_config
from overture.jobs.run.settled import with_place
from overture.jobs.search.options import SearchRequest
from overture.jobs.wording.options import HardRequest

TASK = {
    "name": "mood",
    "data": {"train": "train.jsonl"},
    "template": "{text}\nMood:",
    "labels": {"good": " good", "bad": " bad"},
    "prompt": {"length": 3},
    "train": {"lr": 0.1, "epochs": 2},
    "search": {"tunes": 3},
}


@pytest.fixture
def task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A task file in a folder of its own, beside its rows; another file of rows lies in the working folder."""
    folder = tmp_path / "task"
    folder.mkdir()
    (folder / "train.jsonl").write_text("")
    (tmp_path / "other.jsonl").write_text("")
    monkeypatch.chdir(tmp_path)
    return written(folder, {})


def written(folder: Path, changes: dict[str, Any]) -> Path:
    path = folder / "task.yaml"
    path.write_text(yaml.safe_dump({**TASK, **changes}))
    return path


def where_of(error: ConfigError) -> set[str]:
    return {problem.where for problem in error.problems}


def test_each_source_wins_over_the_one_before(task):
    config = resolved(TuneConfig, task, {"train": {"lr": 0.2, "epochs": 3}, "length": 5}, ["train.epochs=4"])
    assert (config.train.lr, config.train.epochs, config.train.batch_size) == (0.2, 4, 16)
    assert config.prompt.length == 5
    assert resolved(TuneConfig, task, {"train.lr": 0.2, "length": None}).prompt.length == 3


def test_named_values_are_taken_as_they_are(task):
    words = {"good: really": ["1e-3", " yes"], "null": " 0"}
    config = resolved(TuneConfig, task, {"labels": words, "template": "{text}: [a, b]"})
    assert config.task.labels == words
    assert config.task.template == "{text}: [a, b]"


def test_paths_of_the_file_are_relative_to_it_and_others_to_the_working_folder(task, tmp_path):
    assert resolved(TuneConfig, task).task.data.train == tmp_path / "task" / "train.jsonl"
    for settings, assignments in (({"data": {"train": Path("other.jsonl")}}, []), ({}, ["data.train=other.jsonl"])):
        assert resolved(TuneConfig, task, settings, assignments).task.data.train == tmp_path / "other.jsonl"


def test_models_prompts_and_wordings_are_found_from_elsewhere(task, tmp_path):
    folder = task.parent
    for place in (folder, tmp_path):
        (place / "model").mkdir()
        (place / "wordings.txt").write_text("What mood?")
    changes = {
        "backbone": "./model",
        "prompt": {"init": "prompt", "init_prompt": "./kept"},
        "hard": {"sources": ["file:wordings.txt", "model:model", "edits"]},
    }
    config = resolved(HardRequest, written(folder, changes))
    assert config.task.backbone == str(folder / "model")
    assert config.prompt.init_prompt == str(folder / "kept")
    assert config.hard.sources == (f"file:{folder}/wordings.txt", f"model:{folder}/model", "edits")
    settings = {"backbone": "model", "method": "attempt", "prompt.options": {"sources": ["./kept", "mood@1"]}}
    config = resolved(TuneConfig, written(folder, changes), settings, ["prompt.init_prompt=mood@2"])
    assert config.task.backbone == str(tmp_path / "model")
    assert config.prompt.options["sources"] == [str(tmp_path / "kept"), "mood@1"]
    assert config.prompt.init_prompt == "mood@2"
    assert (
        resolved(TuneConfig, {**TASK, "data": {"train": "other.jsonl"}, "backbone": "smollm2"}).task.backbone
        == "smollm2"
    )


def test_the_section_search_belongs_to_the_search_alone(task):
    assert "search" not in resolved(TuneConfig, task).model_dump()
    assert resolved(SearchRequest, task, {"search.cohort": 4}).search.model_dump(exclude_unset=True) == {
        "tunes": 3,
        "cohort": 4,
    }


def test_everything_wrong_is_told_at_once(task):
    changes = {"trian": {}, "prompt": {"method": "prefx"}, "data": {"train": "gone.jsonl"}, "metric": "accurcy"}
    with pytest.raises(ConfigError) as caught:
        resolved(TuneConfig, written(task.parent, changes), {"seeds": 0})
    assert where_of(caught.value) >= {"trian", "prompt.method", str(task.parent / "gone.jsonl"), "metric", "seeds"}
    fixes = {problem.where: problem.fix for problem in caught.value.problems}
    assert fixes["trian"] == "did you mean 'train'?"
    assert fixes["metric"] == "did you mean 'accuracy'?"
    assert fixes["prompt.method"] == "did you mean 'prefix'?"


@pytest.mark.parametrize(
    ("settings", "where", "fix"),
    [
        ({"prompt.methd": "prefix"}, "prompt.methd", "did you mean 'method'?"),
        ({"prompt.place": "affter"}, "prompt.place", "did you mean 'after'?"),
        ({"method": "gated", "prompt.options": {"layer": 1}}, "prompt.options.layer", "did you mean 'layers'?"),
    ],
)
def test_the_nearest_key_is_named(task, settings, where, fix):
    with pytest.raises(ConfigError) as caught:
        resolved(TuneConfig, task, settings)
    assert [(problem.where, problem.fix) for problem in caught.value.problems] == [(where, fix)]


def test_a_missing_data_file_alone_is_an_error_of_the_data(task):
    with pytest.raises(DataError) as caught:
        resolved(TuneConfig, task, {}, ["data.train=gone.jsonl"])
    assert [Path(problem.where).name for problem in caught.value.problems] == ["gone.jsonl"]


def test_the_task_alone_is_read_without_its_rows_and_prompt(task):
    changes = {"prompt": {"method": "prefx"}, "data": {"train": "gone.jsonl"}}
    assert tune_config(written(task.parent, changes)).task.name == "mood"


def test_place_and_template_must_agree_where_the_prompt_is_used(task):
    path = written(task.parent, {"template": "{text}{prompt:5}\nMood:"})
    with pytest.raises(ConfigError) as caught:
        resolved(TuneConfig, path)
    assert caught.value.where == "prompt.place"
    assert resolved(TuneConfig, path, prompt_use="as a model").prompt.place == "after"
    changed = {"place": "slots", "method": "vectors", "prompt": {"length": 5}}
    assert resolved(TuneConfig, path, changed).prompt.length == 5


def test_weights_of_labels_are_read_and_checked(task):
    weights = {"train": {"class_weights": {"good": 1, "bad": 2.5}}}
    assert resolved(TuneConfig, written(task.parent, weights)).train.class_weights == {"good": 1.0, "bad": 2.5}
    changes = {"labels": {"0": " bad", "1": " good"}}
    config = resolved(TuneConfig, written(task.parent, changes), {}, ["train.class_weights={0: 2}"])
    assert config.train.class_weights == {"0": 2.0}
    config = resolved(TuneConfig, task, {}, ["train.class_weights=balanced"])
    assert TuneConfig.model_validate(config.model_dump(mode="json")) == config


@pytest.mark.parametrize(
    ("changes", "where", "fix"),
    [
        ({"train": {"class_weights": "balance"}}, "train.class_weights", "did you mean 'balanced'?"),
        ({"train": {"class_weights": {"god": 2}}}, "train.class_weights", "did you mean 'good'?"),
        ({"train": {"class_weights": {"good": 0}}}, "train.class_weights.good", ""),
        ({"train": {"class_weights": "balanced"}, "kind": "multilabel"}, "train.class_weights", "leave them out"),
    ],
)
def test_wrong_weights_are_refused(task, changes, where, fix):
    with pytest.raises(ConfigError) as caught:
        resolved(TuneConfig, written(task.parent, changes))
    wrong = [(problem.where, problem.fix) for problem in caught.value.problems]
    assert (where, fix) in (wrong or [(caught.value.where, caught.value.fix)])


WRITES = {"labels": None, "answer_field": "answer", "kind": "generation"}


@pytest.mark.parametrize(
    ("changes", "is_encoder", "place"),
    [
        ({}, False, "after"),
        ({}, True, "memory"),
        (WRITES, False, "memory"),
        (WRITES | {"prompt": {"place": "after"}}, False, "after"),
        (WRITES | {"prompt": {"method": "vectors"}}, False, "after"),
        (WRITES | {"adapter": {"place": "after"}}, False, "after"),
        (WRITES | {"adapter": {}}, False, "memory"),
        (WRITES | {"input": "image", "template": "{text}{image}"}, False, "after"),
    ],
)
def test_the_place_follows_model_and_kind_unless_it_is_given(tmp_path, changes, is_encoder, place):
    (tmp_path / "train.jsonl").write_text("")
    assert with_place(resolved(TuneConfig, written(tmp_path, changes)), is_encoder).prompt.place == place
