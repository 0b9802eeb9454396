"""What the untouched transformers model says: one row and one word at a time, full softmax, no code of the engine."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from overture.core.types import Encoded, Injection, Memory, Vectors


def following_logits(reference: Any, injection: Injection | None, row: Encoded, tail: Sequence[int]) -> Tensor:
    """Logits at which each token of the tail is predicted behind the row under the prompt: [T, V]."""
    last = (*row.anchor_ids, *tail[:-1])
    if isinstance(injection, Memory):
        logits = _under_memory(reference, injection, row, last)
    else:
        logits = _under_vectors(reference, injection, row, last)
    return logits[-len(tail) :]


def _under_vectors(reference: Any, injection: Vectors | None, row: Encoded, last: tuple[int, ...]) -> Tensor:
    front, back = _embedded(reference, row.input_ids), _embedded(reference, last)
    parts = [front, back]
    if injection is not None:
        parts.insert(0 if injection.place == "before" else 1, injection.values)
    return reference(inputs_embeds=torch.cat(parts)[None], use_cache=False).logits[0]


def _embedded(reference: Any, ids: Sequence[int]) -> Tensor:
    return reference.get_input_embeddings()(torch.tensor(ids, dtype=torch.long))


def _under_memory(reference: Any, injection: Memory, row: Encoded, last: tuple[int, ...]) -> Tensor:
    cache, standing = DynamicCache(), []
    start = injection.length
    live = (*row.input_ids, *last)
    shift = 0
    if injection.place == "after":
        is_absolute = reference.config.model_type == "gpt2"
        shift = len(row.input_ids) if is_absolute else 0
        if row.input_ids:
            _run(reference, cache, standing, row.input_ids, 0 if is_absolute else -len(row.input_ids))
        live = last
    memory = injection.memory
    for layer in range(memory.keys.shape[0]):
        cache.update(memory.keys[layer][None], memory.values[layer][None], layer)
    standing += range(shift, shift + injection.length)
    return _run(reference, cache, standing, live, start + shift)


def _run(reference: Any, cache: DynamicCache, standing: list[int], ids: tuple[int, ...], start: int) -> Tensor:
    """Run tokens behind a cache; ``standing`` lists the positions of the cache's columns."""
    positions = list(range(start, start + len(ids)))
    standing += positions
    options = {"position_ids": torch.tensor([positions]), "past_key_values": cache}
    window = getattr(reference.config, "sliding_window", None)
    if window and max(standing) - min(standing) >= window:
        options["attention_mask"] = _masks(positions, standing, window)
    return reference(torch.tensor([ids]), **options).logits[0]


def _masks(positions: list[int], standing: list[int], window: int) -> dict[str, Tensor]:
    """A cache filled by hand does not know its window, so the masks are spelt out."""
    distance = torch.tensor(positions)[:, None] - torch.tensor(standing)[None]
    full = (distance >= 0)[None, None]
    return {"full_attention": full, "sliding_attention": full & (distance < window)}


def likelihood(reference: Any, injection: Injection | None, row: Encoded, tail: Sequence[int]) -> Tensor:
    """Log-probability of tokens behind a row."""
    logits = following_logits(reference, injection, row, tail)
    return logits.log_softmax(-1)[torch.arange(len(tail)), torch.tensor(tail)].sum()


def label_scores(reference: Any, injection: Injection | None, row: Encoded) -> Tensor:
    """Log-probabilities of a row's labels, word by word."""
    candidates = row.candidates
    each = [likelihood(reference, injection, row, word) for word in candidates.words]
    labels = [
        torch.stack([score for score, of in zip(each, candidates.label_of, strict=True) if of == label]).logsumexp(0)
        for label in range(len(candidates.labels))
    ]
    return torch.stack(labels).log_softmax(0)


def loss(reference: Any, injection: Injection | None, rows: Sequence[Encoded]) -> Tensor:
    """The rows' losses, added up."""
    if rows[0].candidates is None:
        return -sum(likelihood(reference, injection, row, row.answer_ids) for row in rows)
    return -sum(label_scores(reference, injection, row)[row.label] for row in rows)


def greedy(reference: Any, injection: Injection | None, row: Encoded, num_tokens: int, end: int | None) -> list[int]:
    """The likeliest next token again and again, everything computed anew each time."""
    answer: list[int] = []
    while len(answer) < num_tokens:
        token = int(following_logits(reference, injection, row, (*answer, 0))[-1].argmax())
        if token == end:
            break
        answer.append(token)
    return answer
