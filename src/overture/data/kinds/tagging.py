"""Spans of types in a text, such as names of people and places.

With an encoder each word's first token is given one of the tags O, B-type and I-type; the best allowed sequence is
taken. With a decoder the spans are written in the text's order, ``person: Ada Lovelace; location: London``: only types
and pieces of the text can be written, so nothing is found that is not there.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

from pydantic import Field

from overture.core.config import Config
from overture.core.contracts import Answers, MarkScores, Question, TextTokenizer
from overture.core.errors import Problem
from overture.core.rows import AtMarks, Candidates, Encoded, Marks, Prediction
from overture.data.kind import Example, Pick, TaskFile, TaskKind, Tools, some_texts
from overture.data.kinds.grammar import END, WORD, Copied, Grammar, Piece, Rules, fixed
from overture.data.kinds.labels import check_labels, lead, no_mask, written_alike
from overture.data.kinds.tags import best_tags, spans_of, split_tag, tags_of
from overture.data.row import Row, broken_text, missing_field
from overture.data.values import as_text, kind

Spans = list[tuple[str, int, int]]


_TOKENS, _TAGS = "tokens", "tags"
"""The fields with a row's words, shown with spaces between, and their BIO tags, as many."""


class Options(Config):
    """Options of tagging."""

    text_field: str | None = Field(
        None, min_length=1, description="Instead of words and tags: the field that holds a row's text."
    )
    spans_field: str = Field(
        "spans",
        min_length=1,
        description="With text_field: a list of objects with start, end and label, or of [start, end, label]; "
        "characters from 0, the end behind the last.",
    )
    none: str = Field("none", min_length=1, description="What is written where there is no span.")


@dataclass(frozen=True, slots=True)
class _Source:
    """Facts for reading a reply: places of the words, the grammar, and whether spans count words or characters."""

    text: str
    words: tuple[tuple[int, int], ...]
    grammar: Grammar | None
    counts_words: bool


def _shown_field(task: TaskFile) -> str:
    own: Options = task.own
    return own.text_field or _TOKENS


def _check(task: TaskFile) -> None:
    check_labels(task, least=1)
    no_mask(task)
    if _shown_field(task) not in task.fields:
        raise ValueError(f"the template must show {{{_shown_field(task)}}}, in which spans are found")


def _check_model(task: TaskFile, tokenizer: TextTokenizer) -> None:
    if not tokenizer.is_encoder:
        written_alike(task, task.own.none)


def _target_fields(task: TaskFile) -> tuple[str, ...]:
    own: Options = task.own
    return (own.spans_field if own.text_field else _TAGS,)


def _field_text(task: TaskFile, name: str, value: Any) -> str | None:
    own: Options = task.own
    if name != _TOKENS or own.text_field or not isinstance(value, list):
        return as_text(value)
    return " ".join(value) if value and all(isinstance(word, str) for word in value) else None


def _input_problems(task: TaskFile, row: Row) -> list[Problem]:
    own: Options = task.own
    words = row.fields.get(_TOKENS)
    if own.text_field or words is None:
        return []
    if not isinstance(words, list):
        return [Problem(row.where, f"field {_TOKENS!r} is {kind(words)}", "wanted a list of words")]
    odd = [word for word in words if not isinstance(word, str) or not word or any(c.isspace() for c in word)]
    if odd:
        return [Problem(row.where, f"{odd[0]!r:.40} in {_TOKENS!r} is no word", "wanted texts without spaces")]
    return [problem for word in words for problem in broken_text(_TOKENS, word, row)][:1]


def _problems(task: TaskFile, row: Row) -> list[Problem]:
    own: Options = task.own
    name = _target_fields(task)[0]
    if name not in row.fields:
        return [missing_field(name, row.where, list(row.fields))]
    marked = row.fields[name]
    if not isinstance(marked, list):
        return [Problem(row.where, f"field {name!r} is {kind(marked)}", "wanted a list")]
    return _span_problems(task, row, marked) if own.text_field else _tag_problems(task, row, marked)


