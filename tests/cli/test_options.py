"""Options that several commands share."""

import importlib
import pkgutil
import re
from typing import Annotated, Any, get_origin

import pytest
import typer
from typer.testing import CliRunner

import overture
from overture.cli.app import app, load_command
from overture.cli.options import field_of
from overture.core.config import Config
from overture.engine.options import local_source
from overture.store.manifest import Manifest
from overture.store.store import Entry


def test_a_linked_model_keeps_the_name_that_its_user_gave(tmp_path, monkeypatch):
    (tmp_path / "snapshot").mkdir()
    (tmp_path / "MiniLM").symlink_to(tmp_path / "snapshot")
    monkeypatch.chdir(tmp_path)
    assert local_source("./MiniLM") == local_source("MiniLM") == str(tmp_path / "MiniLM")


def test_a_name_without_a_folder_is_one_of_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert local_source("org/model") == "org/model"
    assert local_source("./gone") == str(tmp_path / "gone")


GROUP: Any = typer.main.get_command(app)
COMMANDS = {name: load_command(name) for name in GROUP.list_commands(None)}
FLAGS = [(name, flag) for name, command in COMMANDS.items() for flag in getattr(command.callback, "flags", ())]


@pytest.mark.parametrize(("name", "flag"), FLAGS, ids=lambda value: getattr(value, "path", value))
def test_a_flag_says_what_its_field_says(name, flag):
    (parameter,) = [one for one in COMMANDS[name].params if one.name == flag.parameter.name]
    text = re.sub(r" Default: .*\.$", "", parameter.help).removesuffix(" Repeatable.")
    assert text == field_of(flag.model, flag.path).description


def configs() -> set[type[Config]]:
    """Every config class of the package; those that record what is there hold no options."""
    for module in pkgutil.walk_packages(overture.__path__, "overture."):
        outside = ("overture.__main__", "overture.harness", "overture.exchange.vllm_connector")
        if not module.name.startswith(outside):
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


def test_the_list_of_commands_is_grouped_and_short():
    shown = CliRunner().invoke(app, ["--help"], prog_name="overture").stdout
    lines = shown.splitlines()
    assert [line for line in lines if line.endswith(":") and not line.startswith(" ")] == [
        "Options:",
        *(f"{panel}:" for panel in ("Start", "Use", "Prompts", "Find a better one", "Experts")),
    ]
    assert all(len(line) <= 80 for line in lines)
    summaries = {name: command.short_help for name, command in GROUP.commands.items()}
    assert all(0 < len(summary) <= 60 for summary in summaries.values())
    # Each stands on one line beside its name.
    assert all(any(line.split() == [name, *text.split()] for line in lines) for name, text in summaries.items())
    assert "Exit codes" in shown


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_names_its_exit_codes_and_its_defaults(name):
    shown = " ".join(CliRunner().invoke(app, [name, "--help"], prog_name="overture").stdout.split())
    assert "Exit codes: 0 done" in shown
    # Values have names in capitals or are choices, never the names of Python's types.
    assert not re.search(r"<(str|int|float|path|list|bool)", shown)
    for flag in getattr(COMMANDS[name].callback, "flags", ()):
        outer, _, field_name = flag.path.rpartition(".")
        # A command's own settings may hold other defaults than the class of the inner settings.
        inner = field_of(flag.model, outer).get_default(call_default_factory=True) if outer else None
        default = getattr(inner, field_name) if isinstance(inner, Config) else field_of(flag.model, flag.path).default
        if isinstance(default, int | float) and not isinstance(default, bool):
            assert f"Default: {default}." in shown


@pytest.mark.parametrize(
    ("words", "path", "values"),
    [
        ("tune --method pre", "method", ["prefix"]),
        ("tune --place mem", "place", ["memory"]),
        ("search --method late", "method", ["late"]),
        ("show mo", "prompt", ["mood"]),
        ("resume mood", "run", ["mood-1", "mood-2"]),
    ],
)
def test_names_are_completed(words, path, values, tmp_path):
    for folder in ("prompts/mood/v1", "prompts/other/v1", "runs/mood-1", "runs/mood-2"):
        (tmp_path / "store" / folder).mkdir(parents=True)
    command, *_, incomplete = words.split()
    context = typer.Context(COMMANDS[command], info_name=command)
    (parameter,) = [p for p in COMMANDS[command].params if path in (p.name, str(p.name).rpartition("_")[2])]
    assert [item.value for item in parameter.shell_complete(context, incomplete)] == values


def test_old_spellings_work_with_a_hint(overture, tmp_path):
    (tmp_path / "rows.jsonl").write_text("")
    for words, hint in (
        (["compare", "gone.yaml", "--out", "x"], "--out is now --output"),
        (["lr", "gone.yaml", "--chart=x"], "--chart is now --output"),
        (["eval", "--data", "rows.jsonl", "gone"], "--data is now an argument"),
        (["export", "gone", "out", "--to", "npy"], "name the folder with -o"),
        (["eval", "gone", "--data=rows.jsonl", "--calibrated"], "--data is now an argument"),
    ):
        done = overture(*words)
        assert done.code == 2
        assert hint in done.err
        # What is wrong is the file or the prompt, not the command line.
        assert "No such option" not in done.err
        assert "gone" in done.err


def test_quiet_prints_results_alone_and_verbose_shows_where_an_error_was_raised(overture):
    from overture.cli.out import is_quiet

    assert "Traceback" not in overture("show", "gone").err
    loud = overture("show", "gone", "-v")
    assert loud.code == 2
    assert "Traceback" in loud.err
    assert not is_quiet()
