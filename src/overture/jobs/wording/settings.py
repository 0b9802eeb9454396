"""The keys of a task file, derived from the options' fields: for the command, the pages and the documentation."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

Schema = dict[str, Any]

SECTIONS = {
    "task": "What is learned, and how rows are shown to the model. These keys stand at the top of the file.",
    "data": "Where rows come from. Nothing in a data file is changed.",
    "prompt": "The prompt that is tuned. `overture methods NAME` shows the options of a method, `prompt.options`.",
    "train": "How it is trained.",
    "run": "What a run does beside training. These keys stand at the top of the file.",
    "adapter": "An adapter that is trained together with the prompt; without this section there is none.",
    "search": "What `overture search` may choose from and spend.",
    "hard": "What `overture search --form hard` proposes and may spend.",
}
"""The sections of the list of settings, in its order."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One key of a task file.

    Args:
        key: as `--set` takes it, such as ``train.lr``.
        values: what it may hold, in words.
        default: its value when it is left out, as YAML writes it; empty where there is none.
        description: one sentence.
        choices: the words that it may hold; empty where it may hold others.
    """

    key: str
    values: str
    default: str
    description: str
    choices: tuple[str, ...] = ()


def task_schema() -> Schema:
    """The JSON schema of a task file: the keys of the task stand beside those of the run."""
    from overture.jobs.wording.options import HardRequest

    schema: Schema = HardRequest.model_json_schema()
    definitions: Schema = schema["$defs"]
    task = definitions.pop("Task")
    properties = {**task["properties"], **{key: value for key, value in schema["properties"].items() if key != "task"}}
    whole = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Overture task file",
        "type": "object",
        "additionalProperties": False,
        "required": task["required"],
        "properties": properties,
        "$defs": definitions,
    }
    return {key: value if key == "title" else _untitled(value) for key, value in whole.items()}


def _untitled(value: Any) -> Any:
    """The schema without the titles that only repeat its keys."""
    if isinstance(value, list):
        return [_untitled(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {key: _untitled(item) for key, item in value.items() if not (key == "title" and isinstance(item, str))}


def settings_of() -> dict[str, list[Setting]]:
    """All settings by section."""
    from overture.data.task import Task

    schema = task_schema()
    by_section: dict[str, list[Setting]] = {name: [] for name in SECTIONS}
    for key, field in schema["properties"].items():
        inner = _resolved(field, schema)
        if key in SECTIONS:
            by_section[key] += _settings(inner, schema, f"{key}.")
        else:
            by_section["task" if key in Task.model_fields else "run"] += _settings(
                {"properties": {key: field}, "required": schema["required"]}, schema, ""
            )
    return by_section


def settings_in(model: type[BaseModel]) -> list[Setting]:
    """The settings of one config, keys of nested ones with dots."""
    schema = model.model_json_schema()
    return list(_settings(schema, schema, ""))


def _settings(model: Schema, schema: Schema, prefix: str) -> Iterator[Setting]:
    for name, field in model["properties"].items():
        inner = _resolved(field, schema)
        if "properties" in inner:
            yield from _settings(inner, schema, f"{prefix}{name}.")
            continue
        is_required = name in model.get("required", ())
        default = "required" if is_required else _yaml(field.get("default"))
        description = field.get("description") or inner.get("description", "")
        yield Setting(f"{prefix}{name}", _values(field, schema), default, description, _choices(field, schema))


def _resolved(field: Schema, schema: Schema) -> Schema:
    """A field's own schema, behind references and without null."""
    for part in (field, *field.get("anyOf", ()), *field.get("allOf", ())):
        if reference := part.get("$ref"):
            resolved: Schema = schema["$defs"][reference.rpartition("/")[2]]
            return resolved
    return field


def _values(field: Schema, schema: Schema) -> str:
    """The values that a field may have, in words."""
    inner = _resolved(field, schema)
    if "enum" in inner:
        return ", ".join(map(str, inner["enum"]))
    if "const" in inner:
        return str(inner["const"])
    alternatives = [item for key in ("anyOf", "oneOf") for item in inner.get(key, ()) if item.get("type") != "null"]
    if alternatives:
        return " or ".join(dict.fromkeys(_values(item, schema) for item in alternatives))
    if inner.get("type") == "array":
        items = inner.get("items") or (inner.get("prefixItems") or [{}])[0]
        return f"list: {_values(items, schema)}"
    if inner.get("type") == "object":
        values = inner.get("additionalProperties")
        return f"mapping to {_values(values, schema)}" if isinstance(values, dict) and values else "mapping"
    word = {"integer": "whole number", "number": "number", "boolean": "true, false", "string": "text"}
    bounds = [
        f"{sign} {inner[key]:g}"
        for key, sign in (("minimum", "from"), ("exclusiveMinimum", "above"), ("exclusiveMaximum", "below"))
        if key in inner
    ]
    bounds += [f"to {inner['maximum']:g}"] if "maximum" in inner else []
    return " ".join([word.get(inner.get("type", ""), "any value"), *bounds])


def _choices(field: Schema, schema: Schema) -> tuple[str, ...]:
    inner = _resolved(field, schema)
    if inner.get("type") == "boolean":
        return ("true", "false")
    parts = [inner, *(part for part in inner.get("anyOf", ()) if part.get("type") != "null")]
    return next((tuple(map(str, part["enum"])) for part in parts if "enum" in part), ())


def _yaml(value: Any) -> str:
    if value is None or value in ([], {}, ""):
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
