"""What a search may choose from, and one choice of it."""

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from overture.core.errors import ConfigError
from overture.core.injection import Place
from overture.data.task import Task
from overture.jobs.run.search_config import SearchConfig
from overture.prompt.config import PromptConfig
from overture.prompt.methods import METHODS
from overture.prompt.registry import own_rate
from overture.train.options import TrainConfig

if TYPE_CHECKING:
    import optuna

Pair = tuple[str, Place]

# What is tried when nobody says what: from docs/log.md, best first. A model may refuse some of them.
PAIRS: tuple[Pair, ...] = (("prefix", "after"), ("vectors", "after"), ("prefix", "memory"), ("vectors", "before"))
NUM_PAIRS = 3
LENGTHS = (5, 10, 20, 50)
RATE_FACTOR = 10.0
_LARGEST_RATE = 10.0


class Request(Protocol):
    """What a space is made from: the parts of `study.request.TuneConfig`, which holds a `SearchConfig` itself."""

    @property
    def task(self) -> Task:
        """What is learnt."""
        ...

    @property
    def prompt(self) -> PromptConfig:
        """The task file's own prompt."""
        ...

    @property
    def train(self) -> TrainConfig:
        """Its own training."""
        ...

    @property
    def search(self) -> SearchConfig:
        """What may be chosen."""
        ...


@dataclass(frozen=True, slots=True)
class Setting:
    """One candidate.

    Args:
        prompt: the prompt; None for the model without one, which is length 0.
        train: how it is trained, with a learning rate.
        wording: the number of its template and label words among `Space.wordings`.
    """

    prompt: PromptConfig | None
    train: TrainConfig
    wording: int = 0

    def facts(self) -> dict[str, Any]:
        """What tables tell of it."""
        if self.prompt is None:
            return {"method": "none", "place": "", "length": 0, "init": "", "lr": None, "epochs": 0}
        prompt = self.prompt
        own = {"method": prompt.method, "place": prompt.place, "length": prompt.length, "init": prompt.init}
        layer = {"layer": prompt.options["layer"]} if "layer" in prompt.options else {}
        return {**own, **layer, "lr": self.train.lr, "epochs": self.train.epochs}

    def title(self) -> str:
        """A name for people."""
        if self.prompt is None:
            return "no prompt"
        return f"{self.prompt.method}-{self.prompt.place}, P = {self.prompt.length}, lr {self.train.lr:.2g}"


