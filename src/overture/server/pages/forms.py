"""Forms that start commands: fields come from the options' own definitions, and each form stands for a command line."""

import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from overture.core.config import validated
from overture.core.errors import OvertureError
from overture.jobs.compare.options import CompareConfig
from overture.jobs.compare.ways import ways_of
from overture.jobs.run.early import check_early
from overture.jobs.run.request import TuneConfig, check_no_adapter, resolved
from overture.jobs.search.space import requested_pairs, wordings
from overture.jobs.wording.options import HardRequest
from overture.jobs.wording.settings import SECTIONS, Setting, settings_in, settings_of
from overture.prompt.methods import METHODS
from overture.store.store import Store

# What names files, models and other programs is set in the task file, not from a browser.
_LEFT_OUT = frozenset(
    {
        *("prompt.options", "prompt.init_prompt", "train.class_weights", "revision", "track", "device"),
        *("search.labels", "search.template", "hard.sources", "hard.model", "hard.timeout_s"),
        *("settings", "unrelated"),
    }
)
_OF_COMPARISON = "How ways are compared."
Values = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Verb:
    """A command that a form starts.

    Args:
        name: of the command.
        lead: what it does, for people.
        sections: those of the settings that its form shows.
        chief: settings that the form shows first.
        flags: settings that have a flag of the command, ``--yes/--no`` where they are true or false; all others are
            given with ``--set``.
        check: raises what is wrong with a request, as the command itself would; takes the store, the task file, and
            values by key as YAML.
        makes: the comparison that the command makes, from its task's name; empty where it makes a run.
    """

    name: str
    lead: str
    sections: tuple[str, ...]
    chief: tuple[str, ...]
    flags: Mapping[str, str]
    check: Callable[[Store, Path, Mapping[str, str]], None]
    makes: str = ""


def _check_tune(store: Store, task: Path, values: Values) -> None:
    check_early(resolved(TuneConfig, task, {}, _assigned(values)), store)


def _check_search(store: Store, task: Path, values: Values) -> None:
    request = resolved(HardRequest, task, {}, _assigned(values))
    check_no_adapter(request, "search")
    requested_pairs(request)
    wordings(request)
    check_early(request, store)


def _check_compare(store: Store, task: Path, values: Values) -> None:
    settings = {key: yaml.safe_load(text) for key, text in values.items() if key in CompareConfig.model_fields}
    others = {key: text for key, text in values.items() if key not in settings}
    tune = resolved(TuneConfig, task, {}, _assigned(others), prompt_use="as a model")
    check_no_adapter(tune, "compare")
    config = validated(CompareConfig, {**settings, "tune": tune}, "compare")
    if config.ways:
        ways_of(config)
    check_early(tune, store, is_tuned=False)


def _assigned(values: Values) -> list[str]:
    return [f"{key}={text}" for key, text in values.items()]


def _flags(prefix: str, *names: str) -> dict[str, str]:
    return {prefix + name: f"--{name.replace('_', '-')}" for name in names}


_TRAINING = {"train.batch_size": "--batch-size"}
VERBS = {
    verb.name: verb
    for verb in (
        Verb(
            "tune",
            "Tune a prompt.",
            ("prompt", "train", "run"),
            ("prompt.method", "prompt.place", "prompt.length", "train.lr", "train.epochs", "seeds"),
            _flags("prompt.", "method", "place", "length")
            | _flags("train.", "lr", "epochs")
            | _TRAINING
            | _flags("", "seeds", "seed"),
            _check_tune,
        ),
        Verb(
            "search",
            "Choose method, place, length and learning rate by measurement under a budget, or find a prompt of words.",
            ("search", "hard", "train", "run"),
            ("search.form", "search.method", "search.place", "search.length", "search.tunes", "hard.minutes"),
            _flags("search.", "form", "method", "place", "length", "init", "layer", "epochs", "lr")
            | _flags("search.", "tunes", "seconds", "tokens", "money", "price")
            | _flags("hard.", "text", "room", "minutes", "max_tokens")
            | _TRAINING
            | _flags("", "seed"),
            _check_search,
        ),
        Verb(
            "compare",
            "Compare ways to adapt the model: quality, costs, and one sentence of advice.",
            ("compare", "prompt", "train"),
            ("ways", "sizes", "seeds", "budget", "reference", "prompt.length"),
            {"ways": "--way", "sizes": "--size", "is_rate_tuned": "--tune-rates/--default-rates"}
            | _flags("", "seeds", "budget", "price", "watts", "reference", "margin", "min_steps")
            | _flags("prompt.", "length")
            | _TRAINING,
            _check_compare,
            "compare-{name}",
        ),
    )
}
"""The commands that pages start."""


