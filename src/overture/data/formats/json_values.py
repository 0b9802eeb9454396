"""JSON values read strictly: no NaN, and no key twice in an object."""

import json
from typing import Any, NoReturn

from overture.data.values import kind


def decoder() -> json.JSONDecoder:
    """A decoder that raises ValueError where JSON's own rules leave the meaning open."""
    return json.JSONDecoder(parse_constant=_no_constant, object_pairs_hook=_object)


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON value; write null where there is none")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        names = [name for name, _ in pairs]
        repeated_key = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {repeated_key!r:.40} stands twice in an object")
    return fields


def not_an_object(value: Any) -> tuple[str, str]:
    """The problem of a row that is no object, and its fix."""
    name = "a text" if isinstance(value, str) else "a number" if type(value) in (int, float) else kind(value)
    return f"not a JSON object but {name}", 'write each row as {"text": ..., "label": ...}'


def reason(error: Exception) -> str:
    """Why a text is not JSON, in a few words."""
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg.removesuffix(' at')} at character {error.colno}"
    return "nested too deeply" if isinstance(error, RecursionError) else str(error)
