"""The text of ``--help``: usage lines, and lists that fit a narrow window."""

import shutil
from collections.abc import Sequence
from typing import Any

import typer
from typer.core import TyperCommand

_NARROW = 60
_MIN_WIDTH = 20
_NO_BRACES = str.maketrans("", "", "{}")


class _Formatter(typer.Context.formatter_class):  # type: ignore[misc,valid-type]
    """Writes lists; in a narrow window a name stands on a line of its own, above its text."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        # The parser's own formatter writes at least 50 columns.
        columns = shutil.get_terminal_size().columns
        if columns < _NARROW:
            self.width = max(columns - 1, _MIN_WIDTH)

    def write_dl(self, rows: Sequence[tuple[str, str]], col_max: int = 30, col_spacing: int = 2) -> None:
        """Write names with their texts."""
        rows = list(rows)
        longest = max((len(name) for name, _ in rows), default=0)
        is_stacked = self.width < _NARROW and longest > self.width // 3
        super().write_dl(rows, 2 if is_stacked else col_max, col_spacing)


class HelpContext(typer.Context):
    """The context of a command whose help fits the window."""

    formatter_class = _Formatter


class Command(TyperCommand):
    """A command whose usage line shows a required argument without braces."""

    context_class = HelpContext

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """The parts of the usage line after the command's name."""
        parameters = [parameter for parameter in self.get_params(ctx) if not getattr(parameter, "hidden", False)]
        pieces = [piece.translate(_NO_BRACES) for parameter in parameters for piece in parameter.get_usage_pieces(ctx)]
        return ["[OPTIONS]", *pieces]
