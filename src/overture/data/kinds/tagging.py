"""Spans of types in a text, such as names of people and places.

With an encoder each word's first token is given one of the tags O, B-type and I-type; the best allowed sequence is
taken. With a decoder the spans are written in the text's order, ``person: Ada Lovelace; location: London``: only types
and pieces of the text can be written, so nothing is found that is not there. A piece that stands in the text several
times is the first of them behind the span before; any other is followed by its number, ``org: Apple (2)``.
"""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate, pairwise
from typing import Any

from pydantic import Field

from overture.core.config import Config
from overture.core.contracts import Answers, MarkScores, Question, TextTokenizer
from overture.core.errors import ConfigError, Problem
from overture.core.rows import AtMarks, Candidates, Encoded, Marks, Prediction
from overture.data.kind import Example, Pick, TaskFile, TaskKind, Tools, some_texts
from overture.data.kinds.grammar import END, Copied, Grammar, Piece, Rules, fixed, number_of, units_by_token, units_of
from overture.data.kinds.labels import check_labels, lead, no_mask, written_alike
from overture.data.kinds.tags import best_tags, may_follow, spans_of, split_tag, tags_of
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


@dataclass(frozen=True, slots=True)
class _Source:
    """Facts for reading a reply: places of the words, the grammar, and whether spans count words or characters."""

    text: str
    words: tuple[tuple[int, int], ...]
    grammar: Grammar | None
    counts_words: bool


def _shown_field(task: TaskFile) -> str:
    own: Options = task.own
    return own.text_field or own.tokens_field


def _check(task: TaskFile) -> None:
    check_labels(task, least=1)
    no_mask(task)
    if _shown_field(task) not in task.fields:
        raise ConfigError(
            f"the template must show {{{_shown_field(task)}}}, in which spans are found", where="template"
        )


def _check_model(task: TaskFile, tokenizer: TextTokenizer) -> None:
    if not tokenizer.is_encoder:
        written_alike(task, task.own.none)


def _target_fields(task: TaskFile) -> tuple[str, ...]:
    own: Options = task.own
    return (own.spans_field if own.text_field else own.tags_field,)


def _field_text(task: TaskFile, name: str, value: Any) -> str | None:
    own: Options = task.own
    if name != own.tokens_field or own.text_field or not isinstance(value, list):
        return as_text(value)
    return " ".join(value) if value and all(isinstance(word, str) for word in value) else None


def _input_problems(task: TaskFile, row: Row) -> list[Problem]:
    own: Options = task.own
    name = own.tokens_field
    words = row.fields.get(name)
    if own.text_field or words is None:
        return []
    if not isinstance(words, list):
        return [Problem(row.where, f"field {name!r} is {kind(words)}", "wanted a list of words")]
    odd = [word for word in words if not isinstance(word, str) or not word or any(c.isspace() for c in word)]
    if odd:
        return [Problem(row.where, f"{odd[0]!r:.40} in {name!r} is no word", "wanted texts without spaces")]
    return [problem for word in words for problem in broken_text(name, word, row)][:1]


def _problems(task: TaskFile, row: Row) -> list[Problem]:
    own: Options = task.own
    name = _target_fields(task)[0]
    if name not in row.fields:
        return [missing_field(name, row.where, list(row.fields))]
    marked = row.fields[name]
    if not isinstance(marked, list):
        return [Problem(row.where, f"field {name!r} is {kind(marked)}", "wanted a list")]
    return _span_problems(task, row, marked) if own.text_field else _tag_problems(task, row, marked)


def _tag_problems(task: TaskFile, row: Row, values: list[Any]) -> list[Problem]:
    own: Options = task.own
    words = row.fields.get(own.tokens_field)
    if isinstance(words, list) and len(words) != len(values):
        return [Problem(row.where, f"{len(values)} tags for {len(words)} words")]
    before = "O"
    for value in values:
        tag = _tag(own, value)
        if tag is None:
            fix = f"set options.tag_names, or use 0 to {len(own.tag_names or ()) - 1}" if own.tag_names else _NAME_TAGS
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


