"""Rows for tagging: words with tags, or a text with spans; what is wrong with them, and the right spans."""

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

from pydantic import Field

from overture.core.config import Config
from overture.core.errors import Problem
from overture.data.kind import TaskFile
from overture.data.kinds.grammar import units_of
from overture.data.kinds.tags import may_follow, spans_of, split_tag
from overture.data.row import Row, broken_text, missing_field
from overture.data.values import as_text, kind

Spans = list[tuple[str, int, int]]


class Options(Config):
    """Options of tagging."""

    tokens_field: str = Field(
        "tokens", min_length=1, description="The field that holds a row's words, a list; they are shown with spaces."
    )
    tags_field: str = Field(
        "tags", min_length=1, description="The field that holds the words' tags, as many: BIO, BIOES, BILOU or BMES."
    )
    tag_names: tuple[str, ...] | None = Field(
        None, min_length=1, description="The tags' names by number, where the rows hold numbers: O, B-per, I-per, ..."
    )
    text_field: str | None = Field(
        None, min_length=1, description="Instead of words and tags: the field that holds a row's text."
    )
    spans_field: str = Field(
        "spans",
        min_length=1,
        description="With text_field: a list of objects with start, end and label, or of [start, end, label]; "
        "characters from 0, the end after the last.",
    )
    within_words: bool = Field(
        False,
        description="With text_field: spans may begin and end within words, as in languages that join particles to "
        "names; in scripts without spaces and in Hangul they always may.",
    )
    none: str = Field("none", min_length=1, description="What is written where there is no span.")


def shown_field(task: TaskFile) -> str:
    """The field in which spans are marked."""
    options: Options = task.kind_options
    return options.text_field or options.tokens_field


def target_fields(task: TaskFile) -> tuple[str, ...]:
    """The field that holds the spans or tags."""
    options: Options = task.kind_options
    return (options.spans_field if options.text_field else options.tags_field,)


def field_text(task: TaskFile, name: str, value: Any) -> str | None:
    """A field as the template shows it: words with spaces between them; None for values that cannot be shown."""
    options: Options = task.kind_options
    if name != options.tokens_field or options.text_field or not isinstance(value, list):
        return as_text(value)
    return " ".join(value) if value and all(isinstance(word, str) for word in value) else None


def input_problems(task: TaskFile, row: Row) -> list[Problem]:
    """Problems of the words in which spans are marked."""
    options: Options = task.kind_options
    name = options.tokens_field
    words = row.fields.get(name)
    if options.text_field or words is None:
        return []
    if not isinstance(words, list):
        return [Problem(row.where, f"field {name!r} is {kind(words)}", "wanted a list of words")]
    odd = [word for word in words if not isinstance(word, str) or not word or any(c.isspace() for c in word)]
    if odd:
        return [Problem(row.where, f"{odd[0]!r:.40} in {name!r} is no word", "wanted texts without spaces")]
    return [problem for word in words for problem in broken_text(name, word, row)][:1]


def problems(task: TaskFile, row: Row) -> list[Problem]:
    """Problems of a row's spans or tags."""
    options: Options = task.kind_options
    name = target_fields(task)[0]
    if name not in row.fields:
        return [missing_field(name, row.where, list(row.fields))]
    marks = row.fields[name]
    if not isinstance(marks, list):
        return [Problem(row.where, f"field {name!r} is {kind(marks)}", "wanted a list")]
    return _span_problems(task, row, marks) if options.text_field else _tag_problems(task, row, marks)


def _tag_problems(task: TaskFile, row: Row, values: list[Any]) -> list[Problem]:
    options: Options = task.kind_options
    words = row.fields.get(options.tokens_field)
    if isinstance(words, list) and len(words) != len(values):
        return [Problem(row.where, f"{len(values)} tags for {len(words)} words")]
    before = "O"
    for value in values:
        tag = _tag(options, value)
        if tag is None:
            fix = (
                f"set options.tag_names, or use 0 to {len(options.tag_names or ()) - 1}"
                if options.tag_names
                else _NAME_TAGS
            )
            return [Problem(row.where, f"the tag {value!r:.40} has no name", fix)]
        try:
            name = split_tag(tag)[1]
        except ValueError as error:
            return [
                Problem(row.where, str(error), "wanted O, B-type or I-type; E-, S-, L-, U- and M-type are read too")
            ]
        if name and task.label_named(name) is None:
            return [Problem(row.where, f"unknown type {name!r}", f"known: {', '.join(task.words)}")]
        if not may_follow(tag, before):
            return [Problem(row.where, f"{tag!r} follows {before!r}", "a span begins with B- or S-")]
        before = tag
    return []


_NAME_TAGS = "name the tags in their order with options.tag_names: [O, B-per, I-per]"


def _tag(options: Options, value: Any) -> str | None:
    """A tag by its name; None for a number that has none."""
    if not isinstance(value, int) or isinstance(value, bool):
        return str(value)
    names = options.tag_names or ()
    return names[value] if 0 <= value < len(names) else None


