"""Prompts that cost no live tokens, or fewer: what stands before a text does not depend on it and runs once."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import torch

from overture.core.injection import Injection, LayerMemory, Memory, Vectors
from overture.engine.backbone import Backbone


@torch.no_grad()
def compiled_prompt(backbone: Backbone, injection: Injection) -> Injection:
    """The same prompt as constants that cost no live tokens; exact for decoders.

    Vectors before the text become memory, in the layers that see them; of vectors around the input, those before it.
    What stands after the text depends on it and stays as it is; so does all of a prompt in an encoder, where it sees
    the text, and in a decoder that reads an encoder's output.

    Args:
        backbone: the model.
        injection: the finished prompt.
    """
    vectors = injection.vectors
    if vectors is None or backbone.family.kind != "decoder":
        return injection
    if vectors.place == "around":
        front, back = vectors.values[: vectors.num_before], vectors.values[vectors.num_before :]
        memory = Memory(backbone.memory_of(front), "memory") if len(front) else None
        return replace(injection, vectors=Vectors(back, "after") if len(back) else None, memory=memory)
    # Learned positions count from the text below a late prompt, and from the prompt below a memory.
    is_movable = vectors.layer == 0 or backbone.family.is_rotary
    if vectors.place != "before" or injection.memory or not is_movable:
        return injection
    return replace(injection, vectors=None, memory=Memory(backbone.memory_of(vectors.values, vectors.layer), "memory"))


_WORTH_TOKENS = 8
"""Tokens that a pass of their own for prompt vectors must save."""


def with_shared_vectors(backbone: Backbone, injections: Sequence[Injection | None]) -> list[Injection | None]:
    """The same prompts, whose vectors before the text run once for all rows of a pass instead of once for each.

    Exact for decoders, gradients included: no vector there sees a text. Everything stays as it is on a GPU, where a
    small pass takes as long as a large one, and where layers are compiled, since such passes need graphs of their own.

    Args:
        backbone: the model.
        injections: a prompt, or none, for each row.
    """
    if backbone.family.kind != "decoder" or backbone.device.type != "cpu" or backbone.is_compiled:
        return list(injections)
    movable = [
        injection.vectors
        for injection in injections
        if injection and injection.vectors and not injection.memory and _is_movable(injection.vectors)
    ]
    counts, distinct = Counter(map(id, movable)), {id(vectors): vectors for vectors in movable}
    by_length: dict[int, list[Vectors]] = {}
    for key, vectors in distinct.items():
        if (counts[key] - 1) * vectors.length >= _WORTH_TOKENS:
            by_length.setdefault(vectors.length, []).append(vectors)
    memories: dict[int, LayerMemory] = {}
    for alike in by_length.values():
        together = backbone.memories_of(torch.stack([vectors.values for vectors in alike]))
        memories |= zip(map(id, alike), together, strict=True)
    return [
        replace(injection, vectors=None, memory=Memory(memories[id(injection.vectors)], "memory"))
        if injection and id(injection.vectors) in memories
        else injection
        for injection in injections
    ]


def _is_movable(vectors: Vectors) -> bool:
    """Whether vectors can be memory in training: nothing is read from them, and the text does not run below them."""
    return vectors.place == "before" and not vectors.layer and not vectors.targets
