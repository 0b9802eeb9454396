"""The methods by name. A new method is a new file and one line in `METHODS`."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from overture.core.config import validated
from overture.core.errors import ConfigError
from overture.core.projected import expanded
from overture.core.types import Injection, LabelHead, LayerMemory, Memory, Place, RowMethod, Vectors
from overture.prompt import (
    attempt,
    cartridge,
    cpt,
    deep,
    dept,
    gated,
    idpg,
    late,
    lopa,
    low_rank,
    mpt,
    p_tuning,
    prefix,
    pruned,
    residual,
    split,
    ulpt,
    vectors,
    warp,
)
from overture.prompt.config import PromptConfig
from overture.prompt.inits import start_of
from overture.prompt.labels import has_inner_method, label_start, method_inside, with_labels
from overture.prompt.method import Built, Method, PromptModule, Request
from overture.prompt.source import PromptSource

STATE = "state."
ADAPTER = "adapter."
"""What the names of an adapter's tensors begin with, beside the prompt that it was trained with."""
HEAD = ("head_weight", "head_bias", "label_bias")
KNOWN = {"vectors", "split", "keys", "values", "weights", "labels", "offset", *HEAD}


METHODS: dict[str, Method] = {
    "vectors": vectors.METHOD,
    "prefix": prefix.METHOD,
    "deep": deep.METHOD,
    "p_tuning": p_tuning.METHOD,
    "residual": residual.METHOD,
    "low_rank": low_rank.METHOD,
    "ulpt": ulpt.METHOD,
    "gated": gated.METHOD,
    "warp": warp.METHOD,
    "cpt": cpt.METHOD,
    "dept": dept.METHOD,
    "late": late.METHOD,
    "idpg": idpg.METHOD,
    "lopa": lopa.METHOD,
    "attempt": attempt.METHOD,
    "mpt": mpt.METHOD,
    "pruned": pruned.METHOD,
    "split": split.METHOD,
    "cartridge": cartridge.METHOD,
}


def own_rate(config: PromptConfig) -> float:
    """The learning rate that a prompt takes where none is given.

    Raises:
        ConfigError: no such method, or it cannot enter there.
    """
    return method_of(config).rate(config.place, config.length)


def method_of(config: PromptConfig, is_place_checked: bool = True) -> Method:
    """The method a config names.

    Raises:
        ConfigError: no such method, or it cannot enter there.
    """
    method = METHODS.get(config.method)
    if method is None:
        raise ConfigError("no such method", where="prompt.method", got=config.method, wanted=", ".join(METHODS))
    if is_place_checked and config.place not in method.places:
        others = [name for name, other in METHODS.items() if config.place in other.places]
        raise ConfigError(
            f"method {config.method!r} cannot enter at {config.place!r}",
            where="prompt.place",
            wanted=" or ".join(method.places),
            fix=f"--place {method.places[0]}, or --method {others[0]}",
        )
    return method


def with_refs(config: PromptConfig, changed: Callable[[str], str]) -> PromptConfig:
    """The config with every stored prompt that it names under another reference.

    Args:
        config: names stored prompts as its start, and in those of its options that do so.
        changed: gives the other reference.

    Raises:
        ConfigError: no such method, or such an option is no name.
    """
    method, update = method_of(config), dict[str, Any]()
    if config.init_prompt:
        update["init_prompt"] = changed(config.init_prompt)
    if method.refs:
        own = validated(method.options, config.options, "prompt.options")
        named = {name: getattr(own, name) for name in method.refs if getattr(own, name)}
        found = {name: changed(ref) if isinstance(ref, str) else [*map(changed, ref)] for name, ref in named.items()}
        update["options"] = {**config.options, **found}
    return config.model_copy(update=update)


def method_from(method: str, place: Place, is_memory: bool) -> str:
    """The method that goes on from what another has made: the same where it can, else the plainest at the place.

    Args:
        method: the one that made it.
        place: where it stands.
        is_memory: whether it is keys and values.
    """
    own = METHODS.get(method)
    if own and place in own.places and (own.takes_memory or not is_memory):
        return method
    return plainest_at(place, is_memory)


def plainest_at(place: Place, is_memory: bool, is_late: bool = False) -> str:
    """The first method at a place whose values are vectors (of a layer of its choice), or keys and values."""
    return next(
        name
        for name, one in METHODS.items()
        if place in one.places and (one.takes_memory, one.has_layer) == (is_memory, is_late)
    )