def _tag(own: Options, value: Any) -> str | None:
    """A tag by its name; None for a number that has none."""
    if not isinstance(value, int) or isinstance(value, bool):
        return str(value)
    names = own.tag_names or ()
    return names[value] if 0 <= value < len(names) else None


def _span_problems(task: TaskFile, row: Row, values: list[Any]) -> list[Problem]:
    own: Options = task.own
    text = as_text(row.fields.get(own.text_field or "")) or ""
    for value in values:
        span = _span(value)
        if span is None:
            return [Problem(row.where, f"{value!r:.60} is no span", "wanted start, end and label")]
        if task.label_named(span[0]) is None:
            return [Problem(row.where, f"unknown type {span[0]!r}", f"known: {', '.join(task.words)}")]
    places = span_places(text, values)
    if places is None:
        said, (_, start, end) = next(
            (value["text"], span)
            for value in values
            if isinstance(value, dict) and (span := _span(value)) and _differs(text, value, span[1:])
        )
        there = text[max(start, 0) : max(end, 0)]
        what = f"at {start} to {end} the text has {there!r:.60}, but the span says {said!r:.60}"
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
            counted = [(character_at.get(start, -1), character_at.get(end, -1)) for start, end in places]
        else:
            counted = places
        if not any(_differs(text, value, place) for value, place in zip(values, counted, strict=True)):
            return counted
    return None


def _differs(text: str, value: Any, place: tuple[int, int]) -> bool:
    """Whether a span carries a text of its own that is not the one at a place, white space at its ends aside."""
    said = value.get("text") if isinstance(value, dict) else None
    start, end = place
    return isinstance(said, str) and (start < 0 or text[start:end].strip() != said.strip())


def _corrections(task: TaskFile, row: Row) -> tuple[str, ...]:
    own: Options = task.own
    values = row.fields[_target_fields(task)[0]]
    if not own.text_field:
        return ()
    places = span_places(as_text(row.fields[own.text_field]) or "", values)
    given = [span[1:] for value in values if (span := _span(value))]
    return ("places of spans are not counted in characters; they were set by the spans' own texts",) * (places != given)


def _bare(span: tuple[str, int, int], text: str) -> tuple[str, int, int]:
    """A span without the white space at its ends."""
    name, start, end = span
    inner = text[start:end]
    return name, start + len(inner) - len(inner.lstrip()), end - len(inner) + len(inner.rstrip())


def _gold_spans(task: TaskFile, row: Row) -> Spans:
    """The right spans, in words or in characters."""
    own: Options = task.own
    if not own.text_field:
        spans = spans_of([_tag(own, value) or "O" for value in row.fields[own.tags_field]])
        return [(task.label_named(name) or name, start, end) for name, start, end in spans]
    text = as_text(row.fields[own.text_field]) or ""
    values = row.fields[own.spans_field]
    names = [task.label_named(span[0]) or span[0] for value in values if (span := _span(value))]
    places = span_places(text, values) or []
    spans = [_bare((name, *place), text) for name, place in zip(names, places, strict=True)]
    return sorted(spans, key=lambda span: span[1:])


def _gold(task: TaskFile, row: Row) -> Hashable:
    return tuple(_gold_spans(task, row))


