"""The look-ups in a loaded model, a task and a store that prompt methods start from."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from random import Random

import torch
from torch import Tensor

from overture.core.errors import ConfigError
from overture.core.injection import Injection, ReadAt
from overture.core.rows import Encoded
from overture.data.encode import Encoder
from overture.data.task import Task
from overture.engine.backbone import Backbone
from overture.engine.cache import InputCache
from overture.engine.inputs import Inputs
from overture.engine.states import states_at
from overture.evaluate.facts import check_backbone, config_of, values_of
from overture.evaluate.probe import start_of_head
from overture.prompt.pack import STATE, prompt_from
from overture.prompt.source import PromptSource, no_prompts, no_rows
from overture.store.artifact import load_artifact
from overture.store.store import Store

_MAX_TOKENS = 4096


def predicts_words(backbone: Backbone, task: Task) -> bool:
    """Whether the model predicts label words where the task reads."""
    return backbone.has_head and (backbone.family.is_causal or task.has_mask)


def prompt_source(
    backbone: Backbone,
    encoder: Encoder,
    examples: Sequence[Encoded] = (),
    store: Store | None = None,
    cache: InputCache | None = None,
) -> PromptSource:
    """The frozen model's look-ups, the task's label words and examples, and the store's prompts.

    What prompts begin with is on the CPU wherever the model is, and so are their random numbers: a finished method goes
    to the model's device as a whole.

    Args:
        backbone: the model.
        encoder: of the task's rows.
        examples: training rows.
        store: has stored prompts.
        cache: keeps what training rows give where a prompt starts from them.
    """
    tokenizer, info, inner = backbone.text.tokenizer, backbone.info, backbone.encoder
    # A manifest holds the fingerprint of the whole model, whichever side the prompt enters.
    lookup = _stored(store, backbone, lambda: source) if store else no_prompts
    captions = backbone.captions
    source = PromptSource(
        hidden_size=info.hidden_size,
        embedding_norm=backbone.embedding_norm,
        embed=lambda ids: backbone.embed(ids).cpu(),
        memory_of=lambda vectors: backbone.memory_of(vectors).map(Tensor.cpu),
        encode=tokenizer.encode_plain,
        sample=lambda num, random: backbone.frontends[0].sample(num, random).cpu(),
        num_layers=info.num_layers,
        num_heads=info.num_kv_heads,
        head_dim=info.head_dim,
        memory_of_layers=backbone.memory_of_layers,
        head_rows=lambda ids: backbone.head_rows(ids).cpu(),
        candidates=encoder.candidates,
        examples=examples,
        prompt=lookup,
        # Wherever a prompt stands, it is the decoder that predicts words.
        encoder=replace(prompt_source(inner, encoder, examples), predicts_words=True, prompt=lookup) if inner else None,
        null_id=tokenizer.null_id,
        bos_ids=tokenizer.bos_ids,
        has_words=backbone.family.has_words,
        modalities=backbone.modalities,
        states=partial(_states, backbone, examples) if examples else no_rows,
        probe=partial(_probe, backbone, encoder, examples, cache) if examples else no_rows,
        predicts_words=predicts_words(backbone, encoder.task),
        captions=captions,
        texts=prompt_source(captions.backbone, encoder) if captions else None,
        label_texts=tuple(words[0].strip() for words in encoder.task.words.values()),
    )
    return source


def _states(backbone: Backbone, examples: Sequence[Encoded], num: int, random: Random) -> Tensor:
    """Positions of training rows, drawn at random, as they enter each layer."""
    inputs = Inputs(backbone, None, _MAX_TOKENS)
    rows = random.choices([row for row in examples if row.num_text], k=num)
    return states_at(inputs, [(row, random.randrange(row.num_text)) for row in rows]).cpu()


def _probe(
    backbone: Backbone,
    encoder: Encoder,
    examples: Sequence[Encoded],
    cache: InputCache | None,
    read_at: ReadAt | None = None,
) -> tuple[Tensor, Tensor]:
    """A linear probe of the training rows; equal rows have the same one, so several seeds make it once."""
    assert encoder.candidates is not None
    key = (
        "probe",
        read_at,
        *(element for row in examples for element in (row.label, *row.input_elements[:1], row.num_text)),
    )
    inputs = Inputs(backbone, cache, _MAX_TOKENS)
    probe_values = None if inputs.cache is None else inputs.cache.get(key)
    if probe_values is None:
        weight, bias = start_of_head(inputs, examples, len(encoder.candidates.labels), read_at)
        probe_values = torch.cat([weight, bias[:, None]], dim=1)
        if inputs.cache is not None:
            inputs.cache.put(key, probe_values)
    return probe_values[:, :-1].float().cpu().clone(), probe_values[:, -1].float().cpu().clone()


def _stored(store: Store, backbone: Backbone, source_of: Callable[[], PromptSource]) -> Callable[[str], Injection]:
    def prompt(ref: str) -> Injection:
        manifest, tensors = load_artifact(store.get(ref))
        # The values are a start, trained and measured anew: notices of what could not be compared are dropped.
        check_backbone(manifest.backbone, backbone)
        if any(name.startswith(STATE) for name in tensors):
            raise ConfigError(
                "a prompt that depends on the row cannot be built upon",
                where="prompt",
                got=f"{ref}, of method {manifest.method}",
                wanted="a prompt that is the same for all rows",
                fix="name a prompt of another method: `overture list` shows them",
            )
        # The stored prompt may be of a task with other labels.
        source = replace(source_of(), candidates=None)
        injection = prompt_from(values_of(manifest, tensors, backbone), config_of(manifest), source)
        assert isinstance(injection, Injection)
        return injection

    return prompt
