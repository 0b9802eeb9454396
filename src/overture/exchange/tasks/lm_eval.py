"""Tasks of EleutherAI's lm-evaluation-harness: the common keys of its YAML files.

A choice's word is `target_delimiter` and the choice, so a harness that scores our prompt on the same file scores the
same words. Choices that are a field of the row make a task of kind `choice`. What cannot be said in a task file of
ours is refused when it would change the task, and noted when not.
"""

import ast
import glob
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from string import ascii_uppercase
from typing import Any

import yaml

from overture.core.config import validated
from overture.core.errors import ConfigError
from overture.core.settings_yaml import BoundedLoader, loaded_yaml
from overture.data.formats.options import FileOptions
from overture.data.read import read_table
from overture.data.row import Row
from overture.data.task import Task
from overture.data.task_file import resolved_path
from overture.data.task_text import slug, task_text
from overture.data.template import parse, slots_in
from overture.data.values import as_text, label_text
from overture.exchange.tasks.jinja import Field, Parsed, as_template, list_of_row, only_field, parsed

_BUILDERS = {"json": None, "csv": "csv", "parquet": "parquet"}
_MAX_INCLUDES = 10
_DATA_KEYS = ("dataset_path", "dataset_name", "dataset_kwargs", "training_split", "validation_split", "test_split")
_TEXT_KEYS = ("description", "doc_to_text", "doc_to_target", "doc_to_choice", "target_delimiter")
_OTHER_KEYS = ("output_type", "generation_kwargs", "metric_list", "include")
_NAMES = ("task", "task_alias", "tag", "group", "metadata")
_READ_KEYS = frozenset([*_DATA_KEYS, *_TEXT_KEYS, *_OTHER_KEYS, *_NAMES])
_CHANGING = (
    "process_docs",
    "process_results",
    "custom_dataset",
    "class",
    "doc_to_image",
    "doc_to_audio",
    "use_prompt",
    "gen_prefix",
    "unsafe_code",
)
_TYPES = {
    **dict.fromkeys(("dataset_path", "training_split", "validation_split", "test_split"), (str, "a name")),
    "metric_list": (list, "a list of metrics"),
}
_METRICS = {"acc": "accuracy", "exact_match": "exact_match"}
# The harness's names for kind choice's ways to compare choices.
_LIKELIHOODS = {"acc": "sum", "acc_norm": "mean"}
_NORM = "acc_norm divides a choice's log-likelihood by its characters; options.likelihood: mean divides by its tokens"
_CHOICES = "a constant list, or one field with each row's own"
_CHOICES_OF_ROW = (
    "a field with a list of texts that the template does not show, and as target its number, text, letter or label"
)


@dataclass(frozen=True, slots=True)
class Translated:
    """A task of the harness as our task file says it.

    Args:
        values: the task file's keys; paths are absolute or relative to the working folder.
        notes: what was left out or assumed.
    """

    values: dict[str, Any]
    notes: list[str] = field(default_factory=list)

    def text(self, where: str, folder: Path) -> str:
        """The text of the task file, with the description of each key as a comment.

        Args:
            where: the translated file, for errors.
            folder: the folder of the task file; data paths are written relative to it.

        Raises:
            ConfigError: the values make no task.
        """
        validated(Task, self.values, where)
        return task_text(self.values, folder)


class _Function(str):
    """The value of a key that says ``!function module.name``."""


class _Loader(BoundedLoader):
    """YAML as the harness reads it; functions are only names."""


_Loader.add_constructor(
    "!function", lambda loader, node: _Function(node.value if isinstance(node, yaml.ScalarNode) else "")
)


def task_of_lm_eval(path: Path, data: Path | None = None) -> Translated:
    """Translate a task of the harness.

    Args:
        path: its YAML file.
        data: a file with rows that replaces the task's own data set.

    Raises:
        ConfigError: the file cannot be read, or our task files cannot express it.
        DataError: local rows cannot be read.
    """
    return _Task(path, _loaded(path), data).translated()


