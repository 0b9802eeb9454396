"""The command ``overture``: a thin dispatcher. What a command needs is imported when it runs."""

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from overture.cli.out import is_json_only, only_json, say, show_error
from overture.core.errors import OvertureError, UserError

_INTERRUPTED = 130

_COMMANDS = {
    "demo": "demo.command",
    "init": "init_task.command",
    "tune": "tune.tune_command",
    "search": "search.search_command",
    "lr": "search.lr_command",
    "words": "words.command",
    "resume": "resume.resume_command",
    "compare": "compare.command",
    "eval": "evaluate.command",
    "predict": "predict.command",
    "list": "prompts.list_command",
    "show": "prompts.show_command",
    "diff": "prompts.diff_command",
    "rm": "prompts.rm_command",
    "methods": "methods.command",
    "import": "exchange.import_command",
    "export": "exchange.export_command",
    "similar": "similar.command",
    "prune": "prune.command",
    "recycle": "recycle.command",
    "meta": "meta.command",
    "multi": "multi.command",
    "cartridge": "cartridge.command",
    "doctor": "doctor.command",
}
"""Module and function of each command; it is imported when it is asked for."""


class _Group(TyperGroup):
    """Commands whose errors are one block on standard error, or one JSON object on standard output."""

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        # The names are what a mistyped one is compared with; `get_command` makes the commands.
        self.commands: Any = dict.fromkeys(_COMMANDS)

    def list_commands(self, ctx: Any) -> list[str]:
        """The names, as the help shows them."""
        return list(_COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """A command, with what it imports; None where there is none of the name."""
        if cmd_name not in _COMMANDS:
            return None
        module, function = _COMMANDS[cmd_name].split(".")
        single = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
        single.command(cmd_name)(getattr(import_module(f"overture.cli.{module}"), function))
        return typer.main.get_command(single)

    def main(self, args: Sequence[str] | None = None, *_: Any, standalone_mode: bool = True, **extra: Any) -> Any:
        """Run a command line and exit with its code."""
        words = list(sys.argv[1:] if args is None else args)
        flags = words[: words.index("--")] if "--" in words else words
        with only_json("--json" in flags):
            code = self._code(words, extra)
        if standalone_mode:
            sys.exit(code)
        return code

    def _code(self, words: list[str], extra: dict[str, Any]) -> int:
        try:
            return int(super().main(words, standalone_mode=False, **extra) or 0)
        except typer.TyperException as error:
            # An error of the command line parser; without any words it is the help.
            if words:
                show_error(UserError(error.format_message(), fix=_help_command(error)), is_json_only())
            elif help_text := error.format_message():
                say(help_text)
            return UserError.exit_code
        except typer.Abort:
            say("nothing was done")
            return 1

    def invoke(self, ctx: Any) -> Any:
        """Run the command; only errors that were raised on purpose are caught."""
        try:
            return super().invoke(ctx)
        except OvertureError as error:
            show_error(error, is_json_only())
            raise typer.Exit(error.exit_code) from None
        except KeyboardInterrupt:
            show_error(OvertureError("interrupted"), is_json_only())
            raise typer.Exit(_INTERRUPTED) from None


def _help_command(error: Exception) -> str:
    context = getattr(error, "ctx", None)
    return f"{context.command_path if context else 'overture'} --help"


app = typer.Typer(
    cls=_Group,
    name="overture",
    help="Tune the prompt, keep the model: soft prompts trained, measured and kept for frozen models.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(is_asked: bool) -> None:
    if is_asked:
        from importlib.metadata import version

        print(f"overture {version('overture')}")
        raise typer.Exit


@app.callback()
def _options(
    is_version_asked: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Tune the prompt, keep the model: soft prompts trained, measured and kept for frozen models."""
    del is_version_asked


def main() -> None:
    """The entry point: runs the command line; a reader that went away (``| head``) is no error."""
    try:
        app(prog_name="overture")
    finally:
        _flush_quietly()


def _flush_quietly() -> None:
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        # Else the interpreter would try again at its end, and complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
