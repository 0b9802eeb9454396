"""A tiny model in a folder, a task file on tiny rows, and commands run in this process."""

import json
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from moods import rows_of, write_rows
from typer.testing import CliRunner

from fakes import make_inner_tokenizer, make_model
from overture.cli.app import app


@dataclass(frozen=True)
class Done:
    """What a command left: exit code, standard output, standard error."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """Standard output as exactly one JSON object."""
        lines = self.out.splitlines()
        assert len(lines) == 1, self.out
        found = json.loads(lines[0])
        assert isinstance(found, dict)
        return found


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama and a byte tokenizer as `save_pretrained` writes them."""
    folder = tmp_path_factory.mktemp("tiny")
    make_model("llama", "sdpa").save_pretrained(folder)
    make_inner_tokenizer("llama").save_pretrained(folder)
    return folder


@pytest.fixture(autouse=True)
def _own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OVERTURE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("OVERTURE_HOME", str(tmp_path / "store"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def drawn() -> None:
    """Charts are drawn in a test that asks for this."""


@pytest.fixture(autouse=True)
def _no_drawing(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes longer than everything else here."""
    if "drawn" in request.fixturenames:
        # Drawn charts are checked against Altair's schema too.
        monkeypatch.setattr("overture.report.charts.unchecked", nullcontext)
    else:
        monkeypatch.setattr("overture.report.charts.spec_of", lambda chart: "{}")
        monkeypatch.setattr("vl_convert.vegalite_to_svg", lambda spec: "<svg></svg>")
        monkeypatch.setattr("vl_convert.vegalite_to_png", lambda spec, scale: b"")


@pytest.fixture
def make_task(tmp_path: Path, tiny: Path) -> Callable[..., Path]:
    """Write a task file with its rows; keywords change it."""

    def make(**changes: Any) -> Path:
        for number, (name, count) in enumerate({"train": 16, "validation": 8, "test": 8}.items()):
            write_rows(tmp_path / f"{name}.jsonl", rows_of(count, 100 * number))
        values = {
            "name": "mood",
            "backbone": str(tiny),
            "data": {name: f"{name}.jsonl" for name in ("train", "validation", "test")},
            "template": "{text}\nMood:",
            "labels": {"good": " good", "bad": " bad"},
            "shots": 2,
            "prompt": {"length": 3},
            "train": {"epochs": 2, "batch_size": 4, "lr": 0.01},
        } | changes
        path = tmp_path / "task.yaml"
        path.write_text(yaml.safe_dump(values))
        return path

    return make


@pytest.fixture
def overture() -> Callable[..., Done]:
    """Run a command line."""

    def run(*words: str | Path, stdin: str | None = None) -> Done:
        done = CliRunner().invoke(app, [str(word) for word in words], input=stdin, prog_name="overture")
        if done.exception and not isinstance(done.exception, SystemExit):
            raise done.exception
        return Done(done.exit_code, done.stdout, done.stderr)

    return run


@pytest.fixture(scope="session")
def tuned_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where `tuned` keeps the run that it copies, and what the command wrote in ``result.json``."""
    return tmp_path_factory.mktemp("tuned") / "run"


@pytest.fixture
def tuned(
    make_task: Callable[..., Path], overture: Callable[..., Done], tmp_path: Path, tuned_folder: Path
) -> dict[str, Any]:
    """The result of a finished run; its prompt is mood@1. The run is made once, and copied to where a test works."""
    task, result = make_task(), tuned_folder / "result.json"
    if not result.exists():
        done = overture("tune", task, "--json")
        assert done.code == 0, done.err
        shutil.copytree(tmp_path / "store", tuned_folder / "store")
        result.write_text(json.dumps({"folder": str(tmp_path), "result": done.json}))
    kept = json.loads(result.read_text())
    shutil.copytree(tuned_folder / "store", tmp_path / "store", dirs_exist_ok=True)
    for path in (tmp_path / "store").rglob("*.json*"):
        path.write_text(path.read_text().replace(kept["folder"], str(tmp_path)))
    moved: dict[str, Any] = json.loads(json.dumps(kept["result"]).replace(kept["folder"], str(tmp_path)))
    return moved


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A masked language model, and the body of one, as `save_pretrained` writes them."""
    found: dict[str, Path] = {}
    for kind in ("whole", "body"):
        found[kind] = folder = tmp_path_factory.mktemp(kind)
        model = make_model("bert", "sdpa")
        (model if kind == "whole" else model.bert).save_pretrained(folder)
        make_inner_tokenizer("bert").save_pretrained(folder)
    return found
