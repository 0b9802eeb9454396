"""Tasks of EleutherAI's lm-evaluation-harness: the common keys of its YAML files.

A choice's word is `target_delimiter` and the choice, so a harness that scores our prompt on the same file scores the
same words. Choices that are a field of the row make a task of kind `choice`. What cannot be said in a task file of
ours is refused when it would change the task, and noted when not.
"""

import ast
import glob
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from overture.core.errors import ConfigError
from overture.data.values import label_text
from overture.exchange.tasks.jinja import Field, Parsed, as_template, list_of_row, parsed
from overture.exchange.tasks.written import (
    OWN_CHOICES,
    Translated,
    labels_of,
    only_field,
    otherwise_read,
    own_choices,
    source_of,
    values_of,
)

_BUILDERS = {"json": None, "csv": "csv", "parquet": "parquet"}
_MAX_INCLUDES = 10
_DATA_KEYS = ("dataset_path", "dataset_name", "dataset_kwargs", "training_split", "validation_split", "test_split")
_TEXT_KEYS = ("description", "doc_to_text", "doc_to_target", "doc_to_choice", "target_delimiter")
_OTHER_KEYS = ("output_type", "generation_kwargs", "metric_list", "include")
_NAMES = ("task", "task_alias", "tag", "group", "metadata")
_SAID_BY_US = frozenset([*_DATA_KEYS, *_TEXT_KEYS, *_OTHER_KEYS, *_NAMES])
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
_METRICS = {"acc": "accuracy", "exact_match": "exact_match"}
# The harness's names for kind choice's ways to compare choices.
_LIKELIHOODS = {"acc": "sum", "acc_norm": "mean"}
_NORM = "acc_norm divides a choice's log-likelihood by its characters; options.likelihood: mean divides by its tokens"
_OTHER_CHOICES = "a constant list, or one field with each row's own"


class _Function(str):
    """Where the YAML file says ``!function module.name``."""


class _Loader(yaml.SafeLoader):
    """Plain YAML; functions are only names."""


def _function(loader: yaml.SafeLoader, node: yaml.Node) -> _Function:
    return _Function(node.value if isinstance(node, yaml.ScalarNode) else "")


_Loader.add_constructor("!function", _function)


def task_of_lm_eval(path: Path, data: Path | None = None) -> Translated:
    """A task of the harness in our words.

    Args:
        path: its YAML file.
        data: a file to take the rows from instead of the task's own data set.

    Raises:
        ConfigError: the file cannot be read, or says what we cannot.
        DataError: local rows cannot be read.
    """
    return _Task(path, _loaded(path), data).translated()


