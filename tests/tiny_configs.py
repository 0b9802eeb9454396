"""Configs of tiny models of every supported family: what `fakes` makes random backbones of."""

from typing import Any

from transformers import (
    BartConfig,
    BertConfig,
    DistilBertConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    ModernBertConfig,
    OPTConfig,
    Phi3Config,
    Qwen2Config,
    Qwen3Config,
    RobertaConfig,
    T5Config,
)

VOCABULARY, CONTEXT, WINDOW = 300, 256, 8
BOS, EOS = 256, 257
_WIDE = {"vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4}
_WIDE |= {"max_position_embeddings": CONTEXT, "initializer_range": 0.2}
# As real configs have it, so that a switch to training mode would show.
_DROPS = {"attention_dropout": 0.1, "hidden_dropout": 0.1}


def config_of(family: str) -> Any:
    """The tiny config of a family; attention shapes differ by family on purpose."""
    kind, _, variant = family.partition(" ")
    return globals()[f"_{kind}_config"](variant)


def _llama_config(variant: str) -> Any:
    return LlamaConfig(**_WIDE, num_hidden_layers=3, num_key_value_heads=2, tie_word_embeddings=False)


def _gemma2_config(variant: str) -> Any:
    shape = {"num_hidden_layers": 4, "num_key_value_heads": 2, "head_dim": 10, "query_pre_attn_scalar": 12}
    shape |= {"sliding_window": WINDOW, "final_logit_softcapping": 6.0, "attn_logit_softcapping": 1.5}
    return Gemma2Config(**_WIDE, **shape)


def _gemma3_text_config(variant: str) -> Any:
    kinds = ["sliding_attention", "full_attention"] * 2
    shape = {"num_hidden_layers": 4, "num_key_value_heads": 1, "head_dim": 8, "query_pre_attn_scalar": 8}
    shape |= {"layer_types": kinds, "sliding_window": WINDOW, "final_logit_softcapping": 6.0}
    return Gemma3TextConfig(**_WIDE, **shape)


def _gpt2_config(variant: str) -> Any:
    shape = {"vocab_size": VOCABULARY, "n_positions": CONTEXT, "initializer_range": 0.2}
    shape |= {"bos_token_id": BOS, "eos_token_id": EOS}
    return GPT2Config(**shape, n_embd=32, n_layer=3, n_head=4)


def _gpt_neox_config(variant: str) -> Any:
    shape = {"hidden_size": 48, "num_attention_heads": 6, "num_hidden_layers": 3, "rotary_pct": 0.5}
    return GPTNeoXConfig(**_WIDE | shape, **_DROPS, use_parallel_residual=variant != "serial")


def _mistral_config(variant: str) -> Any:
    shape = {"num_hidden_layers": 3, "num_key_value_heads": 2, "head_dim": 12, "attention_dropout": 0.1}
    return MistralConfig(**_WIDE, **shape, sliding_window=None if variant == "unwindowed" else WINDOW)


def _opt_config(variant: str) -> Any:
    shape = {"vocab_size": VOCABULARY, "hidden_size": 32, "ffn_dim": 48, "num_attention_heads": 2, "init_std": 0.2}
    if variant == "projected":
        shape |= {"word_embed_proj_dim": 20, "do_layer_norm_before": False}
    return OPTConfig(**shape, num_hidden_layers=3, max_position_embeddings=CONTEXT, dropout=0.1, attention_dropout=0.1)


def _phi3_config(variant: str) -> Any:
    shape = {"num_hidden_layers": 3, "num_key_value_heads": 2, "resid_pdrop": 0.1, "pad_token_id": None}
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}
    if variant == "longrope":
        rope |= {"rope_type": "longrope", "short_factor": [1.5, 2.5], "long_factor": [4.0, 9.0]}
        shape |= {"original_max_position_embeddings": CONTEXT // 2}
    return Phi3Config(**_WIDE, **shape, rope_parameters=rope)


def _qwen2_config(variant: str) -> Any:
    shape = {"hidden_size": 40, "num_attention_heads": 5, "num_hidden_layers": 3, "num_key_value_heads": 1}
    return Qwen2Config(**_WIDE | shape, use_sliding_window=True, sliding_window=WINDOW, max_window_layers=1)


def _qwen3_config(variant: str) -> Any:
    return Qwen3Config(**_WIDE, num_hidden_layers=2, num_key_value_heads=2, head_dim=12)


def _bert_config(variant: str) -> Any:
    shape = {"num_hidden_layers": 3, "hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1}
    return BertConfig(**_WIDE, **shape)


def _distilbert_config(variant: str) -> Any:
    shape = {"vocab_size": VOCABULARY, "dim": 40, "hidden_dim": 48, "n_heads": 5, "n_layers": 3}
    return DistilBertConfig(**shape, max_position_embeddings=CONTEXT, initializer_range=0.2)


def _modernbert_config(variant: str) -> Any:
    kinds = ["full_attention", "sliding_attention", "sliding_attention", "full_attention"]
    shape = {"num_hidden_layers": 4, "layer_types": kinds, "local_attention": 2 * WINDOW, "norm_bias": True}
    ids = {"pad_token_id": 261, "bos_token_id": BOS, "cls_token_id": BOS, "eos_token_id": EOS, "sep_token_id": EOS}
    return ModernBertConfig(**_WIDE, **shape, **ids)


def _roberta_config(variant: str) -> Any:
    shape = {"num_hidden_layers": 3, "pad_token_id": 1, "bos_token_id": BOS, "eos_token_id": EOS}
    # The first positions are those of padding.
    return RobertaConfig(**_WIDE | shape | {"max_position_embeddings": CONTEXT + 2, "hidden_size": 48})


def _t5_config(variant: str) -> Any:
    shape = {"vocab_size": VOCABULARY, "d_model": 32, "d_ff": 48, "num_heads": 4, "d_kv": 8, "num_layers": 3}
    shape |= {"relative_attention_num_buckets": 8, "relative_attention_max_distance": 20, "n_positions": CONTEXT}
    if variant == "gated":
        shape |= {"feed_forward_proj": "gated-gelu", "d_kv": 10, "num_layers": 4, "num_decoder_layers": 2}
        shape |= {"tie_word_embeddings": False}
    return T5Config(**shape, pad_token_id=261, eos_token_id=EOS, decoder_start_token_id=261)


def _bart_config(variant: str) -> Any:
    shape = {"vocab_size": VOCABULARY, "d_model": 32, "encoder_ffn_dim": 48, "decoder_ffn_dim": 40, "init_std": 0.2}
    shape |= {"encoder_layers": 3, "decoder_layers": 2, "encoder_attention_heads": 4, "decoder_attention_heads": 2}
    shape |= {"scale_embedding": True, "attention_dropout": 0.1, "max_position_embeddings": CONTEXT}
    ids = {"pad_token_id": 261, "bos_token_id": BOS, "eos_token_id": EOS, "decoder_start_token_id": EOS}
    return BartConfig(**shape, **ids, forced_eos_token_id=None)