def _loaded(path: Path, depth: int = 0) -> dict[str, Any]:
    """The keys of a file, merged over those of the files that it includes."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise ConfigError("the task cannot be read", where=str(path), got=str(error)) from None
    values = loaded_yaml(text, str(path), _Loader)
    if not isinstance(values, dict):
        raise ConfigError("not a task of the harness", where=str(path), wanted="a mapping with doc_to_text")
    if depth > _MAX_INCLUDES:
        raise ConfigError("files include each other", where=str(path))
    base: dict[str, Any] = {}
    includes = values.get("include") or []
    for name in includes if isinstance(includes, list) else [includes]:
        base |= _loaded(path.parent / str(name), depth + 1)
    return {**base, **values}


class _Task:
    """A task of the harness under translation: its keys, the user's own rows, and the notes so far."""

    def __init__(self, path: Path, keys: dict[str, Any], own_data: Path | None) -> None:
        self.path, self.keys, self.own_data, self.notes = path, keys, own_data, list[str]()
        for key in (key for key in _CHANGING if keys.get(key)):
            raise self.refused(key, "it changes the rows or the scores by code")
        functions = [key for key, value in keys.items() if isinstance(value, _Function)]
        if functions:
            raise self.refused(functions[0], f"!function {keys[functions[0]]} is code, and code of files never runs")
        for key, (kind, expected) in _TYPES.items():
            if keys.get(key) is not None and not isinstance(keys[key], kind):
                raise self.refused(key, expected, "correct the file")
        ignored_keys = sorted(set(keys) - _READ_KEYS)
        if ignored_keys:
            self.notes.append(f"ignored: {', '.join(ignored_keys)}")

    def refused(self, key: str, why: str, fix: str = "write the task file by hand") -> ConfigError:
        return ConfigError(
            "the harness's task cannot be translated",
            where=f"{self.path}: {key}",
            got=f"{self.keys.get(key)!r:.120}",
            wanted=why,
            fix=fix,
        )

    def translated(self) -> Translated:
        kind = self.keys.get("output_type", "generate_until")
        if kind not in ("multiple_choice", "generate_until"):
            raise self.refused("output_type", "multiple_choice or generate_until")
        values: dict[str, Any] = {
            "name": slug(str(self.keys.get("task") or self.path.stem)),
            "data": {"path": str(self.own_data.resolve())} if self.own_data else self.data(),
            "template": self.template(),
        }
        if kind == "generate_until":
            values |= {"answer_field": self.answer_field(), "metric": self.metric("exact_match")}
            return Translated(values | self.generation(), self.notes)
        choices = self.keys.get("doc_to_choice")
        if isinstance(choices, str):
            # The harness takes a text that names a field for the field.
            choices = list_of_row(f"{{{{{choices}}}}}" if re.fullmatch(r"\w+", choices) else choices)
            if choices:
                return Translated(self.with_choices_of_rows(values, choices), self.notes)
        values |= self.labels(values["data"])
        return Translated(values | {"metric": self.metric("accuracy")}, self.notes)

    # -- rows

    def data(self) -> dict[str, Any]:
        dataset: str | None = self.keys.get("dataset_path")
        options = self.keys.get("dataset_kwargs") or {}
        if dataset not in _BUILDERS:
            if dataset is None:
                raise self.refused("dataset_path", "the name of a data set")
            return self.hub(dataset)
        files = options.get("data_files") if isinstance(options, dict) else None
        if not files:
            raise self.refused("dataset_kwargs", "data_files, since the data is local")
        by_split = files if isinstance(files, dict) else {"train": files}
        paths = {split: self.file(name) for split, name in by_split.items()}
        form = _BUILDERS[dataset]
        if form is None and any(Path(path).suffix not in (".json", ".jsonl") for path in paths.values()):
            form = "jsonl"
        return {**self.splits(paths), **({"format": form} if form else {})}

    def file(self, name: Any) -> str:
        names = name if isinstance(name, list) else [name]
        if len(names) != 1 or not isinstance(names[0], str) or "://" in names[0] or glob.has_magic(names[0]):
            raise self.refused("dataset_kwargs", "one local file for each split")
        # The harness reads it from the working folder; files that came with a task lie beside it.
        beside = resolved_path(names[0], f"{self.path}: dataset_kwargs", self.path.parent)
        return beside if os.path.exists(beside) else resolved_path(names[0], f"{self.path}: dataset_kwargs")

    def splits(self, paths: dict[str, str]) -> dict[str, str]:
        """Our splits: the harness scores on its test split, or on validation where it has none."""
        roles = {role: self.keys.get(f"{role}_split") for role in ("training", "validation", "test")}
        unknown = [f"{split}" for split in roles.values() if split and split not in paths]
        if unknown:
            raise self.refused("dataset_kwargs", f"a file for the split {unknown[0]!r}; parts of splits are not read")
        train = paths.get(str(roles["training"])) if roles["training"] else paths.get("train")
        test = roles["test"] or roles["validation"] or "test"
        if train is None or train == paths.get(test):
            path = train or next(iter(paths.values()))
            self.notes.append(f"{Path(path).name} is split: the harness has no rows to train on beside those it scores")
            return {"path": path}
        splits = {"train": train}
        if roles["test"] and roles["validation"] and roles["validation"] in paths:
            splits["validation"] = paths[roles["validation"]]
        return splits | ({"test": paths[test]} if test in paths else {})

    def hub(self, dataset: str) -> dict[str, Any]:
        for role, name in {"training": "train", "validation": "validation", "test": "test"}.items():
            split = self.keys.get(f"{role}_split")
            if split and split != name:
                raise self.refused(f"{role}_split", f"the split {name!r}", "name a local file of rows as FILE")
        if self.keys.get("validation_split") and not self.keys.get("test_split"):
            self.notes.append("the harness scores on the split 'validation'; here it chooses, and test rows decide")
        if self.keys.get("dataset_kwargs"):
            self.notes.append("ignored: dataset_kwargs")
        subset = self.keys.get("dataset_name")
        return {"dataset": dataset, **({"subset": str(subset)} if subset else {})}

    # -- text and answers

    def jinja(self, key: str) -> Parsed:
        text = self.keys.get(key)
        if not isinstance(text, str):
            raise self.refused(key, "a template or the name of a field")
        if re.fullmatch(r"\w+", text):
            return Parsed([Field(text)])
        template = parsed(text, f"{self.path}: {key}")
        self.notes += template.notes
        return template

    def template(self) -> str:
        text = as_template(self.jinja("doc_to_text"), f"{self.path}: doc_to_text")
        description = self.keys.get("description") or ""
        if not isinstance(description, str) or "{{" in description or "{%" in description:
            raise self.refused("description", "constant text")
        return re.sub(r"[{}]", r"\g<0>\g<0>", description) + text

    def delimiter(self) -> str:
        return str(self.keys.get("target_delimiter", " "))

    def target(self) -> Field:
        target = only_field(self.jinja("doc_to_target"))
        if target is None:
            raise self.refused("doc_to_target", "a field, or a list's .index(field)")
        return target

    def answer_field(self) -> str:
        target = only_field(self.jinja("doc_to_target"))
        if target is None or target.is_chosen:
            raise self.refused("doc_to_target", "one field with the answer")
        return target.name

    # -- choices that are the same in every row

    def labels(self, data: dict[str, Any]) -> dict[str, Any]:
        target = self.target()
        if target.within is not None:
            raise self.refused("doc_to_target", "a field, or a constant list's .index(field)")
        choices = self.list_of_choices()
        is_index = target.is_index
        if target.choices is not None:
            if len(target.choices) != len(choices):
                raise self.refused("doc_to_target", f"as many entries as doc_to_choice has, {len(choices)}")
        else:
            is_index = self.is_index(_values_of(data, target.name), choices, target.name)
        names = map(str, range(len(choices))) if is_index else target.choices or choices
        words = [f"{self.delimiter()}{choice}" for choice in choices]
        return {"label_field": target.name, "labels": dict(zip(names, words, strict=True))}

    def list_of_choices(self) -> list[str]:
        choices = self.keys.get("doc_to_choice")
        if isinstance(choices, dict):
            choices = list(choices.values())
        if isinstance(choices, str):
            try:
                choices = ast.literal_eval(re.sub(r"^\s*\{\{(.*)\}\}\s*$", r"\1", choices, flags=re.S))
            except (ValueError, SyntaxError, MemoryError, RecursionError):
                raise self.refused("doc_to_choice", _CHOICES) from None
        if not isinstance(choices, list) or len(choices) < 2:
            raise self.refused("doc_to_choice", _CHOICES)
        return [str(choice) for choice in choices]

    def is_index(self, values: list[Any], choices: list[str], name: str) -> bool:
        """Whether a label field holds the numbers of choices; otherwise it holds the choices."""
        if not values:
            self.notes.append(f"{name!r} is taken for the choice's number, from 0; correct labels if it is not")
            return True
        numbers = [label_text(value) or "" for value in values]
        if all(isinstance(value, str) and value in choices for value in values):
            return False
        if all(number.isdecimal() and int(number) < len(choices) for number in numbers):
            return True
        raise self.refused("doc_to_target", f"choices, or their numbers from 0, in the field {name!r}")

    # -- choices of the rows' own

    def with_choices_of_rows(self, values: dict[str, Any], choices: str) -> dict[str, Any]:
        """The task as one of kind `choice`; `choices` is the field with the choices, as `list_of_row` names it."""
        target = self.target()
        labels = _values_of(values["data"], target.name)
        if self.keys["doc_to_target"] == target.name and labels and all(isinstance(label, str) for label in labels):
            # Digits are a number where they are rendered; a field that is named is taken as it is.
            target = replace(target, is_index=False)
        name, _, part = choices.partition(".")
        count = len(target.choices or ())
        is_field = part in ("", "text") and target.within in (None, choices, f"{name}.label")
        # The harness shows a list in Python's notation, and ours does not.
        is_shown = name in {slot.name for slot in slots_in(parse(values["template"]))}
        # Letters and numbers mean the same to us; any other list has an order of its own.
        orders = (None, tuple(ascii_uppercase[:count]), tuple(map(str, range(count))))
        likelihood = self.likelihood()
        if not is_field or is_shown or target.choices not in orders:
            raise self.refused("doc_to_choice", _CHOICES_OF_ROW)
        values = values | {
            "kind": "choice",
            "label_field": target.name,
            "options": {"choices_field": name, "likelihood": likelihood},
            "template": self.before_choices(values["template"]),
            "metric": "accuracy",
        }
        task = validated(Task, values, str(self.path))
        for row in _rows_of(values["data"]):
            texts, value = _list_in(row, choices), row.fields.get(target.name)
            names = list(target.choices) if target.choices is not None else _list_in(row, target.within or choices)
            text = label_text(value) or ""
            is_number = target.is_index and text.isdecimal()
            index = int(text) if is_number else names.index(text) if text in names else len(texts)
            theirs = texts[index] if index < len(texts) else None
            if theirs is not None and not task.spec.problems(task, row) and task.spec.gold(task, row) != theirs:
                differs = f"{row.where} means {theirs!r:.60} there and {task.spec.gold(task, row)!r:.60} here"
                raise self.refused("doc_to_target", f"labels that mean the same choice here; {differs}")
        if target.within is None and not labels:
            self.notes.append(f"{target.name!r} is taken for the number of the right choice, its text, label or letter")
        return values

    def before_choices(self, template: str) -> str:
        """The template, with a delimiter other than the space that kind `choice` puts before a choice."""
        delimiter, ends_with_space = self.delimiter(), template[-1:].isspace()
        if delimiter == ("" if ends_with_space else " "):
            return template
        if not delimiter.strip() and delimiter.endswith("\n"):
            return template + delimiter
        sign = repr(delimiter) + (" behind white space" if ends_with_space else "")
        raise self.refused("target_delimiter", f"one space between text and choice, or a line's end, not {sign}")

    def likelihood(self) -> str:
        """How choices are compared: as the first known metric does it."""
        metrics = self.keys.get("metric_list") or [{"metric": "acc"}, {"metric": "acc_norm"}]
        names = [str(metric.get("metric")) for metric in metrics if isinstance(metric, dict)]
        known_metrics = [name for name in names if name in _LIKELIHOODS] or ["acc"]
        if known_metrics[0] == "acc_norm":
            self.notes.append(f"instead of acc_norm: {_NORM}")
        elif "acc_norm" in known_metrics:
            self.notes.append(f"not measured: {_NORM}")
        unknown = [name for name in names if name not in _LIKELIHOODS]
        if unknown:
            self.notes.append(f"not measured: {', '.join(unknown)}; the task's metric is accuracy")
        return _LIKELIHOODS[known_metrics[0]]

    # -- scores and generation

    def metric(self, name: str) -> str:
        metrics = self.keys.get("metric_list") or []
        names = [str(metric.get("metric")) for metric in metrics if isinstance(metric, dict)]
        unknown = [harness_name for harness_name in names if _METRICS.get(harness_name) != name]
        if unknown:
            self.notes.append(f"not measured: {', '.join(unknown)}; the task's metric is {name}")
        return name

    def generation(self) -> dict[str, Any]:
        options = self.keys.get("generation_kwargs") or {}
        if not isinstance(options, dict):
            return {}
        if options.get("do_sample") or options.get("temperature"):
            self.notes.append("answers are written greedily: do_sample and temperature are ignored")
        until = options.get("until", ["\n\n"])
        stop = [str(end) for end in (until if isinstance(until, list) else [until]) if end]
        limit = options.get("max_gen_toks") or options.get("max_new_tokens")
        if limit and not str(limit).isdigit():
            self.notes.append(f"max_gen_toks is {limit!r:.40}, which is no number: left out")
            limit = None
        return {"stop": stop, **({"max_new_tokens": int(limit)} if limit else {})}


def _rows_of(data: Mapping[str, Any]) -> list[Row]:
    """At most 1,000 rows of local data; none where the data lies elsewhere."""
    file = data.get("train") or data.get("path")
    if not file:
        return []
    table = read_table(file, FileOptions(format=data.get("format")))
    records = table.rows
    for name in table.names:
        # The harness counts labels.
        records = replace(table, rows=records).numbered(name)
    return [Row(fields, line, str(file)) for fields, line in zip(records[:1000], table.lines, strict=False)]


def _values_of(data: Mapping[str, Any], name: str) -> list[Any]:
    """Values of a field in local data; none where the data lies elsewhere or lacks the field."""
    return [row.fields[name] for row in _rows_of(data) if row.fields.get(name) is not None]


def _list_in(row: Row, path: str) -> list[str]:
    """A list of the row's own as texts; empty where the row has none."""
    name, _, part = path.partition(".")
    value = row.fields.get(name)
    value = value.get(part) if part and isinstance(value, dict) else value
    return [as_text(text) or "" for text in value] if isinstance(value, list) else []