class Space:
    """What is left to choose from, once the model and the task are known.

    Args:
        config: the request.
        pairs: methods and places that the model can answer with.
        num_layers: of the model.
        num_rows: training rows.
        rates: the middle of each pair's learning rates; the method's own where it is not given.
    """

    def __init__(
        self,
        config: Request,
        pairs: Sequence[Pair],
        num_layers: int,
        num_rows: int,
        rates: Mapping[Pair, float] | None = None,
    ) -> None:
        self.config, self.asked, self.pairs = config, config.search, tuple(pairs)
        self.num_rows, self.rates = num_rows, dict(rates or {})
        own = config.prompt
        if own.place == "slots":
            self.lengths: tuple[int, ...] = (own.length,)
        else:
            given = tuple(length for length in self.asked.length if length)
            self.lengths = given if self.asked.length else _with(LENGTHS, own.length)
        self.inits = self.asked.init or (own.init,)
        inner = tuple(dict.fromkeys(max(1, num_layers * part // 4) for part in (1, 2, 3)))
        self.layers = self.asked.layer or inner
        self.epochs = self.asked.epochs or (config.train.num_epochs,)
        self.wordings = wordings(config)

    def setting(self, trial: "optuna.trial.Trial", wording: int) -> Setting:
        """What a trial chooses, for one wording."""
        method, _, place = trial.suggest_categorical("prompt", [f"{m} {p}" for m, p in self.pairs]).partition(" ")
        length = trial.suggest_categorical("length", self.lengths)
        init = trial.suggest_categorical("init", self.inits)
        epochs = trial.suggest_categorical("epochs", self.epochs)
        options = dict(self.config.prompt.options) if method == self.config.prompt.method else {}
        if has_layer(method):
            options["layer"] = trial.suggest_categorical("layer", self.layers)
        if self.asked.lr:
            rate = trial.suggest_float("lr", *self.asked.lr, log=True)
        else:
            # A factor and not the rate, so that what is learnt of one method's rates serves the others.
            factor = trial.suggest_float("lr_factor", 1 / RATE_FACTOR, RATE_FACTOR, log=True)
            rate = self.rate((method, place), length) * factor
        changed = {"method": method, "place": place, "length": length, "init": init, "options": options}
        prompt = self.config.prompt.model_copy(update=changed)
        return Setting(prompt, self._train(min(rate, _LARGEST_RATE), epochs), wording)

    def _train(self, rate: float, epochs: int) -> TrainConfig:
        # Only a number of epochs that somebody asked for means single passes where rows are few.
        asked = {"epochs": epochs} if self.asked.epochs else {}
        return self.config.train.model_copy(update={"lr": rate, **asked}).for_rows(self.num_rows)

    @property
    def min_batches(self) -> int:
        """The fewest optimiser steps that an epoch of any candidate has."""
        trains = [self.own().train, *(self._train(1.0, epochs) for epochs in self.epochs)]
        return min(train.num_batches(self.num_rows) for train in trains)

    @property
    def room(self) -> int:
        """The longest prompt that the rows must leave room for."""
        return max(self.config.prompt.length, *self.lengths, 0)

    def own(self) -> Setting:
        """The task file's own setting: always a candidate, even where what is to be searched leaves it out."""
        prompt, train = self.config.prompt, self.config.train
        rate = train.lr or own_rate(prompt)
        return Setting(prompt, train.for_rows(self.num_rows).model_copy(update={"lr": rate}))

    def own_params(self) -> dict[str, Any] | None:
        """It as a trial's parameters; None when it is not one of the space's."""
        prompt, train = self.config.prompt, self.own().train
        rate = train.lr or 0.0
        pair = (prompt.method, prompt.place)
        middle = self.rate(pair, prompt.length) if pair in self.pairs else rate
        low, high = self.asked.lr or (middle / RATE_FACTOR, middle * RATE_FACTOR)
        layer = prompt.options.get("layer")
        is_in = (
            pair in self.pairs
            and prompt.length in self.lengths
            and prompt.init in self.inits
            and train in [self._train(rate, epochs) for epochs in self.epochs]
            and low <= rate <= high
            and (not has_layer(prompt.method) or layer in self.layers)
        )
        if not is_in:
            return None
        layers = {"layer": layer} if has_layer(prompt.method) else {}
        rates = {"lr": rate} if self.asked.lr else {"lr_factor": rate / middle}
        named = f"{prompt.method} {prompt.place}"
        return {
            "prompt": named,
            "length": prompt.length,
            "init": prompt.init,
            "epochs": train.epochs,
            **layers,
            **rates,
        }

    def rate(self, pair: Pair, length: int) -> float:
        """The middle of a pair's rates for a prompt of this length; found and given ones are for the task's length."""
        own, method = self.config.prompt, METHODS[pair[0]]
        given = self.config.train.lr if pair == (own.method, own.place) else None
        known = self.rates.get(pair, given)
        return known * method.share(length) / method.share(own.length) if known else method.rate(pair[1], length)

    def assignments(self, setting: Setting, seed: int) -> list[str]:
        """The flags of `overture tune` that repeat a candidate from the same task file."""
        prompt, task = setting.prompt, self.wordings[setting.wording]
        assert prompt is not None
        words = ["--method", prompt.method, "--place", prompt.place, "--length", str(prompt.length)]
        values: dict[str, Any] = {"prompt.init": prompt.init, "train.lr": setting.train.lr}
        values |= {"train.epochs": setting.train.epochs, "seed": seed, "seeds": 1}
        if setting.train.num_passes > 1:
            values["train.passes"] = setting.train.passes
        if prompt.options != self.config.prompt.options:
            values["prompt.options"] = prompt.options
        own = self.wordings[0]
        values |= {name: task.dump()[name] for name in ("template", "labels") if task.dump()[name] != own.dump()[name]}
        for name, value in values.items():
            words += ["--set", f"{name}={json.dumps(value, ensure_ascii=False)}"]
        return [shlex.quote(word) for word in words]


def options_of(own: PromptConfig, method: str, layer: int) -> dict[str, Any]:
    """A method's options: the task file's where it is the task file's method, else a layer where it has one."""
    if method == own.method:
        return own.options
    return {"layer": layer} if has_layer(method) else {}


def has_layer(method: str) -> bool:
    """Whether a method has a layer to choose."""
    return METHODS[method].has_layer


def _with(values: Sequence[int], own: int) -> tuple[int, ...]:
    return tuple(sorted({*values, own}))


def wordings(config: Request) -> list[Task]:
    """The task with every template and all label words in turn; the task file's own first.

    Raises:
        ConfigError: they do not fit the task.
    """
    task, asked = config.task, config.search
    if asked.labels and not task.labels:
        raise ConfigError("label words are for tasks with labels", where="search.labels", got="a free-text task")
    templates = [task.template, *(one for one in asked.template if one != task.template)]
    labels = [task.labels, *(one for one in asked.labels if one != task.labels)]
    for words in labels:
        if words is not None and set(words) != set(task.labels or {}):
            raise ConfigError(
                "label words must be given for the task's labels",
                where="search.labels",
                got=", ".join(words),
                wanted=", ".join(task.labels or {}),
            )
    found = [_reworded(task, template, words) for template in templates for words in labels]
    if len({one.num_slot_vectors for one in found}) > 1:
        raise ConfigError("every wording must hold as many places for the prompt", where="search.template")
    return found


def _reworded(task: Task, template: Any, words: Any) -> Task:
    from overture.core.config import validated

    # In the task's own order: rows hold a label's number.
    ordered = {label: words[label] for label in task.labels} if words and task.labels else words
    values = task.model_copy(update={"template": template, "labels": ordered}).dump()
    return validated(Task, values, "search")


def asked_pairs(config: Request) -> list[Pair]:
    """Methods and places to try, in order, before the model is asked which of them it can answer with.

    Raises:
        ConfigError: no such method, or none can enter at any of the places.
    """
    asked, own = config.search, (config.prompt.method, config.prompt.place)
    if unknown := [name for name in asked.method if name not in METHODS]:
        raise ConfigError("no such method", where="search.method", got=", ".join(unknown), wanted=", ".join(METHODS))
    if config.prompt.place == "slots":
        methods = asked.method or (own[0],)
        found: list[Pair] = [(method, "slots") for method in methods if "slots" in METHODS[method].places]
    elif asked.method or asked.place:
        found = list(_product(asked.method, asked.place))
    else:
        found = list(dict.fromkeys([own, *PAIRS]))
    if not found:
        raise ConfigError(
            "none of the methods can enter at any of the places",
            where="search",
            got=f"{', '.join(asked.method)} at {', '.join(asked.place)}",
            fix="overture methods lists each method's places",
        )
    return found


def _product(methods: Sequence[str], places: Sequence[Place]) -> Iterator[Pair]:
    for method in methods or tuple(dict.fromkeys(name for name, _ in PAIRS)):
        for place in METHODS[method].places:
            if place != "slots" and (not places or place in places):
                yield method, place
