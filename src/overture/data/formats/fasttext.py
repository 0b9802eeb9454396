"""fastText: a text on each line, with its labels in front of it as words that begin with ``__label__``.

A row is `text` with `label`, or with `labels` where a line of the file has several.
"""

from overture.data.formats.encoding import text_of
from overture.data.formats.form import Container, Item, Source

_MARK = "__label__"


def _read(source: Source) -> list[Item]:
    rows: list[tuple[int, list[str], str]] = []
    for number, line in enumerate(text_of(source).split("\n"), 1):
        labels, text = [], line.strip()
        while text.startswith(_MARK):
            word, _, text = text.partition(" ")
            labels.append(word.removeprefix(_MARK).rstrip(","))
            text = text.lstrip()
        if labels or text:
            rows.append((number, labels, text))
    without = [number for number, labels, _ in rows if not labels]
    if without:
        source.notices.add("lines without a label", count=len(without), unit="line", first=source.place(without[0]))
    if any(len(labels) > 1 for _, labels, _ in rows):
        return [Item({"text": text, "labels": labels}, number) for number, labels, text in rows]
    return [Item({"text": text, "label": labels[0] if labels else None}, number) for number, labels, text in rows]


def _is_like(text: str) -> bool:
    """Whether nearly all first lines begin with a label; the last one may be cut off."""
    lines = [line for line in text.split("\n")[:50] if line.strip()]
    return sum(line.startswith(_MARK) for line in lines) > 0.9 * len(lines)


FASTTEXT = Container("fasttext", (), _read, _is_like)
