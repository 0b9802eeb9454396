"""A first task file, guessed from the data, for the user to correct."""

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import yaml

from overture.core.errors import DataError
from overture.core.records.data import notice_texts
from overture.data.formats.form import Records
from overture.data.init_kinds import CHOOSE_DECODER, WRITES_NOTHING, values_for_encoder, values_of_kind
from overture.data.read import SUFFIXES, Table, read_table
from overture.data.task import DataConfig, Task
from overture.data.template import is_field_name
from overture.data.values import as_text, label_text

LabelPlace = Literal["end", "mask", "vectors"]
"""How a model tells labels apart: a word behind the text, a word at a mask, or vectors of their own."""

_LABEL_NAMES = ("label", "labels", "class", "category", "sentiment", "intent", "target")
_ANSWER_NAMES = ("output", "answer", "answers", "target", "summary", "completion", "response")
_TEXT_NAMES = ("text", "sentence", "question", "context", "premise", "hypothesis", "instruction", "input", "document")
_MAX_LABELS = 50
_MAX_TEXTS = 4
_SPLIT_NAMES = {"train": ("train",), "validation": ("validation", "valid", "dev"), "test": ("test",)}


@dataclass(frozen=True, slots=True)
class _Guess:
    """The roles of the fields: those with texts, the one to predict, its labels, and a template other than usual."""

    texts: list[str]
    target: str
    labels: list[str]
    template: list[str] | None = None


def starting_task(
    path: Path,
    folder: Path | None = None,
    backbone: str | None = None,
    place_of: Callable[[Sequence[str]], LabelPlace] = lambda words: "end",
) -> tuple[str, list[str]]:
    """Write a commented task file for some data, with notes on the guesses in it.

    Args:
        path: a data file, or a folder with train, validation and test files.
        folder: the folder of the task file; its data paths are relative to it. The working folder if None.
        backbone: the model that the file names; the default if None.
        place_of: how that model tells labels with such words apart.

    Raises:
        DataError: the data cannot be read, no field looks like a label or an answer, or the model writes no answers.
    """
    sources = _sources(Path(path))
    first = next(iter(sources.values()))
    table = read_table(first)
    rows, notes = table.rows, notice_texts(table.notices)
    stem = first.resolve().parent.name if first.stem == "train" else first.stem
    lines = [f"name: {_quoted(re.sub(r'[^a-z0-9_-]+', '-', stem.lower()).strip('-_')[:64] or 'task')}", ""]
    lines += [_comment(Task, "backbone"), f"backbone: {_quoted(backbone)}", ""] if backbone else []
    lines.append("data:")
    for key, file in sources.items():
        relative = os.path.relpath(file, folder or Path.cwd())
        lines += [f"  {_comment(DataConfig, key)}", f"  {key}: {_quoted(relative)}"]
    for key, value in table.settings.items():
        lines += [f"  {_comment(DataConfig, key)}", f"  {key}: {yaml.safe_dump(value).splitlines()[0]}"]
    if len(sources) < 3:
        notes.append("splits that are not given are drawn from the rows: set data.seed to draw others")

    values = values_of_kind(rows)
    if values:
        notes.append(f"the fields are those of a task of kind {values['kind']}")
        if place_of(()) != "end":
            values = values_for_encoder(values, str(first))
        for key, value in values.items():
            text = yaml.safe_dump({key: value}, sort_keys=False, allow_unicode=True, width=10**9).rstrip()
            lines += ["", _comment(Task, key), text]
        return "\n".join(lines) + "\n", notes

    if table.format == "alpaca":
        has_input = any(row["input"].strip() for row in rows)
        guess = _Guess(["instruction", "input"] if has_input else ["instruction"], "output", [])
    elif table.format in ("messages", "sharegpt"):
        guess = _guess_of_messages(table)
    else:
        guess = _guessed(rows, first, notes)
    words = _words(guess, notes)
    place = place_of(list(words.values()))
    if place != "end" and not words:
        raise DataError(WRITES_NOTHING, where=str(first), got=f"answers in {guess.target!r}", fix=CHOOSE_DECODER)
    lines += [
        "",
        _comment(Task, "template"),
        *(guess.template or [f"template: {_quoted(_template(guess, place))}"]),
        "",
    ]
    lines += [_comment(Task, "read"), "read: mean", ""] if place == "vectors" else []
    if words:
        lines += [_comment(Task, "label_field"), f"label_field: {_quoted(guess.target)}", ""]
        lines += [_comment(Task, "labels"), "labels:"]
        lines += [f"  {_quoted(label)}: {_quoted(word)}" for label, word in words.items()]
        lines += ["", _comment(Task, "metric"), "metric: accuracy"]
    else:
        lines += _answer_lines(guess, rows)
    return "\n".join(lines) + "\n", notes


