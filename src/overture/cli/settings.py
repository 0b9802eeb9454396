"""``overture settings`` and ``overture schema``: the keys of a task file, derived from the options' fields."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from overture.cli.options import JsonOption
from overture.cli.out import console, emit, show_text
from overture.core.config import did_you_mean
from overture.core.errors import ConfigError
from overture.jobs.wording.settings import SECTIONS, Setting, settings_of

SCHEMA_FILE = Path(__file__).with_name("task.schema.json")


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
        settings_by_key = {setting.key: setting for settings in by_section.values() for setting in settings}
        # A key may be given by its last part alone.
        matching_settings = [
            settings_by_key[key] for key in settings_by_key if section in (key, key.rpartition(".")[2])
        ]
        if not matching_settings:
            raise ConfigError(
                "no such section or key",
                got=section,
                wanted=", ".join(SECTIONS),
                fix=did_you_mean(
                    section, [*SECTIONS, *settings_by_key, *(key.rpartition(".")[2] for key in settings_by_key)]
                ),
            )
        by_section = {"": matching_settings}
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
            required_text = " (required)" if setting.default == "required" else ""
            show_text(out, f"  {setting.key}: {setting.values}{default}{required_text}")
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
