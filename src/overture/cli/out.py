"""Output of commands: one JSON object or tables on standard output, everything else on standard error."""

import contextlib
import json
import sys
import textwrap
import traceback
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO

from overture.core.launch import launched

if TYPE_CHECKING:
    from pydantic import BaseModel
    from rich.console import Console

    from overture.core.errors import OvertureError

# The real standard output while `only_json` keeps it from everybody else; a stack, since commands may nest.
_stdout_stack: list[TextIO] = []
_WIDTH_WITHOUT_TERMINAL = 120
_LABEL_STYLES = {"error:": "bold red", "note:": "yellow", "damaged:": "bold red", "failed:": "bold red"}
_loudness = ["normal"]
_is_own_process = [False]
_notes: list[set[str]] = [set()]


@contextmanager
def only_json(is_json: bool) -> Iterator[None]:
    """Keep standard output for `emit` alone: what anybody else prints goes to standard error."""
    if not is_json:
        yield
        return
    _stdout_stack.append(sys.stdout)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        _stdout_stack.pop()


def is_json_only() -> bool:
    """Whether standard output is kept for one JSON object."""
    return bool(_stdout_stack)


def emit(value: "BaseModel | Mapping[str, Any]") -> None:
    """Print one JSON object on standard output, on one line."""
    values = value if isinstance(value, Mapping) else value.model_dump(mode="json")
    stream = _stdout_stack[-1] if _stdout_stack else sys.stdout
    is_unicode = (getattr(stream, "encoding", None) or "").lower().replace("-", "") == "utf8"
    stream.write(json.dumps(values, ensure_ascii=not is_unicode, allow_nan=False, default=str) + "\n")
    stream.flush()


def set_loudness(level: str) -> None:
    """Set how much is printed: quiet, normal or verbose."""
    _loudness[-1] = level


@contextmanager
def fresh_screen() -> Iterator[None]:
    """Within the block a command starts at the normal level and without notes, whatever ran before in this process."""
    _loudness.append("normal")
    _notes.append(set())
    try:
        yield
    finally:
        _loudness.pop()
        _notes.pop()


def new_notes(texts: Iterable[str]) -> list[str]:
    """Mark notes as printed, and return those that were not printed before; none for a quiet command."""
    fresh = [] if is_quiet() else [text for text in dict.fromkeys(texts) if text not in _notes[-1]]
    if len(_notes) > 1:
        _notes[-1].update(fresh)
    return fresh


def show_notes(out: "Console", texts: Iterable[str]) -> None:
    """Print the notes of a result that were not printed while it was made."""
    for text in new_notes(texts):
        show_text(out, f"note: {text}")


def is_quiet() -> bool:
    """Whether only results and errors are printed."""
    return _loudness[-1] == "quiet"


def is_verbose() -> bool:
    """Whether every step is printed, and where an error was raised."""
    return _loudness[-1] == "verbose"


def say(text: str) -> None:
    """Print a message on standard error; on a terminal it is wrapped between words."""
    if not sys.stderr.isatty():
        print(text, file=sys.stderr, flush=True)
        return
    from rich.console import Console

    show_text(Console(stderr=True, markup=False, highlight=False), text)


def remark(text: str) -> None:
    """As `say`, for what a quiet command does not print."""
    if not is_quiet():
        say(text)


def loading() -> None:
    """Announce the import of torch, which takes seconds; called when the input has been checked."""
    remark("loading ...")
    # Several processes that train together need parts of torch that the lean import leaves out.
    if _is_own_process[0] and launched().size == 1:
        from overture.engine.lean import import_transformers

        import_transformers()


def own_process() -> None:
    """Declare that this process runs one command only, so that `loading` may leave modules out that no command uses."""
    _is_own_process[0] = True


def show_text(out: "Console", text: str, style: str = "") -> None:
    """Print text between words into the width of a console; a long word, such as a path, stays whole.

    Args:
        out: where to print.
        text: lines; a continued line has the indent of its beginning, and two spaces more.
        style: of the whole text; where it is empty, ``error:`` and ``note:`` at the beginning have a colour.
    """
    from rich.text import Text

    styled_text = Text(wrapped(text, out.width), style=style)
    label = text.split(" ", 1)[0]
    if label in _LABEL_STYLES and not style:
        styled_text.stylize(_LABEL_STYLES[label], 0, len(label))
    out.print(styled_text, soft_wrap=True)


def wrapped(text: str, width: int) -> str:
    """Text with its long lines broken between words."""
    lines = []
    for line in text.split("\n"):
        indent = line[: len(line) - len(line.lstrip())]
        parts = textwrap.wrap(
            line,
            max(width, 20),
            subsequent_indent=f"{indent}  ",
            break_long_words=False,
            break_on_hyphens=False,
            drop_whitespace=True,
        )
        lines += parts or [""]
    return "\n".join(lines)


def show_error(error: "OvertureError", is_json: bool, **more: str) -> None:
    """Print an error: an object on standard output, or one block on standard error."""
    if is_verbose():
        traceback.print_exception(error)
    if is_json:
        emit({**error.as_dict(), **more})
        return
    say("\n".join([f"error: {error}", *(f"  {name}: {text}" for name, text in more.items())]))


def console() -> "Console":
    """A rich console on standard output; without a terminal it is wide, so that tables are not cut."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else _WIDTH_WITHOUT_TERMINAL, markup=False, highlight=False)


def size_text(num_bytes: float | None) -> str:
    """Bytes for people."""
    if num_bytes is None:
        return "-"
    return f"{num_bytes / 1e9:.1f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:.0f} MB"


def counted(count: int, noun: str) -> str:
    """A number of things: 1 sound, 2,000 sounds."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def seconds_text(seconds: float) -> str:
    """A time span for people."""
    if seconds < 90:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds // 60:.0f} min {seconds % 60:.0f} s"
