"""The reference of settings and the schema of task files, both derived from the options."""

import json
from pathlib import Path

import jsonschema
import pytest
import yaml

from overture.cli.settings import SCHEMA_FILE
from overture.core.config import Config
from overture.jobs.run.request import TuneConfig, resolved
from overture.jobs.wording.options import HardRequest
from overture.jobs.wording.settings import settings_of, task_schema


def test_the_schema_that_is_shipped_is_that_of_the_options():
    assert json.loads(SCHEMA_FILE.read_text()) == task_schema(), "run: make docs"


def _leaves(model: type[Config], prefix: str = "") -> set[str]:
    keys = set()
    for name, field in model.model_fields.items():
        kinds = (field.annotation, *getattr(field.annotation, "__args__", ()))
        section = next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Config)), None)
        keys |= _leaves(section, f"{prefix}{name}.") if section else {f"{prefix}{name}"}
    return keys


def test_every_option_is_a_setting_with_a_sentence():
    listed = [setting for settings in settings_of().values() for setting in settings]
    wanted = {key.removeprefix("task.") for key in _leaves(HardRequest)}
    assert {setting.key for setting in listed} == wanted
    assert len({setting.key for setting in listed}) == len(listed)
    assert all(setting.description.strip() and setting.values != "any value" for setting in listed)


def test_defaults_are_those_of_the_options():
    defaults = {setting.key: setting.default for settings in settings_of().values() for setting in settings}
    assert defaults["train.batch_size"] == str(TuneConfig.model_fields["train"].default.batch_size)
    assert defaults["prompt.method"] == "prefix"
    assert defaults["template"] == "required"
    assert defaults["train.lr"] == ""


def test_the_schema_takes_what_a_run_takes_and_refuses_what_it_refuses(make_task):
    path = make_task(seeds=2, labels={"good": [" good", " fine"], "bad": " bad"})
    resolved(TuneConfig, path)
    values = yaml.safe_load(path.read_text())
    check = jsonschema.Draft202012Validator(task_schema())
    assert check.is_valid(values)
    for wrong in ({"trian": {}}, {"train": {"lr": -1}}, {"prompt": {"place": "behind"}}, {"template": None}):
        assert not check.is_valid(values | wrong)


def test_settings_of_one_section_and_of_one_key(overture):
    keys = [item["key"] for item in overture("settings", "train", "--json").json["settings"]]
    assert keys
    assert all(key.startswith("train.") for key in keys)
    named = overture("settings", "lr", "--json").json["settings"]
    assert {item["key"] for item in named} >= {"train.lr", "adapter.lr", "search.lr"}
    assert "train.batch_size: whole number from 1 (default 16)" in overture("settings").out


def test_a_mistyped_key_is_named_with_the_nearest(overture):
    failed = overture("settings", "trian", "--json")
    assert failed.code == 2
    assert "train" in failed.json["fix"]


@pytest.mark.parametrize("form", [[], ["-o", "task.schema.json"]])
def test_the_schema_is_printed_or_written(overture, form):
    done = overture("schema", *form)
    assert done.code == 0
    text = Path("task.schema.json").read_text() if form else done.out
    assert json.loads(text)["properties"]["train"]


def test_a_task_file_of_init_names_the_schema_for_editors(overture, tmp_path):
    rows = [{"text": f"row {number}", "label": ("good", "bad")[number % 2]} for number in range(12)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert overture("init", "rows.jsonl").code == 0
    first, *_ = Path("task.yaml").read_text().splitlines()
    comment, _, uri = first.partition("$schema=")
    assert comment == "# yaml-language-server: "
    # Relative to the task file, so that it is found wherever the folder goes.
    assert json.loads((tmp_path / uri).read_text()) == task_schema()
    assert jsonschema.Draft202012Validator(task_schema()).is_valid(yaml.safe_load(Path("task.yaml").read_text()))