def _tag_problems(task: TaskFile, row: Row, tags: list[Any]) -> list[Problem]:
    words = row.fields.get(_TOKENS)
    if isinstance(words, list) and len(words) != len(tags):
        return [Problem(row.where, f"{len(tags)} tags for {len(words)} words")]
    before = "O"
    for tag in tags:
        try:
            prefix, name = split_tag(str(tag))
        except ValueError as error:
            return [Problem(row.where, str(error), "wanted O, B-type or I-type")]
        if name and name not in task.words:
            return [Problem(row.where, f"unknown type {name!r}", f"known: {', '.join(task.words)}")]
        if prefix == "I" and before[2:] != name:
            return [Problem(row.where, f"{tag!r} follows {before!r}", "a span begins with B-")]
        before = str(tag)
    return []


def _span_problems(task: TaskFile, row: Row, spans: list[Any]) -> list[Problem]:
    own: Options = task.own
    text = as_text(row.fields.get(own.text_field or "")) or ""
    for span in spans:
        read = _span(span)
        if read is None:
            return [Problem(row.where, f"{span!r:.60} is no span", "wanted start, end and label")]
        name, start, end = read
        if name not in task.words:
            return [Problem(row.where, f"unknown type {name!r}", f"known: {', '.join(task.words)}")]
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


def _bare(span: tuple[str, int, int], text: str) -> tuple[str, int, int]:
    """A span without the white space at its ends."""
    name, start, end = span
    inner = text[start:end]
    return name, start + len(inner) - len(inner.lstrip()), end - len(inner) + len(inner.rstrip())


def _gold_spans(task: TaskFile, row: Row) -> Spans:
    """The right spans, in words or in characters."""
    own: Options = task.own
    if not own.text_field:
        return spans_of([str(tag) for tag in row.fields[_TAGS]])
    text = as_text(row.fields[own.text_field]) or ""
    spans = [_bare(span, text) for value in row.fields[own.spans_field] if (span := _span(value))]
    return sorted(spans, key=lambda span: span[1:])


def _gold(task: TaskFile, row: Row) -> Hashable:
    return tuple(_gold_spans(task, row))


def _words(task: TaskFile, row: Row, text: str) -> tuple[tuple[int, int], ...]:
    """Where the words stand in the text; where it was cut, those that are left."""
    own: Options = task.own
    if own.text_field:
        return tuple(match.span() for match in WORD.finditer(text))
    ends, start = [], 0
    for word in row.fields[_TOKENS]:
        ends.append((start, start + len(word)))
        start += len(word) + 1
    return tuple(span for span in ends if span[1] <= len(text))


def _in_characters(spans: Spans, source: _Source) -> Spans:
    """Spans of the words that are there, by their characters."""
    if not source.counts_words:
        return [span for span in spans if span[2] <= len(source.text)]
    return [
        (name, source.words[start][0], source.words[end - 1][1])
        for name, start, end in spans
        if end <= len(source.words)
    ]


def _in_words(start: int, end: int, words: Sequence[tuple[int, int]]) -> tuple[int, int] | None:
    """The words that characters touch: first, and behind the last."""
    touched = [number for number, (first, last) in enumerate(words) if first < end and start < last]
    return (touched[0], touched[-1] + 1) if touched else None


def _tag_names(task: TaskFile) -> tuple[str, ...]:
    return ("O", *(f"{prefix}-{name}" for name in task.words for prefix in "BI"))


def _candidates(task: TaskFile, tokenizer: TextTokenizer) -> tuple[Candidates | None, list[str]]:
    """An encoder's tags, each beginning as its type's first word; a decoder writes."""
    if not tokenizer.is_encoder:
        return None, []
    own: Options = task.own
    words = [own.none, *(texts[0] for texts in task.words.values() for _ in "BI")]
    ids = tuple(tuple(tokenizer.encode_plain(word)) for word in words)
    return Candidates(_tag_names(task), ids, tuple(range(len(ids)))), []


# -- what is put to the model


def _examples(task: TaskFile, row: Row, texts: Mapping[str, str], tools: Tools, with_answer: bool) -> list[Example]:
    gold = _gold_spans(task, row) if with_answer else None
    return [_example(task, row, gold, tools, texts)]


