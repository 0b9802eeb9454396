"""Options: each is one field of one frozen pydantic model; flags, YAML keys and docs derive from it."""

import difflib
import re
import reprlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError

from overture.core.errors import ConfigError, Problem
from overture.core.settings_yaml import loaded_yaml

M = TypeVar("M", bound=BaseModel)


class Config(BaseModel):
    """Base of all options: immutable, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, defer_build=True)


def validated(model: type[M], values: Any, where: str, context: str | None = None) -> M:
    """Build a config, with every mistake in one error.

    Args:
        model: the config class.
        values: a mapping as read from YAML or the command line.
        where: the file or flag the values came from.
        context: passed to validators, such as `core.records.base.FROM_JSON`.

    Raises:
        ConfigError: names each field, its value, and the nearest known key or choice for an unknown one.
    """
    try:
        return model.model_validate(values, context=context)
    except ValidationError as error:
        # Defaults that follow from a wrong value are not wrong themselves.
        items = [item for item in error.errors() if item["type"] != "default_factory_not_called"]
        what = f"{len(items)} settings are wrong" if len(items) > 1 else "a setting is wrong"
        problems = [problem for item in items for problem in _problems(model, item)]
        raise ConfigError(what, where=where, problems=problems) from None


_MESSAGES = {
    "missing": "this key is required",
    "string_type": "must be text",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "finite_number": "must be a finite number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "list_type": "must be a list",
    "tuple_type": "must be a list",
    "dict_type": "must be a mapping of keys and values",
    "model_type": "must be a mapping of keys and values",
    "model_attributes_type": "must be a mapping of keys and values",
    "path_type": "must be a path",
    "greater_than": "must be greater than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
    "too_short": "must have {min_length} entries or more",
    "too_long": "must have {max_length} entries or fewer",
    "string_too_short": "must have {min_length} characters or more",
    "string_too_long": "must have {max_length} characters or fewer",
    "string_pattern_mismatch": "has the wrong form",
    "literal_error": "must be {expected}",
    "value_error": "{error}",
}
"""Pydantic's types of errors in plain words."""

_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxlist, _SHORT.maxdict, _SHORT.maxtuple, _SHORT.maxstring = 2, 4, 4, 4, 60


def unequal_values(expected: JsonValue, actual: JsonValue, where: str) -> list[Problem]:
    """Values of both models' configs that differ; other names are skipped, since versions of transformers change them.

    Args:
        expected: the recorded values.
        actual: the model's values.
        where: name of the config, for the problems.
    """
    if isinstance(expected, dict) and isinstance(actual, dict):
        names = [name for name in expected if name in actual]
        return [p for name in names for p in unequal_values(expected[name], actual[name], f"{where}.{name}")]
    return [] if expected == actual else [Problem(where, f"{actual!s:.40}, wanted {expected!s:.40}")]


def in_words(error: Any) -> str:
    """The message for a wrong value, from one entry of pydantic's `ValidationError.errors()`."""
    message = _MESSAGES.get(error["type"])
    # A message of the library may hold braces that a caller sent.
    return message.format(**error.get("ctx", {})) if message else str(error["msg"])


def _problems(model: type[BaseModel], error: Any) -> list[Problem]:
    """The problems of an entry of pydantic's errors; a check of several keys together says which of them it means."""
    cause = error.get("ctx", {}).get("error")
    if not isinstance(cause, ConfigError):
        return [_problem(model, error)]
    section = "".join(f"{key}." for key in error["loc"])
    if cause.problems:
        return [Problem(f"{section}{item.where}", item.what, item.fix) for item in cause.problems]
    got = f", got {_SHORT.repr(cause.got)[:80]}" if cause.got else ""
    return [Problem(f"{section}{cause.where}", f"{cause.what}{got}", cause.fix or cause.wanted)]


def _problem(model: type[BaseModel], error: Any) -> Problem:
    # Union members are tagged <like this>, which no key is.
    keys = [str(part) for part in error["loc"] if not str(part).startswith("<")]
    path, kind = ".".join(keys), error["type"]
    if kind == "extra_forbidden":
        section = _section(model, keys[:-1])
        return unknown_key(path, list(section.model_fields) if section else [], dotted_keys(model))
    message = in_words(error)
    if kind in ("too_short", "string_too_short") and error["ctx"]["min_length"] == 1:
        message = "must not be empty"
    fix = ""
    if kind == "literal_error":
        fix = did_you_mean(error["input"], re.findall(r"'([^']*)'", error["ctx"]["expected"]))
    if kind == "string_pattern_mismatch":
        section = _section(model, keys[:-1])
        field = section.model_fields.get(keys[-1]) if section else None
        fix = field.description or "" if field else ""
    # A check of several keys together names its values itself.
    got = (
        ""
        if kind == "missing" or isinstance(error.get("input"), Mapping)
        else f", got {_SHORT.repr(error.get('input'))[:80]}"
    )
    return Problem(path, f"{message}{got}", fix)


def unknown_key(path: str, valid_keys: Sequence[str], dotted: Iterable[str] = ()) -> Problem:
    """The problem with a key that no config has.

    Args:
        path: the key with its sections, dotted.
        valid_keys: the keys of its section.
        dotted: keys of all sections, of which one may be meant.
    """
    name = path.rpartition(".")[2]
    by_name: dict[str, list[str]] = {}
    for key in dotted:
        by_name.setdefault(key.rpartition(".")[2], []).append(key)
    fix = ""
    if name in by_name and "." not in path:
        fix = f"did you mean {' or '.join(map(repr, by_name[name]))}?"
    elif not (fix := did_you_mean(name, valid_keys)) and "." not in path:
        near = difflib.get_close_matches(name, by_name, 1)
        fix = f"did you mean {' or '.join(map(repr, by_name[near[0]]))}?" if near else ""
    return Problem(path, "unknown key", fix or f"known: {', '.join(valid_keys)}")


def did_you_mean(text: object, choices: Iterable[str]) -> str:
    """The nearest known word as a fix; empty where none is near."""
    near = difflib.get_close_matches(str(text), choices, 1)
    return f"did you mean {near[0]!r}?" if near else ""


def dotted_keys(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """The keys of a config and of its sections, such as train.epochs."""
    for name, field in model.model_fields.items():
        yield prefix + name
        if inner := _model_in(field.annotation):
            yield from dotted_keys(inner, f"{prefix}{name}.")


def _section(model: type[BaseModel] | None, path: Sequence[str]) -> type[BaseModel] | None:
    """The config of a section; None where there is none."""
    for part in path:
        field = model.model_fields.get(part) if model else None
        model = _model_in(field.annotation) if field else None
    return model


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The config that a field holds, always or if it is given."""
    kinds = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    return next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), None)


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file's mapping, read safely.

    Raises:
        ConfigError: the file is missing, not UTF-8, not YAML, or not a mapping.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ConfigError("no such file", where=str(path), fix="check the path") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError("the file cannot be read as text", where=str(path), got=str(error)) from error
    values = loaded_yaml(text, str(path))
    if not isinstance(values, dict):
        raise ConfigError(
            "the file is no task file",
            where=str(path),
            wanted="key: value lines",
            fix=f"if it holds your rows: overture init {path}",
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
    value = loaded_yaml(text, f"--set {path}")
    # YAML reads words with a colon as a mapping; people who type them without braces mean a text.
    is_mapping = isinstance(value, dict) and not text.lstrip().startswith("{")
    return path, text if is_mapping else value


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
