"""What an untouched encoder says of one row: its own forward pass, with hooks where a prompt enters.

A memory is what dummy tokens at the front would have for keys and values, put in behind each layer's projections; their
queries compute something that no other token sees.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from oracles import mixed
from torch import Tensor

from overture.core.injection import Injection, LayerMemory
from overture.core.rows import Encoded


def label_scores(reference: Any, injection: Injection | None, row: Encoded) -> Tensor:
    """Log-probabilities of a row's labels."""
    logits, entering = _predicted(reference, injection, row)
    if injection is not None and injection.labels is not None:
        return (injection.labels @ entering).log_softmax(0)
    each = logits.log_softmax(0)[torch.tensor([word[0] for word in row.target.candidates.words])]
    labels = torch.tensor(row.target.candidates.label_of)
    found = [each[labels == label].logsumexp(0) for label in range(len(row.target.candidates.labels))]
    return torch.stack(found).log_softmax(0)


def loss(reference: Any, injections: Sequence[Injection | None], rows: Sequence[Encoded]) -> Tensor:
    """The rows' losses, added up."""
    return -sum(label_scores(reference, found, row)[row.label] for found, row in zip(injections, rows, strict=True))


def _predicted(reference: Any, injection: Injection | None, row: Encoded) -> tuple[Tensor, Tensor]:
    """Logits over the vocabulary, [V], and what enters the head's last map, [D], of the place that is read."""
    ids = (*row.input_ids, *row.anchor_ids)
    at = _places(injection, row)
    texts = [index for index in range(len(ids) + len(at)) if index not in at]
    read = texts if row.target.read == "mean" else [texts[row.target.read]]
    found: list[Tensor] = []

    def pick(module: Any, args: Any, out: Any) -> Any:
        out.last_hidden_state = out.last_hidden_state[:, read].mean(1, keepdim=True)
        return out

    with ExitStack() as hooks:
        keep = lambda module, args: found.append(args[0])  # noqa: E731
        if injection is not None and injection.layer:
            _enter_late(hooks, reference, injection, ids, at, texts)
        if injection is not None and injection.memory:
            _enter_memory(hooks, reference, injection.memory.memory)
        hooks.enter_context(_hooked(reference.base_model.register_forward_hook(pick)))
        hooks.enter_context(_hooked(reference.get_output_embeddings().register_forward_pre_hook(keep)))
        live = _embedded(reference, injection, ids, at, texts, len(row.input_ids))
        out = reference(inputs_embeds=live[None], position_ids=_positions(reference, len(live)))
    return out.logits[0, 0], found[0][0, 0]


def _places(injection: Injection | None, row: Encoded) -> list[int]:
    """Where the prompt stands among all tokens, in order."""
    if injection is None:
        return []
    if injection.memory:
        return list(range(injection.memory.length))
    if injection.vectors.place == "slots":
        slots = row.slots
    elif injection.vectors.place == "around":
        front = int(injection.vectors.split.argmax())
        slots = ((0, front), (len(row.input_ids), injection.vectors.length - front))
    else:
        slots = ((0 if injection.vectors.place == "before" else len(row.input_ids), injection.vectors.length),)
    places: list[int] = []
    for index, count in slots:
        places += range(index + len(places), index + len(places) + count)
    return places


def _embedded(
    reference: Any,
    injection: Injection | None,
    ids: Sequence[int],
    at: Sequence[int],
    texts: Sequence[int],
    num_input: int,
) -> Tensor:
    own = reference.get_input_embeddings()(torch.tensor(ids))
    if injection is not None and injection.offset is not None:
        num = min(len(injection.offset), len(ids))
        own = torch.cat([own[:num] + injection.offset[:num], own[num:]])
    live = own.new_zeros(len(ids) + len(at), own.shape[1]).index_copy(0, torch.tensor(texts), own)
    if injection is not None and injection.vectors and not injection.layer:
        live = live.index_copy(0, torch.tensor(at), injection.vectors.values)
    if injection is not None and injection.vectors and injection.vectors.split is not None:
        return mixed(injection.vectors, own, num_input)
    return live


