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
from itertools import pairwise
from typing import Any

from overture.core.contracts import Answers, MarkScores, Question, TextTokenizer
from overture.core.errors import ConfigError
from overture.core.rows import AtMarks, Candidates, Encoded, Marks, Prediction
from overture.data.kind import Example, Pick, TaskFile, TaskKind, Tools, some_texts
from overture.data.kinds.grammar import END, Copied, Grammar, Piece, Rules, fixed, number_of, units_by_token
from overture.data.kinds.labels import check_labels, lead, no_mask, written_alike
from overture.data.kinds.tagged_rows import (
    Options,
    Spans,
    corrections,
    field_text,
    gold_spans,
    input_problems,
    problems,
    shown_field,
    target_fields,
    words_of,
)
from overture.data.kinds.tags import best_tags, spans_of, tags_of
from overture.data.row import Row
from overture.data.values import as_text


@dataclass(frozen=True, slots=True)
class _Source:
    """Facts for reading a reply: places of the words, the grammar, and whether spans count words or characters."""

    text: str
    words: tuple[tuple[int, int], ...]
    grammar: Grammar | None
    counts_words: bool


def _check(task: TaskFile) -> None:
    check_labels(task, least=1)
    no_mask(task)
    if shown_field(task) not in task.fields:
        raise ConfigError(f"the template must show {{{shown_field(task)}}}, in which spans are found", where="template")


def _check_model(task: TaskFile, tokenizer: TextTokenizer) -> None:
    if not tokenizer.is_encoder:
        written_alike(task, task.kind_options.none)


def _gold(task: TaskFile, row: Row) -> Hashable:
    return tuple(gold_spans(task, row))


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
    word_numbers = [number for number, (first, last) in enumerate(words) if first < end and start < last]
    return (word_numbers[0], word_numbers[-1] + 1) if word_numbers else None


def _tag_names(task: TaskFile) -> tuple[str, ...]:
    return ("O", *(f"{prefix}-{name}" for name in task.words for prefix in "BI"))


def _candidates(task: TaskFile, tokenizer: TextTokenizer) -> tuple[Candidates | None, list[str]]:
    """An encoder's tags, each beginning as its type's first word; a decoder writes."""
    if not tokenizer.is_encoder:
        return None, []
    options: Options = task.kind_options
    words = [options.none, *(texts[0] for texts in task.words.values() for _ in "BI")]
    ids = tuple(tuple(tokenizer.encode_plain(word)) for word in words)
    return Candidates(_tag_names(task), ids, tuple(range(len(ids))), is_of_tokens=True), []


# -- examples


def _examples(task: TaskFile, row: Row, texts: Mapping[str, str], tools: Tools, with_answer: bool) -> list[Example]:
    gold = gold_spans(task, row) if with_answer else None
    return [_example(task, row, gold, tools, texts)]


