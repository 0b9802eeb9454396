"""brat: a folder of texts, each a `.txt` beside an `.ann` with its spans (`T1<tab>Person 0 5<tab>Alice`).

A row is a text: `id` (the file's name), `text` and `spans`. A span of several fragments is read from the beginning of
the first to the end of the last. Relations, events and notes are not read.
"""

import re
from pathlib import Path

from overture.data.formats.encoding import text_of
from overture.data.formats.form import Container, Item, Record, Source

_SPAN = re.compile(r"T\d+\t(\S+) (\d+ \d+(?:;\d+ \d+)*)(?:\t(.*))?")


def is_brat(folder: Path) -> bool:
    """Whether a folder holds annotations of brat."""
    return any(folder.glob("*.ann"))


def _read(source: Source) -> list[Item]:
    folder = Path(source.file)
    items = []
    for number, path in enumerate(sorted(folder.glob("*.txt")), 1):
        marks = path.with_suffix(".ann")
        if not marks.is_file():
            source.notices.add(
                "texts without a file of annotations", count=1, unit="text", first=str(path), done="left out"
            )
            continue
        text = _text_of(path, source)
        fields = {"id": path.stem, "text": text, "spans": _spans(_text_of(marks, source), marks, source)}
        items.append(Item(fields, number))
    return items


def _text_of(path: Path, source: Source) -> str:
    try:
        raw = path.read_bytes()
    except OSError as error:
        source.problem(1, f"{path.name} cannot be read: {error.strerror}")
        return ""
    # brat counts characters of the file as it is: every line's end is one or two of them.
    return text_of(Source(str(path), raw, source.options, source.problems, source.notices))


def _spans(lines: str, path: Path, source: Source) -> list[Record]:
    spans = []
    for number, line in enumerate(lines.replace("\r\n", "\n").split("\n"), 1):
        if line[:1] != "T":
            if line.strip():
                done, first = "not read", f"{path}:{number}"
                source.notices.add("relations, events and notes", count=1, unit="line", first=first, done=done)
            continue
        match = _SPAN.fullmatch(line)
        if match is None:
            Source(str(path), problems=source.problems).problem(number, "no span", "wanted T1<tab>Type 0 5<tab>text")
            continue
        places = [int(place) for place in re.findall(r"\d+", match.group(2))]
        span: Record = {"start": places[0], "end": places[-1], "label": match.group(1)}
        if len(places) == 2 and match.group(3):
            span["text"] = match.group(3)
        elif len(places) > 2:
            done = "read from the first to the last"
            source.notices.add("spans of several fragments", count=1, unit="span", first=f"{path}:{number}", done=done)
        spans.append(span)
    return spans


BRAT = Container("brat", (), _read)
