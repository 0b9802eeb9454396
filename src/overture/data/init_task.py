"""A first task file, guessed from the data, for the user to correct."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import Any, Literal

from overture.core.config import validated
from overture.core.errors import DataError
from overture.core.records.data import notice_texts
from overture.core.records.start import DataReport, LeftOut
from overture.data.formats.registry import folder_container
from overture.data.formats.split_names import split_named
from overture.data.init_columns import columns_of, text_fields
from overture.data.init_folder import no_training_rows
from overture.data.init_kinds import Guess, guessed, label_words, title, transcription
from overture.data.init_media import media_field
from overture.data.init_report import data_report
from overture.data.notices import Notices
from overture.data.read import SUFFIXES, Table, parts_of, pattern_of_parts, read_table
from overture.data.row import Row
from overture.data.task import Task
from overture.data.task_rows import is_empty, is_unlabelled, rows_of_table
from overture.data.task_text import slug, task_text
from overture.data.values import clean_label, normal_spelling

LabelPlace = Literal["end", "mask", "vectors"]
"""How a model tells labels apart: a word behind the text, a word at a mask, or vectors of their own."""

MEDIA_BACKBONES = {"image": "facebook/dinov2-small@112px", "audio": "openai/whisper-tiny"}
"""Models that a task of images or of sounds names if the user names none; that of images has no words."""
_WORDLESS_LABELS = (
    "Label to its name, for people: the model reads no words. Or to {words, also}, where also lists other spellings "
    "of the label in the data."
)
_NUM_PLACES = 3
"""Rows that a note names."""
_SPLIT_NAMES = {"train": ("train",), "validation": ("validation", "valid", "dev"), "test": ("test",)}


@dataclass(frozen=True)
class StartedTask:
    """A first task file.

    Args:
        text: the file's text.
        notes: the guesses in it, as sentences.
        report: what the data holds.
    """

    text: str
    notes: list[str]
    report: DataReport


def starting_task(
    path: Path,
    folder: Path | None = None,
    backbone: str | None = None,
    place_of: Callable[[Sequence[str]], LabelPlace] = lambda words: "end",
    name: str | None = None,
    num_tokens: Callable[[Sequence[str]], list[int]] | None = None,
    has_words: bool = True,
) -> StartedTask:
    """Write a commented task file for some data.

    Args:
        path: a data file, or a folder with train, validation and test files.
        folder: the folder of the task file; its data paths are relative to it. The working folder if None.
        backbone: the model that the file names; the default if None.
        place_of: how that model tells labels with such words apart.
        name: the task's name; from the path if None.
        num_tokens: how many tokens texts have for that model; None where its tokenizer is not at hand.
        has_words: whether that model reads words, so that labels are such.

    Raises:
        DataError: the data cannot be read, no field looks like a label or an answer, or the model writes no answers.
    """
    sources = _sources(path)
    first = next(iter(sources.values()))
    tables = {split: read_table(source) for split, source in sources.items()}
    notices = Notices(notice for table in tables.values() for notice in table.notices)
    notes = notice_texts(notices.records())
    rows = [_with_names(row, table) for table in tables.values() for row in table.rows]
    table = next(iter(tables.values()))
    media = media_field(rows)
    beside = [{name: value for name, value in row.items() if media is None or name != media[0]} for row in rows]
    guess = (media and transcription(beside)) or guessed(beside, table.format, str(first))
    # A file called train has its folder's name.
    name_path = path if path.is_dir() else first.parent if first.stem == "train" else Path(first.stem)
    values: dict[str, Any] = {"name": slug(name or name_path.resolve().name)}
    if name is not None and values["name"] != name:
        notes.append(f"the name {name!r} became {values['name']}: names consist of lower-case letters, digits, - and _")
    if media and not backbone:
        backbone = MEDIA_BACKBONES[media[1]]
        has_words = media[1] == "audio"
        notes.append(f"the model is {backbone} of the Hub; name another, or a folder, with --backbone")
    values |= {"backbone": backbone} if backbone else {}
    values["data"] = {**{split: str(source.resolve()) for split, source in sources.items()}, **table.settings}

    texts = list(guess.shown) if guess.shown and not guess.is_more else text_fields(columns_of(rows), guess.target)
    texts = [name for name in texts if name not in guess.target or name in guess.shown]
    if media:
        texts = [media[0]]
        values |= {"input": media[1], **({} if media[0] == media[1] else {"input_field": media[0]})}
    if not texts:
        got, wanted = ", ".join(c.name for c in columns_of(rows)), "a field with texts beside the label or the answer"
        raise DataError("no field holds text", where=str(first), got=got, wanted=wanted)
    # Labels with columns of their own are called as these are.
    has_columns = "one_hot" in guess.keys.get("options", {})
    labels, spellings = (list(guess.labels), {}) if has_columns else _spellings(guess.labels)
    keys = _keys(replace(guess, shown=()) if media else guess, texts, labels, place_of, str(first))
    if not has_words and "labels" in keys:
        keys["labels"] = {label: word.strip() or word for label, word in keys["labels"].items()}
    # A model without words has no template, and others need none.
    values |= {name: value for name, value in keys.items() if not media or name not in ("template", "read")}
    if spellings:
        values["labels"] = _with_spellings(values["labels"], spellings, notes)
    notes += guess.notes
    task = validated(Task, values, str(first))
    rows_of = {split: rows_of_table(task, table, str(sources[split])) for split, table in tables.items()}
    values, task = _with_drops(values, task, rows_of, notes)
    notes += _unread_labels(task, rows_of)
    if len(sources) < 3 and not any(table.splits for table in tables.values()):
        notes.append("splits that are not given are drawn from the rows: set data.seed to draw others")
    used_fields = {*task.columns, *task.target_fields, *guess.target}
    left_out = [
        LeftOut(field=column.name, why=column.why_left_out or "not part of such a task")
        for column in columns_of(beside)
        if column.name not in used_fields
    ]
    report = data_report(task, _by_split(rows_of, tables), left_out, None if media else num_tokens)
    comments = {} if has_words else {"labels": _WORDLESS_LABELS}
    return StartedTask(task_text(values, folder or Path.cwd(), comments), notes, report)


def _sources(path: Path) -> dict[str, Path]:
    """The files by split; a file whose name names no split is to be split itself."""
    if path.is_dir():
        sources = {} if folder_container(path, None) else _named_splits(path, SUFFIXES) or _split_files(path)
    elif pattern := pattern_of_parts(path):
        is_train = "train" in map(split_named, re.split(r"[\W_]+", path.stem))
        return _split_files(path.parent) if is_train else {"path": pattern}
    else:
        sources = _named_splits(path.parent, [path.suffix]) if path.stem in _SPLIT_NAMES["train"] else {}
    return sources or {"path": path}


def _named_splits(folder: Path, ends: Sequence[str]) -> dict[str, Path]:
    """Files, or folders of texts, that have a split's name; none without training rows."""
    sources: dict[str, Path] = {}
    for split, stems in _SPLIT_NAMES.items():
        files = [folder / f"{stem}{end}" for stem in stems for end in ends]
        folders = [folder / stem for stem in stems if (folder / stem).is_dir()]
        candidates = [file for file in files if file.is_file()]
        candidates += [part for part in folders if folder_container(part, None)]
        sources |= {split: candidates[0]} if candidates else {}
    return sources if "train" in sources else {}


