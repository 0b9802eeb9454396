"""Prompts that a vLLM server can answer under: which methods, places and lengths."""

from collections.abc import Callable, Mapping
from typing import Any

from overture.core.errors import ConfigError, Problem
from overture.core.injection import Place
from overture.engine.options import is_encoder
from overture.prompt.config import PromptConfig
from overture.prompt.methods import METHODS

_PLACES: tuple[Place, ...] = ("memory", "before")
_GPU_BLOCK, _CPU_BLOCK = 16, 32
"""Tokens of a block of vLLM's cache, as it is started on either device."""


def fitted_to_vllm(values: dict[str, Any], notify: Callable[[str], None] = lambda text: None) -> None:
    """Complete a request so that vLLM can serve the prompt, and keep its columns in blocks of its own.

    A place that is not given becomes one that vLLM can have. The length becomes a whole number of blocks: then vLLM
    keeps the prompt as a whole, and writes it once; at other lengths it writes the rest for each text.

    Args:
        values: the merged request; its prompt is changed.
        notify: called with a sentence about a length that was given and is changed.

    Raises:
        ConfigError: the method, the place or the labels are such that vLLM cannot serve them.
    """
    prompt_values = values.get("prompt") or {}
    if not isinstance(prompt_values, Mapping):
        return
    prompt, problems = dict(prompt_values), list[Problem]()
    method = METHODS.get(str(prompt.get("method") or PromptConfig().method))
    if method is not None:
        places = [place for place in _PLACES if place in method.places]
        if not method.is_cache or not places:
            able = ", ".join(name for name, entry in METHODS.items() if entry.is_cache)
            problems.append(Problem("prompt.method", f"vLLM cannot serve {method.name}", f"one of {able}"))
        elif prompt.get("place") is None:
            prompt["place"] = places[0]
        elif prompt["place"] not in places:
            problems.append(Problem("prompt.place", f"vLLM cannot serve {prompt['place']}", " or ".join(places)))
    if prompt.get("labels") == "vectors":
        problems.append(Problem("prompt.labels", "vLLM reads labels by the model's own words", "words"))
    if values.get("adapter"):
        problems.append(Problem("adapter", "vLLM cannot serve a prompt that goes with an adapter", "leave it out"))
    backbone = values.get("backbone")
    if isinstance(backbone, str) and is_encoder(backbone):
        problems.append(Problem("backbone", f"vLLM serves prompts of decoders, and {backbone} is an encoder"))
    if problems:
        raise ConfigError("this prompt could not be served on vLLM", where="--for", problems=problems)
    block = _GPU_BLOCK if str(values.get("device", "")).startswith("cuda") else _CPU_BLOCK
    length = prompt.get("length")
    if length is None or (type(length) is int and length > 0):
        # A length that is no number is refused with the rest of the request.
        prompt["length"] = -(-(length or PromptConfig().length) // block) * block
    if length not in (None, prompt.get("length")):
        notify(f"prompt.length is {prompt['length']} instead of {length}: whole blocks of {block}, which vLLM keeps")
    values["prompt"] = prompt
