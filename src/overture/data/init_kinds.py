"""The kind of task that a data file is for, guessed by the names and values of its fields."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from overture.core.errors import DataError
from overture.data.formats.form import Records
from overture.data.init_columns import MAX_LABELS, Column, columns_of
from overture.data.kinds.grammar import units_of
from overture.data.kinds.multilabel import truth
from overture.data.kinds.tagged_rows import span_places
from overture.data.kinds.tags import split_tag
from overture.data.values import as_text, is_missing_word, label_text

_ANSWER_NAMES = ("output", "answer", "answers", "target", "summary", "completion", "response", "reply", "translation")
_TRANSCRIPTS = ("transcription", "transcript", "sentence", "caption", "text")
_QA_ANSWERS = ("answers", "answer", "answer_text")
_SEPARATORS = ("#", "|", ";", ",")
_MISFIT_SHARE = 0.05
_MAX_NAMES = 20


@dataclass(frozen=True)
class Guess:
    """A kind of task with what its task file says.

    Args:
        kind: its name.
        target: the fields that hold the label or the answer, and others that tell it.
        keys: keys of the task file besides its name, data, template and kind.
        end: the end of the template, behind the texts.
        labels: the labels as the data spells them, and how often each occurs.
        shown: the fields that the template shows, if not all that hold texts; the last ones if `is_more` is set.
        is_more: whether other texts stand in front of those that are shown.
        template: the whole template, for chats.
        notes: remarks on doubtful parts of the guess.
    """

    kind: str
    target: Sequence[str]
    keys: dict[str, Any]
    end: str = ""
    labels: Mapping[str, int] = field(default_factory=dict)
    shown: Sequence[str] = ()
    is_more: bool = False
    template: Any = None
    notes: Sequence[str] = field(default=())


def guessed(rows: Records, format: str, where: str) -> Guess:
    """The kind of task that rows are for.

    Args:
        rows: all rows.
        format: the name of their format.
        where: the file, for errors.

    Raises:
        DataError: no field looks like a label or an answer.
    """
    if format in ("messages", "sharegpt") and all("user" in row for row in rows):
        return _of_messages(rows)
    columns = columns_of(rows)
    by_name = {column.name: column for column in columns}
    if format == "alpaca" and "messages" not in by_name:
        inputs = [name for name in ("instruction", "input") if name in by_name and by_name[name].filled]
        return replace(_of_answers(by_name["output"], rows), shown=inputs)
    label_columns = sorted((c for c in columns if c.label_rank is not None), key=lambda c: (c.label_rank, c.name))
    answers = [c for name in _ANSWER_NAMES for c in columns if c.name.strip().lower() == name and c.filled]
    value_columns = sorted((c for c in columns if c.labels), key=lambda c: (c.is_named_text, len(c.labels)))
    guesses: Iterable[Guess | None] = (
        *(guess_of(by_name) for guess_of in (_of_tags, _of_spans, _of_questions, _of_choices, _of_chats)),
        _of_label_lists(by_name),
        *(_of_separated(column) or _of_labels(column, columns) or _of_numbers(column) for column in label_columns),
        _of_one_hot(columns),
        *(_of_labels(column, columns) for column in answers if column.mean_words <= 2),
        *(_of_answers(column, rows) for column in answers),
        *(_of_separated(column) or _of_labels(column, columns) for column in value_columns),
    )
    guess = next((guess for guess in guesses if guess), None)
    if guess is None:
        empty = next((column for column in label_columns if not column.filled), None)
        if empty:
            raise DataError(
                f"no row has a label: the field {empty.name!r} is empty or -1 everywhere",
                where=where,
                got=f"{len(rows):,} rows without a label",
                wanted="labelled rows",
                fix="begin with the file of the training rows; files beside it named validation and test are found",
            )
        unfit = next((column for column in label_columns if column.counts), None)
        if unfit:
            raise DataError(
                f"the labels in the field {unfit.name!r} are too few, or too many for so few rows",
                where=where,
                got=f"labels: {len(unfit.counts)}, rows: {len(rows):,}, first label: {next(iter(unfit.counts))!r:.40}",
                wanted="at least 2 labels, and at least twice as many rows as labels",
                fix="add rows, or write the task file by hand",
            )
        names = [f"{name:.40}" for name in by_name]
        raise DataError(
            "no field looks like a label or an answer",
            where=where,
            got=", ".join(names[:_MAX_NAMES]) + (f" and {len(names) - _MAX_NAMES} more" * (len(names) > _MAX_NAMES)),
            wanted=f"a field with 2 to {MAX_LABELS} values, or one named {', '.join(_ANSWER_NAMES)}",
            fix="name the field label or answer, or write the task file by hand",
        )
    return guess


def transcription(rows: Records) -> Guess | None:
    """The words that belong to images or sounds, where a field holds them and none is a label; None where none does."""
    columns = columns_of(rows)
    if any(column.label_rank is not None for column in columns):
        return None
    words = [c for name in _TRANSCRIPTS for c in columns if c.name.strip().lower() == name and c.filled]
    if not words:
        return None
    guess = _of_answers(words[0], rows)
    # What is right in sounds and images is not what is right in texts: the kind's first metric is reported.
    return replace(guess, keys={key: value for key, value in guess.keys.items() if key != "metric"})


def _all(columns: dict[str, Column], name: str, fits: Callable[[Any], bool]) -> bool:
    return name in columns and all(map(fits, columns[name].values))


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def label_words(labels: Sequence[str]) -> dict[str, str]:
    """A word for each label: its name in small letters with a space in front, unless two would be the same."""
    words = {label: " " + " ".join(label.lower().replace("_", " ").split()) for label in labels}
    if len(set(words.values())) < len(words) or " " in words.values():
        words = {label: f" {label}" for label in labels}
    return words


def _room(longest: str, least: int = 16) -> int:
    """Tokens for a written answer as long as a text: twice what it needs at four letters to a token, in powers of two.

    Letters beyond ASCII may need a token for each of their bytes.
    """
    num_bytes, num_ascii = len(longest.encode(errors="replace")), sum(map(str.isascii, longest))
    return min(512, max(least, 1 << (num_ascii // 2 + num_bytes - num_ascii).bit_length()))


def _template_end(name: str) -> str:
    """The end of a template that asks for a field."""
    return f"{title(name) or 'Label'}:"


# -- labels


def _of_labels(column: Column, columns: Sequence[Column]) -> Guess | None:
    if not column.labels:
        return None
    target = [column.name]
    names = next((c for c in columns if c.name in (f"{column.name}_text", f"{column.name}_name") and c.labels), None)
    if names and len({*zip(column.values, names.values, strict=True)}) == len(names.labels) == len(column.labels):
        # As in SetFit's data sets: numbers beside their names.
        target, column = [names.name, column.name], names
    counts, notes = _without_missing(column)
    if all(re.fullmatch(r"-?\d+(\.0+)?", label) for label in counts):
        notes = [*notes, "the labels are numbers: write label words that say what they mean"]
    keys = {"label_field": column.name, "metric": "accuracy"}
    return Guess("classification", target, keys, _template_end(column.name), counts, notes=notes)


def _without_missing(column: Column) -> tuple[dict[str, int], list[str]]:
    """The labels without values such as NaN, if two others are left, and what was left out or may have to be."""
    missing = [label for label in column.labels if is_missing_word(label)]
    # These two may as well be a label: none of the others, Namibia.
    doubtful = [label for label in missing if label.strip().lower() in ("none", "na")]
    certain = [label for label in missing if label not in doubtful]
    if len(column.labels) - len(certain) < 2:
        doubtful, certain = missing, []
    notes = []
    if certain:
        listing = ", ".join(f"{label!r} ({column.counts[label]})" for label in certain)
        notes = [f"values of {column.name} that mean no label: {listing}; write them into labels if they are labels"]
    if doubtful:
        listing = ", ".join(f"{label!r} ({column.counts[label]})" for label in doubtful)
        notes += [f"labels that may mean no label: {listing}; if so, delete them and set data.drop: [unlabelled]"]
    return {label: column.counts[label] for label in column.labels if label not in certain}, notes


def _of_numbers(column: Column) -> Guess | None:
    numbers = column.numbers
    if len(set(numbers)) < 3:
        return None
    low, high = min(numbers), max(numbers)
    points = {_short(low): " low", _short((low + high) / 2): " medium", _short(high): " high"}
    keys = {"label_field": column.name, "labels": points}
    note = "the labels are numbers: the model's number is the mean of the label words' numbers"
    return Guess("regression", [column.name], keys, _template_end(column.name), notes=[note])


def _short(number: float) -> str:
    return label_text(number) or str(number)


def _several(field_name: str, labels: Iterable[str], options: dict[str, Any], target: Sequence[str] = ()) -> Guess:
    counts = Counter(labels)
    keys: dict[str, Any] = {} if target else {"label_field": field_name}
    keys |= {"options": options} if options else {}
    keys["max_new_tokens"] = _room("".join(f", {label}" for label in counts), 64)
    return Guess("multilabel", target or [field_name], keys, "Labels:", dict(sorted(counts.items())))


def _of_label_lists(columns: dict[str, Column]) -> Guess | None:
    names = ("labels", "label", "classes", "categories", "tags", "topics", "emotions")
    column = next((columns[name] for name in names if _all(columns, name, lambda v: v is None or _is_texts(v))), None)
    if column is None:
        return None
    counts = Counter(label for value in column.filled for label in value)
    if not 2 <= len(counts) <= 4 * MAX_LABELS:
        return None
    if all(len(value) == 1 for value in column.filled):
        if 2 * len(counts) > len(column.filled):
            # Texts of their own in each row are no labels.
            return None
        keys = {"label_field": column.name, "metric": "accuracy"}
        return Guess("classification", [column.name, "label_texts"], keys, "Label:", dict(sorted(counts.items())))
    return _several(column.name, counts.elements(), {})


def _of_separated(column: Column) -> Guess | None:
    """Labels in one text, such as billing#refund: most parts also stand alone, or in several such texts.

    Sentences hold commas as well, but their parts do not come back.
    """
    if column.numbers:
        return None
    for separator in _SEPARATORS:
        cells = [[part.strip() for part in text.split(separator) if part.strip()] for text in column.counts]
        cut = [cell for cell in cells if len(cell) > 1]
        num_cells = Counter(part for cell in cut for part in set(cell))
        partners = {part: {partner for cell in cut if part in cell for partner in cell} - {part} for part in num_cells}
        free = sum(part in column.counts or (num_cells[part] > 1 and len(partners[part]) > 1) for part in num_cells)
        labels = [part for cell in cells for part in cell]
        if cut and 2 <= len(set(labels)) <= 4 * MAX_LABELS and 2 * free >= len(num_cells):
            note = f"cells of {column.name} hold several labels with {separator!r} between them"
            return replace(_several(column.name, labels, {"separator": separator}), notes=[note])
    return None


def _of_one_hot(columns: Sequence[Column]) -> Guess | None:
    """Labels in columns of their own; two such columns might as well be facts about the text."""
    truths = [c for c in columns if c.filled and all(truth(value) is not None for value in c.values)]
    names = [column.name for column in truths if len({truth(value) for value in column.values}) == 2]
    label_columns = [c for c in columns if c.labels and c not in truths and not c.is_named_text]
    if len(names) < (3 if label_columns else 2):
        return None
    return _several("", names, {"one_hot": True}, names)


# -- answers in free text


def _of_answers(column: Column, rows: Records) -> Guess:
    texts_of_rows = [value if isinstance(value, list) else [value] for value in column.values]
    answers = [as_text(text) or "" for texts in texts_of_rows for text in texts]
    keys: dict[str, Any] = {"answer_field": column.name, "metric": "exact_match"}
    if all(isinstance(row.get("references"), list) for row in rows):
        keys |= {"metric": "bleu", "options": {"references_field": "references"}}
    keys["max_new_tokens"] = _room(max(answers, key=len, default=""))
    keys["stop"] = [] if any("\n" in answer.strip() for answer in answers) else ["\n"]
    return Guess("generation", [column.name, "references"], keys, _template_end(column.name) + "\n")


def _of_messages(rows: Records) -> Guess:
    """A question with its answer as chat messages; a system text that never changes stands in the template."""
    systems = {row.get("system") or "" for row in rows}
    text = re.sub(r"[{}]", r"\g<0>\g<0>", str(systems.pop())) if len(systems) == 1 else "{system}"
    messages = [{"role": "system", "content": text}] if text else []
    messages.append({"role": "user", "content": "{user}"})
    guess = _of_answers(Column("assistant", [row["assistant"] for row in rows]), rows)
    return replace(guess, shown=["system", "user"] if text == "{system}" else ["user"], template=messages)


def _of_chats(columns: dict[str, Column]) -> Guess | None:
    """Conversations of several turns."""
    if not _all(columns, "messages", lambda value: isinstance(value, list) and bool(value)):
        return None
    keys = {"max_new_tokens": 256, "stop": []}
    return Guess("chat", ["messages"], keys, shown=["messages"], template="{messages}")


# -- spans, questions, choices


def _of_tags(columns: dict[str, Column]) -> Guess | None:
    tokens = next((name for name in ("tokens", "words") if _all(columns, name, _is_texts)), None)
    tags = next((n for n in ("tags", "ner_tags", "labels") if _all(columns, n, lambda v: isinstance(v, list))), None)
    if tokens is None or tags is None:
        return None
    values = [tag for row in columns[tags].values for tag in row]
    options: dict[str, Any] = {"tokens_field": tokens} if tokens != "tokens" else {}
    options |= {"tags_field": tags} if tags != "tags" else {}
    notes = []
    if values and all(type(tag) is int for tag in values):
        names = _names_of_tags(columns[tags].values)
        options["tag_names"] = names
        values = [names[tag] for tag in values]
        notes = ["the tags are numbers without names: rename the types in labels and options.tag_names"]
    try:
        types = sorted({name for tag in values if (name := split_tag(str(tag))[1])})
    except ValueError:
        if any(len(row) != len(words) for row, words in zip(columns[tags].values, columns[tokens].values, strict=True)):
            return None
        raise DataError(
            f"the tags in the field {tags!r} mark no spans",
            got=", ".join(sorted(map(str, set(values)))[:10]),
            wanted="O, B-person, I-person, ... (or BIOES, BILOU, BMES)",
            fix="choose the column of the tags with data.tag_column in a task file",
        ) from None
    if not types:
        return None
    longest = max((" ".join(row) for row in columns[tokens].values), key=len)
    keys: dict[str, Any] = {"options": options} if options else {}
    keys = {"labels": label_words(types), **keys, "max_new_tokens": _room(longest[: len(longest) // 2], 32)}
    return Guess("tagging", [tags, "spans"], keys, "Entities:", shown=[tokens], notes=notes)


def _names_of_tags(rows: Sequence[Sequence[int]]) -> list[str]:
    """Names for numbers that follow the usual order: O, B-, I-, B-, I-, ...

    Raises:
        DataError: they do not.
    """
    pairs = {(before, tag) for row in rows for before, tag in zip([0, *row], row, strict=False)}
    is_usual = all(tag >= 0 and (tag % 2 or tag == 0 or before in (tag - 1, tag)) for before, tag in pairs)
    if not is_usual:
        raise DataError(
            "the tags are numbers without names",
            got=", ".join(map(str, sorted({tag for _, tag in pairs})[:10])),
            wanted="O, B-person, I-person, ...",
            fix="write the task file by hand, with kind: tagging and options.tag_names: [O, B-person, I-person]",
        )
    most = max((tag for _, tag in pairs), default=0)
    return ["O", *(f"{prefix}-type_{number}" for number in range(1, (most + 1) // 2 + 1) for prefix in "BI")]


def _of_spans(columns: dict[str, Column]) -> Guess | None:
    text = next((name for name in ("text", "data", "sentence", "content") if _all(columns, name, _is_text)), None)
    name = next((name for name in ("spans", "entities", "label", "labels") if _all(columns, name, _is_spans)), None)
    if text is None or name is None:
        return None
    rows = list(zip(columns[text].values, columns[name].values, strict=True))
    marks = [
        (row_text, [_mark(span) for span in spans or ()], span_places(row_text, spans or ()) or [])
        for row_text, spans in rows
    ]
    types = sorted({label for _, spans, _ in marks for _, _, label in spans})
    if not types:
        return None
    options: dict[str, Any] = {"text_field": text} | ({"spans_field": name} if name != "spans" else {})
    notes = []
    if share := _misfit_share([(row_text, *place) for row_text, _, places in marks for place in places]):
        options["within_words"] = True
        notes = [f"{share:.0%} of the spans begin or end within words: options.within_words is set"]
    answers = ["; ".join(f"{label}: {row_text[a:b]}" for a, b, label in spans) for row_text, spans, _ in marks]
    keys = {
        "labels": label_words(types),
        "options": options,
        "max_new_tokens": _room(max(answers, key=len, default=""), 32),
    }
    target = [name, "spans", "tokens", "entities", "label", "labels"]
    return Guess("tagging", target, keys, "Entities:", shown=[text], notes=notes)


def _is_spans(value: Any) -> bool:
    if value is None:
        return True
    return isinstance(value, list) and all(
        isinstance(start, int) and isinstance(end, int) and isinstance(label, str)
        for start, end, label in map(_mark, value)
    )


def _mark(span: Any) -> tuple[Any, Any, Any]:
    """Start, end and label of a span; None where there are none."""
    if isinstance(span, dict):
        return span.get("start"), span.get("end"), span.get("label")
    return (span[0], span[1], span[2]) if isinstance(span, list) and len(span) == 3 else (None, None, None)


def _misfit_share(places: Sequence[tuple[str, int, int]]) -> float:
    """The share of pieces of texts that begin or end within words; 0 if they are so few that they are mistakes."""
    misfits = 0
    for text, start, end in places:
        units = units_of(text)
        piece = text[start:end]
        first, last = start + len(piece) - len(piece.lstrip()), end - len(piece) + len(piece.rstrip())
        misfits += first not in {begin for begin, _ in units} or last not in {stop for _, stop in units}
    share = misfits / len(places) if places else 0.0
    return share if share >= _MISFIT_SHARE else 0.0


def _of_questions(columns: dict[str, Column]) -> Guess | None:
    if not (_all(columns, "context", _is_text) and _all(columns, "question", _is_text)):
        return None
    name = next((name for name in _QA_ANSWERS if name in columns), None)
    if name is None or not all(map(_is_answers, columns[name].values)):
        return None
    if columns[name].labels and columns[name].mean_words <= 1:
        return None
    answers = [_texts(value) for value in columns[name].values]
    pairs = [
        (context, text) for context, texts in zip(columns["context"].values, answers, strict=True) for text in texts
    ]
    options: dict[str, Any] = {}
    notes = []
    if not all(answers):
        options["no_answer"] = "no answer"
    if any(text not in context for context, text in pairs):
        options["mode"] = "generative"
    else:
        if "answer_starts" in columns and all(isinstance(value, list) for value in columns["answer_starts"].values):
            options["starts_field"] = "answer_starts"
        places = [(context, context.index(text), context.index(text) + len(text)) for context, text in pairs]
        if share := _misfit_share(places):
            options["within_words"] = True
            notes = [f"{share:.0%} of the answers begin or end within words: options.within_words is set"]
    keys: dict[str, Any] = {"answer_field": name} | ({"options": options} if options else {})
    target = [name, *_QA_ANSWERS, "answer_starts", "answer_start", "is_impossible"]
    return Guess("qa", target, keys, "Answer:", shown=["context", "question"], is_more=True, notes=notes)


def _is_answers(value: Any) -> bool:
    return (
        value is None
        or _is_text(value)
        or _is_texts(value)
        or (isinstance(value, dict) and _is_texts(value.get("text")))
    )


def _texts(value: Any) -> list[str]:
    texts = value.get("text", []) if isinstance(value, dict) else value if isinstance(value, list) else [value or ""]
    return [text for text in texts if text.strip()]


def _of_choices(columns: dict[str, Column]) -> Guess | None:
    def is_choices(value: Any) -> bool:
        return _is_texts(value) or (isinstance(value, dict) and _is_texts(value.get("text")))

    name = next((name for name in ("choices", "options", "endings") if _all(columns, name, is_choices)), None)
    label = next((name for name in ("label", "answer", "answerKey", "gold", "answer_idx") if name in columns), None)
    if name is None or label is None:
        return None
    options = {"options": {"choices_field": name}} if name != "choices" else {}
    return Guess("choice", [name, label], {"label_field": label, **options}, "Answer:")


def title(name: str) -> str:
    """A field's name as a sentence of the template uses it; empty for a column that is only numbered."""
    if re.fullmatch(r"column_\d+", name):
        return ""
    words = re.sub(r"[_\s{}]+", " ", name).strip()
    return words[:1].upper() + words[1:]
