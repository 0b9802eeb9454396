"""Tables that fit the screen: no name and no figure is ever cut."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from overture.cli.out import show_text, wrapped

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

_MIN_PROSE = 24
"""Least width of a column whose cells are prose."""
_BETWEEN = 3
"""Columns of the screen between two columns of a table."""
_NARROW = 60
"""Below this width facts stand below their names, not beside them."""


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table.

    Args:
        title: its head.
        cells: one for each row.
        rank: columns of the highest rank are left out first where the screen is narrow; those of rank 0 never.
        is_left: aligned to the left, as words are.
        is_prose: cells may be broken between words.
    """

    title: str
    cells: Sequence[str]
    rank: int = 0
    is_left: bool = False
    is_prose: bool = False


def show_table(
    out: "Console",
    columns: Sequence[Column],
    title: str = "",
    *,
    good: Collection[int] = (),
    bad: Collection[int] = (),
) -> None:
    """Print a table as wide as the screen allows.

    Columns of the highest rank are left out until the others fit, which a line below says. Where even those of rank 0
    do not fit, each row becomes a few lines with all of its cells.

    Args:
        out: where to print.
        columns: the first one names the rows.
        title: printed above.
        good: numbers of the rows that stand out as good, such as the winner's.
        bad: numbers of the rows that stand out as bad.
    """
    styles = {**dict.fromkeys(good, "bold green"), **dict.fromkeys(bad, "red")}
    visible_columns = list(columns)
    for rank in sorted({column.rank for column in columns}, reverse=True):
        if _width(visible_columns) <= out.width:
            if title:
                show_text(out, title, style="italic")
            out.print(_table(visible_columns, styles))
            if hidden := [column.title for column in columns if column not in visible_columns and column.title]:
                show_text(out, f"not shown here: {', '.join(hidden)} (a wider window shows them)", style="dim")
            return
        visible_columns = [column for column in columns if column.rank < rank]
    if title:
        show_text(out, title, style="italic")
    for number, name in enumerate(columns[0].cells):
        cells = [(column.title, column.cells[number]) for column in columns[1:] if column.cells[number]]
        show_text(out, name, style=styles.get(number, "bold"))
        show_text(out, "  " + ", ".join(f"{head}: {cell}" if head else cell for head, cell in cells))


def _table(columns: Sequence[Column], styles: Mapping[int, str]) -> "Table":
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for column in columns:
        table.add_column(
            column.title,
            justify="left" if column.is_left else "right",
            no_wrap=not column.is_prose,
            min_width=_MIN_PROSE if column.is_prose else None,
        )
    for number, cells in enumerate(zip(*(column.cells for column in columns), strict=True)):
        table.add_row(*cells, style=styles.get(number, ""))
    return table


def _width(columns: Sequence[Column]) -> int:
    """The least width in which nothing is cut."""
    from rich.cells import cell_len

    total = _BETWEEN * (len(columns) - 1)
    for column in columns:
        cells = [column.title, *column.cells]
        pieces = [word for cell in cells for word in (cell.split() if column.is_prose else cell.split("\n"))]
        widest = max(map(cell_len, pieces), default=0)
        total += max(widest, _MIN_PROSE) if column.is_prose else widest
    return total


def show_facts(out: "Console", facts: Mapping[str, str], title: str = "") -> None:
    """Print names and values, one below the other; long values go on in further lines, between words.

    Args:
        out: where to print.
        facts: by name.
        title: printed above.
    """
    if title:
        show_text(out, title, style="bold")
    widest = max(map(len, facts), default=0)
    for name, value in facts.items():
        if out.width < _NARROW:
            show_text(out, name, style="dim")
            lines, indent = wrapped(value, out.width - 2).split("\n"), "  "
        else:
            lines, indent = wrapped(value, out.width - widest - 2).split("\n"), " " * (widest + 2)
            lines[0] = f"{name.ljust(widest)}  {lines[0]}"
            out.print(lines.pop(0), soft_wrap=True)
        for line in lines:
            out.print(f"{indent}{line}", soft_wrap=True)
