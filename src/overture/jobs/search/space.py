"""The space of a search: methods, places, lengths, rates and wordings to choose from, and one choice of them."""

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from overture.core.config import validated
from overture.core.errors import ConfigError
from overture.core.injection import Place
from overture.core.records.search import Choice
from overture.data.task import Task
from overture.jobs.search.options import SearchRequest
from overture.prompt.config import PromptConfig
from overture.prompt.methods import METHODS
from overture.prompt.registry import fix_of_unknown, own_rate
from overture.train.options import TrainConfig

if TYPE_CHECKING:
    import optuna

Pair = tuple[str, Place]

# Tried where the request names none, best first by docs/log.md. A model may refuse some of them.
PAIRS: tuple[Pair, ...] = (("prefix", "after"), ("vectors", "after"), ("prefix", "memory"), ("vectors", "before"))
NUM_PAIRS = 3
LENGTHS = (5, 10, 20, 50)
RATE_FACTOR = 10.0
_LARGEST_RATE = 10.0


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

    def choice(self) -> Choice:
        """The candidate for tables and results."""
        prompt = self.prompt
        if prompt is None:
            return Choice(method="none", place="", length=0, init="", lr=None, epochs=0)
        return Choice(
            method=prompt.method,
            place=prompt.place,
            length=prompt.length,
            init=prompt.init,
            layer=prompt.options.get("layer"),
            lr=self.train.lr,
            epochs=self.train.epochs,
        )

    def title(self) -> str:
        """A name for people."""
        if self.prompt is None:
            return "no prompt"
        return f"{self.prompt.method}-{self.prompt.place}, P = {self.prompt.length}, lr {self.train.lr:.2g}"


