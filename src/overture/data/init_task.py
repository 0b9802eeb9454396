"""A first task file, guessed from the data, for the user to correct."""

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from overture.core.errors import DataError
from overture.data.formats import SHAPES
from overture.data.formats.form import Rows
from overture.data.init_kinds import CHOOSE_DECODER, WRITES_NOTHING, values_for_encoder, values_of_kind
from overture.data.read import SUFFIXES, Found, read_found
from overture.data.task import DataConfig, Task
from overture.data.template import is_field_name
from overture.data.values import as_text, label_text

_LABEL_NAMES = ("label", "labels", "class", "category", "sentiment", "intent", "target")
_ANSWER_NAMES = ("output", "answer", "answers", "target", "summary", "completion", "response")
_TEXT_NAMES = ("text", "sentence", "question", "context", "premise", "hypothesis", "instruction", "input", "document")
_MAX_LABELS = 50
_MAX_TEXTS = 4
_SPLIT_NAMES = {"train": ("train",), "validation": ("validation", "valid", "dev"), "test": ("test",)}


LabelPlace = Literal["end", "mask", "vectors"]
"""How a model tells labels apart: a word behind the text, a word at a mask, or vectors of their own."""


@dataclass(frozen=True, slots=True)
class _Guess:
    """Which fields play which part, and the lines of a template that is more than their texts."""

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
    """A commented task file for some data, and notes on what was guessed.

    Args:
        path: a data file, or a folder with train, validation and test files.
        folder: where the task file will stand; its data paths are relative to it. The working folder if None.
        backbone: the model that the file names; the default if None.
        place_of: how that model tells labels with such words apart.

    Raises:
        DataError: the data cannot be read, no field looks like a label or an answer, or the model writes no answers.
    """
    sources = _sources(Path(path))
    first = next(iter(sources.values()))
    found = read_found(first)
    rows, notes = found.rows, list(found.notices)
    special = values_of_kind(rows)
    lines = [f"name: {_quoted(_name(first))}", ""]
    lines += [_comment(Task, "backbone"), f"backbone: {_quoted(backbone)}", ""] if backbone else []
    lines.append("data:")
    for key, file in sources.items():
        relative = os.path.relpath(file, folder or Path.cwd())
        lines += [f"  {_comment(DataConfig, key)}", f"  {key}: {_quoted(relative)}"]
    if found.format in SHAPES:
        lines += [f"  {_comment(DataConfig, 'format')}", f"  format: {found.format}"]
    if len(sources) < 3:
        notes.append("splits that are not given are drawn from the rows: set data.seed to draw others")
    if special:
        notes.append(f"the fields are those of a task of kind {special['kind']}")
        if place_of(()) != "end":
            special = values_for_encoder(special, str(first))
        return "\n".join(lines + _special_lines(special)) + "\n", notes
    known = _BY_FORMAT.get(found.format)
    guess = known(found, first) if known else _guessed(rows, first, notes)
    words = _words(guess, notes)
    place = place_of(list(words.values()))
    if place != "end" and not words:
        raise DataError(WRITES_NOTHING, where=str(first), got=f"answers in {guess.target!r}", fix=CHOOSE_DECODER)
    shown = guess.template or [f"template: {_quoted(_template(guess, place))}"]
    lines += ["", _comment(Task, "template"), *shown, ""]
    lines += [_comment(Task, "read"), "read: mean", ""] if place == "vectors" else []
    lines += _label_lines(guess, words) if words else _answer_lines(guess, rows)
    return "\n".join(lines) + "\n", notes


def _special_lines(values: dict[str, Any]) -> list[str]:
    """Values of a task file with what each means."""
    lines: list[str] = []
    for key, value in values.items():
        text = yaml.safe_dump({key: value}, sort_keys=False, allow_unicode=True, width=10**9).rstrip()
        lines += ["", _comment(Task, key), text]
    return lines


def _sources(path: Path) -> dict[str, Path]:
    """The files by split; a file that is not one of several splits is to be split itself."""
    folder, suffix = (path, "") if path.is_dir() else (path.parent, path.suffix)
    if not path.is_dir() and path.stem not in _SPLIT_NAMES["train"]:
        return {"path": path}
    found: dict[str, Path] = {}
    for split, stems in _SPLIT_NAMES.items():
        suffixes = [suffix] if suffix else list(SUFFIXES)
        files = [folder / f"{stem}{end}" for stem in stems for end in suffixes]
        there = next((file for file in files if file.is_file()), None)
        if there:
            found[split] = there
    if "train" in found:
        return found
    if path.is_dir():
        raise DataError("no training rows in the folder", where=str(path), wanted=f"train{', '.join(SUFFIXES)}")
    return {"path": path}


def _of_alpaca(found: Found, file: Path) -> _Guess:
    has_input = any(row["input"].strip() for row in found.rows)
    return _Guess(["instruction", "input"] if has_input else ["instruction"], "output", [])


def _of_messages(found: Found, file: Path) -> _Guess:
    """A question with its answer as chat messages; what the system says stands there if it is always the same."""
    systems = {row["system"] for row in found.rows}
    text = re.sub(r"[{}]", r"\g<0>\g<0>", *systems) if len(systems) == 1 else "{system}"
    system = [f"  - {{role: system, content: {_quoted(text)}}}"] if text else []
    user = f"  - {{role: user, content: {_quoted('{user}')}}}"
    return _Guess(["user"], "assistant", [], ["template:", *system, user])


_BY_FORMAT: dict[str, Callable[[Found, Path], _Guess]] = {
    "alpaca": _of_alpaca,
    "messages": _of_messages,
    "sharegpt": _of_messages,
}


