"""Any number of labels for a row.

With a decoder the labels' first words are written, in the task file's order, with commas between; nothing else can be.
With an encoder each label has a vector and applies where its score is above 0 (binary cross-entropy).
"""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from pydantic import Field

from overture.core.config import Config
from overture.core.contracts import Answers, MarkScores, Question, TextTokenizer
from overture.core.errors import ConfigError, Problem
from overture.core.rows import AtMarks, Candidates, Encoded, Marks, Prediction
from overture.data.candidates import candidates_of
from overture.data.kind import Example, Pick, TaskFile, TaskKind, Tools, label_part
from overture.data.kinds.grammar import END, Grammar, Rules, fixed
from overture.data.kinds.labels import (
    check_labels,
    check_places,
    check_words_differ,
    label_fields,
    label_of_value,
    lead,
    respelled,
    shares_shown,
    unknown_label,
    written_alike,
)
from overture.data.row import Row, missing_field
from overture.data.values import kind, label_text


class Options(Config):
    """Options of several labels."""

    none: str = Field("none", min_length=1, description="What is written where no label applies.")
    separator: str = Field(
        "", description="Cuts a field that is one text into labels, such as a comma; lists need none."
    )
    one_hot: bool = Field(False, description="Each label is a field of its own, which holds 1 or 0, true or false.")


def _check(task: TaskFile) -> None:
    check_labels(task)
    check_words_differ(task, only_first=True)
    if task.has_mask or task.read == "mean":
        raise ConfigError("several labels are read at an encoder's first token, or written by a decoder", where="read")


def _target_fields(task: TaskFile) -> tuple[str, ...]:
    return tuple(task.words) if task.kind_options.one_hot else label_fields(task)


_TRUTH = {"1": True, "true": True, "yes": True, "x": True, "0": False, "false": False, "no": False}


def truth(value: Any) -> bool | None:
    """Whether a label's own field says that it applies; None where it says neither."""
    return _TRUTH.get((label_text(value) or "?").strip().lower())


def _values(task: TaskFile, row: Row) -> list[Any] | None:
    """A row's labels as it spells them; None where its field is no list of labels."""
    options: Options = task.kind_options
    if options.one_hot:
        return [label for label in task.words if truth(row.fields[label])]
    value = row.fields[task.label_field]
    if isinstance(value, str) and options.separator:
        return [part.strip() for part in value.split(options.separator) if part.strip()]
    if isinstance(value, dict) and value and all(truth(applies) is not None for applies in value.values()):
        return [label for label, applies in value.items() if truth(applies)]
    return value if isinstance(value, list) else None


def _problems(task: TaskFile, row: Row) -> list[Problem]:
    missing = [name for name in _target_fields(task) if name not in row.fields]
    if missing:
        return [missing_field(missing[0], row.where, list(row.fields))]
    odd = [name for name in task.words if task.kind_options.one_hot and truth(row.fields[name]) is None]
    if odd:
        return [
            Problem(row.where, f"field {odd[0]!r} holds {row.fields[odd[0]]!r:.40}", "wanted 1 or 0, true or false")
        ]
    labels = _values(task, row)
    if labels is None:
        kind_of = kind(row.fields[task.label_field])
        return [Problem(row.where, f"the labels are {kind_of}", "wanted a list, or set options.separator")]
    return [problem for label in labels for problem in unknown_label(task, label, row.where)]


def _labels(task: TaskFile, row: Row) -> tuple[str, ...]:
    row_labels = {label_of_value(task, value) for value in _values(task, row) or ()}
    return tuple(label for label in task.words if label in row_labels)


def _gold(task: TaskFile, row: Row) -> Hashable:
    return _labels(task, row)


def _candidates(task: TaskFile, tokenizer: TextTokenizer) -> tuple[Candidates | None, list[str]]:
    return candidates_of(task, tokenizer) if tokenizer.is_encoder else (None, [])


def _check_model(task: TaskFile, tokenizer: TextTokenizer) -> None:
    check_places(task, tokenizer)
    if not tokenizer.is_encoder:
        written_alike(task, task.kind_options.none)