def _positions(reference: Any, length: int) -> Tensor:
    """A memory stands at the first positions, the text behind it."""
    positions = torch.arange(length)[None]
    return positions + (reference.config.pad_token_id + 1 if reference.config.model_type == "roberta" else 0)


def _layers(reference: Any) -> Any:
    return next(module for module in reference.modules() if isinstance(module, torch.nn.ModuleList))


def _enter_late(
    hooks: ExitStack,
    reference: Any,
    injection: Injection,
    ids: Sequence[int],
    at: Sequence[int],
    texts: Sequence[int],
) -> None:
    """The text alone up to the layer; its hidden states and the vectors enter there."""
    layer, found = _layers(reference)[injection.layer], []
    with _hooked(_on_entering(layer, lambda hidden: found.append(hidden) or hidden)):
        reference(torch.tensor([ids]))

    def exchange(hidden: Tensor) -> Tensor:
        whole = torch.zeros_like(hidden).index_copy(1, torch.tensor(texts), found[0])
        return whole.index_copy(1, torch.tensor(at), injection.vectors.values[None])

    hooks.enter_context(_hooked(_on_entering(layer, exchange)))


def _on_entering(layer: Any, change: Callable[[Tensor], Tensor]) -> Any:
    return layer.register_forward_pre_hook(lambda module, args: (change(args[0]), *args[1:]))


def _enter_memory(hooks: ExitStack, reference: Any, memory: LayerMemory) -> None:
    for number, layer in enumerate(_layers(reference)):
        keys, values = [part[number].transpose(0, 1).flatten(1) for part in (memory.keys, memory.values)]
        if reference.config.model_type == "modernbert":
            flat = _unturned(reference, layer, memory.keys[number]).transpose(0, 1).flatten(1)
            fused = torch.cat([torch.zeros_like(flat), flat, values], dim=1)
            hooks.enter_context(_hooked(_putting(layer.attn.Wqkv, fused)))
        else:
            own = layer.attention if hasattr(layer.attention, "k_lin") else layer.attention.self
            key, value = (own.k_lin, own.v_lin) if hasattr(own, "k_lin") else (own.key, own.value)
            hooks.enter_context(_hooked(_putting(key, keys)))
            hooks.enter_context(_hooked(_putting(value, values)))
        if memory.weights is not None:
            hooks.enter_context(_hooked(_weighing(reference, layer, memory.weights[number])))


def _putting(module: Any, own: Tensor) -> Any:
    """The first tokens' outputs of a map exchanged."""
    return module.register_forward_hook(lambda _, args, out: torch.cat([own[None], out[:, len(own) :]], dim=1))


def _unturned(reference: Any, layer: Any, keys: Tensor) -> Tensor:
    """Keys [H, P, K] before their rotation at positions from 0."""
    positions = torch.arange(keys.shape[1])[None]
    cos, sin = reference.model.rotary_emb(keys, positions, layer.attention_type)
    half = keys.shape[-1] // 2
    turned = torch.cat([keys[..., half:], -keys[..., :half]], dim=-1)
    return keys * cos + turned * sin


def _weighing(reference: Any, layer: Any, weights: Tensor) -> Any:
    """The logarithms of weights added to the mask that a layer's attention gets."""
    window = None
    if reference.config.model_type == "modernbert" and layer.attention_type == "sliding_attention":
        window = reference.config.sliding_window

    def weigh(module: Any, args: Any, options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        length = args[0].shape[1]
        mask = torch.nn.functional.pad(weights.log(), (0, length - len(weights))).expand(1, 1, length, -1)
        if window is not None:
            distance = torch.arange(length)[:, None] - torch.arange(length)[None]
            mask = mask.masked_fill(distance.abs() > window, float("-inf"))
        return args, options | {"attention_mask": mask}

    attention = getattr(layer, "attn", None) or getattr(layer.attention, "self", layer.attention)
    return attention.register_forward_pre_hook(weigh, with_kwargs=True)


@contextmanager
def _hooked(hook: Any) -> Iterator[None]:
    try:
        yield
    finally:
        hook.remove()