def _split_files(folder: Path) -> dict[str, Path]:
    """The files of a folder whose names hold a split's name among others, such as data/train-00000-of-00001.parquet.

    Several files of a split are one pattern if their names differ in numbers alone.
    """
    files_of: dict[str, list[Path]] = {}
    for file in sorted([*folder.iterdir(), *folder.glob("data/*")]):
        splits = {split for word in re.split(r"[\W_]+", file.stem) if (split := split_named(word))}
        if file.suffix.lower() in SUFFIXES and len(splits) == 1:
            files_of.setdefault(splits.pop(), []).append(file)
    for split, files in files_of.items():
        if len(files) > 1:
            pattern = pattern_of(files)
            if pattern is None:
                names = ", ".join(str(file.relative_to(folder)) for file in files[:5])
                raise DataError(
                    f"several files for {split}",
                    where=str(folder),
                    got=f"{names} and {len(files) - 5} more" if len(files) > 5 else names,
                    fix="join them, or name one file",
                )
            files_of[split] = [pattern]
    if "train" not in files_of:
        raise no_training_rows(folder)
    return {split: files_of[split][0] for split in _SPLIT_NAMES if split in files_of}


def pattern_of(files: Sequence[Path]) -> Path | None:
    """The pattern that names these files and no others; None where their names differ in more than numbers."""
    pieces = [re.split(r"(\d+)", file.name) for file in files]
    if len({len(parts) for parts in pieces}) > 1 or len({file.parent for file in files}) > 1:
        return None
    name = "".join(part[0] if len(set(part)) == 1 else "*" for part in zip(*pieces, strict=True))
    pattern = files[0].with_name(name)
    differs_in_numbers = all(len(set(part)) == 1 or part[0].isdigit() for part in zip(*pieces, strict=True))
    return pattern if differs_in_numbers and parts_of(pattern) == sorted(files) else None


def _with_names(row: Mapping[str, Any], table: Table) -> dict[str, Any]:
    """A row with the names that the file has for numbered labels."""

    def named(value: Any, names: Sequence[str]) -> Any:
        if isinstance(value, list):
            return [named(part, names) for part in value]
        if type(value) is not int or not -1 <= value < len(names):
            return value
        return None if value == -1 else names[value]

    return {name: named(value, table.names[name]) if name in table.names else value for name, value in row.items()}


def _spellings(labels: Mapping[str, int]) -> tuple[list[str], dict[str, list[str]]]:
    """Labels that differ by more than their spelling, and the other spellings of each."""
    groups: dict[str, list[str]] = {}
    for label in labels:
        groups.setdefault(normal_spelling(label), []).append(label)
    if len(groups) < 2:
        # There is nothing else to tell apart.
        return list(labels), {}
    # The commonest spelling stays, without odd white space.
    by_label = {
        clean_label(min(group, key=lambda label: (label != clean_label(label), -labels[label], label))): group
        for group in groups.values()
    }
    other_spellings = {
        label: [spelling for spelling in group if spelling != label] for label, group in by_label.items()
    }
    return list(by_label), {label: spellings for label, spellings in other_spellings.items() if spellings}


