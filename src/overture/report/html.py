"""The parts that a report's page is made of; whatever is shown is escaped."""

from collections.abc import Mapping, Sequence
from html import escape


def p(text: str, kind: str = "") -> str:
    """A paragraph, of a class or none."""
    return f'<p class="{kind}">{escape(text)}</p>' if kind else f"<p>{escape(text)}</p>"


def pre(text: str) -> str:
    """Text as it is."""
    return f"<pre>{escape(text)}</pre>"


def figure(drawn: Mapping[str, str], name: str, caption: str) -> str:
    """A drawing by its name with words below; nothing where it was not drawn."""
    if name not in drawn:
        return ""
    return f"<figure>{drawn[name]}<figcaption>{escape(caption)}</figcaption></figure>"


def details(title: str, body: str, is_open: bool = False) -> str:
    """What opens at a click; nothing where there is nothing."""
    if not body:
        return ""
    return f"<details{' open' if is_open else ''}><summary>{escape(title)}</summary>\n{body}\n</details>"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of texts that scrolls where it is too wide."""
    top = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = "\n".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="wide"><table>\n<thead><tr>{top}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table></div>'
