"""Options that several commands share, and help texts taken from the fields that they set."""

import ast
import os
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import typer

from overture.core.errors import StoreError

_PACKAGE = Path(__file__).resolve().parents[1]

StoreOption = Annotated[
    Path | None,
    typer.Option(
        "--store", metavar="DIR", help="Where prompts and runs are kept; OVERTURE_HOME or .overture if not given."
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
PromptArgument = Annotated[
    str, typer.Argument(metavar="PROMPT", help="A prompt: its name, name@version, or its folder.")
]
DriftOption = Annotated[
    bool,
    typer.Option("--allow-drift", help="Accept another tokenizer, chat template or revision around the same weights."),
]
CalibratedOption = Annotated[
    bool,
    typer.Option(
        "--calibrated", help="Divide a label's probability by what it has for rows without content (Zhao et al. 2021)."
    ),
]


def store_root(given: Path | None) -> Path:
    """The store's folder: the one given, or the default.

    Raises:
        StoreError: there is a file in its place.
    """
    from overture.core.files import store_dir

    root = given or store_dir()
    if root.exists() and not root.is_dir():
        raise StoreError("the store is not a folder", where=str(root), fix="name a folder with --store")
    return root


def stated(values: Mapping[str, Any]) -> dict[str, Any]:
    """The options that were given; those left out keep their defaults."""
    return {name: value for name, value in values.items() if value is not None}


def local(backbone: str) -> str:
    """A folder or file in the working directory by its whole path: the prompt is used from elsewhere too.

    Links stay: a model is shown by the name that its user gave it.
    """
    if backbone.startswith((".", "~")) or Path(backbone).exists():
        return os.path.abspath(Path(backbone).expanduser())
    return backbone


def store_flag(given: Path | None) -> str:
    """What must follow a command so that it finds the same store."""
    import shlex

    return f" --store {shlex.quote(str(given))}" if given else ""


def field_help(file: str, model: str, field: str) -> str:
    """The description of an option's field, read from the source.

    Importing the class would load torch, which takes seconds; help must be instant.

    Args:
        file: the module's path within the package.
        model: the class.
        field: the field.
    """
    return _descriptions(file)[f"{model}.{field}"]


@cache
def _descriptions(file: str) -> dict[str, str]:
    tree = ast.parse((_PACKAGE / file).read_text(encoding="utf-8"))
    found: dict[str, str] = {}
    for model in (node for node in tree.body if isinstance(node, ast.ClassDef)):
        for node in model.body:
            if (
                isinstance(node, ast.AnnAssign)
                and isinstance(node.target, ast.Name)
                and isinstance(node.value, ast.Call)
            ):
                texts = [word.value for word in node.value.keywords if word.arg == "description"]
                found |= {f"{model.name}.{node.target.id}": ast.literal_eval(text) for text in texts}
    return found
