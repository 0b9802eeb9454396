"""Where words go: one JSON object or tables on standard output, everything else on standard error."""

import contextlib
import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from pydantic import BaseModel
    from rich.console import Console

    from overture.core.errors import OvertureError

# The real standard output while `only_json` keeps it from everybody else; a stack, since commands may nest.
_kept: list[TextIO] = []
_WIDTH_WITHOUT_TERMINAL = 120


@contextmanager
def only_json(is_json: bool) -> Iterator[None]:
    """Keep standard output for `emit` alone: what anybody else prints goes to standard error."""
    if not is_json:
        yield
        return
    _kept.append(sys.stdout)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        _kept.pop()


def is_json_only() -> bool:
    """Whether standard output is kept for one JSON object."""
    return bool(_kept)


def emit(value: "BaseModel | Mapping[str, Any]") -> None:
    """Print one JSON object on standard output, on one line."""
    values = value if isinstance(value, Mapping) else value.model_dump(mode="json")
    stream = _kept[-1] if _kept else sys.stdout
    is_unicode = (getattr(stream, "encoding", None) or "").lower().replace("-", "") == "utf8"
    stream.write(json.dumps(values, ensure_ascii=not is_unicode, allow_nan=False, default=str) + "\n")
    stream.flush()


def say(text: str) -> None:
    """Print a line on standard error."""
    print(text, file=sys.stderr, flush=True)


def show_error(error: "OvertureError", is_json: bool, **more: str) -> None:
    """Print an error: an object on standard output, or one block on standard error."""
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


def seconds_text(seconds: float) -> str:
    """A time span for people."""
    if seconds < 90:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds // 60:.0f} min {seconds % 60:.0f} s"