class Space:
    """Everything that may be chosen, once the model and the task are known.

    Args:
        config: the request.
        pairs: methods and places that the model can answer with.
        num_layers: of the model.
        num_rows: training rows.
        rates: the middle of each pair's learning rates; the method's own where it is not given.
    """

    def __init__(
        self,
        config: SearchRequest,
        pairs: Sequence[Pair],
        num_layers: int,
        num_rows: int,
        rates: Mapping[Pair, float] | None = None,
    ) -> None:
        self.config, self.options, self.pairs = config, config.search, tuple(pairs)
        self.num_rows, self.rates = num_rows, dict(rates or {})
        prompt = config.prompt
        if prompt.place == "slots":
            self.lengths: tuple[int, ...] = (prompt.length,)
        elif self.options.length:
            self.lengths = tuple(length for length in self.options.length if length)
        else:
            self.lengths = tuple(sorted({*LENGTHS, prompt.length}))
        self.inits = self.options.init or (prompt.init,)
        inner = tuple(dict.fromkeys(max(1, num_layers * part // 4) for part in (1, 2, 3)))
        self.layers = self.options.layer or inner
        self.epochs = self.options.epochs or (config.train.num_epochs,)
        self.wordings = wordings(config)

    def setting(self, trial: "optuna.trial.Trial", wording: int) -> Setting:
        """The candidate that an Optuna trial chooses, in one wording."""
        method, _, place = trial.suggest_categorical("prompt", [f"{m} {p}" for m, p in self.pairs]).partition(" ")
        length = trial.suggest_categorical("length", self.lengths)
        init = trial.suggest_categorical("init", self.inits)
        epochs = trial.suggest_categorical("epochs", self.epochs)
        options = dict(self.config.prompt.options) if method == self.config.prompt.method else {}
        if has_layer(method):
            options["layer"] = trial.suggest_categorical("layer", self.layers)
        if self.options.lr:
            rate = trial.suggest_float("lr", *self.options.lr, log=True)
        else:
            # A factor and not the rate, so that good rates of one method inform those of the others.
            factor = trial.suggest_float("lr_factor", 1 / RATE_FACTOR, RATE_FACTOR, log=True)
            rate = self.rate((method, place), length) * factor
        changes = {"method": method, "place": place, "length": length, "init": init, "options": options}
        prompt = self.config.prompt.model_copy(update=changes)
        return Setting(prompt, self._train(min(rate, _LARGEST_RATE), epochs), wording)

    def _train(self, rate: float, epochs: int) -> TrainConfig:
        # Only a requested number of epochs means single passes where rows are few.
        epoch_option = {"epochs": epochs} if self.options.epochs else {}
        return self.config.train.model_copy(update={"lr": rate, **epoch_option}).for_rows(self.num_rows)

    @property
    def min_batches(self) -> int:
        """The fewest optimiser steps that an epoch of any candidate has."""
        trains = [self.default().train, *(self._train(1.0, epochs) for epochs in self.epochs)]
        return min(train.num_batches(self.num_rows) for train in trains)

    @property
    def room(self) -> int:
        """The longest prompt that the rows must leave room for."""
        return max(self.config.prompt.length, *self.lengths, 0)

    def default(self) -> Setting:
        """The task file's own setting: always a candidate, even where the space leaves it out."""
        prompt, train = self.config.prompt, self.config.train
        rate = train.lr or own_rate(prompt)
        return Setting(prompt, train.for_rows(self.num_rows).model_copy(update={"lr": rate}))

    def default_params(self) -> dict[str, Any] | None:
        """The task file's own setting as parameters of an Optuna trial; None where the space leaves it out."""
        prompt, train = self.config.prompt, self.default().train
        rate, pair = train.lr or 0.0, (prompt.method, prompt.place)
        middle = self.rate(pair, prompt.length) if pair in self.pairs else rate
        low, high = self.options.lr or (middle / RATE_FACTOR, middle * RATE_FACTOR)
        layer = prompt.options.get("layer")
        is_in_space = (
            pair in self.pairs
            and prompt.length in self.lengths
            and prompt.init in self.inits
            and train in [self._train(rate, epochs) for epochs in self.epochs]
            and low <= rate <= high
            and (not has_layer(prompt.method) or layer in self.layers)
        )
        if not is_in_space:
            return None
        params = {
            "prompt": f"{prompt.method} {prompt.place}",
            "length": prompt.length,
            "init": prompt.init,
            "epochs": train.epochs,
        }
        params |= {"layer": layer} if has_layer(prompt.method) else {}
        return params | ({"lr": rate} if self.options.lr else {"lr_factor": rate / middle})

    def rate(self, pair: Pair, length: int) -> float:
        """The middle of a pair's rates for a prompt of this length; found and given rates are for the task's length."""
        prompt, method = self.config.prompt, METHODS[pair[0]]
        set_rate = self.config.train.lr if pair == (prompt.method, prompt.place) else None
        if middle := self.rates.get(pair, set_rate):
            return middle * method.share(length) / method.share(prompt.length)
        return method.rate(pair[1], length)

    def assignments(self, setting: Setting, seed: int) -> list[str]:
        """The flags of `overture tune` that repeat a candidate from the same task file."""
        prompt, task = setting.prompt, self.wordings[setting.wording].dump()
        assert prompt is not None
        words = ["--method", prompt.method, "--place", prompt.place, "--length", str(prompt.length)]
        values: dict[str, Any] = {"prompt.init": prompt.init, "train.lr": setting.train.lr}
        values |= {"train.epochs": setting.train.epochs, "seed": seed, "seeds": 1}
        if setting.train.num_passes > 1:
            values["train.passes"] = setting.train.passes
        if prompt.options != self.config.prompt.options:
            values["prompt.options"] = prompt.options
        own_task = self.wordings[0].dump()
        values |= {name: task[name] for name in ("template", "labels") if task[name] != own_task[name]}
        for name, value in values.items():
            words += ["--set", f"{name}={json.dumps(value, ensure_ascii=False)}"]
        return [shlex.quote(word) for word in words]


def options_of(prompt: PromptConfig, method: str, layer: int) -> dict[str, Any]:
    """A method's options: the task file's where it is the task file's method, else a layer where it has one."""
    if method == prompt.method:
        return prompt.options
    return {"layer": layer} if has_layer(method) else {}


def has_layer(method: str) -> bool:
    """Whether a method has a layer to choose."""
    return METHODS[method].has_layer


def wordings(config: SearchRequest) -> list[Task]:
    """The task with every template and all label words in turn; the task file's own first.

    Raises:
        ConfigError: they do not fit the task.
    """
    task, options = config.task, config.search
    if options.labels and not task.labels:
        raise ConfigError("label words are for tasks with labels", where="search.labels", got="a free-text task")
    templates = [task.template, *(template for template in options.template if template != task.template)]
    label_words = [task.labels, *(words for words in options.labels if words != task.labels)]
    for words in label_words:
        if words is not None and set(words) != set(task.labels or {}):
            raise ConfigError(
                "label words must be given for the task's labels",
                where="search.labels",
                got=", ".join(words),
                wanted=", ".join(task.labels or {}),
            )
    tasks = []
    for template in templates:
        for words in label_words:
            # In the task's own order: rows hold a label's number.
            words_of_label = {label: words[label] for label in task.labels} if words and task.labels else words
            values = task.model_copy(update={"template": template, "labels": words_of_label}).dump()
            tasks.append(validated(Task, values, "search"))
    if len({task.num_slot_vectors for task in tasks}) > 1:
        raise ConfigError("every wording must hold as many places for the prompt", where="search.template")
    return tasks


def requested_pairs(config: SearchRequest) -> list[Pair]:
    """Methods and places to try, in order, before the model is asked which of them it can answer with.

    Raises:
        ConfigError: no such method, or none can enter at any of the places.
    """
    options, prompt = config.search, config.prompt
    if unknown := [name for name in options.method if name not in METHODS]:
        raise ConfigError(
            "no such method",
            where="search.method",
            got=", ".join(unknown),
            wanted=", ".join(METHODS),
            fix="; ".join(map(fix_of_unknown, unknown)),
        )
    pairs: list[Pair]
    if prompt.place == "slots":
        methods = options.method or (prompt.method,)
        pairs = [(method, "slots") for method in methods if "slots" in METHODS[method].places]
    elif options.method or options.place:
        pairs = [
            (method, place)
            for method in options.method or dict.fromkeys(name for name, _ in PAIRS)
            for place in METHODS[method].places
            if place != "slots" and (not options.place or place in options.place)
        ]
    else:
        pairs = list(dict.fromkeys([(prompt.method, prompt.place), *PAIRS]))
    if not pairs:
        raise ConfigError(
            "none of the methods can enter at any of the places",
            where="search",
            got=f"{', '.join(options.method)} at {', '.join(options.place)}",
            fix="overture methods lists each method's places",
        )
    return pairs
