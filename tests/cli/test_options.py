"""Options that several commands share."""

import importlib
import pkgutil
from typing import Annotated, Any, get_origin

import pytest
import typer

import overture
from overture.cli.app import app
from overture.cli.options import field_of, local
from overture.core.config import Config
from overture.store.manifest import Manifest
from overture.store.store import Entry


def test_a_linked_model_keeps_the_name_that_its_user_gave(tmp_path, monkeypatch):
    (tmp_path / "snapshot").mkdir()
    (tmp_path / "MiniLM").symlink_to(tmp_path / "snapshot")
    monkeypatch.chdir(tmp_path)
    assert local("./MiniLM") == local("MiniLM") == str(tmp_path / "MiniLM")


def test_a_name_without_a_folder_is_one_of_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert local("org/model") == "org/model"
    assert local("./gone") == str(tmp_path / "gone")


GROUP: Any = typer.main.get_command(app)
COMMANDS = {name: GROUP.get_command(None, name) for name in GROUP.list_commands(None)}
FLAGS = [(name, flag) for name, command in COMMANDS.items() for flag in getattr(command.callback, "flags", ())]


@pytest.mark.parametrize(("name", "flag"), FLAGS, ids=lambda value: getattr(value, "path", value))
def test_a_flag_says_what_its_field_says(name, flag):
    (parameter,) = [one for one in COMMANDS[name].params if one.name == flag.parameter.name]
    assert parameter.help.removesuffix(" Repeatable.") == field_of(flag.model, flag.path).description


def configs() -> set[type[Config]]:
    """Every config class of the package; those that record what is there hold no options."""
    for module in pkgutil.walk_packages(overture.__path__, "overture."):
        if module.name != "overture.__main__" and not module.name.startswith("overture.harness"):
            importlib.import_module(module.name)
    found, left = set(), [Config]
    while left:
        left += (inner := left.pop().__subclasses__())
        found |= set(inner)
    return {model for model in found if model.__module__.startswith("overture.")} - {Manifest, Entry}


def test_no_option_is_defined_twice():
    """A field of the same name and description elsewhere is the same definition: inherited, or one annotated type."""
    seen: dict[tuple[str, str], tuple[type[Config], object]] = {}
    twice = []
    for model in sorted(configs(), key=lambda model: (model.__module__, model.__name__)):
        for name, annotation in model.__annotations__.items():
            if name in model.model_fields and (description := model.model_fields[name].description):
                other, same = seen.setdefault((name, description), (model, annotation))
                if other is not model and not (same is annotation and get_origin(annotation) is Annotated):
                    twice.append(f"{name} of {other.__qualname__} and {model.__module__}.{model.__qualname__}")
    assert not twice


def test_a_flag_that_sets_no_field_says_something_else():
    descriptions = {field.description for model in configs() for field in model.model_fields.values()}
    own = {(name, flag.parameter.name) for name, flag in FLAGS}
    for name, command in COMMANDS.items():
        for parameter in command.params:
            assert (name, parameter.name) in own or parameter.help not in descriptions
