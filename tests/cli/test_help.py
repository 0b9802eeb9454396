"""The text of --help, at any width, and names of other ways to adapt a model."""

from importlib.resources import files

import pytest
import yaml
from typer.testing import CliRunner

from overture.baseline.registry import BASELINES
from overture.cli.app import app
from overture.cli.demo import EPOCHS, TASK_FILE
from overture.core.errors import ConfigError
from overture.prompt.config import PromptConfig
from overture.prompt.registry import method_of


@pytest.mark.parametrize(
    "command",
    [[], ["tune"], ["predict"], ["compare"], ["search"], ["export"], ["init"], ["eval"], ["meta"], ["multi"]],
    ids=" ".join,
)
@pytest.mark.parametrize("columns", [40, 80])
def test_help_fits_the_window(command, columns, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    lines = CliRunner().invoke(app, [*command, "--help"]).output.splitlines()
    assert "Options:" in lines
    # A flag and its choices stay whole.
    too_long = [line for line in lines if len(line) > columns and not line.startswith("  --")]
    assert too_long == []
    usage = " ".join(lines[:2])
    assert not {"{", "}"} & {*usage}
    assert "......" not in usage
    assert "[[" not in usage
    # Where the folder stood before it had a flag.
    assert "DIR" not in usage


def test_the_demo_says_its_own_number_of_epochs() -> None:
    task = files("overture.data").joinpath("demo", TASK_FILE).read_text(encoding="utf-8")
    assert yaml.safe_load(task)["train"]["epochs"] == EPOCHS
    assert f"Default: {EPOCHS}." in " ".join(CliRunner().invoke(app, ["demo", "--help"]).output.split())


@pytest.mark.parametrize("name", [name for name, baseline in BASELINES.items() if baseline.learning_rate])
def test_a_baseline_named_as_method_leads_to_compare(name) -> None:
    with pytest.raises(ConfigError) as caught:
        method_of(PromptConfig(method=name))
    assert f"--way {name}" in caught.value.fix