def _words(task: TaskFile, row: Row, text: str) -> tuple[tuple[int, int], ...]:
    """Where the words stand in the text; where it was cut, those that are left."""
    own: Options = task.own
    if own.text_field:
        return units_of(text, own.within_words)
    ends, start = [], 0
    for word in row.fields[own.tokens_field]:
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
    if task.own.text_field and tools.tokenizer.is_encoder:
        words = units_by_token(text, words, tools.tokenizer)
    source = _Source(text, words, None, not task.own.text_field)
    # In the text's order; of spans that overlap the first.
    shown = sorted(_in_characters(gold or [], source), key=lambda span: span[1:])
    kept = [span for number, span in enumerate(shown) if not any(before[2] > span[1] for before in shown[:number])]
    begins, ends = {start for start, _ in words}, {end for _, end in words}
    can_say = kept == shown and all(start in begins and end in ends for _, start, end in kept)
    cut = partial(_example, task, row, gold, tools)
    if tools.tokenizer.is_encoder:
        in_words = [(name, *place) for name, start, end in kept if (place := _in_words(start, end, words))]
        tags = None if gold is None else tags_of(in_words, len(words))
        names = _tag_names(task)
        marks = Marks((), "labels", None if tags is None else tuple(names.index(tag) for tag in tags))
        return Example(texts, pick=Pick(name, words, marks), source=source, can_say=can_say, cut=cut)
    grammar = Grammar(lambda: _rules(task, tools, source))
    source = replace(source, grammar=grammar)
    written, is_numbered = _answer_ids(task, tools, source, kept)
    if can_say and is_numbered:
        can_say = _written_spans(source, written) == kept
    return Example(
        texts,
        answer_ids=None if gold is None else tools.ended(written),
        allowed=grammar,
        source=source,
        can_say=can_say,
        cut=cut,
    )


def _type_ids(task: TaskFile, tools: Tools, lead: str) -> dict[str, list[int]]:
    words = {name: texts[0].strip() for name, texts in task.words.items()}
    return {name: tools.tokenizer.encode_plain(f"{lead}{word}:") for name, word in words.items()}


def _answer_ids(task: TaskFile, tools: Tools, source: _Source, spans: Spans) -> tuple[list[int], bool]:
    """The spans as tokens, and whether one has a number since its text stands elsewhere too."""
    own: Options = task.own
    encode = tools.tokenizer.encode_plain
    if not spans:
        return encode(lead(task) + own.none), False
    copied = Copied(source.text, tools.tokenizer, " ", source.words)
    ids: list[int] = []
    is_numbered, position = False, 0
    for count, (name, start, end) in enumerate(spans):
        ids += encode(";") if count else []
        ids += _type_ids(task, tools, " " if count else lead(task))[name]
        number = _number(source.text, source.words, position, start, end)
        ids += [*copied.ids(start, end), *(encode(number) if number else [])]
        is_numbered, position = is_numbered or number != "", end
    return ids, is_numbered


def _number(text: str, words: Sequence[tuple[int, int]], position: int, start: int, end: int) -> str:
    """The number behind a span whose text stood earlier in the row; empty for the first."""
    number = number_of(text, words, position, start, end)
    return f" ({number})" if number > 1 else ""


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

    def number(position: int, start: int, end: int) -> list[int]:
        text = _number(source.text, source.words, position, start, end)
        return encode(text) if text else []

    return Rules(pieces, ("none", "first"), then, ends, number)


# -- what the model's reply means


def _question(task: TaskFile, row: Encoded) -> Question[Any]:
    return MarkScores() if isinstance(row.target, AtMarks) else Answers(task.max_new_tokens, (), task.decoding)


def _read(task: TaskFile, row: Encoded, reply: Any, blank_replies: Sequence[Any]) -> Prediction:
    del blank_replies
    source: _Source = row.source
    if not isinstance(row.target, AtMarks):
        spans, tokens = _spans_and_tokens(source, reply.ids)
        scores = [_mean_share(reply.shares[first:end]) for first, end in tokens] if reply.shares else []
        return _prediction(source, spans, reply.log_likelihood, scores)
    logits, names = reply.tolist(), _tag_names(task)
    tags = best_tags(logits, names) if len(reply) else []
    shares = [row[names.index(tag)] - _log_sum(row) for row, tag in zip(logits, tags, strict=True)]
    found, words = spans_of(tags), source.words
    scores = [_mean_share(shares[first:end]) for _, first, end in found]
    return _prediction(source, [(name, words[first][0], words[end - 1][1]) for name, first, end in found], 0.0, scores)


