"""The command ``overture``: a thin dispatcher. A command is imported when it runs, not when it is listed."""

import contextlib
import functools
import inspect
import os
import re
import shlex
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any

import typer
from pydantic import ValidationError
from typer.core import TyperArgument, TyperCommand, TyperGroup

from overture.cli.help_text import Command, HelpContext
from overture.cli.out import fresh_screen, is_json_only, only_json, own_process, say, set_loudness, show_error
from overture.core.config import in_words
from overture.core.errors import OvertureError, UserError
from overture.core.launch import check_processes, launched

_INTERRUPTED = 130
_EXIT_CODES = (
    "Exit codes: 0 done, 1 something was found or a part failed, 2 the input is wrong, 3 training diverged, "
    "4 the disk is full, 130 interrupted."
)


@dataclass(frozen=True, slots=True)
class _Listed:
    """A command as the list of commands shows it.

    Args:
        function: its module in this package, and its function there.
        summary: one line of at most 60 characters; it opens the command's own help too.
    """

    function: str
    summary: str


_PANELS = {
    "Start": {
        "demo": _Listed("demo.command", "Tune, measure and try a prompt on built-in example data."),
        "init": _Listed("init_task.command", "Write a task file from your data."),
        "doctor": _Listed("doctor.command", "Check the installation, or why a run did not learn."),
        "cache": _Listed("cache.command", "Show or clear what is kept on disk between runs."),
        "settings": _Listed("settings.settings_command", "Show the keys of a task file, with defaults."),
        "schema": _Listed("settings.schema_command", "Print the JSON schema of task files, for editors."),
    },
    "Use": {
        "tune": _Listed("tune.tune_command", "Tune a prompt for a task, measure it, and keep it."),
        "predict": _Listed("predict.command", "Answer texts or a file with stored prompts."),
        "serve": _Listed("serve.command", "Serve stored prompts over HTTP, as typed answers and models."),
        "ui": _Listed("ui.command", "Look at prompts and try them in a browser."),
        "eval": _Listed("evaluate.command", "Score a stored prompt again, or on other rows."),
        "suggest": _Listed("suggest.command", "Suggest the rows to label that teach a prompt most."),
        "errors": _Listed("wrong.errors_command", "Show the rows that a stored prompt answers wrongly."),
        "resume": _Listed("resume.resume_command", "Go on with a run that was stopped."),
    },
    "Prompts": {
        "list": _Listed("prompts.list_command", "List stored prompts with their scores."),
        "show": _Listed("prompts.show_command", "Show a prompt's model, task, scores and origin."),
        "diff": _Listed("prompts.diff_command", "Show what differs between two prompts."),
        "alias": _Listed("prompts.alias_command", "Name a version of a prompt, such as movie@prod."),
        "rm": _Listed("prompts.rm_command", "Remove a prompt, or one version of it."),
        "export": _Listed("exchange.export_command", "Write a prompt for peft, NumPy, or as JSON."),
        "import": _Listed("exchange.import_command", "Store a prompt of peft or another store, or a concept."),
    },
    "Find a better one": {
        "compare": _Listed("compare.command", "Measure prompts, LoRA, fine-tuning and others side by side."),
        "search": _Listed("search.search_command", "Search a soft prompt's setting, or a prompt of words."),
        "lr": _Listed("search.lr_command", "Find a learning rate by a short range test."),
        "words": _Listed("words.command", "Find label words that the model itself would write."),
        "explain": _Listed("explain.command", "Show what a prompt does, and which parts matter."),
        "translate": _Listed("translate.command", "Find words that answer as a soft prompt does."),
        "methods": _Listed("methods.command", "Show the prompt methods and their options."),
    },
    "Experts": {
        "similar": _Listed("similar.command", "Find stored prompts that resemble one."),
        "prune": _Listed("prune.command", "Drop the tokens that a prompt does not need."),
        "recycle": _Listed("recycle.command", "Carry a prompt over to another model."),
        "meta": _Listed("meta.command", "Learn a start for prompts from several tasks."),
        "multi": _Listed("multi.command", "Train prompts for several tasks that share values."),
        "cartridge": _Listed("cartridge.command", "Turn a long text into a prompt that knows it."),
        "concept": _Listed("concept.command", "Teach a model that draws a new word from a few images."),
    },
}
"""The commands by the panel of the help that lists them."""

_COMMANDS = {name: listed for panel in _PANELS.values() for name, listed in panel.items()}
_TOGETHER = ("tune", "resume")
"""Commands that several processes can carry out together."""
_NAME_WIDTH = max(map(len, _COMMANDS))


