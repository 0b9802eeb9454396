"""Look-ups and checks on the catalogue of methods; imports no torch."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from overture.core.config import Config, did_you_mean, validated
from overture.core.errors import ConfigError, Problem
from overture.core.injection import Place
from overture.core.records.prompt import OpenGates
from overture.prompt.config import PromptConfig
from overture.prompt.method import Method
from overture.prompt.methods import METHODS
from overture.prompt.plugins import add_file

if TYPE_CHECKING:
    from torch import Tensor


def load_plugin(path: str | Path) -> list[str]:
    """Add the methods of a plug-in file to the catalogue; see docs/write-a-method.md.

    Args:
        path: a Python file; its code runs.

    Returns:
        The names of its methods.

    Raises:
        ConfigError: the file cannot be loaded, or its records are wrong.
    """
    return add_file(METHODS, Path(path))


def own_rate(config: PromptConfig) -> float:
    """The learning rate that a prompt takes where none is given.

    Raises:
        ConfigError: no such method, or it cannot enter there.
    """
    return method_of(config).rate(config.place, config.length)


_OTHER_WAYS = {
    **{
        name: f"this is not a prompt; to measure it: overture compare TASK.yaml --way {name}"
        for name in ("full", "bitfit", "linear", "head", "in-context")
    },
    "lora": "--adapter lora trains LoRA with a prompt; to measure LoRA alone: overture compare TASK.yaml --way lora",
}
"""The fix for each name that is no prompt method but another way to adapt a model."""


def fix_of_unknown(name: str) -> str:
    """The fix for a name that no method has."""
    plugin = "a method of your own: overture --plugin FILE.py ..."
    return _OTHER_WAYS.get(name) or did_you_mean(name, METHODS) or plugin


def method_of(config: PromptConfig, is_place_checked: bool = True) -> Method:
    """The method a config names.

    Raises:
        ConfigError: no such method, or it cannot enter there.
    """
    method = METHODS.get(config.method)
    if method is None:
        raise ConfigError(
            "no such method",
            where="prompt.method",
            got=config.method,
            wanted=", ".join(METHODS),
            fix=fix_of_unknown(config.method),
        )
    if is_place_checked and config.place not in method.places:
        able = [name for name, candidate in METHODS.items() if config.place in candidate.places]
        raise ConfigError(
            f"method {config.method!r} cannot enter at {config.place!r}",
            where="prompt.place",
            wanted=" or ".join(method.places),
            fix=f"--place {method.places[0]}, or --method {able[0]}",
        )
    return method


def checked_options(config: PromptConfig) -> Config:
    """The method's own options.

    Raises:
        ConfigError: no such method, it cannot enter there, or it has no such options.
    """
    method = method_of(config)
    try:
        return validated(method.options, config.options, "prompt.options")
    except ConfigError as error:
        problems = [Problem(f"prompt.options.{item.where}", item.what, item.fix) for item in error.problems]
        raise ConfigError(f"options of method {config.method!r}", where="prompt.options", problems=problems) from None


def with_refs(config: PromptConfig, new_ref: Callable[[str], str]) -> PromptConfig:
    """The config with every stored prompt that it names under another reference.

    Args:
        config: names stored prompts as its start, and in those of its options that do so.
        new_ref: takes a reference and returns the other one.

    Raises:
        ConfigError: no such method, or such an option is no name.
    """
    method, update = method_of(config), dict[str, Any]()
    if config.init_prompt:
        update["init_prompt"] = new_ref(config.init_prompt)
    if method.refs:
        options = validated(method.options, config.options, "prompt.options")
        refs = {name: value for name in method.refs if (value := getattr(options, name))}
        renamed = {name: new_ref(ref) if isinstance(ref, str) else [*map(new_ref, ref)] for name, ref in refs.items()}
        update["options"] = {**config.options, **renamed}
    return config.model_copy(update=update)


def method_from(method: str, place: Place, is_memory: bool) -> str:
    """The method that can start from a stored prompt: the prompt's own, else the plainest one at the place.

    Args:
        method: the stored prompt's.
        place: the stored prompt's.
        is_memory: whether it consists of keys and values.
    """
    record = METHODS.get(method)
    if record and place in record.places and (record.takes_memory or not is_memory):
        return method
    return plainest_at(place, is_memory)


def plainest_at(place: Place, is_memory: bool, is_late: bool = False) -> str:
    """The first method at a place whose values are vectors (of a layer of its choice), or keys and values."""
    return next(
        name
        for name, method in METHODS.items()
        if place in method.places and (method.takes_memory, method.has_layer) == (is_memory, is_late)
    )


def pruned_method(method: str, place: str) -> str | None:
    """The method of a prompt of which parts were dropped; None where a prompt of this method cannot be pruned."""
    pruned = METHODS[method].pruned if method in METHODS else None
    return pruned if pruned and place in METHODS[pruned].places else None


def open_gates(method: str, tensors: "Mapping[str, Tensor]") -> OpenGates | None:
    """How many layers and columns a prompt's gates leave open; None for methods without gates."""
    if not METHODS[method].has_gates:
        return None
    gates: OpenGates = METHODS[method].maths.open_gates(tensors)
    return gates


def check_effect(config: PromptConfig) -> None:
    """Refuse settings that would change nothing.

    Raises:
        ConfigError: a start or an option of label vectors is set that the prompt does not use.
    """
    is_init_set = "init" in config.model_fields_set
    for init in ("text", "prompt"):
        # A search sets another init over a task file whose init_text stays.
        if getattr(config, f"init_{init}") and config.init != init and not is_init_set:
            raise ConfigError(
                f"init_{init} has no effect when init is {config.init!r}",
                where="prompt.init",
                got=config.init,
                wanted=init,
                fix=f"--set prompt.init={init}, or leave init_{init} out",
            )
    method = method_of(config)
    if method.needs_labels and config.labels == "words":
        raise ConfigError(
            f"method {config.method!r} always compares labels with vectors",
            where="prompt.labels",
            got=config.labels,
            fix="leave it out, or --method vectors",
        )
    if method.in_captions and config.labels == "vectors":
        raise ConfigError(
            f"method {config.method!r} compares images with the labels' words",
            where="prompt.labels",
            got=config.labels,
            fix="leave it out, or --method deep",
        )
    if method.in_captions and config.label_rate != PromptConfig().label_rate:
        raise ConfigError(
            f"method {config.method!r} trains no label vectors",
            where="prompt.label_rate",
            fix="leave it out",
        )
    if method.needs_labels and config.label_rate != PromptConfig().label_rate:
        raise ConfigError(
            f"method {config.method!r} has a rate of its own for label vectors",
            where="prompt.label_rate",
            fix=f"--set prompt.options.label_rate={config.label_rate:g}",
        )