def pruned_method(method: str, place: str) -> str | None:
    """The method of what is left when parts of such a prompt are dropped; None where none can be."""
    found = METHODS[method].pruned if method in METHODS else None
    return found if found and place in METHODS[found].places else None


def open_gates(method: str, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """What a prompt's gates leave open, as ``gates``; nothing for methods without gates."""
    gates = METHODS[method].gates
    return {"gates": gates(tensors)} if gates else {}


def check_effect(config: PromptConfig) -> None:
    """Refuse settings that would change nothing.

    Raises:
        ConfigError: what starts the prompt or its label vectors is set, but not looked at.
    """
    is_asked = "init" in config.model_fields_set
    for init in ("text", "prompt"):
        # Who asks for another start by name, as a search does, need not take back what the task file has.
        if getattr(config, f"init_{init}") and config.init != init and not is_asked:
            raise ConfigError(
                f"init_{init} has no effect on a prompt that starts otherwise",
                where="prompt.init",
                got=config.init,
                wanted=init,
                fix=f"--set prompt.init={init}, or leave init_{init} out",
            )
    own = method_of(config)
    if own.needs_labels and config.labels == "words":
        raise ConfigError(
            f"method {config.method!r} always compares labels with vectors",
            where="prompt.labels",
            got=config.labels,
            fix="leave it out, or --method vectors",
        )
    if own.needs_labels and config.label_rate != PromptConfig().label_rate:
        raise ConfigError(
            f"method {config.method!r} has a rate of its own for label vectors",
            where="prompt.label_rate",
            fix=f"--set prompt.options.label_rate={config.label_rate:g}",
        )


def _check_memory(config: PromptConfig, method: Method, memory: LayerMemory) -> None:
    """Whether a method can start from a stored prompt's keys and values.

    Raises:
        ConfigError: it cannot, or not from their gates.
    """
    is_gated = memory.weights is not None
    if method.takes_weights if is_gated else method.takes_memory:
        return
    able = [name for name, other in METHODS.items() if (other.takes_weights if is_gated else other.takes_memory)]
    raise ConfigError(
        f"method {config.method!r} cannot start from keys and values{' with gates' if is_gated else ''}",
        where="prompt.init_prompt",
        got=config.init_prompt,
        wanted="a stored prompt without gates" if is_gated and method.takes_memory else "a stored prompt of vectors",
        fix=f"--method {' or '.join(able)}",
    )


def build_prompt(config: PromptConfig, source: PromptSource, seed: int) -> Built:
    """A fresh prompt, ready to train; it meets `core.types.PromptMethod` or `core.types.RowMethod`.

    Raises:
        ConfigError: the method, its place or its options do not fit.
    """
    method = method_of(config)
    if method.needs_labels and source.candidates is None:
        raise ConfigError(f"method {config.method!r} needs label words", where="prompt.method", got="a free-text task")
    options = validated(method.options, config.options, "prompt.options")
    own = source.at(config.place)
    start, memory = start_of(config, source, seed)
    if config.init == "prompt" and memory:
        _check_memory(config, method, memory)
    built = method.build(Request(options, config.place, start, own, seed, memory))
    # Labels are read where the decoder writes, wherever the prompt stands.
    if method.needs_labels or not wants_label_vectors(config, source):
        return built
    return with_labels(built, label_start(source), config.label_rate)


def wants_label_vectors(config: PromptConfig, source: PromptSource) -> bool:
    """Whether labels are to be compared with vectors of their own.

    Raises:
        ConfigError: they are, but the task has no labels.
    """
    if config.labels == "auto":
        return source.candidates is not None and not source.predicts_words
    if config.labels == "vectors" and source.candidates is None:
        raise ConfigError("label vectors need labels", where="prompt.labels", got="a free-text task")
    return config.labels == "vectors"


def prompt_tensors(prompt: Any) -> dict[str, Tensor]:
    """A finished prompt as plain tensors for an artifact.

    What made it is folded away, unless the prompt depends on the row: then the method's own state is kept. Vectors are
    kept as fewer numbers where the method has them; `core.projected.expanded` gives the vectors again.
    """
    if isinstance(prompt, RowMethod):
        assert isinstance(prompt, PromptModule)
        return {STATE + name: value.detach() for name, value in prompt.state_dict().items()}
    with torch.no_grad():
        injection: Injection = prompt.injection()
    found = {"labels": injection.labels, "offset": injection.offset}
    if injection.vectors:
        found |= _kept_vectors(prompt, injection.vectors)
    if injection.memory:
        memory = injection.memory.memory
        found |= {"keys": memory.keys, "values": memory.values, "weights": memory.weights}
    if injection.head:
        head = injection.head
        found |= dict(zip(HEAD, (head.weight, head.bias, head.label_bias), strict=True))
    return {name: value.detach() for name, value in found.items() if value is not None}


def _kept_vectors(prompt: Any, vectors: Vectors) -> dict[str, Tensor | None]:
    compact = method_inside(prompt).compact() if isinstance(prompt, PromptModule) else {}
    if 0 < sum(value.numel() for value in compact.values()) < vectors.values.numel():
        return {**compact}
    return {"vectors": vectors.values, "split": vectors.split}


def prompt_from(
    tensors: dict[str, Tensor], config: PromptConfig, source: PromptSource | None = None
) -> Injection | RowMethod:
    """The inverse of `prompt_tensors`.

    Args:
        tensors: of an artifact.
        config: the prompt's, from its manifest.
        source: the model's facts; only prompts that depend on the row need it.

    Raises:
        ConfigError: the tensors are not those of a prompt.
        ArtifactError: vectors cannot be made of what they are kept as.
    """
    if any(name.startswith(ADAPTER) for name in tensors):
        raise ConfigError(
            "this prompt was trained together with an adapter, and without it is another prompt",
            fix="use it whole: overture predict and eval do; here take a prompt that was tuned without --adapter",
        )
    if any(name.startswith(STATE) for name in tensors):
        return _row_prompt(tensors, config, source)
    tensors = expanded(tensors)
    names = set(tensors)
    has_head = names.isdisjoint(HEAD) or names >= {"labels", *HEAD}
    if not names or not names <= KNOWN or ("keys" in names) != ("values" in names) or not has_head:
        raise ConfigError(
            "not the tensors of a prompt", got=", ".join(sorted(tensors)), wanted="some of " + ", ".join(sorted(KNOWN))
        )
    layer = int(config.options.get("layer", 0))
    vectors = None
    if "vectors" in names:
        vectors = Vectors(tensors["vectors"], config.place, layer, split=_split(tensors, config))
    memory = None
    if "keys" in names:
        memory = Memory(LayerMemory(tensors["keys"], tensors["values"], tensors.get("weights")), config.place)
    head = LabelHead(*(tensors[name] for name in HEAD)) if "label_bias" in names else None
    return Injection(vectors, memory, tensors.get("labels"), tensors.get("offset"), head)


def _split(tensors: dict[str, Tensor], config: PromptConfig) -> Tensor | None:
    """Where vectors around the input are split; other vectors are not.

    Raises:
        ConfigError: there is a split where there should be none, or none that fits.
    """
    split, wanted = tensors.get("split"), len(tensors["vectors"]) + 1 if config.place == "around" else None
    if (None if split is None else len(split)) != wanted:
        raise ConfigError("not the tensors of a prompt", got=f"a split at {config.place}", wanted=f"{wanted} numbers")
    return split


def _row_prompt(tensors: dict[str, Tensor], config: PromptConfig, source: PromptSource | None) -> RowMethod:
    assert source is not None, "a prompt that depends on the row is built for a model"
    method = method_of(config)
    options = validated(method.options, config.options, "prompt.options")
    start = torch.zeros(config.length, source.hidden_size)
    # What it was built from may be gone by now, and its values are in the tensors.
    blank = replace(source.at(config.place), prompt=lambda ref: Injection(Vectors(start, "before")))
    prompt = method.build(Request(options, config.place, start, blank, 0))
    own = {name.removeprefix(STATE): value for name, value in tensors.items()}
    if has_inner_method(list(own)) and "labels" in own:
        prompt = with_labels(prompt, torch.zeros_like(own["labels"]), config.label_rate)
    assert isinstance(prompt, PromptModule)
    assert isinstance(prompt, RowMethod)
    wanted = {name: value.shape for name, value in prompt.state_dict().items()}
    if {name: value.shape for name, value in own.items()} != wanted:
        raise ConfigError(f"not the tensors of a {config.method!r} prompt", got=", ".join(sorted(own)))
    prompt.load_state_dict(own)
    return prompt