def _examples(task: TaskFile, row: Row, texts: Mapping[str, str], tools: Tools, with_answer: bool) -> list[Example]:
    gold = _labels(task, row) if with_answer else None
    if tools.tokenizer.is_encoder:
        names = tuple(task.words)
        index = None if gold is None else tuple(names.index(label) for label in gold)
        return [Example(texts, pick=Pick("", (), Marks((0,), "each", index)))]
    grammar = Grammar(lambda: _rules(task, tools))
    answer = None if gold is None else tools.ended(_answer_ids(task, tools, gold))
    return [Example(texts, answer_ids=answer, allowed=grammar, source=grammar)]


def _word_ids(task: TaskFile, tools: Tools, lead: str) -> dict[str, list[int]]:
    return {label: tools.tokenizer.encode_plain(lead + words[0].strip()) for label, words in task.words.items()}


def _answer_ids(task: TaskFile, tools: Tools, gold: Sequence[str]) -> list[int]:
    options: Options = task.kind_options
    if not gold:
        return tools.tokenizer.encode_plain(lead(task) + options.none)
    first, later = _word_ids(task, tools, lead(task)), _word_ids(task, tools, " ")
    ids = list(first[gold[0]])
    for label in gold[1:]:
        ids += [*tools.tokenizer.encode_plain(","), *later[label]]
    return ids


def _rules(task: TaskFile, tools: Tools) -> Rules:
    options: Options = task.kind_options
    encode = tools.tokenizer.encode_plain
    ends = (tools.tokenizer.eos_id,) if tools.tokenizer.eos_id is not None else tuple(encode("\n"))
    order = {label: number for number, label in enumerate(task.words)}

    def words(lead: str) -> list[Any]:
        ids_of = _word_ids(task, tools, lead).items()
        return [fixed(label, ids, order[label], order[label] + 1) for label, ids in ids_of]

    pieces = {
        "none": [fixed("none", encode(lead(task) + options.none))],
        "first": words(lead(task)),
        "later": words(" "),
        "more": [fixed("more", encode(","))],
    }
    then = {"none": (END,), "first": ("more", END), "later": ("more", END), "more": ("later",)}
    return Rules(pieces, ("none", "first"), then, ends)


def _question(task: TaskFile, row: Encoded) -> Question[Any]:
    return MarkScores() if isinstance(row.target, AtMarks) else Answers(task.max_new_tokens, (), task.decoding)


def _read(task: TaskFile, row: Encoded, reply: Any, blank_replies: Sequence[Any]) -> Prediction:
    del blank_replies
    if isinstance(row.target, AtMarks):
        shares = tuple(reply[0].sigmoid().tolist())
        labels = tuple(label for label, share in zip(task.words, shares, strict=True) if share > 0.5)
        return Prediction(", ".join(labels), shares, labels, labels=tuple(task.words))
    grammar: Grammar = row.source
    labels = tuple(piece.name for group, piece, _ in grammar.parsed(reply.ids) if group in ("first", "later"))
    return Prediction(", ".join(labels), answer=labels, score=reply.log_likelihood)


def _shown(task: TaskFile, prediction: Prediction) -> dict[str, Any]:
    del task
    return {
        "labels": list(prediction.answer) if isinstance(prediction.answer, tuple) else [],
        **shares_shown(prediction),
    }


def _shot(task: TaskFile, row: Row) -> str | None:
    words = ", ".join(task.words[label][0].strip() for label in _labels(task, row))
    return lead(task) + (words or task.kind_options.none)


KIND = TaskKind(
    name="multilabel",
    title="any number of labels",
    metrics=("multilabel_micro_f1", "multilabel_macro_f1", "subset_accuracy"),
    options=Options,
    check=_check,
    check_model=_check_model,
    target_fields=_target_fields,
    problems=_problems,
    corrections=lambda task, row: respelled(task, _values(task, row) or ()),
    gold=_gold,
    candidates=_candidates,
    examples=_examples,
    question=_question,
    read=_read,
    shot=_shot,
    shown=_shown,
    answer_key="labels",
    part=label_part,
    writes=True,
    for_encoders=lambda task: True,
)
