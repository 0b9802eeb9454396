"""Tiny random backbones of every supported family, rows of random tokens, and prompts from the registry."""

import functools
import random
from dataclasses import dataclass, field
from typing import Any

import torch
from tokenizers import Tokenizer as Inner
from tokenizers import decoders, models, pre_tokenizers, processors
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    LlamaConfig,
    PreTrainedTokenizerFast,
    Qwen3Config,
)

from overture.core.types import Candidates, Encoded, Place
from overture.engine import Backbone
from overture.engine.tokenizer import Tokenizer
from overture.prompt import METHODS, PromptConfig, PromptSource, build_prompt

FAMILIES = ("llama", "gemma3_text", "gpt2", "qwen3")
VOCABULARY, CONTEXT, WINDOW = 300, 256, 8
SPECIALS = ("<bos>", "<eos>", "<|user|>", "<|bot|>", "<|end|>", "<pad>")
BOS, EOS = 256, 257
CHAT = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}<|bot|>"

_WIDE = {"vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4}
_WIDE |= {"max_position_embeddings": CONTEXT, "initializer_range": 0.2}


def config_of(family: str) -> Any:
    """A tiny config; attention shapes differ by family on purpose."""
    match family:
        case "llama":
            return LlamaConfig(**_WIDE, num_hidden_layers=3, num_key_value_heads=2, tie_word_embeddings=False)
        case "gemma3_text":
            kinds = ["sliding_attention", "full_attention"] * 2
            own = {"num_hidden_layers": 4, "num_key_value_heads": 1, "head_dim": 8, "query_pre_attn_scalar": 8}
            own |= {"layer_types": kinds, "sliding_window": WINDOW, "final_logit_softcapping": 6.0}
            return Gemma3TextConfig(**_WIDE, **own)
        case "gpt2":
            own = {"vocab_size": VOCABULARY, "n_positions": CONTEXT, "initializer_range": 0.2}
            own |= {"bos_token_id": BOS, "eos_token_id": EOS}
            return GPT2Config(**own, n_embd=32, n_layer=3, n_head=4)
        case "qwen3":
            return Qwen3Config(**_WIDE, num_hidden_layers=2, num_key_value_heads=2, head_dim=12)
    raise AssertionError(family)


def make_model(family: str, attention: str = "eager", dtype: torch.dtype = torch.float32) -> Any:
    """A random model in which every parameter counts: norms and biases are random too."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = AutoModelForCausalLM.from_config(config_of(family), attn_implementation=attention, dtype=torch.float64)
        with torch.no_grad():
            for value in model.parameters():
                value.add_(0.05 * torch.randn_like(value))
    # From one set of float32 values, so that all precisions are the same model.
    model = model.float().to(dtype).eval()
    if dtype == torch.float64:
        for module in model.modules():
            if type(module).__name__.endswith("RMSNorm"):
                _norm_in_full(module)
            if type(module).__name__.endswith("RotaryEmbedding"):
                _angles_in_full(module)
    return model


def _norm_in_full(module: Any) -> None:
    """Let a norm compute in float64; the library's goes through float32, which blurs finite differences."""
    is_gemma = type(module).__name__.startswith("Gemma")
    epsilon = module.eps if is_gemma else module.variance_epsilon

    def forward(hidden: torch.Tensor) -> torch.Tensor:
        scale = module.weight + 1 if is_gemma else module.weight
        return hidden * torch.rsqrt(hidden.square().mean(-1, keepdim=True) + epsilon) * scale

    module.forward = forward


def _angles_in_full(module: Any) -> None:
    """Angles in float64, so that equal distances between positions are equal wherever they stand."""

    def forward(
        x: torch.Tensor, position_ids: torch.Tensor, layer_type: str | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        prefix = f"{layer_type}_" if layer_type else ""
        angles = position_ids[..., None].double() * getattr(module, f"{prefix}inv_freq").double()
        both, scale = torch.cat([angles, angles], dim=-1), getattr(module, f"{prefix}attention_scaling")
        return (both.cos() * scale).to(x), (both.sin() * scale).to(x)

    module.forward = forward


def make_inner_tokenizer(family: str = "llama") -> PreTrainedTokenizerFast:
    """Bytes, six special tokens and merges up to the vocabulary's size; the Gemma one puts a BOS in front."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: index for index, letter in enumerate(alphabet)}
    vocabulary |= {token: 256 + index for index, token in enumerate(SPECIALS)}
    merges = [(left, right) for left in "aeiou" for right in "bcdfghkl"][: VOCABULARY - len(vocabulary)]
    vocabulary |= {left + right: 262 + index for index, (left, right) in enumerate(merges)}
    inner = Inner(models.BPE(vocabulary, merges))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.decoder = decoders.ByteLevel()
    if family == "gemma3_text":
        inner.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", BOS)])
    named = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>", "chat_template": CHAT}
    extra = ["<|user|>", "<|bot|>", "<|end|>"]
    return PreTrainedTokenizerFast(tokenizer_object=inner, **named, additional_special_tokens=extra)


def make_backbone(family: str, dtype: torch.dtype = torch.float32) -> Backbone:
    """A backbone that no other test shares."""
    tokenizer = Tokenizer(make_inner_tokenizer(family), CONTEXT)
    return Backbone(make_model(family, "sdpa", dtype), tokenizer, id=f"tiny-{family}")


@functools.cache
def backbone_of(family: str, dtype: torch.dtype = torch.float32) -> Backbone:
    """A shared backbone; nothing may change it."""
    return make_backbone(family, dtype)


@functools.cache
def reference_of(family: str, dtype: torch.dtype = torch.float32) -> Any:
    """The same model, never touched by us."""
    # The eager kernel's softmax is in float32 whatever the model is.
    return make_model(family, "sdpa" if dtype == torch.float64 else "eager", dtype).requires_grad_(False)


# -- prompts


@dataclass(frozen=True, slots=True)
class Case:
    """A method at a place."""

    method: str
    place: Place
    options: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return "-".join([self.method, self.place, *map(str, self.options.values())])


_PLAIN = [Case(name, place) for name, method in METHODS.items() for place in method.places]
_MLP = [Case("prefix", place, {"reparameterise": "mlp", "mlp_width": 6}) for place in METHODS["prefix"].places]
CASES = [*_PLAIN, *_MLP]


def source_of(backbone: Backbone, candidates: Candidates | None = None) -> PromptSource:
    """What a prompt asks of its model."""
    return PromptSource(
        hidden_size=backbone.info.hidden_size,
        embedding_norm=backbone.embedding_norm,
        embed=backbone.embed,
        memory_of=backbone.memory_of,
        encode=backbone.tokenizer.encode_plain,
        text_ids=range(40, 240),
        candidates=candidates,
    )


def make_prompt(case: Case, backbone: Backbone, length: int = 3, noise: float = 0.1, seed: int = 0) -> Any:
    """A prompt in the backbone's precision, moved off its start so that no part is at zero."""
    config = PromptConfig(method=case.method, place=case.place, length=length, options=case.options)
    prompt = build_prompt(config, source_of(backbone), seed).to(backbone.dtype)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in prompt.trainable().values():
            value.add_(noise * torch.randn(value.shape, generator=generator, dtype=torch.float64).to(value))
    return prompt


# -- rows


ONE_TOKEN = Candidates(("no", "maybe", "yes"), ((50,), (61,), (72,), (83,)), (0, 1, 2, 2))
SEVERAL_TOKENS = Candidates(("no", "maybe", "yes"), ((50, 51, 52), (61,), (50, 90), (83, 84)), (0, 1, 2, 2))
KINDS = ("one token", "several tokens", "free text")
LENGTHS = (5, 19, 0, 2, 11)


def make_rows(kind: str, lengths: tuple[int, ...] = LENGTHS, num_anchor: int = 2, seed: int = 0) -> list[Encoded]:
    """Rows of random tokens with inputs of these lengths."""
    chance = random.Random(f"{seed} {kind}")
    anchor = tuple(chance.choices(range(32, 240), k=num_anchor))
    return [_row(kind, number, length, anchor, chance) for number, length in enumerate(lengths)]


def _row(kind: str, number: int, length: int, anchor: tuple[int, ...], chance: random.Random) -> Encoded:
    text = tuple(chance.choices(range(32, 240), k=length))
    if kind == "free text":
        answer = (*chance.choices(range(32, 240), k=chance.randint(0, 4)), EOS)
        return Encoded(number, text, anchor, answer_ids=answer)
    candidates = ONE_TOKEN if kind == "one token" else SEVERAL_TOKENS
    return Encoded(number, text, anchor, candidates, label=chance.randrange(3))
