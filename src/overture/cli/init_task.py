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
    promptsource: Annotated[
        Path | None,
        typer.Option("--from-promptsource", metavar="TEMPLATES.yaml", help="Translate a template of promptsource."),
    ] = None,
    template: Annotated[str | None, typer.Option(help="Which of promptsource's templates, by name.")] = None,
    backbone: Annotated[
        str | None, typer.Option(metavar="MODEL", help="The model; the template is made to fit it.")
    ] = None,
    is_forced: Annotated[bool, typer.Option("--force", help="Replace a file that exists.")] = False,
    is_json: JsonOption = False,
) -> None:
    """Write a task file that fits some data, or that says what a task of another project says, for you to correct."""
    _check(file, lm_eval, promptsource, template, backbone)
    if output.exists() and (output.is_dir() or not is_forced):
        raise ConfigError("the file exists already", where=str(output), fix="name another with -o, or add --force")

    from overture.core.files import write_atomic

    text, notes = _written(file, output.parent, lm_eval, promptsource, template, backbone)
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
        out.print(f"note: {note}", markup=False)
    show_next("Read it, correct it, then:", [command_line])


def _check(
    file: Path | None, lm_eval: Path | None, promptsource: Path | None, template: str | None, backbone: str | None
) -> None:
    if lm_eval and promptsource:
        raise ConfigError("--from-lm-eval and --from-promptsource are two tasks", fix="give one of them")
    if template and not promptsource:
        raise ConfigError("--template goes with --from-promptsource", got=template)
    if backbone and (lm_eval or promptsource):
        raise ConfigError(
            "--backbone fits a template to a model; that of another project stays as it is",
            got=backbone,
            fix="overture tune TASK --backbone MODEL uses the file with a model",
        )
    if not (file or lm_eval or promptsource):
        raise ConfigError("nothing to start from", wanted="a data file, --from-lm-eval or --from-promptsource")


def _written(
    file: Path | None,
    folder: Path,
    lm_eval: Path | None,
    promptsource: Path | None,
    template: str | None,
    backbone: str | None,
) -> tuple[str, list[str]]:
    """The task file's text, and notes on what was assumed."""
    if lm_eval is None and promptsource is None:
        from overture.data.init_task import starting_task

        assert file is not None
        if backbone is None:
            return starting_task(file, folder)
        from overture.engine.load import label_place

        return starting_task(file, folder, backbone, lambda words: label_place(backbone, words))
    from overture.exchange.tasks import task_of_lm_eval, task_of_promptsource

    if lm_eval is not None:
        found = task_of_lm_eval(lm_eval, file)
    else:
        assert promptsource is not None
        found = task_of_promptsource(promptsource, template, file)
    return found.text(str(lm_eval or promptsource), folder), found.notes


def _renamed(text: str, name: str) -> str:
    from overture.core.config import validated
    from overture.data.task import Task

    # The name is checked as part of the smallest whole task.
    rest = {"data": {"path": "rows.jsonl"}, "template": "{text}", "answer_field": "answer"}
    validated(Task, {"name": name, **rest}, "--name")
    return "".join([f'name: "{name}"\n', *text.splitlines(keepends=True)[1:]])
