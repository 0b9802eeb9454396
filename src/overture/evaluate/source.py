"""The look-ups in a loaded model, a task and a store that prompt methods start from."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from torch import Tensor

from overture.core.errors import ConfigError
from overture.core.injection import Injection
from overture.core.rows import Encoded
from overture.data.encode import Encoder
from overture.engine.backbone import Backbone
from overture.evaluate.facts import check_backbone, config_of, values_of
from overture.prompt.pack import STATE, prompt_from
from overture.prompt.source import PromptSource, no_prompts
from overture.store.artifact import load_artifact
from overture.store.store import Store


def prompt_source(
    backbone: Backbone, encoder: Encoder, examples: Sequence[Encoded] = (), store: Store | None = None
) -> PromptSource:
    """The frozen model's look-ups, the task's label words and examples, and the store's prompts.

    What prompts begin with is on the CPU wherever the model is, and so are their random numbers: a finished method goes
    to the model's device as a whole.
    """
    tokenizer, info, inner = backbone.text.tokenizer, backbone.info, backbone.encoder
    # A manifest holds the fingerprint of the whole model, whichever side the prompt enters.
    stored = _stored(store, backbone, lambda: source) if store else no_prompts
    source = PromptSource(
        hidden_size=info.hidden_size,
        embedding_norm=backbone.embedding_norm,
        embed=lambda ids: backbone.embed(ids).cpu(),
        memory_of=lambda vectors: backbone.memory_of(vectors).map(Tensor.cpu),
        encode=tokenizer.encode_plain,
        sample=lambda num, random: backbone.text.sample(num, random).cpu(),
        num_layers=info.num_layers,
        num_heads=info.num_kv_heads,
        head_dim=info.head_dim,
        memory_of_layers=backbone.memory_of_layers,
        head_rows=lambda ids: backbone.head_rows(ids).cpu(),
        candidates=encoder.candidates,
        examples=examples,
        prompt=stored,
        # Wherever a prompt stands, it is the decoder that predicts words.
        encoder=replace(prompt_source(inner, encoder, examples), predicts_words=True, prompt=stored) if inner else None,
        null_id=tokenizer.null_id,
        bos_ids=tokenizer.bos_ids,
        predicts_words=backbone.has_head and (backbone.family.is_causal or encoder.task.has_mask),
    )
    return source


def _stored(store: Store, backbone: Backbone, source_of: Callable[[], PromptSource]) -> Callable[[str], Injection]:
    def prompt(ref: str) -> Injection:
        manifest, tensors = load_artifact(store.get(ref))
        # Its values are a start, to be trained and measured anew, so no notice of what could not be compared.
        check_backbone(manifest.backbone, backbone)
        if any(name.startswith(STATE) for name in tensors):
            raise ConfigError(
                "a prompt that depends on the row cannot be built upon",
                where="prompt",
                got=f"{ref}, of method {manifest.method}",
                wanted="a prompt that is the same for all rows",
                fix="name a prompt of another method: `overture list` shows them",
            )
        # It may be of a task with other labels.
        source = replace(source_of(), candidates=None)
        injection = prompt_from(values_of(manifest, tensors, backbone), config_of(manifest), source)
        assert isinstance(injection, Injection)
        return injection

    return prompt
