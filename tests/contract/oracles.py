"""What the untouched transformers model says: one row and one word at a time, full softmax, no code of the engine."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from overture.core.injection import Injection, Memory, Vectors
from overture.core.rows import Answer, Encoded


def following_logits(reference: Any, injection: Injection | None, row: Encoded, tail: Sequence[int]) -> Tensor:
    """Logits at which each token of the tail is predicted behind the row under the prompt: [T, V]."""
    last = (*row.anchor_ids, *tail[:-1])
    return _logits(reference, injection, row, last)[-len(tail) :]


def _logits(reference: Any, injection: Injection | None, row: Encoded, last: tuple[int, ...]) -> Tensor:
    """Of a row and some tokens behind its anchor; vectors among them have theirs."""
    if injection is not None and injection.memory:
        assert injection.offset is None
        return _under_memory(reference, injection.memory, row, last)
    if injection is not None and injection.layer:
        return _under_late_vectors(reference, injection.vectors, (*row.input_ids, *last), _places(injection, row))
    return _under_vectors(reference, injection, row, last)


def _under_vectors(reference: Any, injection: Injection | None, row: Encoded, last: tuple[int, ...]) -> Tensor:
    ids, at = (*row.input_ids, *last), _places(injection, row)
    texts = [index for index in range(len(ids) + len(at)) if index not in at]
    # What stands in for vectors is overwritten where the layers' width begins.
    entering = _embedded(reference, [0] * (len(ids) + len(at))).index_copy(
        0, torch.tensor(texts), _embedded(reference, ids)
    )

    def put(hidden: Tensor) -> Tensor:
        if injection is not None and injection.offset is not None:
            num = min(len(injection.offset), len(row.input_ids) + len(row.anchor_ids))
            hidden = hidden.index_add(0, torch.tensor(texts[:num], dtype=torch.long), injection.offset[:num])
        if injection is not None and injection.vectors and injection.vectors.place == "around":
            return mixed(injection.vectors, hidden[texts], len(row.input_ids))
        return hidden.index_copy(0, torch.tensor(at), injection.vectors.values) if at else hidden

    projection = _projection(reference)
    if projection is None:
        return reference(inputs_embeds=put(entering)[None], use_cache=False).logits[0]
    with _hooked(projection.register_forward_hook(lambda module, inputs, out: put(out[0])[None])):
        return reference(inputs_embeds=entering[None], use_cache=False).logits[0]


def mixed(vectors: Vectors, text: Tensor, num_input: int) -> Tensor:
    """The orders of all splits, each times its part of the one-hot vector that says which one is in force."""
    orders = [
        torch.cat([vectors.values[:front], text[:num_input], vectors.values[front:], text[num_input:]])
        for front in range(vectors.length + 1)
    ]
    return torch.einsum("s,sld->ld", vectors.split, torch.stack(orders))


def _under_late_vectors(reference: Any, vectors: Vectors, ids: tuple[int, ...], at: list[int]) -> Tensor:
    """The text alone up to the layer; then a run of the whole length whose hidden states are exchanged there."""
    layer, found = _layers(reference)[vectors.layer], []
    with _hooked(_on_entering(layer, lambda hidden: found.append(hidden) or hidden)):
        reference(torch.tensor([ids]), use_cache=False)
    texts = [index for index in range(len(ids) + len(at)) if index not in at]

    def exchange(hidden: Tensor) -> Tensor:
        whole = torch.zeros_like(hidden).index_copy(1, torch.tensor(texts), found[0])
        return whole.index_copy(1, torch.tensor(at), vectors.values[None])

    with _hooked(_on_entering(layer, exchange)):
        return reference(torch.zeros(1, len(ids) + len(at), dtype=torch.long), use_cache=False).logits[0]


def _layers(reference: Any) -> Any:
    return next(module for module in reference.get_decoder().children() if isinstance(module, torch.nn.ModuleList))


def _on_entering(layer: Any, change: Callable[[Tensor], Tensor]) -> Any:
    def hook(module: Any, args: Any, options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        if args:
            return (change(args[0]), *args[1:]), options
        return args, options | {"hidden_states": change(options["hidden_states"])}

    return layer.register_forward_pre_hook(hook, with_kwargs=True)


@contextmanager
def _hooked(hook: Any) -> Iterator[None]:
    try:
        yield
    finally:
        hook.remove()


def _places(injection: Injection | None, row: Encoded) -> list[int]:
    """Where the vectors stand among all tokens, in order."""
    places: list[int] = []
    for index, count in _slots(injection.vectors if injection else None, row):
        first = index + len(places)
        places += range(first, first + count)
    return places


def _projection(reference: Any) -> Any:
    """What OPT may have between its embedding and its first layer; a prompt, of the layers' width, stands behind it."""
    return getattr(reference.get_decoder(), "project_in", None)


def _slots(injection: Vectors | None, row: Encoded) -> tuple[tuple[int, int], ...]:
    if injection is None:
        return ()
    if injection.place == "slots":
        return row.slots
    if injection.place == "around":
        front = int(injection.split.argmax())
        return (0, front), (len(row.input_ids), injection.length - front)
    return ((0 if injection.place == "before" else len(row.input_ids), injection.length),)


def _embedded(reference: Any, ids: Sequence[int]) -> Tensor:
    return reference.get_input_embeddings()(torch.tensor(ids, dtype=torch.long))


