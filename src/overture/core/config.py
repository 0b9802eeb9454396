"""Options: each is one field of one frozen pydantic model; flags, YAML keys and docs derive from it."""

import contextlib
import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from overture.core.errors import ConfigError, Problem

M = TypeVar("M", bound=BaseModel)


class Config(BaseModel):
    """Base of all options: immutable, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def validated(model: type[M], values: Any, where: str) -> M:
    """Build a config, with every mistake in one error.

    Args:
        model: the config class.
        values: a mapping as read from YAML or the command line.
        where: the file or flag the values came from.

    Raises:
        ConfigError: names each field, its value, and the nearest known key or choice for an unknown one.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        # Defaults that follow from a wrong value are not wrong themselves.
        problems = [_problem(model, item) for item in error.errors() if item["type"] != "default_factory_not_called"]
        raise ConfigError(f"{model.__name__} cannot be read", where=where, problems=problems) from None


def _problem(model: type[BaseModel], error: Any) -> Problem:
    path = ".".join(str(part) for part in error["loc"]) or "(top)"
    if error["type"] == "extra_forbidden":
        return unknown_key(path, _keys(model, error["loc"][:-1]))
    if error["type"] == "literal_error":
        choices = re.findall(r"'([^']*)'", str(error["ctx"]["expected"]))
        return Problem(path, f"{error['msg']}, got {error.get('input')!r:.80}", did_you_mean(error["input"], choices))
    return Problem(path, f"{error['msg']}, got {error.get('input')!r:.80}")


def unknown_key(path: str, known: Sequence[str]) -> Problem:
    """The problem with a key that no config has."""
    return Problem(path, "unknown key", did_you_mean(path.rpartition(".")[2], known) or f"known: {', '.join(known)}")


def did_you_mean(text: object, known: Iterable[str]) -> str:
    """The nearest known word as a fix; empty where none is near."""
    near = difflib.get_close_matches(str(text), known, 1)
    return f"did you mean {near[0]!r}?" if near else ""


def _keys(model: type[BaseModel], path: tuple[Any, ...]) -> list[str]:
    for part in path:
        field = model.model_fields.get(str(part))
        inner = field.annotation if field else None
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            return []
        model = inner
    return list(model.model_fields)


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file's mapping, read safely.

    Raises:
        ConfigError: the file is missing, not UTF-8, not YAML, or not a mapping.
    """
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise ConfigError("no such file", where=str(path), fix="check the path") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError("the file cannot be read as YAML", where=str(path), got=str(error)) from error
    if not isinstance(values, dict):
        raise ConfigError(
            "the file must hold a mapping", where=str(path), got=type(values).__name__, wanted="key: value lines"
        )
    return values


def overridden(values: Mapping[str, Any], assignments: Iterable[str]) -> dict[str, Any]:
    """The values with ``a.b=c`` assignments applied; c is read as YAML. The argument is not changed.

    Raises:
        ConfigError: an assignment has no ``=``, or goes through a value that is not a mapping.
    """
    merged = dict(values)
    for assignment in assignments:
        path, value = parsed(assignment)
        assign(merged, path.split("."), value)
    return merged


def parsed(assignment: str) -> tuple[str, Any]:
    """The path and the value of an assignment ``a.b=c``; c is read as YAML.

    Raises:
        ConfigError: there is no ``=``, or c is no YAML.
    """
    path, equals, text = assignment.partition("=")
    if not equals or not path:
        raise ConfigError("cannot read a setting", where="--set", got=assignment, wanted="key=value")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError("cannot read a setting's value", where=f"--set {path}", got=text) from error
    # YAML reads words with a colon as a mapping; people who type them without braces mean a text.
    if isinstance(value, dict) and not text.lstrip().startswith("{"):
        return path, text
    # YAML 1.1 reads 1e-3 as text; people who type it without quotes mean a number.
    if isinstance(value, str) and text.strip()[:1] not in "\"'":
        with contextlib.suppress(ValueError):
            return path, float(value)
    return path, value


def assign(target: dict[str, Any], path: Sequence[str], value: Any) -> None:
    """Set a value in nested mappings, of which those on the way are copied.

    Raises:
        ConfigError: the path goes through a value that is not a mapping.
    """
    for part in path[:-1]:
        inner = target.get(part, {})
        if not isinstance(inner, Mapping):
            where = f"--set {'.'.join(path)}"
            raise ConfigError("the setting goes through a value", where=where, got=f"{part}={inner!r}")
        target[part] = dict(inner)
        target = target[part]
    target[path[-1]] = value
