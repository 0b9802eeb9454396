"""The proposers by name; a proposer's module is imported on first use."""

from importlib import import_module
from importlib.util import find_spec
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
    "reflect": "wording",
    "pruning": "pruning",
}
"""Each proposer's stage of the search."""
DEFAULTS = ("grammar", "words", "examples", "corpus", "own", "edits", "gradient", "pruning")
"""Proposers that need only the model and the training rows."""
_GIVEN = {
    "file": "PATH",
    "model": "NAME",
    "url": "http://HOST/v1",
    "reflect": "model:NAME or reflect:url:http://HOST/v1",
}
"""Proposers that need an argument, such as ``file:wordings.jsonl``, and what it is."""
_WRITERS = ("model", "url")


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
        expected = f"{name}:{_GIVEN[name]}" if name in _GIVEN else name
        raise ConfigError("the proposer's argument", where="--from", got=source, wanted=expected)
    if name == "file" and not Path(argument).is_file():
        raise ConfigError("no such file", where="--from", got=argument, fix="check the path")
    if name == "reflect":
        if check_source(argument) not in _WRITERS:
            raise ConfigError("reflection needs a model that writes", where="--from", got=source,
                              wanted=f"reflect:{_GIVEN[name]}")  # fmt: skip
        if find_spec("gepa") is None:
            raise ConfigError(
                "gepa is not installed", where="--from", got=source, fix="python -m pip install 'overture[reflect]'"
            )
    return name


def proposer_of(source: str, model: str = "default", timeout_s: float = 60.0) -> "Proposer":
    """The proposer of a name, such as ``edits`` or ``file:wordings.jsonl``.

    Args:
        source: as ``--from`` names it.
        model: name of the model at ``url:``.
        timeout_s: time limit of one request to ``url:``.

    Raises:
        UserError: there is none, or it cannot be made of its argument.
    """
    name = check_source(source)
    proposer_class = getattr(import_module(f"overture.hard.proposers.{name}"), name.capitalize())
    argument = source.partition(":")[2]
    arguments: dict[str, tuple[Any, ...]] = {
        "file": (Path(argument),),
        "model": (argument,),
        "url": (argument, model, timeout_s),
    }
    if name == "reflect":
        arguments[name] = (proposer_of(argument, model, timeout_s),)
    proposer: Proposer = proposer_class(*arguments.get(name, ()))
    return proposer
