"""CoNLL: a token on each line with its tag in one of the columns, an empty line after each sentence.

Rows have `tokens` and `tags`. Token and tag are the first and the last column; CoNLL-U, CoNLL-2012 and files with
numbered tokens, such as GermEval's, are known by their columns. Entity tags of any scheme (IOB1, IOB2, BIOES, BILOU)
become BIO as conlleval reads them (Tjong Kim Sang and De Meulder 2003, section 2.3): a type that does not go on begins
an entity. Other tags, such as parts of speech, stay as they are. A sentence is named by the line it starts on.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from overture.data.formats.encoding import text_of
from overture.data.formats.form import Container, Item, Source

_ENTITY = re.compile(r"O|([BIEMSLU])-(\S+)")
_STARTS, _ENDS = "BSU", "ESLU"
_PART = re.compile(r"\d+[-.]\d+")
_Lines = list[tuple[int, list[str]]]


@dataclass(frozen=True, slots=True)
class _Layout:
    """The columns of token and tag, from 0, or from the end if negative; what the format is called if it is special."""

    token: int
    tag: int
    name: str = ""
    has_own_widths: bool = False
    has_brackets: bool = False


def _read(source: Source) -> list[Item]:
    sentences = _sentences(text_of(source).split("\n"), source)
    layout = _layout(sentences)
    tag = layout.tag if source.options.tag_column is None else source.options.tag_column - 1
    token = layout.token if source.options.token_column is None else source.options.token_column - 1
    if layout.name and sentences:
        columns = f"column {token + 1} as the token, {tag + 1 if tag >= 0 else 'the last'} as the tag"
        setting = "or set data.token_column and data.tag_column"
        source.notices.add(f"read as {layout.name}", source.name, done=columns, setting=setting)
    items = []
    width = 0
    for sentence in sentences:
        width = len(sentence[0][1]) if layout.has_own_widths else width or len(sentence[0][1])
        lines = _token_lines(sentence, width, max(token, tag), layout, source)
        tags = [columns[tag] for columns in lines]
        if lines:
            tags = _from_brackets(tags) if layout.has_brackets and tag == layout.tag else tags
            items.append(Item({"tokens": [columns[token] for columns in lines], "tags": tags}, sentence[0][0]))
    bio_items(items, source)
    return items


def _columns(line: str) -> list[str]:
    # A token may hold a space where columns are cut by tabs.
    columns = [part.strip() for part in line.strip("\r\n ").split("\t")] if "\t" in line else line.split()
    return columns if any(columns) else []


def _sentences(texts: Sequence[str], source: Source) -> list[_Lines]:
    """The lines of each sentence, without comments."""
    has_tabs = any("\t" in text for text in texts if not text.startswith("#"))
    lines = [[text] if has_tabs and text.startswith("#") and "\t" not in text else _columns(text) for text in texts]
    token_lines = [columns for columns in lines if columns and not columns[0].startswith("#")]
    widths = {len(columns) for columns in token_lines}
    tags = {columns[-1] for columns in token_lines}
    sentences: list[_Lines] = [[]]
    comments = []
    for number, columns in enumerate(lines, 1):
        if not columns or columns[0] == "-DOCSTART-":
            sentences.append([])
        elif columns[0].startswith("#") and _is_comment(columns, widths, tags, is_first=not sentences[-1]):
            comments.append(number)
        else:
            sentences[-1].append((number, columns))
    if comments:
        first = source.place(comments[0])
        source.notices.add("comment lines", count=len(comments), unit="line", first=first, done="left out")
    return [sentence for sentence in sentences if sentence]


def _is_comment(columns: Sequence[str], widths: set[int], tags: set[str], is_first: bool) -> bool:
    """Whether a line with a hash at its start is a comment, such as `# id 17`, and not a token such as `#` or `#yes`.

    A token has as many columns as the others, and a comment stands above its sentence.
    """
    if columns[0] in ("#begin", "#end"):
        return columns[-1] not in tags
    if not is_first:
        return False
    if len(columns) not in widths:
        return bool(widths) or len(columns) > 2
    return columns[0] == "#" and columns[-1] not in tags and not _ENTITY.fullmatch(columns[-1]) and len(columns) > 2


def _layout(sentences: Sequence[_Lines]) -> _Layout:
    """The columns by what they hold in the first sentences."""
    head = sentences[:50]
    rows = [columns for sentence in head for _, columns in sentence]
    width = min(map(len, rows), default=0)
    if width == 10 and all(_PART.fullmatch(columns[0]) or columns[0].isdigit() for columns in rows):
        return _Layout(1, 3, "CoNLL-U")
    if width >= 12 and all(columns[1].isdigit() and columns[2].isdigit() for columns in rows):
        return _Layout(3, 10, "CoNLL-2012", has_own_widths=True, has_brackets=True)
    numbers = [[columns[0] for _, columns in sentence] for sentence in head]
    if width > 2 and all(words == [str(number) for number in range(1, len(words) + 1)] for words in numbers):
        has_two = width > 3 and all(_ENTITY.fullmatch(tag) for columns in rows for tag in columns[2:4])
        return _Layout(1, 2 if has_two else -1, "CoNLL with numbered tokens")
    return _Layout(0, -1)


def _token_lines(sentence: _Lines, width: int, last: int, layout: _Layout, source: Source) -> list[list[str]]:
    """The columns of the lines that hold a token and its tag; none if a line is wrong and the sentence lacks a word."""
    rows = []
    num_problems = len(source.problems)
    for number, columns in sentence:
        if layout.name == "CoNLL-U" and _PART.fullmatch(columns[0]):
            done = "left out: their words stand behind them"
            source.notices.add("ranges of words", count=1, unit="line", first=source.place(number), done=done)
        elif len(columns) == 1:
            source.problem(number, "no tag after the word")
        elif len(columns) != width or last >= width:
            fix = f"the first token has {width}" + (f"; column {last + 1} is asked for" if last >= width else "")
            source.problem(number, f"{len(columns)} columns", fix)
        elif not columns[layout.token] or not columns[layout.tag]:
            source.problem(number, "a token without a tag" if columns[layout.token] else "a tag without a token")
        else:
            rows.append(columns)
    return rows if len(source.problems) == num_problems else []


def _from_brackets(cells: Sequence[str]) -> list[str]:
    """Entities as BIO: `(PERSON*` opens one, `*)` closes it, `(GPE)` is one token."""
    tags, open_type = [], ""
    for cell in cells:
        starts = cell.startswith("(")
        kind = cell.strip("()*") if starts else open_type
        tags.append(f"{'B' if starts else 'I'}-{kind}" if kind else "O")
        open_type = "" if cell.endswith(")") else kind
    return tags


def bio_items(items: Sequence[Item], source: Source) -> None:
    """Turn the entity tags of sentences into BIO, in place; tags that are none are problems."""
    has_entities = any("-" in tag and _ENTITY.fullmatch(tag) for item in items for tag in item.fields["tags"])
    if not has_entities:
        return
    for item in items:
        odd = [tag for tag in item.fields["tags"] if not _ENTITY.fullmatch(tag)]
        if odd:
            source.problem(item.line, f"{odd[0]!r} is no entity tag", "wanted O, or B-, I-, E-, S- and a type")
        else:
            item.fields["tags"] = bio(item.fields["tags"])


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
    lines = text.split("\n")[:-1][:200]
    sentences = _sentences(lines, Source(""))
    rows = [columns for sentence in sentences for _, columns in sentence]
    tag = _layout(sentences).tag
    return len({len(columns) for columns in rows} - {1}) == 1 and all(_ENTITY.fullmatch(row[tag]) for row in rows)


CONLL = Container("conll", (".conll", ".conll03", ".conllu", ".iob", ".iob2", ".bio"), _read, _is_like)
