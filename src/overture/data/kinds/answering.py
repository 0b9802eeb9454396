"""Answers to questions about a text: a piece of it, or free text.

Extractive, with a decoder: the answer is written, and only pieces of the text that begin and end with words can be.
With an encoder: two label vectors score each word as the first and as the last of the answer (a span head). A text that
is too long is read in windows that overlap; the answer that the model is surest of counts.

Source of no answer with an encoder: Devlin et al. 2019 (BERT), section 4.3: where there is none, the row's first token
is both first and last; a span counts if its score is above that token's by more than a threshold. Deviation: BERT takes
the smallest of the windows' scores for no answer; here each window compares its best span with its own first token.
"""

import re
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field

from overture.core.config import Config
from overture.core.contracts import Answers, MarkScores, Question, TextTokenizer
from overture.core.errors import ConfigError, DataError, Problem
from overture.core.rows import AtMarks, Candidates, Encoded, Marks, Prediction
from overture.data.kind import Example, Pick, TaskFile, TaskKind, Tools
from overture.data.kinds.grammar import END, Copied, Grammar, Rules, fixed, units_by_token, units_of
from overture.data.kinds.labels import lead, no_mask
from overture.data.row import Row, answer_problems, answer_texts
from overture.data.values import as_text

_CONTEXT = "context"
"""The field with the text that the question is about."""
_LEAST_WINDOW, _SLACK = 16, 4
# SQuAD itself has places that are off by a character or two.
_SLIP = 2


class Options(Config):
    """Options of question answering."""

    mode: Literal["extractive", "generative"] = Field(
        "extractive", description="extractive answers are pieces of the context; generative ones are free text."
    )
    starts_field: str | None = Field(
        None,
        min_length=1,
        description="Where the answers begin in the context, in characters: a list as long as that of the answers, or "
        "an object from answer to place; the first place where an answer stands if not given.",
    )
    no_answer: str | None = Field(
        None,
        min_length=1,
        description="What is written where the context has no answer; then rows may have none. An encoder writes "
        "nothing, and any text here lets it find none.",
    )
    no_answer_threshold: float = Field(
        0.0, description="By how much an encoder's best span must score above no answer; below 0 it answers more often."
    )
    stride: int = Field(64, ge=1, description="Tokens that windows of a long context share, half of a window at most.")
    within_words: bool = Field(
        False,
        description="Extractive answers may begin and end within words, as in languages that join particles to names; "
        "in scripts without spaces and in Hangul they always may.",
    )
    max_answer_tokens: int = Field(
        24, ge=1, description="Most tokens of a piece of the context; with an encoder words."
    )


@dataclass(frozen=True, slots=True)
class _Source:
    """The window's text and words, what may be copied from it, and where it begins in the context."""

    text: str
    words: tuple[tuple[int, int], ...]
    grammar: Grammar | None = None
    start: int = 0


def _check(task: TaskFile) -> None:
    options: Options = task.kind_options
    if task.labels is not None:
        raise ConfigError(
            "labels are not for question answering", where="labels", fix="name the answers' field: answer_field"
        )
    no_mask(task)
    if options.no_answer_threshold and not options.no_answer:
        raise ConfigError("no_answer_threshold goes with no_answer", where="options.no_answer_threshold")
    if _CONTEXT not in task.fields:
        raise ConfigError(f"the template must show the context, {{{_CONTEXT}}}", where="template")


def _check_model(task: TaskFile, tokenizer: TextTokenizer) -> None:
    options: Options = task.kind_options
    if tokenizer.is_encoder and options.mode == "generative":
        raise DataError(
            "an encoder answers with a piece of the context",
            where="options",
            fix="leave mode out, or choose a decoder as --backbone",
        )
    if not tokenizer.is_encoder and options.no_answer_threshold:
        raise DataError(
            "a decoder writes that there is no answer, and nothing is compared with a threshold",
            where="options.no_answer_threshold",
            fix="leave it out, or choose an encoder as --backbone",
        )


def _target_fields(task: TaskFile) -> tuple[str, ...]:
    return (task.answer_field or "answers",)


def _answers(task: TaskFile, row: Row) -> tuple[str, ...]:
    value = row.fields[_target_fields(task)[0]]
    texts = value.get("text", []) if isinstance(value, dict) else value
    return tuple(text for text in answer_texts(texts) if text.strip())


