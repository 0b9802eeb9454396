"""Methods of one's own: the file that the page shows, entry points, and what is refused."""

import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import torch

from overture.core.errors import ConfigError
from overture.core.injection import Injection, Vectors
from overture.prompt import plugins
from overture.prompt.config import PromptConfig
from overture.prompt.methods import METHODS
from overture.prompt.plugins import add_file, add_installed
from overture.prompt.registry import checked_options, method_of

DOCS = Path(__file__).parents[2] / "docs"
EXAMPLE = DOCS / "examples" / "scaled_vectors.py"
RECORD = """
from overture.core.config import Config
from overture.prompt.method import Method
class Options(Config):
    pass
def build(request):
    return None
METHOD = Method("mine", title="t", source="s", options=Options, places=("before",), learning_rate={"before": 0.1},
                formula="P D")
"""


@pytest.fixture
def catalogue():
    return dict(METHODS)


def test_the_page_shows_the_file_that_is_tested():
    assert EXAMPLE.read_text() in (DOCS / "write-a-method.md").read_text()


def test_the_example_starts_where_its_vectors_start(catalogue):
    assert add_file(catalogue, EXAMPLE) == ["scaled_vectors"]
    method = catalogue["scaled_vectors"]
    assert method.plugin == EXAMPLE.name
    start = torch.randn(3, 8, generator=torch.Generator().manual_seed(0))
    request = type("Request", (), {"start": start, "place": "before", "options": method.options()})
    prompt = method.maths.build(request)
    injection = prompt.injection()
    assert isinstance(injection, Injection)
    assert isinstance(injection.vectors, Vectors)
    torch.testing.assert_close(injection.vectors.values, start)
    injection.vectors.values.square().sum().backward()
    assert all(value.grad is not None for value in prompt.trainable().values())
    assert sum(value.numel() for value in prompt.trainable().values()) == 3 * 8 + 3
    assert prompt.rates() == {"lengths": 0.1}


def test_a_file_is_loaded_twice_and_another_of_its_name_is_refused(catalogue, tmp_path):
    (tmp_path / "mine.py").write_text(RECORD)
    assert add_file(catalogue, tmp_path / "mine.py") == add_file(catalogue, tmp_path / "mine.py") == ["mine"]
    (tmp_path / "other.py").write_text(RECORD)
    with pytest.raises(ConfigError) as refused:
        add_file(catalogue, tmp_path / "other.py")
    assert "mine.py" in str(refused.value.problems[0])


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        (("METHOD = ", "THING = "), "METHOD"),
        (('"mine"', '"vectors"'), "already"),
        (('"mine"', '"no name"'), "a-z"),
        (('("before",)', '("nowhere",)'), "before"),
        (('{"before": 0.1}', "{}"), "learning_rate"),
        (("def build", "def built"), "build(request)"),
        (("options=Options", "options=dict"), "Config"),
        (("class Options", "class class"), "SyntaxError"),
        (("def build", "1 / 0\ndef build"), "ZeroDivisionError"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_what_is_wrong_with_a_plug_in_is_named(catalogue, tmp_path, change, wanted):
    path = tmp_path / "mine.py"
    path.write_text(RECORD.replace(*change))
    before = dict(catalogue)
    with pytest.raises(ConfigError) as refused:
        add_file(catalogue, path)
    error = refused.value
    assert str(path) in error.where
    assert wanted in " ".join([error.got, error.wanted, *map(str, error.problems)])
    assert catalogue == before


def test_a_file_in_a_prompt_s_folder_is_never_loaded(catalogue, tmp_path):
    (tmp_path / "prompt.json").write_text("{}")
    (tmp_path / "mine.py").write_text("raise SystemExit('ran')")
    with pytest.raises(ConfigError):
        add_file(catalogue, tmp_path / "mine.py")
    with pytest.raises(ConfigError):
        add_file(catalogue, tmp_path / "none.py")


def test_installed_packages_bring_methods_and_a_broken_one_is_left_out(catalogue, tmp_path, monkeypatch, caplog):
    (tmp_path / "installed_plugin.py").write_text(RECORD)
    monkeypatch.syspath_prepend(tmp_path)
    points = [
        EntryPoint("broken", "no_such_module:METHOD", plugins.GROUP),
        EntryPoint("mine", "installed_plugin:METHOD", plugins.GROUP),
    ]
    monkeypatch.setattr(plugins, "entry_points", lambda group: points)
    add_installed(catalogue)
    assert catalogue["mine"].maths.build(None) is None
    assert "no_such_module" in caplog.text


def test_an_unknown_method_names_the_flag_for_one_s_own():
    with pytest.raises(ConfigError) as refused:
        method_of(PromptConfig(method="xyzzy"))
    assert "--plugin" in refused.value.fix


def test_the_catalogue_loads_without_torch():
    code = "import sys; from overture.prompt.methods import METHODS; assert METHODS; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_options_of_a_plug_in_are_checked(monkeypatch):
    monkeypatch.setattr("overture.prompt.registry.METHODS", catalogue := dict(METHODS))
    add_file(catalogue, EXAMPLE)
    config = PromptConfig(method="scaled_vectors", place="before", options={"length_rat": 1})
    with pytest.raises(ConfigError) as refused:
        checked_options(config)
    assert "length_rate" in str(refused.value.problems[0])
