"""What an untouched encoder-decoder says: one row and one word at a time, hooks where a prompt enters.

A memory in the encoder is what dummy tokens at the front would have for keys and values; the decoder does not see them.
In the decoder it is a cache of transformers.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from oracles import mixed
from torch import Tensor
from transformers import DynamicCache, EncoderDecoderCache
from transformers.modeling_outputs import BaseModelOutput

from overture.core.injection import Injection, LayerMemory, Memory, Vectors
from overture.core.rows import Answer, Encoded


def following_logits(
    reference: Any, injection: Injection | None, row: Encoded, tail: Sequence[int], start: Sequence[int]
) -> Tensor:
    """Logits at which each token of the tail is predicted behind the decoder's start: [T, V]."""
    injection = injection or Injection()
    encoded = _encoded(reference, injection, row)
    return _decoded(reference, injection, encoded, (*start, *tail[:-1]))[-len(tail) :]


def label_scores(reference: Any, injection: Injection | None, row: Encoded, start: Sequence[int]) -> Tensor:
    """Log-probabilities of a row's labels, word by word."""
    if injection is not None and injection.labels is not None:
        found: list[Tensor] = []
        keep = reference.get_output_embeddings().register_forward_pre_hook(lambda module, args: found.append(args[0]))
        with _hooked(keep):
            following_logits(reference, injection, row, (0,), start)
        return (injection.labels @ found[0][0, -1]).log_softmax(0)
    candidates = row.target.candidates
    each = [likelihood(reference, injection, row, word, start) for word in candidates.words]
    labels = [
        torch.stack([score for score, of in zip(each, candidates.label_of, strict=True) if of == label]).logsumexp(0)
        for label in range(len(candidates.labels))
    ]
    return torch.stack(labels).log_softmax(0)


def likelihood(
    reference: Any, injection: Injection | None, row: Encoded, tail: Sequence[int], start: Sequence[int]
) -> Tensor:
    """Log-probability of tokens behind the decoder's start."""
    logits = following_logits(reference, injection, row, tail, start)
    return logits.log_softmax(-1)[torch.arange(len(tail)), torch.tensor(tail)].sum()


def loss(
    reference: Any, injections: Sequence[Injection | None], rows: Sequence[Encoded], start: Sequence[int]
) -> Tensor:
    """The rows' losses, added up."""
    pairs = list(zip(injections, rows, strict=True))
    if isinstance(rows[0].target, Answer):
        return -sum(likelihood(reference, found, row, row.answer_ids, start) for found, row in pairs)
    return -sum(label_scores(reference, found, row, start)[row.label] for found, row in pairs)


def greedy(
    reference: Any, injection: Injection | None, row: Encoded, num_tokens: int, start: Sequence[int], end: int
) -> list[int]:
    """The likeliest next token again and again, everything computed anew each time."""
    answer: list[int] = []
    while len(answer) < num_tokens:
        token = int(following_logits(reference, injection, row, (*answer, 0), start)[-1].argmax())
        if token == end:
            break
        answer.append(token)
    return answer


# -- the encoder


def _encoded(reference: Any, injection: Injection, row: Encoded) -> Tensor:
    """The encoder's output under the prompt's part that stands there: [1, L, D]."""
    stack, ids = reference.get_encoder(), (*row.input_ids, *row.anchor_ids)
    vectors = injection.vectors if injection.vectors and injection.vectors.place != "after" else None
    memory = injection.memory.memory if injection.memory and injection.memory.place != "after" else None
    own = reference.get_input_embeddings()(torch.tensor(ids))
    if injection.offset is not None:
        num = min(len(injection.offset), len(ids))
        own = torch.cat([own[:num] + injection.offset[:num], own[num:]])
    with ExitStack() as hooks:
        if memory is not None:
            own = torch.cat([own.new_zeros(memory.length, own.shape[1]), own])
            _enter_memory(hooks, stack, memory)
            return stack(inputs_embeds=own[None]).last_hidden_state[:, memory.length :]
        if vectors is not None and vectors.split is not None:
            own = mixed(vectors, own, len(row.input_ids))
        elif vectors is not None:
            own = _enter(hooks, stack, vectors, own, _places(vectors, row), lambda live: stack(inputs_embeds=live))
        return stack(inputs_embeds=own[None]).last_hidden_state


def _places(vectors: Vectors, row: Encoded) -> list[int]:
    slots = row.slots if vectors.place == "slots" else ((0, vectors.length),)
    places: list[int] = []
    for index, count in slots:
        places += range(index + len(places), index + len(places) + count)
    return places