def _starts(task: TaskFile, row: Row) -> dict[str, int]:
    """Where each answer begins in the context; left out where that is not said."""
    options: Options = task.kind_options
    value = row.fields[_target_fields(task)[0]]
    starts = value.get("answer_start") if isinstance(value, dict) else row.fields.get(options.starts_field or "")
    if isinstance(starts, dict):
        return {str(text): start for text, start in starts.items() if isinstance(start, int)}
    if isinstance(starts, int):
        starts = [starts]
    pairs = zip(_answers(task, row), starts if isinstance(starts, list) else [], strict=False)
    return {text: start for text, start in reversed(list(pairs)) if isinstance(start, int)}


def _problems(task: TaskFile, row: Row) -> list[Problem]:
    options: Options = task.kind_options
    name = _target_fields(task)[0]
    value = row.fields.get(name)
    text_row = Row({**row.fields, name: value.get("text", [])}, row.line, row.file) if isinstance(value, dict) else row
    problems = answer_problems(name, text_row, may_be_empty=options.no_answer is not None)
    if problems or options.mode == "generative":
        return problems
    context = as_text(row.fields.get(_CONTEXT)) or ""
    starts = _starts(task, row)
    for text in _answers(task, row):
        start = starts.get(text)
        if text not in context:
            fix = "options.mode: generative takes free answers"
            return [Problem(row.where, f"the answer {text!r:.60} is not in the context", fix)]
        if start is not None and abs(_nearest(context, text, start) - start) > _SLIP:
            there = context[max(start, 0) : start + len(text)]
            return [Problem(row.where, f"at {start} the context has {there!r:.60}, not the answer {text!r:.60}")]
    return []


def _nearest(context: str, text: str, near: int) -> int:
    """Where an answer stands, nearest to where it is said to stand."""
    places = [match.start() for match in re.finditer(f"(?={re.escape(text)})", context)]
    return min(places, key=lambda place: abs(place - near))


def _gold(task: TaskFile, row: Row) -> Hashable:
    return tuple(dict.fromkeys(_answers(task, row)))


def _candidates(task: TaskFile, tokenizer: TextTokenizer) -> tuple[Candidates | None, list[str]]:
    del task
    if not tokenizer.is_encoder:
        return None, []
    words = tuple(tuple(tokenizer.encode_plain(word)) for word in (" begin", " end"))
    return Candidates(("first", "last"), words, (0, 1), is_of_tokens=True), []


# -- examples


def _examples(task: TaskFile, row: Row, texts: Mapping[str, str], tools: Tools, with_answer: bool) -> list[Example]:
    options: Options = task.kind_options
    gold = _answers(task, row)[:1] if with_answer else None
    if options.mode == "generative":
        return [Example(texts, answer_ids=None if gold is None else _free_ids(task, tools, gold))]
    context = texts[_CONTEXT]
    span = None
    if gold:
        first = _nearest(context, gold[0], _starts(task, row).get(gold[0], 0))
        span = first, first + len(gold[0])
    return [
        _window(
            task, tools, gold is not None, _within(span, start, end), {**texts, _CONTEXT: context[start:end]}, start
        )
        for start, end in _windows(task, texts, tools, gold)
    ]


def _within(span: tuple[int, int] | None, start: int, end: int) -> tuple[int, int] | None:
    """Where an answer stands in a stretch of the context; None if it is not all there."""
    return (span[0] - start, span[1] - start) if span and start <= span[0] and span[1] <= end else None