def _sources(path: Path) -> dict[str, Path]:
    """The files by split; a file whose name names no split is to be split itself."""
    folder, suffix = (path, "") if path.is_dir() else (path.parent, path.suffix)
    if not path.is_dir() and path.stem not in _SPLIT_NAMES["train"]:
        return {"path": path}
    sources: dict[str, Path] = {}
    for split, stems in _SPLIT_NAMES.items():
        files = [folder / f"{stem}{end}" for stem in stems for end in ([suffix] if suffix else SUFFIXES)]
        file = next((file for file in files if file.is_file()), None)
        if file:
            sources[split] = file
    if "train" in sources:
        return sources
    if path.is_dir():
        raise DataError("no training rows in the folder", where=str(path), wanted=f"train{', '.join(SUFFIXES)}")
    return {"path": path}


def _guess_of_messages(table: Table) -> _Guess:
    """A question with its answer as chat messages; a system text that never changes stands in the template."""
    systems = {row["system"] for row in table.rows}
    text = re.sub(r"[{}]", r"\g<0>\g<0>", *systems) if len(systems) == 1 else "{system}"
    system = [f"  - {{role: system, content: {_quoted(text)}}}"] if text else []
    user = f"  - {{role: user, content: {_quoted('{user}')}}}"
    return _Guess(["user"], "assistant", [], ["template:", *system, user])


def _guessed(rows: Records, file: Path, notes: list[str]) -> _Guess:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    unusable = [name for name in columns if not is_field_name(name)]
    if unusable:
        notes.append(f"a template cannot name {', '.join(map(repr, unusable))}; rename the fields to use them")
    labels_of = {name: labels for name in columns if (labels := _labels(rows, name))}

    # The label field if one is called so, else an answer field, else the field with the fewest values.
    by_lower_name = {name.lower(): name for name in reversed(columns)}
    targets = [by_lower_name[name] for name in _LABEL_NAMES if by_lower_name.get(name) in labels_of]
    targets += [by_lower_name[name] for name in _ANSWER_NAMES if name in by_lower_name]
    targets += sorted(labels_of, key=lambda name: len(labels_of[name]))
    if not targets:
        raise DataError(
            "no field looks like a label or an answer",
            where=str(file),
            got=", ".join(columns),
            wanted=f"a field with 2 to {_MAX_LABELS} values, or one of {', '.join(_ANSWER_NAMES)}",
        )
    target = targets[0]
    usable = [name for name in columns if name != target and name not in unusable]
    texts = _texts(rows, [name for name in usable if name not in labels_of]) or _texts(rows, usable)
    if not texts:
        raise DataError("no field holds text", where=str(file), got=", ".join(columns))
    labels = labels_of.get(target, [])
    kind = f"label of {len(labels)} kinds" if labels else "free-text answer"
    notes.append(f"{target!r} is taken for the {kind}, {', '.join(map(repr, texts))} for the text")
    return _Guess(texts, target, labels)