@cache
def settings_for(verb: str) -> dict[str, tuple[str, Setting]]:
    """The settings that a form may set, by their key, with their section."""
    by_section = settings_of() | {"compare": [s for s in settings_in(CompareConfig) if not s.key.startswith("tune.")]}
    return {
        setting.key: (section, setting)
        for section in VERBS[verb].sections
        for setting in by_section[section]
        if setting.key not in _LEFT_OUT
    }


def as_yaml(verb: str, values: Values) -> dict[str, str]:
    """The text of a field in the syntax of a task file; a list may be typed without brackets."""
    settings = settings_for(verb)
    return {
        key: f"[{text}]" if settings[key][1].values.startswith("list:") and not text.startswith("[") else text
        for key, text in values.items()
    }


def words_of(verb: str, task: str, values: Values) -> list[str]:
    """The command line that a form stands for, without the name of the program.

    Args:
        verb: the command.
        task: the task file.
        values: what was filled in, by key.
    """
    words, flags, settings = [verb, task], VERBS[verb].flags, settings_for(verb)
    for key, text in as_yaml(verb, values).items():
        flag = flags.get(key)
        if flag is None:
            words += ["--set", f"{key}={text}"]
        elif "/" in flag:
            words.append(flag.split("/")[text != "true"])
        elif settings[key][1].values.startswith("list:"):
            words += [word for item in text.strip("[]").split(",") if item.strip() for word in (flag, item.strip())]
        else:
            words += [flag, text]
    return words


def checked(verb: str, store: Store, task: str, values: Values) -> OvertureError | None:
    """The error that the command itself would raise for this request; None where there is none."""
    try:
        VERBS[verb].check(store, Path(task), as_yaml(verb, values))
    except OvertureError as error:
        return error
    except yaml.YAMLError:
        return OvertureError("a value cannot be read", wanted="numbers and words, lists with commas between them")
    return None


@dataclass(frozen=True, slots=True)
class FormField:
    """A field of a form.

    Args:
        setting: the key that it sets.
        title: for people.
        choices: what can be chosen; empty for a text.
        value: what is in it.
    """

    setting: Setting
    title: str
    choices: Sequence[str]
    value: str

    @property
    def input_mode(self) -> str:
        """The keys that a telephone shows."""
        return "decimal" if "number" in self.setting.values and not self.is_list else "text"

    @property
    def is_list(self) -> bool:
        """Whether several values may be given."""
        return self.setting.values.startswith("list:")


@dataclass(frozen=True, slots=True)
class RunForm:
    """A form as it is shown.

    Args:
        verb: the command that it starts.
        tasks: task files that can be chosen.
        task: the one that is.
        chief: the fields that come first.
        more: the others, by the title of their section.
        command: the command line that it stands for; empty without a task.
        error: why it cannot be started; None where nothing is known to be wrong.
        is_checked: whether it was checked and can be started.
        verbs: all commands that have a form.
    """

    verb: Verb
    tasks: Sequence[str]
    task: str
    chief: Sequence[FormField]
    more: Mapping[str, Sequence[FormField]]
    command: str = ""
    error: OvertureError | None = None
    is_checked: bool = False
    verbs: Sequence[Verb] = field(default_factory=lambda: list(VERBS.values()))


def form_of_values(verb: str, tasks: Sequence[str], task: str, values: Values, **more: Any) -> RunForm:
    """The form of a command with what was filled in."""
    settings, chief = settings_for(verb), VERBS[verb].chief
    task = task or (tasks[0] if tasks else "")

    def fields(keys: Sequence[str]) -> Iterator[FormField]:
        for key in keys:
            setting = settings[key][1]
            choices = list(METHODS) if key == "prompt.method" else setting.choices
            title = key.rpartition(".")[2].removeprefix("is_").replace("_", " ").replace("lr", "learning rate")
            yield FormField(setting, title[:1].upper() + title[1:], choices, values.get(key, ""))

    others = {
        SECTIONS.get(name, _OF_COMPARISON).partition(".")[0].replace("`", ""): list(
            fields([key for key, (section, _) in settings.items() if section == name and key not in chief])
        )
        for name in VERBS[verb].sections
    }
    command = shlex.join(["overture", *words_of(verb, task, values)]) if task else ""
    groups = {title: some for title, some in others.items() if some}
    return RunForm(VERBS[verb], tasks, task, list(fields(chief)), groups, command, **more)