def _log_sum(logits: Sequence[float]) -> float:
    largest = max(logits)
    return largest + math.log(sum(math.exp(logit - largest) for logit in logits))


def _mean_share(log_shares: Sequence[float]) -> float:
    """Probability of a span's tokens or tags, the geometric mean over them, so that long ones are not at a loss."""
    return math.exp(sum(log_shares) / len(log_shares))


def _written_spans(source: _Source, ids: Sequence[int]) -> Spans:
    """The spans that an answer names, in characters."""
    return _spans_and_tokens(source, ids)[0]


def _spans_and_tokens(source: _Source, ids: Sequence[int]) -> tuple[Spans, list[tuple[int, int]]]:
    """The spans that an answer names, in characters, and which of its tokens name each."""
    assert source.grammar is not None
    spans, tokens, first = [], [], 0
    for (group, kind_of, num), (following, piece, done) in pairwise(source.grammar.parsed(ids)):
        end = piece.ends[done - 1]
        if group in ("first", "type") and following == "span" and piece.start is not None and end is not None:
            spans.append((kind_of.name, piece.start, end))
            tokens.append((first, first + num + done))
        first += num
    return spans, tokens


def _prediction(source: _Source, spans: Spans, score: float, span_scores: Sequence[float]) -> Prediction:
    text = "; ".join(f"{name}: {source.text[start:end]}" for name, start, end in spans) or "none"
    if source.counts_words:
        counted = [(name, _in_words(start, end, source.words)) for name, start, end in spans]
        span_scores = [share for share, (_, place) in zip(span_scores, counted, strict=False) if place]
        spans = [(name, *place) for name, place in counted if place]
    return Prediction(text, answer=tuple(spans), score=score, span_scores=tuple(span_scores))


def _shown(task: TaskFile, prediction: Prediction) -> dict[str, Any]:
    del task
    spans = prediction.answer if isinstance(prediction.answer, tuple) else ()
    shown = [{"label": name, "start": start, "end": end} for name, start, end in spans]
    for span, score in zip(shown, prediction.span_scores, strict=False):
        span["score"] = round(score, 4)
    return {"answer": prediction.text, "spans": shown}


def _part(task: TaskFile, row: Row, span: tuple[str, int, int]) -> str:
    """A span's type and text; where it stands too, if the row says the same elsewhere."""
    own: Options = task.own
    name, start, end = span
    if own.text_field:
        text = as_text(row.fields[own.text_field]) or ""
        said, unit, times = text[start:end], "character", text.count(text[start:end])
    else:
        words = row.fields[own.tokens_field]
        said, unit = " ".join(words[start:end]), "word"
        times = sum(words[at : at + end - start] == words[start:end] for at in range(len(words)))
    return f"{name}: {said}" + (f" ({unit} {start + 1})" if times > 1 else "")


def _shot(task: TaskFile, row: Row) -> str | None:
    own: Options = task.own
    text = _field_text(task, _shown_field(task), row.fields[_shown_field(task)]) or ""
    source = _Source(text, _words(task, row, text), None, not own.text_field)
    words = {name: texts[0].strip() for name, texts in task.words.items()}
    said, position = [], 0
    for name, start, end in _in_characters(_gold_spans(task, row), source):
        number = _number(text, source.words, position, start, end)
        said.append(f"{words[name]}: {text[start:end]}{number}")
        position = end
    return lead(task) + ("; ".join(said) or own.none)


def _sample(task: TaskFile) -> dict[str, Any]:
    own: Options = task.own
    return {**some_texts(task), **({} if own.text_field else {own.tokens_field: ["some", "words"]})}


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
    corrections=_corrections,
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
