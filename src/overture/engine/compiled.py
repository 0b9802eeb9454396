"""Compiles finished prompts to memory: vectors in front of a text do not depend on it, so they run once."""

from dataclasses import replace

import torch

from overture.core.injection import Injection, Memory, Vectors
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
