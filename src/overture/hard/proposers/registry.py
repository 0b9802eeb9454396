"""The proposers by name; a proposer's module is imported when it is asked for."""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from overture.core.config import did_you_mean
from overture.core.errors import ConfigError
from overture.core.records.hard import Stage

if TYPE_CHECKING:
    from overture.hard.proposer import Proposer

STAGES: dict[str, Stage] = {
    "grammar": "structure",
    "words": "structure",
    "examples": "examples",
    "corpus": "wording",
    "own": "wording",
    "edits": "wording",
    "gradient": "wording",
    "file": "wording",
    "model": "wording",
    "url": "wording",
    "pruning": "pruning",
}
"""Each proposer's stage of the search."""
DEFAULTS = ("grammar", "words", "examples", "corpus", "own", "edits", "gradient", "pruning")
"""Those that need nothing but the model and the training rows."""
_GIVEN: dict[str, Callable[[str], Any]] = {"file": Path, "model": str, "url": str}
"""Proposers that need an argument, such as ``file:wordings.jsonl``."""


def check_source(source: str) -> str:
    """The name of a proposer as ``--from`` names it.

    Raises:
        ConfigError: there is no such proposer, or it lacks its argument.
    """
    name, _, argument = source.partition(":")
    if name not in STAGES:
        raise ConfigError(
            "no such proposer", where="--from", got=source, wanted=", ".join(STAGES), fix=did_you_mean(name, STAGES)
        )
    if (name in _GIVEN) != bool(argument):
        wanted = f"{name}:{'PATH' if name == 'file' else 'NAME' if name == 'model' else 'http://HOST/v1'}"
        raise ConfigError(
            "the proposer's argument", where="--from", got=source, wanted=wanted if name in _GIVEN else name
        )
    if name == "file" and not Path(argument).is_file():
        raise ConfigError("no such file", where="--from", got=argument, fix="check the path")
    return name


def proposer_of(source: str) -> "Proposer":
    """The proposer of a name, such as ``edits`` or ``file:wordings.jsonl``.

    Raises:
        UserError: there is none, or it cannot be made of its argument.
    """
    name = check_source(source)
    built = getattr(import_module(f"overture.hard.proposers.{name}"), name.capitalize())
    argument = source.partition(":")[2]
    proposer: Proposer = built(_GIVEN[name](argument)) if name in _GIVEN else built()
    return proposer
