"""Short forms of results for people: a few lines of text, and a table for notebooks."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape


@dataclass(frozen=True, slots=True)
class ShortForm:
    """A result in a few lines.

    Args:
        title: what it is.
        rows: cells of equal number, each row's name first.
        notes: lines below.
    """

    title: str
    rows: Sequence[tuple[str, ...]]
    notes: Sequence[str] = ()


class Shown:
    """A result that prints, and shows in a notebook, its short form instead of all its fields."""

    @abstractmethod
    def short_form(self) -> ShortForm:
        """The result in a few lines."""

    def __repr__(self) -> str:
        short = self.short_form()
        widths = [max(map(len, column)) for column in zip(*short.rows, strict=True)]
        rows = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in short.rows]
        return "\n".join([short.title, *(f"  {row}" for row in rows), *short.notes])

    def __str__(self) -> str:
        return repr(self)

    def _repr_html_(self) -> str:
        short = self.short_form()
        rows = [
            f"<tr><th style='text-align:left'>{escape(name)}</th>"
            + "".join(f"<td style='text-align:left'>{escape(cell)}</td>" for cell in cells)
            + "</tr>"
            for name, *cells in short.rows
        ]
        caption = f"<caption style='text-align:left'>{escape(short.title)}</caption>"
        notes = "".join(f"<div>{escape(note)}</div>" for note in short.notes)
        return f"<table>{caption}<tbody>{''.join(rows)}</tbody></table>{notes}"