def _span_problems(task: TaskFile, row: Row, values: list[Any]) -> list[Problem]:
    options: Options = task.kind_options
    text = as_text(row.fields.get(options.text_field or "")) or ""
    for value in values:
        span = _span(value)
        if span is None:
            return [Problem(row.where, f"{value!r:.60} is no span", "wanted start, end and label")]
        if task.label_named(span[0]) is None:
            return [Problem(row.where, f"unknown type {span[0]!r}", f"known: {', '.join(task.words)}")]
    places = span_places(text, values)
    if places is None:
        span_text, (_, start, end) = next(
            (value["text"], span)
            for value in values
            if isinstance(value, dict) and (span := _span(value)) and _differs(text, value, span[1:])
        )
        there = text[max(start, 0) : max(end, 0)]
        what = f"at {start} to {end} the text has {there!r:.60}, but the span says {span_text!r:.60}"
        return [Problem(row.where, what, "correct the span's places or its text")]
    for start, end in places:
        if not 0 <= start < end <= len(text):
            return [Problem(row.where, f"span {start} to {end} is not in the text of {len(text)} characters")]
        if not text[start:end].strip():
            return [Problem(row.where, f"span {start} to {end} holds nothing but white space")]
    return []


def _span(value: Any) -> tuple[str, int, int] | None:
    if isinstance(value, dict):
        value = [value.get("start"), value.get("end"), value.get("label")]
    if not isinstance(value, list | tuple) or len(value) != 3:
        return None
    start, end, name = value
    if not isinstance(start, int) or not isinstance(end, int) or not isinstance(name, str):
        return None
    return name, start, end


def span_places(text: str, values: Sequence[Any]) -> list[tuple[int, int]] | None:
    """Where a row's spans stand, in characters.

    Spans may carry their own text. Where that is not what the text has there, but would be if places were counted in
    UTF-16 units, as JavaScript does, or in bytes of UTF-8, they are; None if it is not either.
    """
    places = [span[1:] for value in values if (span := _span(value))]
    for encoding, width in (("", 1), ("utf-16-le", 2), ("utf-8", 1)):
        if encoding:
            units = accumulate(len(letter.encode(encoding, "surrogatepass")) // width for letter in text)
            character_at = {0: 0} | {count: number for number, count in enumerate(units, 1)}
            char_places = [(character_at.get(start, -1), character_at.get(end, -1)) for start, end in places]
        else:
            char_places = places
        if not any(_differs(text, value, place) for value, place in zip(values, char_places, strict=True)):
            return char_places
    return None


def _differs(text: str, value: Any, place: tuple[int, int]) -> bool:
    """Whether a span carries a text of its own that is not the one at a place, white space at its ends aside."""
    span_text = value.get("text") if isinstance(value, dict) else None
    start, end = place
    return isinstance(span_text, str) and (start < 0 or text[start:end].strip() != span_text.strip())


def corrections(task: TaskFile, row: Row) -> tuple[str, ...]:
    """Says that places of spans were corrected, where they were (`span_places`)."""
    options: Options = task.kind_options
    values = row.fields[target_fields(task)[0]]
    if not options.text_field:
        return ()
    places = span_places(as_text(row.fields[options.text_field]) or "", values)
    marks = [span[1:] for value in values if (span := _span(value))]
    return ("places of spans are not counted in characters; they were set by the spans' own texts",) * (places != marks)


def _bare(span: tuple[str, int, int], text: str) -> tuple[str, int, int]:
    """A span without the white space at its ends."""
    name, start, end = span
    inner = text[start:end]
    return name, start + len(inner) - len(inner.lstrip()), end - len(inner) + len(inner.rstrip())


def gold_spans(task: TaskFile, row: Row) -> Spans:
    """The right spans, in words or in characters."""
    options: Options = task.kind_options
    if not options.text_field:
        spans = spans_of([_tag(options, value) or "O" for value in row.fields[options.tags_field]])
        return [(task.label_named(name) or name, start, end) for name, start, end in spans]
    text = as_text(row.fields[options.text_field]) or ""
    values = row.fields[options.spans_field]
    names = [task.label_named(span[0]) or span[0] for value in values if (span := _span(value))]
    places = span_places(text, values) or []
    spans = [_bare((name, *place), text) for name, place in zip(names, places, strict=True)]
    return sorted(spans, key=lambda span: span[1:])


def words_of(task: TaskFile, row: Row, text: str) -> tuple[tuple[int, int], ...]:
    """Where the words stand in the text; where it was cut, those that are left."""
    options: Options = task.kind_options
    if options.text_field:
        return units_of(text, options.within_words)
    ends, start = [], 0
    for word in row.fields[options.tokens_field]:
        ends.append((start, start + len(word)))
        start += len(word) + 1
    return tuple(span for span in ends if span[1] <= len(text))