def _example(task: TaskFile, row: Row, gold: Spans | None, tools: Tools, texts: Mapping[str, str]) -> Example:
    """The row as it is shown, whole or shortened."""
    name = _shown_field(task)
    text = texts[name]
    words = _words(task, row, text)
    source = _Source(text, words, None, not task.own.text_field)
    # In the text's order; of spans that overlap the first.
    shown = sorted(_in_characters(gold or [], source), key=lambda span: span[1:])
    kept = [span for number, span in enumerate(shown) if not any(before[2] > span[1] for before in shown[:number])]
    can_say = kept == shown and all(_is_of_words(span, words) for span in kept)
    cut = partial(_example, task, row, gold, tools)
    if tools.tokenizer.is_encoder:
        marks = Marks((), "labels", None if gold is None else _gold_tags(task, kept, words))
        return Example(texts, pick=Pick(name, words, marks), source=source, can_say=can_say, cut=cut)
    grammar = Grammar(lambda: _rules(task, tools, source))
    written, is_allowed = _answer_ids(task, tools, source, kept)
    return Example(
        texts,
        answer_ids=None if gold is None else tools.ended(written),
        allowed=grammar,
        source=_Source(text, words, grammar, source.counts_words),
        can_say=can_say and is_allowed,
        cut=cut,
    )


def _is_of_words(span: tuple[str, int, int], words: Sequence[tuple[int, int]]) -> bool:
    """Whether a span, in characters, begins and ends with words."""
    _, start, end = span
    return any(start == first for first, _ in words) and any(end == last for _, last in words)


def _gold_tags(task: TaskFile, gold: Spans, words: Sequence[tuple[int, int]]) -> tuple[int, ...]:
    names = _tag_names(task)
    in_words = [(name, place) for name, start, end in gold if (place := _in_words(start, end, words))]
    return tuple(names.index(tag) for tag in tags_of([(name, *place) for name, place in in_words], len(words)))


def _type_ids(task: TaskFile, tools: Tools, lead: str) -> dict[str, list[int]]:
    words = {name: texts[0].strip() for name, texts in task.words.items()}
    return {name: tools.tokenizer.encode_plain(f"{lead}{word}:") for name, word in words.items()}


def _answer_ids(task: TaskFile, tools: Tools, source: _Source, spans: Spans) -> tuple[list[int], bool]:
    """The spans as tokens, and whether each is made of whole tokens of the text, as the grammar wants."""
    own: Options = task.own
    encode = tools.tokenizer.encode_plain
    if not spans:
        return encode(lead(task) + own.none), True
    copied = Copied(source.text, tools.tokenizer, " ", source.words)
    ids_written: list[int] = []
    is_allowed = True
    for number, (name, start, end) in enumerate(spans):
        ids_written += encode(";") if number else []
        ids_written += _type_ids(task, tools, " " if number else lead(task))[name]
        ids = copied.ids(start, end)
        is_allowed = is_allowed and ids is not None
        ids_written += ids or encode(" " + source.text[start:end])
    return ids_written, is_allowed


def _rules(task: TaskFile, tools: Tools, source: _Source) -> Rules:
    own: Options = task.own
    encode = tools.tokenizer.encode_plain
    ends = (tools.tokenizer.eos_id,) if tools.tokenizer.eos_id is not None else tuple(encode("\n"))
    first = lead(task)
    copied = Copied(source.text, tools.tokenizer, " ", source.words)
    pieces: dict[str, list[Piece]] = {
        "none": [fixed("none", encode(first + own.none))],
        "first": [fixed(name, ids) for name, ids in _type_ids(task, tools, first).items()],
        "type": [fixed(name, ids) for name, ids in _type_ids(task, tools, " ").items()],
        "span": copied.pieces("span", task.max_new_tokens),
        "more": [fixed("more", encode(";"))],
    }
    then = {"none": (END,), "first": ("span",), "type": ("span",), "span": ("more", END), "more": ("type",)}
    return Rules(pieces, ("none", "first"), then, ends)