def _loaded(path: Path, depth: int = 0) -> dict[str, Any]:
    """The file's keys over those of the files that it includes."""
    try:
        found = yaml.load(path.read_text(encoding="utf-8-sig"), Loader=_Loader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        raise ConfigError("the task cannot be read as YAML", where=str(path), got=str(error)) from None
    if not isinstance(found, dict):
        raise ConfigError("not a task of the harness", where=str(path), wanted="a mapping with doc_to_text")
    if depth > _MAX_INCLUDES:
        raise ConfigError("files include each other", where=str(path))
    base: dict[str, Any] = {}
    included = found.get("include") or []
    for name in included if isinstance(included, list) else [included]:
        base |= _loaded(path.parent / str(name), depth + 1)
    return {**base, **found}


class _Task:
    def __init__(self, path: Path, found: dict[str, Any], data: Path | None) -> None:
        self.path, self.found, self.own_data, self.notes = path, found, data, list[str]()
        for key in (key for key in _CHANGING if found.get(key)):
            raise self.refused(key, "it changes the rows or the scores by code")
        functions = [key for key, value in found.items() if isinstance(value, _Function)]
        if functions:
            raise self.refused(functions[0], f"!function {found[functions[0]]} is code, and code of files never runs")
        ignored = sorted(set(found) - _SAID_BY_US)
        if ignored:
            self.notes.append(f"ignored: {', '.join(ignored)}")

    def refused(self, key: str, why: str, fix: str = "write the task file by hand") -> ConfigError:
        return ConfigError(
            "the harness's task cannot be translated",
            where=f"{self.path}: {key}",
            got=f"{self.found.get(key)!r:.120}",
            wanted=why,
            fix=fix,
        )

    def translated(self) -> Translated:
        kind = self.found.get("output_type", "generate_until")
        if kind not in ("multiple_choice", "generate_until"):
            raise self.refused("output_type", "multiple_choice or generate_until")
        data = source_of(self.own_data) if self.own_data else self.data()
        values = {"name": self.name(), "data": data, "template": self.template()}
        own = self.own_choices() if kind == "multiple_choice" else None
        if own:
            return Translated(self.with_own_choices(values, own), self.notes)
        values |= self.choices(data) if kind == "multiple_choice" else self.answers()
        return Translated({**values, "metric": self.metric(kind), **self.writing(kind)}, self.notes)

    def name(self) -> str:
        name = str(self.found.get("task") or self.path.stem).lower()
        return re.sub(r"[^a-z0-9_-]+", "-", name).strip("-_")[:64] or "task"

    # -- rows

    def data(self) -> dict[str, Any]:
        dataset = self.found.get("dataset_path")
        options = self.found.get("dataset_kwargs") or {}
        if dataset not in _BUILDERS:
            if not isinstance(dataset, str):
                raise self.refused("dataset_path", "the name of a data set")
            return self.hub(dataset)
        files = options.get("data_files") if isinstance(options, dict) else None
        if not files:
            raise self.refused("dataset_kwargs", "data_files, since the data is local")
        found = files if isinstance(files, dict) else {"train": files}
        paths = {split: self.file(each) for split, each in found.items()}
        form = _BUILDERS[dataset]
        if form is None and any(Path(path).suffix not in (".json", ".jsonl") for path in paths.values()):
            form = "jsonl"
        return {**self.splits(paths), **({"format": form} if form else {})}

    def file(self, name: Any) -> str:
        names = name if isinstance(name, list) else [name]
        if len(names) != 1 or not isinstance(names[0], str) or "://" in names[0] or glob.has_magic(names[0]):
            raise self.refused("dataset_kwargs", "one local file for each split")
        # The harness reads it from the working folder; beside the task is where files are that came with it.
        beside = self.path.parent / names[0]
        return str((beside if beside.exists() else Path(names[0])).resolve())

    def splits(self, paths: dict[str, str]) -> dict[str, str]:
        """Our splits: the harness scores on its test split, or on validation where it has none."""
        roles = {role: self.found.get(f"{role}_split") for role in ("training", "validation", "test")}
        unknown = [f"{split}" for split in roles.values() if split and split not in paths]
        if unknown:
            raise self.refused("dataset_kwargs", f"a file for the split {unknown[0]!r}; parts of splits are not read")
        train = paths.get(str(roles["training"])) if roles["training"] else paths.get("train")
        test = roles["test"] or roles["validation"] or "test"
        if train is None or train == paths.get(test):
            rest = train or next(iter(paths.values()))
            self.notes.append(f"{Path(rest).name} is split: the harness has no rows to train on beside those it scores")
            return {"path": rest}
        found = {"train": train}
        if roles["test"] and roles["validation"] and roles["validation"] in paths:
            found["validation"] = paths[roles["validation"]]
        return found | ({"test": paths[test]} if test in paths else {})

    def hub(self, dataset: str) -> dict[str, Any]:
        expected = {"training": "train", "validation": "validation", "test": "test"}
        for role, name in expected.items():
            split = self.found.get(f"{role}_split")
            if split and split != name:
                raise self.refused(f"{role}_split", f"the split {name!r}", "name a local file of rows as FILE")
        if self.found.get("validation_split") and not self.found.get("test_split"):
            self.notes.append("the harness scores on the split 'validation'; here it chooses, and test rows decide")
        if self.found.get("dataset_kwargs"):
            self.notes.append("ignored: dataset_kwargs")
        subset = self.found.get("dataset_name")
        return {"dataset": dataset, **({"subset": str(subset)} if subset else {})}

    # -- text and answers

    def jinja(self, key: str) -> Parsed:
        text = self.found.get(key)
        if not isinstance(text, str):
            raise self.refused(key, "a template or the name of a field")
        if re.fullmatch(r"\w+", text):
            # The harness takes a text that names a field for the field.
            return Parsed([Field(text)])
        found = parsed(text, f"{self.path}: {key}")
        self.notes += found.notes
        return found

    def template(self) -> str:
        where = f"{self.path}: doc_to_text"
        text = as_template(self.jinja("doc_to_text"), where)
        before = self.found.get("description") or ""
        if not isinstance(before, str) or "{{" in before or "{%" in before:
            raise self.refused("description", "constant text")
        return re.sub(r"[{}]", r"\g<0>\g<0>", before) + text

    def delimiter(self) -> str:
        return str(self.found.get("target_delimiter", " "))

    def target(self) -> Field:
        target = only_field(self.jinja("doc_to_target"))
        if target is None:
            raise self.refused("doc_to_target", "a field, or a list's .index(field)")
        return target

    def choices(self, data: dict[str, Any]) -> dict[str, Any]:
        target = self.target()
        if target.within is not None:
            raise self.refused("doc_to_target", "a field, or a constant list's .index(field)")
        choices = self.list_of_choices()
        is_index = target.is_index
        if target.choices is not None:
            if len(target.choices) != len(choices):
                raise self.refused("doc_to_target", f"as many entries as doc_to_choice has, {len(choices)}")
        else:
            is_index = self.is_index(values_of(data, target.name), choices, target.name)
        names = choices if target.choices is None else list(target.choices)
        words = labels_of(choices, 0, True, self.delimiter())
        labels = words if is_index else dict(zip(names, words.values(), strict=True))
        return {"label_field": target.name, "labels": labels}

    def list_of_choices(self) -> list[str]:
        found = self.found.get("doc_to_choice")
        if isinstance(found, dict):
            found = list(found.values())
        if isinstance(found, str):
            try:
                found = ast.literal_eval(re.sub(r"^\s*\{\{(.*)\}\}\s*$", r"\1", found, flags=re.S))
            except (ValueError, SyntaxError, MemoryError, RecursionError):
                raise self.refused("doc_to_choice", _OTHER_CHOICES) from None
        if not isinstance(found, list) or len(found) < 2:
            raise self.refused("doc_to_choice", _OTHER_CHOICES)
        return [str(choice) for choice in found]

    def is_index(self, values: list[Any], choices: list[str], name: str) -> bool:
        """Whether a label field holds numbers of choices; else it holds the choices."""
        if not values:
            self.notes.append(f"{name!r} is taken for the choice's number, from 0; correct labels if it is not")
            return True
        names = [label_text(value) or "" for value in values]
        if all(isinstance(value, str) and value in choices for value in values):
            return False
        if all(number.isdecimal() and int(number) < len(choices) for number in names):
            return True
        raise self.refused("doc_to_target", f"choices, or their numbers from 0, in the field {name!r}")

    def answers(self) -> dict[str, Any]:
        target = only_field(self.jinja("doc_to_target"))
        if target is None or target.is_chosen:
            raise self.refused("doc_to_target", "one field with the answer")
        return {"answer_field": target.name}

    # -- choices of the rows' own

    def own_choices(self) -> str | None:
        """The field that holds a row's choices; None where they are constant, or more than a field."""
        found = self.found.get("doc_to_choice")
        if not isinstance(found, str):
            return None
        # As in `jinja`: a text that names a field is the field.
        return list_of_row(f"{{{{{found}}}}}" if re.fullmatch(r"\w+", found) else found)

    def with_own_choices(self, values: dict[str, Any], choices: str) -> dict[str, Any]:
        """The task as one of kind `choice`."""
        target = self.target()
        labels = values_of(values["data"], target.name)
        if self.found["doc_to_target"] == target.name and labels and all(isinstance(each, str) for each in labels):
            # Digits are a number where they are rendered; a field that is named is taken as it is.
            target = replace(target, is_index=False)
        found = own_choices(values["template"], choices, target, self.likelihood())
        if found is None:
            raise self.refused("doc_to_choice", OWN_CHOICES)
        made = {**values, **found, "template": self.before_choices(values["template"]), "metric": "accuracy"}
        differs = otherwise_read(made, choices, target, str(self.path))
        if differs:
            raise self.refused("doc_to_target", f"labels that mean the same choice here; {differs}")
        if target.within is None and not labels:
            self.notes.append(f"{target.name!r} is taken for the number of the right choice, its text, label or letter")
        return made

    def before_choices(self, template: str) -> str:
        """The template, with a delimiter other than the space that kind `choice` puts before a choice."""
        delimiter, ends = self.delimiter(), template[-1:].isspace()
        if delimiter == ("" if ends else " "):
            return template
        if not delimiter.strip() and delimiter.endswith("\n"):
            return template + delimiter
        found = repr(delimiter) + (" behind white space" if ends else "")
        raise self.refused("target_delimiter", f"one space between text and choice, or a line's end, not {found}")

    def likelihood(self) -> str:
        """How choices are compared: as the first metric that is known does."""
        listed = self.found.get("metric_list") or [{"metric": "acc"}, {"metric": "acc_norm"}]
        names = [str(each.get("metric")) for each in listed if isinstance(each, dict)]
        known = [name for name in names if name in _LIKELIHOODS] or ["acc"]
        if known[0] == "acc_norm":
            self.notes.append(f"in place of acc_norm: {_NORM}")
        elif "acc_norm" in known:
            self.notes.append(f"not measured: {_NORM}")
        other = [name for name in names if name not in _LIKELIHOODS]
        if other:
            self.notes.append(f"not measured: {', '.join(other)}; the task's metric is accuracy")
        return _LIKELIHOODS[known[0]]

    # -- how it is judged and written

    def metric(self, kind: str) -> str:
        wanted = "accuracy" if kind == "multiple_choice" else "exact_match"
        listed = self.found.get("metric_list") or []
        names = [str(each.get("metric")) for each in listed if isinstance(each, dict)]
        other = [name for name in names if _METRICS.get(name) != wanted]
        if other:
            self.notes.append(f"not measured: {', '.join(other)}; the task's metric is {wanted}")
        return wanted

    def writing(self, kind: str) -> dict[str, Any]:
        options = self.found.get("generation_kwargs") or {}
        if kind == "multiple_choice" or not isinstance(options, dict):
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
