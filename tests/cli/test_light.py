"""What must be instant never loads what is heavy."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

import overture

HEAVY = ("torch", "transformers", "sklearn", "scipy", "altair", "numpy", "datasets", "pyarrow")
# `show` needs a prompt; without one it still opens the store.
COMMANDS = (
    ["--help"],
    ["--version"],
    ["tune", "--help"],
    ["search", "--help"],
    ["lr", "--help"],
    ["doctor", "--help"],
    ["compare", "--help"],
    ["import", "--help"],
    ["export", "--help"],
    ["methods", "--help"],
    ["similar", "--help"],
    ["prune", "--help"],
    ["recycle", "--help"],
    ["meta", "--help"],
    ["list"],
    ["list", "--json"],
    ["show", "nothing"],
    ["alias", "nothing"],
    ["serve", "--help"],
    ["serve", "--host", "0.0.0.0"],
    ["ui", "--help"],
    ["resume"],
)


@dataclass(frozen=True)
class Answer:
    """What a command left: exit code, standard error, and the heavy packages that it loaded."""

    code: int
    err: str
    loaded: list[str]


# Each command runs in a process that is forked behind the imports of the command line, which alone take a second.
FORKED = f"""
import importlib, json, os, pkgutil, sys
import overture.cli
from overture.cli.app import app
for module in pkgutil.iter_modules(overture.cli.__path__):
    importlib.import_module("overture.cli." + module.name)
for number, words in enumerate(json.load(open("commands.json"))):
    if not os.fork():
        os.chdir(f"folder-{{number}}")
        for stream, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT), stream)
        code = 0
        try:
            app(words, prog_name="overture")
        except SystemExit as end:
            code = end.code or 0
        finally:
            sys.stderr.flush()
            loaded = [name for name in {HEAVY!r} if name in sys.modules]
            with open("answer.json", "w") as file:
                json.dump({{"code": code, "loaded": loaded}}, file)
            os._exit(0)
    os.wait()
"""


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Answer]:
    """Every command's answer, each from a folder of its own with a task whose file of rows is empty."""
    root, commands = tmp_path_factory.mktemp("light"), [*COMMANDS, *WRONG]
    labels = "labels: {good: ' good', bad: ' bad'}"
    task = f"name: mood\ndata: {{path: rows.jsonl}}\ntemplate: '{{text}}'\n{labels}\n"
    for number, words in enumerate(commands):
        folder = root / f"folder-{number}"
        folder.mkdir()
        (folder / "rows.jsonl").write_text("")
        # Without any wrong flag the file itself is wrong.
        (folder / "task.yaml").write_text(task + ("trian: {}\n" if len(words) == 2 else ""))
    (root / "commands.json").write_text(json.dumps(commands))
    places = {"OVERTURE_HOME": str(root / "store"), "OVERTURE_CACHE": str(root / "cache")}
    subprocess.run([sys.executable, "-c", FORKED], cwd=root, env=os.environ | places, check=True)
    found = {}
    for number, words in enumerate(commands):
        folder = root / f"folder-{number}"
        found[" ".join(words)] = Answer(
            **json.loads((folder / "answer.json").read_text()), err=(folder / "err").read_text()
        )
    return found


@pytest.mark.xdist_group("light")
@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_command_loads_nothing_heavy(words: list[str], answers: dict[str, Answer]) -> None:
    assert answers[" ".join(words)].loaded == []


def test_show_and_list_of_a_prompt_load_nothing_heavy(tuned: dict, tmp_path: Path) -> None:
    code = f"""
import sys
from overture.cli.app import app
for words in (["list"], ["show", "mood"], ["show", "mood@1", "--json"]):
    try:
        app(words, prog_name="overture")
    except SystemExit as end:
        assert not end.code
assert not [name for name in {HEAVY!r} if name in sys.modules]
"""
    subprocess.run([sys.executable, "-c", code], capture_output=True, cwd=tmp_path, check=True)


def test_resume_of_a_finished_run_loads_nothing_heavy(tuned: dict, tmp_path: Path) -> None:
    code = f"""
import sys
from overture.cli.app import app
for words in (["resume", "mood-1"], ["resume", "mood-1", "--json"]):
    try:
        app(words, prog_name="overture")
    except SystemExit as end:
        assert not end.code
assert not [name for name in {HEAVY!r} if name in sys.modules]
"""
    subprocess.run([sys.executable, "-c", code], capture_output=True, cwd=tmp_path, check=True)


def test_python_api_is_lazy_and_pinned() -> None:
    assert overture.__all__ == [
        "Prediction",
        "Store",
        "UserError",
        "__version__",
        "compare",
        "evaluate",
        "load",
        "search",
        "tune",
    ]
    assert callable(overture.tune)
    assert callable(overture.load)
    assert dir(overture) == sorted(overture.__all__)
    with pytest.raises(AttributeError, match="no attribute 'tun'"):
        _ = overture.tun
    code = f"import overture, sys; assert not [n for n in {(*HEAVY, 'pydantic')!r} if n in sys.modules]"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_version_is_the_packages(capfd: pytest.CaptureFixture[str]) -> None:
    from overture.cli.app import app

    with pytest.raises(SystemExit) as end:
        app(["--version"], prog_name="overture")
    assert end.value.code == 0
    assert capfd.readouterr().out == f"overture {overture.__version__}\n"