def _windows(
    task: TaskFile, texts: Mapping[str, str], tools: Tools, gold: tuple[str, ...] | None
) -> list[tuple[int, int]]:
    """Stretches of the context, in characters, that fit the model one by one, the answer's tokens with each."""
    options: Options = task.kind_options
    context = texts[_CONTEXT]
    tokens = tools.tokenizer.offsets(context)

    def over(num_answer: int) -> int:
        return tools.over(Example(texts, answer_ids=(0,) * num_answer or None))

    num_over = over(options.max_answer_tokens if gold is not None else 0)
    if gold and not tools.tokenizer.is_encoder:
        # One that leaves the text no room stands in no window, and needs none.
        num_needed = over(max(options.max_answer_tokens, len(_free_ids(task, tools, gold))))
        num_over = num_needed if len(tokens) - num_needed >= _LEAST_WINDOW else num_over
    size = len(tokens) - num_over
    if num_over <= 0 or size < _LEAST_WINDOW:
        return [(0, len(context))]
    # Cut at words: a little less than fits, since a word at the cut may have other tokens alone.
    size = size - _SLACK
    step = max(size - options.stride, size // 2)
    starts = [start for start, _ in units_of(context, options.within_words)]
    windows = []
    for first in range(0, len(tokens), step):
        begin = max((start for start in starts if start <= tokens[first][1] + 1), default=0) if first else 0
        if tokens[max(first - _SLACK, 0)][1] > begin:
            # A word of many tokens would not fit from its start.
            begin = tokens[first][1]
        end = tokens[min(first + size, len(tokens)) - 1][2]
        windows.append((begin, end if first + size < len(tokens) else len(context)))
        if first + size >= len(tokens):
            break
    return windows


def _window(
    task: TaskFile,
    tools: Tools,
    is_known: bool,
    inside: tuple[int, int] | None,
    window_texts: Mapping[str, str],
    start: int,
) -> Example:
    """One window, from `start` on; it teaches nothing where the answer is not in it and silence is no answer."""
    options: Options = task.kind_options
    text = window_texts[_CONTEXT]
    words = units_of(text, options.within_words)
    if tools.tokenizer.is_encoder:
        words = units_by_token(text, words, tools.tokenizer)
    teaches = is_known and (inside is not None or options.no_answer is not None)
    can_say = inside is None or (inside[0] in {s for s, _ in words} and inside[1] in {e for _, e in words})

    def cut(texts: Mapping[str, str]) -> Example:
        return _window(task, tools, is_known, _within(inside, 0, len(texts[_CONTEXT])), texts, start)

    if tools.tokenizer.is_encoder:
        # The row's first token stands for no answer, in front of the words.
        nowhere = (0,) if options.no_answer else ()
        places = _places(inside, words, len(nowhere)) if inside else (0, 0)
        can_say = can_say and places[1] - places[0] < options.max_answer_tokens
        marks = Marks(nowhere, "places", places if teaches else None)
        pick = Pick(_CONTEXT, words, marks)
        return Example(window_texts, pick=pick, source=_Source(text, words, start=start), can_say=can_say, cut=cut)
    grammar = Grammar(lambda: _rules(task, tools, text, words))
    answer = None
    if teaches and inside is None:
        answer = _free_ids(task, tools, ())
    elif teaches and inside:
        ids = Copied(text, tools.tokenizer, lead(task), words).ids(*inside)
        can_say = can_say and len(ids) <= options.max_answer_tokens
        answer = tools.ended(ids)
    source = _Source(text, words, grammar, start)
    return Example(window_texts, answer_ids=answer, allowed=grammar, source=source, can_say=can_say, cut=cut)


def _places(span: tuple[int, int], words: Sequence[tuple[int, int]], done: int) -> tuple[int, int]:
    numbers = [number for number, (start, end) in enumerate(words, done) if start < span[1] and span[0] < end] or [0]
    return numbers[0], numbers[-1]


def _free_ids(task: TaskFile, tools: Tools, gold: tuple[str, ...]) -> tuple[int, ...]:
    options: Options = task.kind_options
    text = gold[0] if gold else options.no_answer or ""
    return tools.ended(tools.tokenizer.encode_plain(lead(task) + text))


def _rules(task: TaskFile, tools: Tools, text: str, words: tuple[tuple[int, int], ...]) -> Rules:
    options: Options = task.kind_options
    encode = tools.tokenizer.encode_plain
    ends = (tools.tokenizer.eos_id,) if tools.tokenizer.eos_id is not None else tuple(encode("\n"))
    # The text may hold what is written for no answer; first, so that it is read as that.
    pieces = {"none": [fixed("none", encode(lead(task) + options.no_answer))]} if options.no_answer else {}
    pieces["span"] = Copied(text, tools.tokenizer, lead(task), words).pieces("span", options.max_answer_tokens)
    return Rules(pieces, tuple(pieces), dict.fromkeys(pieces, (END,)), ends)


# -- reading replies


def _question(task: TaskFile, row: Encoded) -> Question[Any]:
    if isinstance(row.target, AtMarks):
        return MarkScores()
    if task.kind_options.mode == "generative":
        return Answers(task.max_new_tokens, tuple(task.stop), task.decoding)
    # A piece of the context, or the words for no answer, which have at most a token a byte; then the end token.
    most = max(task.kind_options.max_answer_tokens, len((lead(task) + (task.kind_options.no_answer or "")).encode()))
    return Answers(most + 1, (), task.decoding)


def _read(task: TaskFile, row: Encoded, reply: Any, blank_replies: Sequence[Any]) -> Prediction:
    del blank_replies
    options: Options = task.kind_options
    if isinstance(row.target, AtMarks):
        return _best_span(options, row.source, reply.tolist())
    if options.mode == "extractive":
        return _copied(row.source, reply.ids, reply.log_likelihood)
    nothing = (options.no_answer or "").casefold()
    text = "" if nothing and reply.text.strip().casefold() == nothing else reply.text
    return Prediction(text, answer=text, score=reply.log_likelihood)


def _copied(source: _Source, ids: Sequence[int], score: float) -> Prediction:
    assert source.grammar is not None
    text, span = "", None
    for group, piece, done in source.grammar.parsed(ids):
        end = piece.ends[done - 1]
        if group == "span" and piece.start is not None and end is not None:
            text, span = source.text[piece.start : end], (source.start + piece.start, source.start + end)
    return Prediction(text, answer=text, score=score, span=span if text else None)


def _best_span(options: Options, source: _Source, scores: Sequence[Sequence[float]]) -> Prediction:
    """The words with the highest sum of the first's and the last's score; silence if that is not enough.

    The prediction's score is that sum, less what no answer has where rows may have none.
    """
    nowhere, scores = (scores[0], scores[1:]) if options.no_answer else (None, scores)
    best = (float("-inf"), 0, 0)
    for first, (start, _) in enumerate(scores):
        for last in range(first, min(first + options.max_answer_tokens, len(scores))):
            best = max(best, (start + scores[last][1], first, last))
    sure = best[0] - sum(nowhere) if nowhere else best[0]
    if not scores or (nowhere and sure <= options.no_answer_threshold):
        return Prediction("", answer="", score=sure)
    start, end = source.words[best[1]][0], source.words[best[2]][1]
    text = source.text[start:end]
    return Prediction(text, answer=text, score=sure, span=(source.start + start, source.start + end))


def _merged(task: TaskFile, parts: Sequence[Prediction]) -> Prediction:
    """The surest answer; silence only where every window is silent."""
    del task
    return max(parts, key=lambda part: (part.said != "", part.score))


def _shown(task: TaskFile, prediction: Prediction) -> dict[str, Any]:
    """The answer, and where it stands in the context if it was taken from there."""
    del task
    start, end = prediction.span or (None, None)
    return {"answer": prediction.text, **({} if start is None else {"start": start, "end": end})}


def _shot(task: TaskFile, row: Row) -> str | None:
    answers = _answers(task, row) or (task.kind_options.no_answer or "",)
    return lead(task) + answers[0]


def _stopped(task: TaskFile, row: Row) -> str | None:
    return _shot(task, row) if task.kind_options.mode == "generative" else None


def _optional_fields(task: TaskFile) -> tuple[str, ...]:
    return (task.kind_options.starts_field,) if task.kind_options.starts_field else ()


KIND = TaskKind(
    name="qa",
    title="answers to questions about a text",
    metrics=("squad_f1", "squad_em"),
    reported=("squad_f1_answerable", "no_answer_accuracy"),
    options=Options,
    check=_check,
    check_model=_check_model,
    target_fields=_target_fields,
    problems=_problems,
    gold=_gold,
    candidates=_candidates,
    examples=_examples,
    question=_question,
    read=_read,
    shot=_shot,
    stopped=_stopped,
    optional_fields=_optional_fields,
    merged=_merged,
    shown=_shown,
    writes=True,
    for_encoders=lambda task: task.kind_options.mode == "extractive",
    max_written=lambda task: task.max_new_tokens if task.kind_options.mode == "generative" else None,
)
