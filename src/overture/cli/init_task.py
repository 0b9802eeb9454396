"""``overture init``: a first task file from data."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from overture.cli.options import JsonOption
from overture.cli.out import console, emit
from overture.cli.report import show_next
from overture.core.errors import ConfigError


def command(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="A data file, or a folder with train, validation, test.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="OUT", help="The task file to write.")] = Path(
        "task.yaml"
    ),
    name: Annotated[str | None, typer.Option(help="The task's name; from the file's name if not given.")] = None,
    is_forced: Annotated[bool, typer.Option("--force", help="Replace a file that exists.")] = False,
    is_json: JsonOption = False,
) -> None:
    """Write a task file that fits some data, for you to correct."""
    if output.exists() and (output.is_dir() or not is_forced):
        raise ConfigError("the file exists already", where=str(output), fix="name another with -o, or add --force")

    from overture.core.files import write_atomic
    from overture.data import starting_task

    text, notes = starting_task(file, output.parent)
    if name is not None:
        text = _renamed(text, name)
    write_atomic(output, text)
    command_line = f"overture tune {shlex.quote(str(output))}"
    if is_json:
        emit({"task": str(output), "notes": notes, "next": command_line})
        return
    out = console()
    out.print(f"wrote {output}", soft_wrap=True)
    for note in notes:
        out.print(f"note: {note}")
    show_next("Read it, correct it, then:", [command_line])


def _renamed(text: str, name: str) -> str:
    from overture.core.config import validated
    from overture.data import Task

    # The name is checked as part of the smallest whole task.
    rest = {"data": {"path": "rows.jsonl"}, "template": "{text}", "answer_field": "answer"}
    validated(Task, {"name": name, **rest}, "--name")
    return "".join([f'name: "{name}"\n', *text.splitlines(keepends=True)[1:]])
