"""``overture settings`` and ``overture schema``: the keys of a task file, derived from the options' fields."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from overture.cli.options import JsonOption
from overture.cli.out import console, emit, show_text
from overture.core.config import did_you_mean
from overture.core.errors import ConfigError

Schema = dict[str, Any]
SCHEMA_FILE = Path(__file__).with_name("task.schema.json")

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
    """

    key: str
    values: str
    default: str
    description: str


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


def _settings(model: Schema, schema: Schema, prefix: str) -> Iterator[Setting]:
    for name, field in model["properties"].items():
        inner = _resolved(field, schema)
        if "properties" in inner:
            yield from _settings(inner, schema, f"{prefix}{name}.")
            continue
        is_required = name in model.get("required", ())
        default = "required" if is_required else _yaml(field.get("default"))
        description = field.get("description") or inner.get("description", "")
        yield Setting(f"{prefix}{name}", _values(field, schema), default, description)


def _resolved(field: Schema, schema: Schema) -> Schema:
    """A field's own schema, behind references and without null."""
    for part in (field, *field.get("anyOf", ()), *field.get("allOf", ())):
        if reference := part.get("$ref"):
            resolved: Schema = schema["$defs"][reference.rpartition("/")[2]]
            return resolved
    return field


def _values(field: Schema, schema: Schema) -> str:
    """What a field may hold, in words."""
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


def _yaml(value: Any) -> str:
    if value is None or value in ([], {}, ""):
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def schema_line(task_file: Path) -> str:
    """The comment that makes an editor complete and check a task file, with the schema written into a folder beside it.

    The installation's own copy would not be found from another machine, or after the next installation.
    """
    from overture.core.files import write_atomic

    schema = Path(".overture") / SCHEMA_FILE.name
    write_atomic(task_file.parent / schema, SCHEMA_FILE.read_bytes())
    return f"# yaml-language-server: $schema={schema.as_posix()}\n"


def settings_command(
    section: Annotated[
        str | None,
        typer.Argument(metavar="SECTION|KEY", help=f"One of {', '.join(SECTIONS)}, or a key such as train.lr."),
    ] = None,
    is_json: JsonOption = False,
) -> None:
    """Show the keys of a task file, with defaults."""
    by_section = settings_of()
    if section is not None and section not in by_section:
        known = {setting.key: setting for settings in by_section.values() for setting in settings}
        # A key may be given by its last part alone.
        named = [known[key] for key in known if section in (key, key.rpartition(".")[2])]
        if not named:
            raise ConfigError(
                "no such section or key",
                got=section,
                wanted=", ".join(SECTIONS),
                fix=did_you_mean(section, [*SECTIONS, *known, *(key.rpartition(".")[2] for key in known)]),
            )
        by_section = {"": named}
    elif section is not None:
        by_section = {section: by_section[section]}
    if is_json:
        emit({"settings": [_as_json(setting) for settings in by_section.values() for setting in settings]})
        return
    out = console()
    for name, settings in by_section.items():
        if name:
            show_text(out, f"\n{name}: {SECTIONS[name]}", style="bold")
        for setting in settings:
            default = f" (default {setting.default})" if setting.default not in ("", "required") else ""
            needed = " (required)" if setting.default == "required" else ""
            show_text(out, f"  {setting.key}: {setting.values}{default}{needed}")
            show_text(out, f"      {setting.description}", style="dim")


def _as_json(setting: Setting) -> Mapping[str, str]:
    return {"key": setting.key, "values": setting.values, "default": setting.default, "text": setting.description}


def schema_command(
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write it there instead of printing it.")
    ] = None,
) -> None:
    """Print the JSON schema of task files, for editors."""
    text = SCHEMA_FILE.read_text(encoding="utf-8")
    if output is None:
        print(text, end="")
        return
    from overture.core.files import write_atomic

    write_atomic(output, text)
    show_text(console(), f"wrote {output}")
