"""``overture init``: a first task file from data."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from overture.cli.options import JsonOption
from overture.cli.out import console, emit, show_text
from overture.cli.report import show_next
from overture.cli.settings import schema_line
from overture.core.errors import ConfigError


def command(
    file: Annotated[
        Path | None, typer.Argument(metavar="[FILE]", help="A data file, or a folder with train, validation, test.")
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="OUT", help="The task file to write.")] = Path(
        "task.yaml"
    ),
    name: Annotated[str | None, typer.Option(help="The task's name; from the file's name if not given.")] = None,
    lm_eval: Annotated[
        Path | None,
        typer.Option("--from-lm-eval", metavar="TASK.yaml", help="Translate a task of lm-evaluation-harness."),
    ] = None,
    backbone: Annotated[
        str | None, typer.Option(metavar="MODEL", help="The model; the template is made to fit it.")
    ] = None,
    is_forced: Annotated[bool, typer.Option("--force", help="Replace a file that exists.")] = False,
    is_json: JsonOption = False,
) -> None:
    """Write a task file from data, or from a task of lm-evaluation-harness, for you to correct."""
    if backbone and lm_eval:
        raise ConfigError(
            "--backbone fits a template to a model; that of another project stays as it is",
            got=backbone,
            fix="overture tune TASK --backbone MODEL uses the file with a model",
        )
    if not (file or lm_eval):
        raise ConfigError("nothing to start from", wanted="a data file, or --from-lm-eval")
    if output.exists() and (output.is_dir() or not is_forced):
        raise ConfigError("the file exists already", where=str(output), fix="name another with -o, or add --force")

    from overture.core.config import validated
    from overture.core.files import write_atomic
    from overture.data.task import Task

    if lm_eval is not None:
        from overture.exchange.tasks.lm_eval import task_of_lm_eval

        translated = task_of_lm_eval(lm_eval, file)
        text, notes = translated.text(str(lm_eval), output.parent), translated.notes
    else:
        from overture.data.init_task import starting_task

        assert file is not None
        if backbone is None:
            text, notes = starting_task(file, output.parent)
        else:
            from overture.engine.load import label_place

            text, notes = starting_task(file, output.parent, backbone, lambda words: label_place(backbone, words))
    if name is not None:
        # The name is checked as part of the smallest whole task.
        rest = {"data": {"path": "rows.jsonl"}, "template": "{text}", "answer_field": "answer"}
        validated(Task, {"name": name, **rest}, "--name")
        text = "".join([f'name: "{name}"\n', *text.splitlines(keepends=True)[1:]])
    write_atomic(output, schema_line() + text)

    next_command = f"overture tune {shlex.quote(str(output))}"
    if is_json:
        emit({"task": str(output), "notes": notes, "next": next_command})
        return
    out = console()
    show_text(out, f"wrote {output}")
    for note in notes:
        show_text(out, f"note: {note}")
    show_next("Read it, correct it, then:", [next_command])