def _labels(rows: Records, name: str) -> list[str]:
    """The values of a field that could be a label, sorted; empty if it could not."""
    values = [row[name] for row in rows if row.get(name) not in (None, "")]
    labels = [label_text(value) for value in values]
    if any(label is None or not label.strip() or "\n" in label for label in labels):
        return []
    if any(isinstance(value, float) and not value.is_integer() for value in values):
        return []
    distinct = {label for label in labels if label is not None}
    return sorted(distinct) if 2 <= len(distinct) <= min(_MAX_LABELS, len(rows) // 2) else []


def _texts(rows: Records, columns: Sequence[str]) -> list[str]:
    """The fields with the longest texts, in file order."""
    lengths: dict[str, float] = {}
    for name in columns:
        values = [row.get(name) for row in rows]
        length = sum(len(value) for value in values if isinstance(value, str)) / len(values)
        if length and all(isinstance(value, str) for value in values):
            lengths[name] = length
    floor = max(lengths.values(), default=0) / 4
    kept = [name for name in lengths if name.lower() in _TEXT_NAMES or lengths[name] >= floor]
    longest = sorted(kept, key=lambda name: -lengths[name])[:_MAX_TEXTS]
    return [name for name in columns if name in longest]


def _template(guess: _Guess, place: LabelPlace) -> str:
    if len(guess.texts) == 1:
        fields = f"{{{guess.texts[0]}}}\n"
    else:
        fields = "".join(f"{_title(name)}: {{{name}}}\n" for name in guess.texts)
    if place == "vectors":
        return fields.rstrip()
    # A label word brings its own space; an answer starts on a line of its own.
    end = "\n" if not guess.labels else " {mask}" if place == "mask" else ""
    return f"{fields}{_title(guess.target)}:{end}"


def _title(name: str) -> str:
    words = re.sub(r"[_\s{}]+", " ", name).strip()
    return words[:1].upper() + words[1:]


def _words(guess: _Guess, notes: list[str]) -> dict[str, str]:
    """A word for each label; none where there are no labels."""
    words = {label: " " + " ".join(label.lower().replace("_", " ").split()) for label in guess.labels}
    if len(set(words.values())) < len(words) or " " in words.values():
        words = {label: f" {label}" for label in guess.labels}
    if guess.labels and all(re.fullmatch(r"-?\d+", label) for label in guess.labels):
        notes.append("the labels are numbers: write label words that say what they mean")
    return words


def _answer_lines(guess: _Guess, rows: Records) -> list[str]:
    values = [row.get(guess.target) for row in rows]
    answers = [as_text(text) or "" for value in values for text in (value if isinstance(value, list) else [value])]
    stops = [] if any("\n" in answer.strip() for answer in answers) else ["\n"]
    longest = max((len(answer) for answer in answers), default=1)
    # English has about four characters to a token; twice that room, in powers of two.
    tokens = min(512, 1 << max(4, (longest // 2).bit_length()))
    has_references = all(isinstance(row.get("references"), list) for row in rows)
    references = [_comment(Task, "options"), "options: {references_field: references}", ""] if has_references else []
    return [
        *(_comment(Task, "answer_field"), f"answer_field: {_quoted(guess.target)}", ""),
        *(_comment(Task, "metric"), f"metric: {'bleu' if has_references else 'exact_match'}", ""),
        *references,
        *(_comment(Task, "max_new_tokens"), f"max_new_tokens: {tokens}", ""),
        *(_comment(Task, "stop"), f"stop: [{', '.join(map(_quoted, stops))}]"),
    ]


def _comment(model: type[Task] | type[DataConfig], field: str) -> str:
    return f"# {model.model_fields[field].description}"


def _quoted(text: str) -> str:
    # Always quoted: YAML would read a bare no, 1e3 or null as something else.
    return yaml.safe_dump(text, default_style='"', allow_unicode=True, width=10**9).strip()