def test_the_package_runs_as_a_module() -> None:
    done = subprocess.run([sys.executable, "-m", "overture", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"overture {overture.__version__}\n"


def test_options_load_nothing_heavy() -> None:
    package = Path(overture.__file__).parent
    modules = [".".join(path.with_suffix("").relative_to(package.parent).parts) for path in package.rglob("options.py")]
    code = f"""
import importlib, sys
for name in {modules!r}:
    importlib.import_module(name)
assert not [name for name in {HEAVY!r} if name in sys.modules]
"""
    subprocess.run([sys.executable, "-c", code], check=True)


WRONG_REQUESTS = (
    [],
    ["--set", "train.epoch=1"],
    ["--set", "prompt.method=prefx"],
    ["--set", "data.train=gone.jsonl"],
    ["--store", "task.yaml"],
)
WRONG = (
    *([command, "task.yaml", *words] for command in ("tune", "search", "compare", "lr") for words in WRONG_REQUESTS),
    ["words", "task.yaml", "--set", "train.epoch=1"],
    ["meta", "task.yaml", "task.yaml", "--name", "x", "--set", "train.epoch=1"],
    ["multi", "task.yaml", "task.yaml", "--name", "x", "--set", "train.epoch=1"],
    ["tune", "gone.yaml"],
    ["tune", "task.yaml", "--method", "prefx"],
    ["tune", "task.yaml", "--method", "vectors", "--place", "memory"],
    ["tune", "task.yaml", "--method", "late", "--set", "prompt.options.layr=1"],
    ["search", "task.yaml", "--method", "prefx"],
    *([command, "task.yaml", "--set", "adapter.kind=lora"] for command in ("search", "compare", "lr")),
    ["compare", "task.yaml", "--way", "prefx-after"],
    ["compare", "task.yaml", "--way", "linear", "--set-way", "linear:options.featurs=mean"],
    ["compare", "task.yaml", "--set-way", "prefx-after:train.lr=1"],
    ["compare", "task.yaml", "--reference", "prefx-after"],
    ["predict", "gone", "text"],
    *([command, "gone"] for command in ("eval", "prune", "similar")),
    # Tasks of one name, tasks that are too few, a method that shares nothing.
    ["multi", "task.yaml", "task.yaml", "--name", "x"],
    ["meta", "task.yaml", "--name", "x"],
    ["multi", "task.yaml", "task.yaml", "--name", "x", "--method", "vectors"],
    ["recycle", "gone", "--backbone", "smollm2"],
    ["export", "gone", "out", "--to", "npy"],
    ["import", "adapter", "--task", "gone.yaml"],
    ["cartridge", "gone.txt", "--name", "x"],
    ["cartridge", "rows.jsonl", "--name", "con"],
    ["import", "adapter", "--task", "task.yaml"],
    ["compare", "task.yaml", "--cell", "none:16"],
    ["meta", "task.yaml", "task.yaml", "--name", "Con!"],
    ["multi", "task.yaml", "task.yaml", "--name", "Con!"],
    ["recycle", "gone", "--backbone", "./nope"],
    ["tune", "task.yaml", "--set", "prompt.init=prompt", "--set", "prompt.init_prompt=gone"],
    # Rows are read, and the model's name is looked at, before torch is imported: here the file of rows is empty.
    *([command, "task.yaml", "--quiet"] for command in ("tune", "search", "compare", "lr", "words")),
    *([command, "task.yaml", "--backbone", "./nope"] for command in ("tune", "search", "compare", "lr", "words")),
    *([command, "task.yaml", "--backbone", "nosuchmodel"] for command in ("tune", "search", "compare", "lr", "words")),
    *([command, "task.yaml", "--store", "task.yaml/store"] for command in ("tune", "search")),
    *([command, "task.yaml", "--backbone", "smollm"] for command in ("tune", "search", "compare", "lr", "words")),
    ["search", "task.yaml", "--form", "hard"],
    ["search", "task.yaml", "--form", "hard", "--backbone", "./nope"],
    ["resume", "gone"],
    ["doctor", "gone"],
    ["diff", "gone", "other"],
    ["rm", "gone", "--yes"],
    ["translate", "gone"],
    ["explain", "gone"],
    ["errors", "gone"],
    ["settings", "trian"],
    ["methods", "prefx"],
    ["init", "gone.csv"],
    ["demo", "--store", "task.yaml"],
    ["predict", "some text here"],
)


@pytest.mark.xdist_group("light")
@pytest.mark.parametrize("words", WRONG, ids=" ".join)
def test_what_is_wrong_is_told_before_anything_heavy_is_loaded(words: list[str], answers: dict[str, Answer]) -> None:
    answer = answers[" ".join(words)]
    assert answer.code == 2, answer.err
    assert answer.loaded == []