def _enter(
    hooks: ExitStack, stack: Any, vectors: Vectors, own: Tensor, at: Sequence[int], run: Callable[[Tensor], Any]
) -> Tensor:
    """Token vectors, [L, D], with a prompt among them; a late one enters at its layer, the tokens alone below."""
    whole = torch.zeros(len(own) + len(at), own.shape[1], dtype=own.dtype)
    texts = torch.tensor([index for index in range(len(whole)) if index not in at])
    if not vectors.layer:
        return whole.index_copy(0, texts, own).index_copy(0, torch.tensor(at), vectors.values)
    layer, found = _layers(stack)[vectors.layer], []
    with _hooked(_on_entering(layer, lambda hidden: found.append(hidden) or hidden)):
        run(own[None])

    def exchange(hidden: Tensor) -> Tensor:
        inside = torch.zeros_like(hidden).index_copy(1, texts, found[0])
        return inside.index_copy(1, torch.tensor(at), vectors.values[None])

    hooks.enter_context(_hooked(_on_entering(layer, exchange)))
    return whole


def _on_entering(layer: Any, change: Callable[[Tensor], Tensor]) -> Any:
    return layer.register_forward_pre_hook(lambda module, args: (change(args[0]), *args[1:]))


def _layers(stack: Any) -> Any:
    return next(module for module in stack.children() if isinstance(module, torch.nn.ModuleList))


def _self_attention(layer: Any) -> Any:
    return layer.layer[0].SelfAttention if hasattr(layer, "layer") else layer.self_attn


def _enter_memory(hooks: ExitStack, stack: Any, memory: LayerMemory) -> None:
    for number, layer in enumerate(_layers(stack)):
        attention = _self_attention(layer)
        maps = (attention.k, attention.v) if hasattr(attention, "k") else (attention.k_proj, attention.v_proj)
        for module, part in zip(maps, (memory.keys, memory.values), strict=True):
            hooks.enter_context(_hooked(_putting(module, part[number].transpose(0, 1).flatten(1))))
    _enter_weights(hooks, stack, memory.weights, is_causal=False)


def _putting(module: Any, own: Tensor) -> Any:
    """The first tokens' outputs of a map exchanged."""
    return module.register_forward_hook(lambda _, args, out: torch.cat([own[None], out[:, len(own) :]], dim=1))


def _enter_weights(hooks: ExitStack, stack: Any, weights: Tensor | None, is_causal: bool) -> None:
    """The logarithms of weights, [N, P], added to the mask that each layer's self-attention gets."""
    if weights is None:
        return

    def weighing(number: int) -> Callable[..., Any]:
        def weigh(module: Any, args: Any, options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
            live, length = args[0].shape[1], weights.shape[1]
            # In the encoder the columns are among the tokens, in the decoder they are in a cache.
            columns = live + length if is_causal else live
            mask = torch.nn.functional.pad(weights[number].log(), (0, columns - length)).expand(1, 1, live, -1)
            if is_causal:
                later = torch.ones(live, live, dtype=torch.bool).triu(1)
                mask = mask.masked_fill(torch.nn.functional.pad(later, (length, 0)), float("-inf"))
            return args, options | {"mask" if "mask" in options else "attention_mask": mask}

        return weigh

    for number, layer in enumerate(_layers(stack)):
        hook = _self_attention(layer).register_forward_pre_hook(weighing(number), with_kwargs=True)
        hooks.enter_context(_hooked(hook))


# -- the decoder


def _decoded(reference: Any, injection: Injection, encoded: Tensor, ids: tuple[int, ...]) -> Tensor:
    """Logits of the decoder's tokens: [T, V]."""
    vectors = injection.vectors if injection.vectors and injection.vectors.place == "after" else None
    memory = injection.memory if injection.memory and injection.memory.place == "after" else None
    own = reference.get_input_embeddings()(torch.tensor(ids))
    given: dict[str, Any] = {"encoder_outputs": BaseModelOutput(last_hidden_state=encoded), "use_cache": False}
    with ExitStack() as hooks:
        if memory is not None:
            given |= {"past_key_values": _cache(memory), "use_cache": True}
            _enter_weights(hooks, reference.get_decoder(), memory.memory.weights, is_causal=True)
        if vectors is not None:
            at = range(vectors.length)
            run = lambda live: reference(decoder_inputs_embeds=live, **given)  # noqa: E731
            own = _enter(hooks, reference.get_decoder(), vectors, own, at, run)
        return reference(decoder_inputs_embeds=own[None], **given).logits[0]


def _cache(memory: Memory) -> EncoderDecoderCache:
    cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
    for layer, (keys, values) in enumerate(zip(memory.memory.keys, memory.memory.values, strict=True)):
        cache.self_attention_cache.update(keys[None], values[None], layer)
    return cache


@contextmanager
def _hooked(hook: Any) -> Iterator[None]:
    try:
        yield
    finally:
        hook.remove()