def _guessed(rows: Rows, file: Path, notes: list[str]) -> _Guess:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    unusable = [name for name in columns if not is_field_name(name)]
    if unusable:
        notes.append(f"a template cannot name {', '.join(map(repr, unusable))}; rename the fields to use them")
    few = {name: labels for name in columns if (labels := _labels(rows, name))}
    target = _target(columns, few)
    if target is None:
        raise DataError(
            "no field looks like a label or an answer",
            where=str(file),
            got=", ".join(columns),
            wanted=f"a field with 2 to {_MAX_LABELS} values, or one of {', '.join(_ANSWER_NAMES)}",
        )
    usable = [name for name in columns if name != target and name not in unusable]
    texts = _texts(rows, [name for name in usable if name not in few]) or _texts(rows, usable)
    if not texts:
        raise DataError("no field holds text", where=str(file), got=", ".join(columns))
    labels = few.get(target, [])
    kind = f"label of {len(labels)} kinds" if labels else "free-text answer"
    notes.append(f"{target!r} is taken for the {kind}, {', '.join(map(repr, texts))} for the text")
    return _Guess(texts, target, labels)


def _labels(rows: Rows, name: str) -> list[str]:
    """The values of a field that could be a label, sorted; empty if it could not."""
    found = [row[name] for row in rows if row.get(name) not in (None, "")]
    names = [label_text(value) for value in found]
    if any(label is None or not label.strip() or "\n" in label for label in names):
        return []
    if any(isinstance(value, float) and not value.is_integer() for value in found):
        return []
    distinct = {label for label in names if label is not None}
    return sorted(distinct) if 2 <= len(distinct) <= min(_MAX_LABELS, len(rows) // 2) else []


def _target(columns: Sequence[str], few: dict[str, list[str]]) -> str | None:
    """The label field if one is called so, else an answer field, else the field with the fewest values."""
    lower = {name.lower(): name for name in reversed(columns)}
    labels = [lower[name] for name in _LABEL_NAMES if lower.get(name) in few]
    answers = [lower[name] for name in _ANSWER_NAMES if name in lower]
    others = sorted(few, key=lambda name: len(few[name]))
    return next(iter([*labels, *answers, *others]), None)


def _texts(rows: Rows, columns: Sequence[str]) -> list[str]:
    """The fields with the longest texts, in file order."""
    lengths = {name: _mean_length(rows, name) for name in columns}
    lengths = {name: length for name, length in lengths.items() if length}
    if not lengths:
        return []
    floor = max(lengths.values()) / 4
    kept = [name for name in lengths if name.lower() in _TEXT_NAMES or lengths[name] >= floor]
    longest = sorted(kept, key=lambda name: -lengths[name])[:_MAX_TEXTS]
    return [name for name in columns if name in longest]


def _mean_length(rows: Rows, name: str) -> float:
    """Mean characters; 0 for a field that is not text in every row."""
    values = [row.get(name) for row in rows]
    if not all(isinstance(value, str) for value in values):
        return 0
    return sum(len(str(value)) for value in values) / len(values)


def _name(file: Path) -> str:
    stem = file.resolve().parent.name if file.stem == "train" else file.stem
    return re.sub(r"[^a-z0-9_-]+", "-", stem.lower()).strip("-_")[:64] or "task"


def _template(guess: _Guess, place: LabelPlace) -> str:
    if len(guess.texts) == 1:
        shown = f"{{{guess.texts[0]}}}\n"
    else:
        shown = "".join(f"{_title(name)}: {{{name}}}\n" for name in guess.texts)
    if place == "vectors":
        return shown.rstrip()
    # A label word brings its own space; an answer starts on a line of its own.
    end = "\n" if not guess.labels else " {mask}" if place == "mask" else ""
    return f"{shown}{_title(guess.target)}:{end}"


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


def _label_lines(guess: _Guess, words: dict[str, str]) -> list[str]:
    lines = [_comment(Task, "label_field"), f"label_field: {_quoted(guess.target)}", ""]
    lines += [_comment(Task, "labels"), "labels:", *(f"  {_quoted(k)}: {_quoted(word)}" for k, word in words.items())]
    return [*lines, "", _comment(Task, "metric"), "metric: accuracy"]


def _answer_lines(guess: _Guess, rows: Rows) -> list[str]:
    answers = [text for row in rows for text in _answers(row.get(guess.target))]
    stops = [] if any("\n" in answer.strip() for answer in answers) else ["\n"]
    longest = max((len(answer) for answer in answers), default=1)
    # English has about four characters to a token; twice that room, in powers of two.
    tokens = min(512, 1 << max(4, (longest // 2).bit_length()))
    return [
        *(_comment(Task, "answer_field"), f"answer_field: {_quoted(guess.target)}", ""),
        *_reference_lines(rows),
        *(_comment(Task, "max_new_tokens"), f"max_new_tokens: {tokens}", ""),
        *(_comment(Task, "stop"), f"stop: [{', '.join(map(_quoted, stops))}]"),
    ]


def _reference_lines(rows: Rows) -> list[str]:
    """The metric, and where more texts that count as right are."""
    has_more = all(isinstance(row.get("references"), list) for row in rows)
    metric = [_comment(Task, "metric"), f"metric: {'bleu' if has_more else 'exact_match'}", ""]
    more = [_comment(Task, "options"), "options: {references_field: references}", ""]
    return [*metric, *more] if has_more else metric


def _answers(value: Any) -> list[str]:
    return [as_text(one) or "" for one in (value if isinstance(value, list) else [value])]


def _comment(model: type[Task] | type[DataConfig], field: str) -> str:
    return f"# {model.model_fields[field].description}"


def _quoted(text: str) -> str:
    # Always quoted: YAML would read a bare no, 1e3 or null as something else.
    return yaml.safe_dump(text, default_style='"', allow_unicode=True, width=10**9).strip()