def _with_spellings(
    words: Mapping[str, Any], spellings: Mapping[str, Sequence[str]], notes: list[str]
) -> dict[str, Any]:
    """The labels' words with the other spellings of each label, which a note lists."""
    listing = "; ".join(f"{label!r} (also {', '.join(map(repr, texts))})" for label, texts in spellings.items())
    notes.append(f"labels that differ in spelling alone are one: {listing}")
    return {
        label: {"words": word, "also": spellings[label]} if label in spellings else word
        for label, word in words.items()
    }


def _keys(
    guess: Guess,
    texts: Sequence[str],
    labels: Sequence[str],
    place_of: Callable[[Sequence[str]], LabelPlace],
    where: str,
) -> dict[str, Any]:
    """The template and all that follows from the kind and from how the model tells labels apart."""
    words = label_words(labels)
    place = place_of(list(words.values()))
    is_choosing = guess.kind in ("classification", "regression")
    keys: dict[str, Any] = {"kind": guess.kind} if guess.kind not in ("classification", "generation") else {}
    keys["template"] = guess.template or _template(guess, texts, place, is_choosing)
    keys |= {"read": "mean"} if place == "vectors" and is_choosing else {}
    keys |= {name: value for name, value in guess.keys.items() if name == "label_field"}
    keys |= {"labels": words} if words else {}
    keys |= guess.keys
    if place != "end" and not is_choosing:
        keys.pop("max_new_tokens", None)
        task = validated(Task, {"name": "task", "data": {"path": where}, **keys}, where)
        if not task.spec.for_encoders(task):
            raise DataError(
                "an encoder writes no answers, and has none to choose from",
                where=where,
                got=f"a task of kind {guess.kind}",
                fix="choose a decoder with --backbone",
            )
    return keys


def _template(guess: Guess, texts: Sequence[str], place: LabelPlace, is_choosing: bool) -> str:
    if guess.is_more:
        # A context stands on its own; the question that is asked of it follows.
        more = [name for name in texts if name not in guess.shown]
        first, last = guess.shown
        body = "".join(f"{title(name)}: {{{name}}}\n" for name in more) + f"{{{first}}}\n{title(last)}: {{{last}}}\n"
    elif len(texts) == 1:
        body = f"{{{texts[0]}}}\n"
    else:
        body = "".join((f"{title(name)}: " if title(name) else "") + f"{{{name}}}\n" for name in texts)
    if place == "vectors" or (place == "mask" and not is_choosing):
        return body.rstrip()
    # A label word brings its own space; an answer starts on a line of its own.
    return f"{body}{guess.end}" + (" {mask}" if place == "mask" else "")


def _with_drops(
    values: dict[str, Any], task: Task, rows_of: Mapping[str, Sequence[Row]], notes: list[str]
) -> tuple[dict[str, Any], Task]:
    """The task with `data.drop` for rows without text or label, if there are any beside good ones."""
    rows = [row for members in rows_of.values() for row in members]
    tests = {"empty": is_empty, "unlabelled": is_unlabelled}
    places_of = {name: [_place(row.where) for row in rows if is_so(task, row)] for name, is_so in tests.items()}
    drop = [name for name, places in places_of.items() if 0 < len(places) < len(rows)]
    if not drop:
        return values, task
    for name in drop:
        places = places_of[name]
        notes.append(f"rows left out by data.drop: {len(places)} {name} ({_first_of(places)})")
    values = {**values, "data": {**values["data"], "drop": drop}}
    return values, validated(Task, values, "data.drop")


def _unread_labels(task: Task, rows_of: Mapping[str, Sequence[Row]]) -> list[str]:
    """A note on rows whose label is none, such as an infinite number, if there are any that `data.drop` keeps."""
    if task.kind not in ("classification", "regression"):
        return []
    rows = [row for members in rows_of.values() for row in members if not is_unlabelled(task, row)]
    problems = [problem for row in rows for problem in task.spec.problems(task, row)]
    if not problems:
        return []
    places = [f"{_place(problem.where)}: {problem.what}" for problem in problems]
    return [f"labels to correct or to empty, for training stops at them: {_first_of(places)}"]


def _place(where: str) -> str:
    """File and line without the folder."""
    return PurePath(where).name


def _first_of(places: Sequence[str]) -> str:
    """The first of many, as a list in a sentence."""
    more = len(places) - _NUM_PLACES
    return ", ".join(places[:_NUM_PLACES]) + (f" and {more} more" if more > 0 else "")


def _by_split(rows_of: Mapping[str, list[Row]], tables: Mapping[str, Table]) -> dict[str, list[Row]]:
    """The rows by the split that a file or a field of it names."""
    by_split: dict[str, list[Row]] = {}
    for name, rows in rows_of.items():
        for row, split in zip(rows, tables[name].splits or [name] * len(rows), strict=True):
            by_split.setdefault(split, []).append(row)
    return by_split
