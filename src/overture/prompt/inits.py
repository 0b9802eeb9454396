"""Starting points of a prompt: each gives token-like vectors [P, D].

Methods that train memory take the keys and values which these vectors have in the frozen model.

Source: Lester et al. 2021, section 3.2 (random, sampled vocabulary, class labels); Li and Liang 2021, section 7.4 (real
words' activations). Deviation: `random` has the vocabulary's own length of vector instead of a fixed range, because a
unit normal is fifty times too long for most models.
"""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from overture.core.errors import ConfigError
from overture.core.seeds import derived_seed, named_random
from overture.prompt.source import PromptSource

Init = Literal["random", "vocabulary", "text", "labels"]

NUM_COMMON = 5000
"""Sampled vocabulary comes from the most common tokens (Lester et al. 2021, section 3.2)."""


def starting_vectors(init: Init, length: int, text: str, source: PromptSource, seed: int) -> Tensor:
    """Starting vectors of a prompt, float32 [P, D].

    Args:
        init: the kind of start.
        length: prompt length, P.
        text: for ``text``: repeated or cut to the length.
        source: the frozen model's facts.
        seed: the run's seed.

    Raises:
        ConfigError: ``text`` without a text, ``labels`` without label words.
    """
    return INITS[init](length, text, source, seed).detach().float().clone()


def _random(length: int, text: str, source: PromptSource, seed: int) -> Tensor:
    del text
    generator = torch.Generator().manual_seed(derived_seed(seed, "init"))
    unit = torch.randn(length, source.hidden_size, generator=generator)
    return unit * source.embedding_norm / source.hidden_size**0.5


def _vocabulary(length: int, text: str, source: PromptSource, seed: int) -> Tensor:
    del text
    common = list(source.text_ids[:NUM_COMMON])
    return source.embed(named_random(seed, "init").choices(common, k=length))


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
    rest = _vocabulary(max(length - len(means), 0), text, source, seed)
    return torch.cat([torch.stack(means), rest.to(means[0])])[:length]


INITS: dict[str, Callable[[int, str, PromptSource, int], Tensor]] = {
    "random": _random,
    "vocabulary": _vocabulary,
    "text": _text,
    "labels": _labels,
}
