"""CoNLL: a token and its tag on each line, first and last of the columns, an empty line after each sentence.

Rows have `tokens` and `tags`. Entity tags of any scheme (IOB1, IOB2, BIOES, BILOU) become BIO as conlleval reads them
(Tjong Kim Sang and De Meulder 2003, section 2.3): a type that does not go on begins an entity. Other tags, such as
parts of speech, stay as they are. A sentence is named by the line it starts on.
"""

import re
from collections.abc import Sequence

from overture.core.errors import Problem
from overture.data.formats.form import Container, Problems, Records, text_of

_ENTITY = re.compile(r"O|([BIEMSLU])-(\S+)")
_STARTS, _ENDS = "BSU", "ESLU"


def _read(raw: bytes, file: str, problems: Problems) -> tuple[Records, list[int]]:
    rows: Records = []
    lines: list[int] = []
    width = 0
    tokens: list[str] = []
    tags: list[str] = []

    def close() -> None:
        if tokens:
            rows.append({"tokens": list(tokens), "tags": list(tags)})
        tokens.clear()
        tags.clear()

    for number, line in enumerate(text_of(raw, file, problems).split("\n"), 1):
        columns = _columns(line)
        if not columns or columns[0] == "-DOCSTART-":
            close()
            continue
        if _is_comment(columns, width):
            continue
        width = width or len(columns)
        if len(columns) == 1:
            problems.append(Problem(f"{file}:{number}", f"no tag behind {columns[0]!r:.40}"))
        elif len(columns) != width:
            problems.append(Problem(f"{file}:{number}", f"{len(columns)} columns", f"the first token has {width}"))
        else:
            if not tokens:
                lines.append(number)
            tokens.append(columns[0])
            tags.append(columns[-1])
    close()
    _normalise(rows, lines, file, problems)
    return rows, lines


def _columns(line: str) -> list[str]:
    # A token may hold a space where columns are cut by tabs.
    return [part.strip() for part in line.strip("\r\n ").split("\t")] if "\t" in line else line.split()


def _is_comment(columns: Sequence[str], width: int) -> bool:
    """`# id 17` above a sentence; a token `#` has as many columns as all others, and a tag."""
    return columns[0].startswith("#") and not (_ENTITY.fullmatch(columns[-1]) or len(columns) == width == 2)


def _normalise(rows: Records, lines: Sequence[int], file: str, problems: Problems) -> None:
    """Entity tags as BIO, in place."""
    has_entities = any("-" in tag and _ENTITY.fullmatch(tag) for row in rows for tag in row["tags"])
    if not has_entities:
        return
    for row, line in zip(rows, lines, strict=True):
        odd = [tag for tag in row["tags"] if not _ENTITY.fullmatch(tag)]
        if odd:
            fix = "O, or B-, I-, E-, S- and a type"
            problems.append(Problem(f"{file}:{line}", f"{odd[0]!r} is no entity tag", f"wanted {fix}"))
        else:
            row["tags"] = bio(row["tags"])


def bio(tags: Sequence[str]) -> list[str]:
    """Entity tags of one sentence as BIO: each entity begins with B."""
    bio_tags: list[str] = []
    open_type = ""
    for tag in tags:
        prefix, _, kind = tag.partition("-")
        if prefix == "O":
            bio_tags.append("O")
            open_type = ""
            continue
        goes_on = prefix not in _STARTS and kind == open_type
        bio_tags.append(f"{'I' if goes_on else 'B'}-{kind}")
        open_type = "" if prefix in _ENDS else kind
    return bio_tags


def _is_like(text: str) -> bool:
    """Whether the first lines are tokens with entity tags; the last line may have been cut."""
    lines = [columns for line in text.split("\n")[:-1][:200] if (columns := _columns(line))]
    lines = [columns for columns in lines if columns[0] != "-DOCSTART-" and not _is_comment(columns, 0)]
    widths = {len(columns) for columns in lines}
    return len(widths) == 1 and widths != {1} and all(_ENTITY.fullmatch(columns[-1]) for columns in lines)


CONLL = Container("conll", (".conll", ".conll03", ".iob", ".iob2", ".bio"), _read, _is_like)