def _example(task: TaskFile, row: Row, gold: Spans | None, tools: Tools, texts: Mapping[str, str]) -> Example:
    """The row as it is shown, whole or shortened."""
    name = shown_field(task)
    text = texts[name]
    words = words_of(task, row, text)
    if task.kind_options.text_field and tools.tokenizer.is_encoder:
        words = units_by_token(text, words, tools.tokenizer)
    source = _Source(text, words, None, not task.kind_options.text_field)
    # In the text's order; of spans that overlap the first.
    in_order = sorted(_in_characters(gold or [], source), key=lambda span: span[1:])
    spans = [
        span for number, span in enumerate(in_order) if not any(before[2] > span[1] for before in in_order[:number])
    ]
    begins, ends = {start for start, _ in words}, {end for _, end in words}
    can_say = spans == in_order and all(start in begins and end in ends for _, start, end in spans)
    cut = partial(_example, task, row, gold, tools)
    if tools.tokenizer.is_encoder:
        in_words = [(name, *place) for name, start, end in spans if (place := _in_words(start, end, words))]
        tags = None if gold is None else tags_of(in_words, len(words))
        names = _tag_names(task)
        marks = Marks((), "labels", None if tags is None else tuple(names.index(tag) for tag in tags))
        return Example(texts, pick=Pick(name, words, marks), source=source, can_say=can_say, cut=cut)
    grammar = Grammar(lambda: _rules(task, tools, source))
    source = replace(source, grammar=grammar)
    answer_ids, is_numbered = _answer_ids(task, tools, source, spans)
    if can_say and is_numbered:
        can_say = _written_spans(source, answer_ids) == spans
    return Example(
        texts,
        answer_ids=None if gold is None else tools.ended(answer_ids),
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
    options: Options = task.kind_options
    encode = tools.tokenizer.encode_plain
    if not spans:
        return encode(lead(task) + options.none), False
    copier = Copied(source.text, tools.tokenizer, " ", source.words)
    ids: list[int] = []
    is_numbered, position = False, 0
    for count, (name, start, end) in enumerate(spans):
        ids += encode(";") if count else []
        ids += _type_ids(task, tools, " " if count else lead(task))[name]
        number = _number(source.text, source.words, position, start, end)
        ids += [*copier.ids(start, end), *(encode(number) if number else [])]
        is_numbered, position = is_numbered or number != "", end
    return ids, is_numbered


def _number(text: str, words: Sequence[tuple[int, int]], position: int, start: int, end: int) -> str:
    """The number behind a span whose text stood earlier in the row; empty for the first."""
    number = number_of(text, words, position, start, end)
    return f" ({number})" if number > 1 else ""


def _rules(task: TaskFile, tools: Tools, source: _Source) -> Rules:
    options: Options = task.kind_options
    encode = tools.tokenizer.encode_plain
    ends = (tools.tokenizer.eos_id,) if tools.tokenizer.eos_id is not None else tuple(encode("\n"))
    first = lead(task)
    copier = Copied(source.text, tools.tokenizer, " ", source.words)
    pieces: dict[str, list[Piece]] = {
        "none": [fixed("none", encode(first + options.none))],
        "first": [fixed(name, ids) for name, ids in _type_ids(task, tools, first).items()],
        "type": [fixed(name, ids) for name, ids in _type_ids(task, tools, " ").items()],
        "span": copier.pieces("span", task.max_new_tokens),
        "more": [fixed("more", encode(";"))],
    }
    then = {"none": (END,), "first": ("span",), "type": ("span",), "span": ("more", END), "more": ("type",)}

    def number(position: int, start: int, end: int) -> list[int]:
        text = _number(source.text, source.words, position, start, end)
        return encode(text) if text else []

    return Rules(pieces, ("none", "first"), then, ends, number)


# -- reading replies


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
    places, words = spans_of(tags), source.words
    scores = [_mean_share(shares[first:end]) for _, first, end in places]
    return _prediction(source, [(name, words[first][0], words[end - 1][1]) for name, first, end in places], 0.0, scores)


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
        places = [(name, _in_words(start, end, source.words)) for name, start, end in spans]
        span_scores = [share for share, (_, place) in zip(span_scores, places, strict=False) if place]
        spans = [(name, *place) for name, place in places if place]
    return Prediction(text, answer=tuple(spans), score=score, span_scores=tuple(span_scores))


def _shown(task: TaskFile, prediction: Prediction) -> dict[str, Any]:
    del task
    spans = prediction.answer if isinstance(prediction.answer, tuple) else ()
    span_fields = [{"label": name, "start": start, "end": end} for name, start, end in spans]
    for span, score in zip(span_fields, prediction.span_scores, strict=False):
        span["score"] = round(score, 4)
    return {"answer": prediction.text, "spans": span_fields}


def _part(task: TaskFile, row: Row, span: tuple[str, int, int]) -> str:
    """A span's type and text; where it stands too, if the row says the same elsewhere."""
    options: Options = task.kind_options
    name, start, end = span
    if options.text_field:
        text = as_text(row.fields[options.text_field]) or ""
        span_text, unit, times = text[start:end], "character", text.count(text[start:end])
    else:
        words = row.fields[options.tokens_field]
        span_text, unit = " ".join(words[start:end]), "word"
        times = sum(words[begin : begin + end - start] == words[start:end] for begin in range(len(words)))
    return f"{name}: {span_text}" + (f" ({unit} {start + 1})" if times > 1 else "")


def _shot(task: TaskFile, row: Row) -> str | None:
    options: Options = task.kind_options
    text = field_text(task, shown_field(task), row.fields[shown_field(task)]) or ""
    source = _Source(text, words_of(task, row, text), None, not options.text_field)
    words = {name: texts[0].strip() for name, texts in task.words.items()}
    parts, position = [], 0
    for name, start, end in _in_characters(gold_spans(task, row), source):
        number = _number(text, source.words, position, start, end)
        parts.append(f"{words[name]}: {text[start:end]}{number}")
        position = end
    return lead(task) + ("; ".join(parts) or options.none)


def _sample(task: TaskFile) -> dict[str, Any]:
    options: Options = task.kind_options
    return {**some_texts(task), **({} if options.text_field else {options.tokens_field: ["some", "words"]})}


KIND = TaskKind(
    name="tagging",
    title="spans of types in a text",
    metrics=("entity_f1",),
    reported=("entity_precision", "entity_recall"),
    options=Options,
    check=_check,
    check_model=_check_model,
    target_fields=target_fields,
    input_problems=input_problems,
    problems=problems,
    corrections=corrections,
    gold=_gold,
    candidates=_candidates,
    examples=_examples,
    question=_question,
    read=_read,
    shot=_shot,
    field_text=field_text,
    wanted="wanted text, or a list of words",
    shown=_shown,
    part=_part,
    writes=True,
    sample=_sample,
    for_encoders=lambda task: True,
)