# -- what the model's reply means


def _question(task: TaskFile, row: Encoded) -> Question[Any]:
    return MarkScores() if isinstance(row.target, AtMarks) else Answers(task.max_new_tokens, (), task.decoding)


def _read(task: TaskFile, row: Encoded, reply: Any, blank_replies: Sequence[Any]) -> Prediction:
    del blank_replies
    source: _Source = row.source
    if not isinstance(row.target, AtMarks):
        return _prediction(source, _written_spans(source, reply.ids), reply.log_likelihood)
    spans = spans_of(best_tags(reply.tolist(), _tag_names(task))) if len(reply) else []
    words = source.words
    return _prediction(source, [(name, words[first][0], words[end - 1][1]) for name, first, end in spans], 0.0)


def _written_spans(source: _Source, ids: Sequence[int]) -> Spans:
    """The spans that an answer names, in characters."""
    assert source.grammar is not None
    spans = []
    for (group, kind_of, _), (following, piece, done) in pairwise(source.grammar.parsed(ids)):
        end = piece.ends[done - 1]
        if group in ("first", "type") and following == "span" and piece.start is not None and end is not None:
            spans.append((kind_of.name, piece.start, end))
    return spans


def _prediction(source: _Source, spans: Spans, score: float) -> Prediction:
    text = "; ".join(f"{name}: {source.text[start:end]}" for name, start, end in spans) or "none"
    if source.counts_words:
        counted = [(name, _in_words(start, end, source.words)) for name, start, end in spans]
        spans = [(name, *place) for name, place in counted if place]
    return Prediction(text, answer=tuple(spans), score=score)


def _shown(task: TaskFile, found: Prediction) -> dict[str, Any]:
    del task
    spans = found.answer if isinstance(found.answer, tuple) else ()
    return {"answer": found.text, "spans": [{"label": name, "start": start, "end": end} for name, start, end in spans]}


def _part(task: TaskFile, row: Row, span: tuple[str, int, int]) -> str:
    """A span's type and text; where it stands too, if the row says the same elsewhere."""
    own: Options = task.own
    name, start, end = span
    if own.text_field:
        text = as_text(row.fields[own.text_field]) or ""
        said, unit, times = text[start:end], "character", text.count(text[start:end])
    else:
        words = row.fields[_TOKENS]
        said, unit = " ".join(words[start:end]), "word"
        times = sum(words[at : at + end - start] == words[start:end] for at in range(len(words)))
    return f"{name}: {said}" + (f" ({unit} {start + 1})" if times > 1 else "")


def _shot(task: TaskFile, row: Row) -> str | None:
    source = _Source(*_row_text(task, row), None, not task.own.text_field)
    spans = _in_characters(_gold_spans(task, row), source)
    words = {name: texts[0].strip() for name, texts in task.words.items()}
    return lead(task) + ("; ".join(f"{words[name]}: {source.text[s:e]}" for name, s, e in spans) or task.own.none)


def _row_text(task: TaskFile, row: Row) -> tuple[str, tuple[tuple[int, int], ...]]:
    name = _shown_field(task)
    text = _field_text(task, name, row.fields[name]) or ""
    return text, _words(task, row, text)


def _sample(task: TaskFile) -> dict[str, Any]:
    own: Options = task.own
    return {**some_texts(task), **({} if own.text_field else {_TOKENS: ["some", "words"]})}


KIND = TaskKind(
    name="tagging",
    title="spans of types in a text",
    metrics=("entity_f1",),
    reported=("entity_precision", "entity_recall"),
    options=Options,
    check=_check,
    check_model=_check_model,
    target_fields=_target_fields,
    input_problems=_input_problems,
    problems=_problems,
    gold=_gold,
    candidates=_candidates,
    examples=_examples,
    question=_question,
    read=_read,
    shot=_shot,
    field_text=_field_text,
    wanted="wanted text, or a list of words",
    shown=_shown,
    part=_part,
    writes=True,
    sample=_sample,
    for_encoders=lambda task: True,
)
