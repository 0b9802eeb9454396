"""Starting points of a prompt: functions that return token-like vectors [P, D].

Methods that train memory start from the keys and values of these vectors in the frozen model.

Source: Lester et al. 2021, section 3.2 (random, sampled vocabulary, class labels); Li and Liang 2021, section 7.4 (real
words' activations). Deviation: `random` has the vocabulary's own length of vector instead of a fixed range, because a
unit normal is fifty times too long for most models. `null` is the token that ends texts, for each vector, with a
hundredth of `random` added. `patches` are positions of training rows, drawn at random, as they enter each layer (Wang
et al. 2024, "Revisiting the Power of Prompt for Visual Tuning"), since images have no vocabulary. At `memory`, where
the prompt begins the sequence, `text` begins with the model's start token if it has one; elsewhere it does not: the
row's own start token stands before it, or begins the text behind it.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from overture.core.errors import ConfigError
from overture.core.injection import LayerMemory
from overture.core.seeds import derived_seed, named_random
from overture.prompt.config import PromptConfig
from overture.prompt.source import PromptSource

NOISE = 0.01
"""Length of the noise on a null token's vectors, in vocabulary vectors."""


def start_of(config: PromptConfig, source: PromptSource, seed: int) -> tuple[Tensor, LayerMemory | None, Tensor | None]:
    """A prompt's start: vectors, float32 [P, D], and keys and values and each layer's vectors, where it has them.

    Args:
        config: names the start, its text or stored prompt, and the length.
        source: the frozen model's facts; the prompt starts at the side of an encoder-decoder that its place is in.
        seed: the run's seed.

    Raises:
        ConfigError: ``text`` without a text, ``labels`` without label words, ``null`` without such a token, ``prompt``
            without one that fits, or any of the first three for a model without words.
    """
    if config.init == "prompt":
        return *_stored_start(config, source, seed), None
    source = source.at(config.place)
    if config.init in ("text", "labels", "null") and not source.has_words:
        raise ConfigError(
            "this model has no words that a prompt could start from",
            where="prompt.init",
            got=config.init,
            fix="--set prompt.init=patches",
        )
    if config.init == "patches" or (config.init == "vocabulary" and not source.has_words):
        states = source.states(config.length, named_random(seed, "init")).detach().float().clone()
        return states[0], source.memory_of_layers(states).map(torch.Tensor.detach), states
    start = INITS[config.init](config.length, config.init_text, source, seed)
    if config.init == "text" and config.place == "memory":
        start = _behind_start_tokens(start, source)
    memory = None
    if config.init == "zero":
        zeros = torch.zeros(source.num_layers, source.num_heads, config.length, source.head_dim)
        memory = LayerMemory(zeros, zeros)
    return start.detach().float().clone(), memory, None


def _behind_start_tokens(text_PD: Tensor, source: PromptSource) -> Tensor:
    """The text's vectors behind the model's start tokens, in the same length.

    Attention rests on the first token; without a start token `cartridge` would freeze one of the text's own.
    """
    bos = list(source.bos_ids)
    return torch.cat([source.embed(bos).to(text_PD), text_PD[: -len(bos)]]) if 0 < len(bos) < len(text_PD) else text_PD


def _stored_start(config: PromptConfig, source: PromptSource, seed: int) -> tuple[Tensor, LayerMemory | None]:
    """A stored prompt: its vectors repeated or cut to the length, or its keys and values as they are."""
    if not config.init_prompt:
        raise ConfigError(
            "initialisation by a prompt needs its name", where="prompt.init_prompt", fix="--set prompt.init_prompt=NAME"
        )
    stored_prompt = source.prompt(config.init_prompt)
    if stored_prompt.vectors:
        values = stored_prompt.vectors.values.detach().float()
        return values[torch.arange(config.length) % len(values)].clone(), None
    if not stored_prompt.memory:
        raise ConfigError("this prompt has no vectors to start from", where="prompt.init_prompt")
    memory, side = stored_prompt.memory.memory, source.at(config.place)
    if source.at(stored_prompt.memory.place) is not side:
        raise ConfigError(
            "keys and values of an encoder cannot start a prompt of its decoder, nor the reverse",
            where="prompt.init_prompt",
            got=f"a prompt at {stored_prompt.memory.place}",
            fix=f"--place {stored_prompt.memory.place}",
        )
    if memory.length != config.length:
        raise ConfigError(
            "a stored prompt of keys and values can start only a prompt of the same length",
            where="prompt.length",
            got=str(config.length),
            wanted=str(memory.length),
            fix=f"--length {memory.length}",
        )
    return _vocabulary(config.length, "", side, seed).detach().float().clone(), memory


def _zero(length: int, text: str, source: PromptSource, seed: int) -> Tensor:
    del text, seed
    return torch.zeros(length, source.hidden_size)


def _random(length: int, text: str, source: PromptSource, seed: int) -> Tensor:
    del text
    generator = torch.Generator().manual_seed(derived_seed(seed, "init"))
    unit = torch.randn(length, source.hidden_size, generator=generator)
    return unit * source.embedding_norm / source.hidden_size**0.5


def _vocabulary(length: int, text: str, source: PromptSource, seed: int) -> Tensor:
    del text
    return source.sample(length, named_random(seed, "init"))


def _text(length: int, text: str, source: PromptSource, seed: int) -> Tensor:
    del seed
    ids = source.encode(text)
    if not ids:
        raise ConfigError(
            "initialisation by text needs a text", where="prompt.init_text", fix="--set prompt.init_text=..."
        )
    return source.embed([ids[index % len(ids)] for index in range(length)])


def _labels(length: int, text: str, source: PromptSource, seed: int) -> Tensor:
    if source.candidates is None:
        raise ConfigError("initialisation by labels needs label words", where="prompt.init", got="a free-text task")
    means = [source.embed(word).mean(0) for word in source.candidates.words]
    other_vectors = _vocabulary(max(length - len(means), 0), text, source, seed)
    return torch.cat([torch.stack(means), other_vectors.to(means[0])])[:length]


def _null(length: int, text: str, source: PromptSource, seed: int) -> Tensor:
    if source.null_id is None:
        raise ConfigError("the model has no end token for init null", where="prompt.init", fix="--set prompt.init=text")
    # Without the noise all vectors would differ in their position only.
    return source.embed([source.null_id] * length) + NOISE * _random(length, text, source, seed)


INITS: dict[str, Callable[[int, str, PromptSource, int], Tensor]] = {
    "random": _random,
    "vocabulary": _vocabulary,
    "text": _text,
    "labels": _labels,
    "null": _null,
    "zero": _zero,
}