@dataclass(frozen=True, slots=True)
class _OldFlag:
    """A flag that had another name, or whose value is an argument now.

    Args:
        name: the flag as it was.
        replacement: the flag as it is; empty where its value is an argument.
    """

    name: str
    replacement: str = ""


_OLD_FLAGS = {
    "compare": (_OldFlag("--out", "--output"),),
    "lr": (_OldFlag("--chart", "--output"),),
    "eval": (_OldFlag("--data"),),
    "predict": (_OldFlag("--file"),),
}
"""Flags as they were spelled in the version before; each works in this version, with a hint."""


class _Group(TyperGroup):
    """Commands whose errors are one block on standard error, or one JSON object on standard output."""

    context_class = HelpContext

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        # For names alone, such as to compare a mistyped one with.
        self.commands = {name: TyperCommand(name, short_help=listed.summary) for name, listed in _COMMANDS.items()}

    def list_commands(self, ctx: Any) -> list[str]:
        """The names, as the help shows them."""
        return list(_COMMANDS)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the list of commands, a panel after the other."""
        for panel, commands in _PANELS.items():
            with formatter.section(panel):
                formatter.write_dl([(name.ljust(_NAME_WIDTH), listed.summary) for name, listed in commands.items()])

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command that is named, with everything that it imports."""
        name, listed, arguments = super().resolve_command(ctx, args)
        return name, listed and load_command(str(name)), arguments

    def main(self, args: Sequence[str] | None = None, *_: Any, standalone_mode: bool = True, **extra: Any) -> Any:
        """Run a command line and exit with its code."""
        words = list(sys.argv[1:] if args is None else args)
        flags = words[: words.index("--")] if "--" in words else words
        with only_json("--json" in flags), fresh_screen():
            words = _current(_plugins_first(words))
            try:
                code = int(super().main(words, standalone_mode=False, **extra) or 0)
            except typer.TyperException as error:
                # An error of the command line parser; without any words it is the help.
                if words:
                    show_error(_user_error(error), is_json_only())
                elif help_text := error.format_message():
                    say(help_text)
                code = UserError.exit_code
            except typer.Abort:
                say("nothing was done")
                code = 1
        if standalone_mode:
            sys.exit(code)
        return code

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


def load_command(name: str) -> Any:
    """A command with its options and those that all commands have; imports what it needs."""
    module, function = _COMMANDS[name].function.split(".")
    command = getattr(import_module(f"overture.cli.{module}"), function)

    @functools.wraps(command)
    def run(is_quiet: bool, is_verbose: bool, **values: Any) -> None:
        set_loudness("quiet" if is_quiet else "verbose" if is_verbose else "normal")
        check_processes(name in _TOGETHER, name)
        command(**values)

    declared = inspect.signature(command, eval_str=True).parameters.values()
    parameters = [
        *(parameter.replace(kind=parameter.KEYWORD_ONLY) for parameter in declared),
        *(
            inspect.Parameter(key, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=annotation)
            for key, annotation in _LOUDNESS.items()
        ),
    ]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    single = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    single.command(name, cls=Command, epilog=_EXIT_CODES)(run)
    typer_command: Any = typer.main.get_command(single)
    for parameter in typer_command.params:
        parameter.display_type_rich = functools.partial(_value_name, parameter, parameter.display_type_rich)
    return typer_command


def _value_name(parameter: Any, usual: Callable[..., str | None], ctx: Any) -> str:
    """Placeholder for a value in the help: empty for an argument, whose name says it; else capitals, or the choices."""
    if isinstance(parameter, TyperArgument):
        return ""
    name = usual(ctx=ctx) or ""
    if not name.startswith("<"):
        return name
    kind = name.strip("<>").removesuffix(" range")
    names = {"int": "N", "float": "X", "path": "PATH", "str": str(parameter.name).rpartition("_")[2].upper()}
    return names.get(kind, kind)


_LOUDNESS = {
    "is_quiet": Annotated[bool, typer.Option("--quiet", "-q", help="Print only results and errors.")],
    "is_verbose": Annotated[
        bool, typer.Option("--verbose", "-v", help="Print every step, and where an error was raised.")
    ],
}


def _plugins_first(words: list[str]) -> list[str]:
    """Move ``--plugin`` in front of the command, wherever it was typed."""
    end = words.index("--") if "--" in words else len(words)
    plugin_words, other_words, position = list[str](), list[str](), 0
    while position < end:
        count = 2 if words[position] == "--plugin" else 1
        is_plugin = words[position].partition("=")[0] == "--plugin"
        (plugin_words if is_plugin else other_words).extend(words[position : position + count])
        position += count
    return [*plugin_words, *other_words, *words[end:]]