def _under_memory(reference: Any, injection: Memory, row: Encoded, last: tuple[int, ...]) -> Tensor:
    cache, standing = DynamicCache(), []
    start = injection.length
    live = (*row.input_ids, *last)
    shift = 0
    if injection.place == "after":
        is_absolute = not any("Rotary" in type(module).__name__ for module in reference.modules())
        shift = len(row.input_ids) if is_absolute else 0
        if row.input_ids:
            _run(reference, cache, standing, row.input_ids, 0 if is_absolute else -len(row.input_ids))
        live = last
    memory = injection.memory
    for layer in range(memory.keys.shape[0]):
        cache.update(memory.keys[layer][None], memory.values[layer][None], layer)
    first = len(standing)
    standing += range(shift, shift + injection.length)
    with _weighted(reference, memory.weights, first):
        return _run(reference, cache, standing, live, start + shift, memory.weights is not None)


@contextmanager
def _weighted(reference: Any, weights: Tensor | None, first: int) -> Iterator[None]:
    """Add the logarithms of weights, [N, P], to the mask that each layer's attention gets, from a column on."""
    if weights is None:
        yield
        return

    def weigh(module: Any, args: Any, options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        mask = options["attention_mask"]
        added = weights[module.layer_idx].log().to(mask)
        behind = mask.shape[-1] - first - len(added)
        return args, options | {"attention_mask": mask + torch.nn.functional.pad(added, (first, behind))}

    layers = [module for module in reference.modules() if type(module).__name__.endswith("Attention")]
    assert sorted(module.layer_idx for module in layers) == list(range(len(weights)))
    hooks = [module.register_forward_pre_hook(weigh, with_kwargs=True) for module in layers]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _run(
    reference: Any,
    cache: DynamicCache,
    standing: list[int],
    ids: tuple[int, ...],
    start: int,
    is_spelt_out: bool = False,
) -> Tensor:
    """Run tokens behind a cache; ``standing`` lists the positions of the cache's columns."""
    positions = list(range(start, start + len(ids)))
    standing += positions
    options = {"position_ids": torch.tensor([positions]), "past_key_values": cache}
    window = getattr(reference.config, "sliding_window", None)
    if is_spelt_out or (window and max(standing) - min(standing) >= window):
        options["attention_mask"] = _masks(reference, positions, standing, window)
    return reference(torch.tensor([ids]), **options).logits[0]


def _masks(reference: Any, positions: list[int], standing: list[int], window: int | None) -> dict[str, Tensor] | Tensor:
    """A cache filled by hand does not know its window, so the masks are spelt out; as numbers, for the eager kernel."""
    distance = torch.tensor(positions)[:, None] - torch.tensor(standing)[None]
    full = torch.zeros(distance.shape, dtype=reference.dtype).masked_fill(distance < 0, float("-inf"))[None, None]
    sliding = full.masked_fill(distance >= window, float("-inf")) if window else full
    if not getattr(reference.config, "layer_types", None):
        return sliding
    return {"full_attention": full, "sliding_attention": sliding}


def likelihood(reference: Any, injection: Injection | None, row: Encoded, tail: Sequence[int]) -> Tensor:
    """Log-probability of tokens behind a row."""
    logits = following_logits(reference, injection, row, tail)
    return logits.log_softmax(-1)[torch.arange(len(tail)), torch.tensor(tail)].sum()


def label_scores(reference: Any, injection: Injection | None, row: Encoded) -> Tensor:
    """Log-probabilities of a row's labels, word by word."""
    if injection is not None and injection.labels is not None:
        return (injection.labels @ _end(reference, injection, row)).log_softmax(0)
    candidates = row.target.candidates
    each = [likelihood(reference, injection, row, word) for word in candidates.words]
    labels = [
        torch.stack([score for score, of in zip(each, candidates.label_of, strict=True) if of == label]).logsumexp(0)
        for label in range(len(candidates.labels))
    ]
    return torch.stack(labels).log_softmax(0)


def _end(reference: Any, injection: Injection, row: Encoded) -> Tensor:
    """What enters the head at the anchor's end, [D]."""
    found: list[Tensor] = []
    keep = lambda module, args: found.append(args[0])  # noqa: E731
    with _hooked(reference.get_output_embeddings().register_forward_pre_hook(keep)):
        _logits(reference, injection, row, row.anchor_ids)
    return found[0][0, -1]


def _context_loss(reference: Any, injection: Injection | None, row: Encoded) -> Tensor | float:
    """What the prompt's own vectors must predict; they stand in front of the row."""
    targets = injection.vectors.targets if injection is not None and injection.vectors else ()
    if not targets:
        return 0.0
    assert injection.vectors.place == "before"
    likelihoods = _logits(reference, injection, row, row.anchor_ids).log_softmax(-1)
    return -sum(target.weight * likelihoods[target.index, target.token] for target in targets)


def loss(reference: Any, injections: Sequence[Injection | None], rows: Sequence[Encoded]) -> Tensor:
    """The rows' losses, added up."""
    pairs = list(zip(injections, rows, strict=True))
    context = sum(_context_loss(reference, found, row) for found, row in pairs)
    if isinstance(rows[0].target, Answer):
        return context - sum(likelihood(reference, found, row, row.answer_ids) for found, row in pairs)
    return context - sum(label_scores(reference, found, row)[row.label] for found, row in pairs)


def greedy(reference: Any, injection: Injection | None, row: Encoded, num_tokens: int, end: int | None) -> list[int]:
    """The likeliest next token again and again, everything computed anew each time."""
    answer: list[int] = []
    while len(answer) < num_tokens:
        token = int(following_logits(reference, injection, row, (*answer, 0))[-1].argmax())
        if token == end:
            break
        answer.append(token)
    return answer
