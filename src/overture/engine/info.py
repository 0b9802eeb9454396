"""Facts of a loaded model, and the fingerprint of its weights."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from pydantic import JsonValue

from overture.engine.families import Family

_WITHOUT_EFFECT = re.compile(
    r"_name_or_path|transformers_version|architectures|dtype|torch_dtype|problem_type|use_cache|return_dict"
    r"|pretraining_tp|chunk_size_feed_forward|id2label|label2id|output_.*|summary_.*|initializer_.*"
    r"|.*dropout.*|.*_pdrop|(bos|eos|pad|sep|cls)_token_id|quantization_config"
)
"""Values of a config that change no answer of a frozen model."""


@dataclass(frozen=True, slots=True)
class TextFacts:
    """The facts of a model's texts that passes and artifacts need.

    Args:
        max_length: the model's context, in tokens.
        eos_id: the token that ends an answer.
        start_ids: the start tokens of a decoder that reads an encoder's output; none for models of one stack.
        tokenizer_sha256: fingerprint of the vocabulary and the rules.
        chat_template_sha256: fingerprint of the chat template.
    """

    max_length: int
    eos_id: int | None
    start_ids: tuple[int, ...]
    tokenizer_sha256: str
    chat_template_sha256: str


@dataclass(frozen=True, slots=True)
class BackboneInfo:
    """The facts of a model that a prompt depends on; artifacts record them.

    `embedding_size` is None but for models that map token vectors of another width to the hidden size. `config` holds
    the values of the model's config that change its answers, such as ``rope_parameters``. `processor_sha256` is the
    fingerprint of what prepares images or sounds; None for models of texts alone. `vocab_size` is 0 without words.
    """

    id: str
    revision: str | None
    model_type: str
    hidden_size: int
    num_layers: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    max_length: int
    num_parameters: int
    num_body_parameters: int
    dtype: str
    weights_sha256: str
    tokenizer_sha256: str
    chat_template_sha256: str
    eos_id: int | None = None
    start_ids: tuple[int, ...] = ()
    embedding_size: int | None = None
    processor_sha256: str | None = None
    config: Mapping[str, JsonValue] = field(default_factory=dict)


def info_of(
    model: Any,
    family: Family,
    facts: TextFacts,
    num_layers: int,
    table: Any,
    id: str,
    revision: str | None,
    weights_sha256: str,
) -> BackboneInfo:
    """Facts of a transformers model.

    Args:
        model: the model.
        family: of the stack of layers that is run.
        facts: of its texts.
        num_layers: of that stack.
        table: the module that holds a vector for each token that the model can predict, or read.
        id: the user's name for it.
        revision: commit of a Hub model.
        weights_sha256: fingerprint of the weight files; computed from the tensors when empty.
    """
    config = model.config
    embedding = model.get_input_embeddings() if family.has_words else None
    num_heads = getattr(config, family.num_heads)
    # Whisper's config gives the encoder's number for both stacks.
    has_one_number = family.num_heads == "num_attention_heads"
    num_kv_heads = (getattr(config, "num_key_value_heads", None) if has_one_number else None) or num_heads
    width = config.hidden_size if embedding is None else embedding.weight.shape[1]
    # Tied weights are one storage.
    table_ids = set() if embedding is None else {embedding.weight.data_ptr(), table.weight.data_ptr()}
    return BackboneInfo(
        id=id,
        revision=revision,
        model_type=config.model_type,
        hidden_size=config.hidden_size,
        num_layers=num_layers,
        num_kv_heads=num_kv_heads,
        head_dim=getattr(config, "head_dim", None) or config.hidden_size // num_heads,
        vocab_size=table.weight.shape[0] if family.has_words else 0,
        max_length=facts.max_length,
        num_parameters=sum(value.numel() for value in model.parameters()),
        num_body_parameters=sum(v.numel() for v in model.parameters() if v.data_ptr() not in table_ids),
        dtype=str(model.dtype).removeprefix("torch."),
        weights_sha256=weights_sha256 or weights_digest(model),
        tokenizer_sha256=facts.tokenizer_sha256,
        chat_template_sha256=facts.chat_template_sha256,
        eos_id=facts.eos_id,
        start_ids=facts.start_ids,
        embedding_size=width if width != config.hidden_size else None,
        config=config_values(config),
    )


def config_values(config: Any) -> dict[str, JsonValue]:
    """The values of a transformers config that change a model's answers, as JSON has them."""
    values: dict[str, JsonValue] = json.loads(json.dumps(config.to_dict(), default=str))
    return {name: value for name, value in values.items() if not _WITHOUT_EFFECT.fullmatch(name)}


def weights_digest(model: Any) -> str:
    """SHA-256 over a model's tensors, by name, bit for bit."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