def _current(words: list[str]) -> list[str]:
    """Replace flags of the version before by today's, with a note for each."""
    command = next((word for word in words if word in _COMMANDS), "")
    for flag in _OLD_FLAGS.get(command, ()):
        for position, word in enumerate(words):
            if word == "--":
                break
            name, equals, value = word.partition("=")
            if name != flag.name:
                continue
            replacement = flag.replacement or "an argument: leave the flag out"
            say(f"note: {flag.name} is now {replacement}; the old spelling works in this version")
            if flag.replacement:
                words[position] = f"{flag.replacement}{equals}{value}"
            else:
                following_words = words[position + 1 :]
                words = [
                    *words[:position],
                    *(following_words if equals else [*following_words[1:], *following_words[:1]]),
                    *([value] if equals else []),
                ]
            break
    return words


def _user_error(error: typer.TyperException) -> UserError:
    """An error of the command line parser in the program's own words."""
    what, fix = " ".join(error.format_message().replace("Value error, ", "").split()), _fix_of(error)
    problems = error.__cause__.errors() if isinstance(error.__cause__, ValidationError) else []
    if not problems or not (words := in_words(problems[0])).startswith("must be "):
        return UserError(what, fix=fix)
    return UserError(f"{what.partition(': ')[0]}: it {words}", got=str(problems[0]["input"]), fix=fix)


def _fix_of(error: Exception) -> str:
    context, option = getattr(error, "ctx", None), getattr(error, "option_name", None)
    path = context.command_path if context else "overture"
    if option and not getattr(error, "possibilities", None) and path.endswith(" predict"):
        return f"put -- before a text that begins with a dash: {path} PROMPT -- {shlex.quote(option)}; or {path} --help"
    command = path.rpartition(" ")[2]
    flag, extra_words = _FLAG_OF_WORDS.get(command), _EXTRA.search(str(error))
    if extra_words and command in _FOR_ALL_PROMPTS:
        return f"{path} without a name: it has all stored prompts of one model; each request, or the page, picks one"
    if flag and extra_words:
        return f"{path} TASK.yaml {' '.join(f'{flag} {word}' for word in extra_words[1].split())}; or {path} --help"
    return f"{path} --help"


_EXTRA = re.compile(r"unexpected extra argument\S* \(([\w:@ -]+)\)")
"""Names, as the parser's message lists them; not files."""
_FOR_ALL_PROMPTS = ("serve", "ui")
"""Commands that take no prompt's name, though one may expect them to."""
_FLAG_OF_WORDS = {"compare": "--way", "tune": "--method"}
"""By command, the flag that belongs to names behind the task file."""


def _on_real_stderr(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    traceback.print_exception(kind, error, trace, file=sys.__stderr__)


app = typer.Typer(
    cls=_Group,
    name="overture",
    help="Tune the prompt, keep the model: soft prompts trained, measured and kept for frozen models.",
    epilog=f"Begin with: overture demo, or overture init FILE and overture tune task.yaml. {_EXIT_CODES}",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(is_asked: bool) -> None:
    if is_asked:
        from importlib.metadata import version

        print(f"overture {version('overture')}")
        raise typer.Exit


def _load_plugins(paths: list[Path]) -> list[Path]:
    """Load plug-ins before a command is imported: its flags and lists name their methods."""
    if paths:
        from overture.prompt.registry import load_plugin

        try:
            for path in paths:
                load_plugin(path)
        except OvertureError as error:
            show_error(error, is_json_only())
            raise typer.Exit(error.exit_code) from None
    return paths


@app.callback()
def _options(
    is_version_asked: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
    plugins: Annotated[
        list[Path] | None,
        typer.Option(
            "--plugin",
            envvar="OVERTURE_PLUGINS",
            metavar="FILE.py",
            callback=lambda paths: _load_plugins(paths or []),
            help="A method of your own, see docs/write-a-method.md; its code runs. Repeatable.",
        ),
    ] = None,
) -> None:
    """Tune the prompt, keep the model: soft prompts trained, measured and kept for frozen models."""
    del is_version_asked, plugins


def main() -> None:
    """The entry point: runs the command line; a reader that went away (``| head``) is no error.

    Of several processes that train together only the first speaks; a bug's traceback is shown by any.
    """
    own_process()
    with contextlib.suppress(OvertureError):
        if not launched().is_first:
            sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115
            sys.excepthook = _on_real_stderr
    try:
        app(prog_name="overture")
    finally:
        try:
            sys.stdout.flush()
        except BrokenPipeError:
            # Else the interpreter would try again at its end, and complain.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
