"""Tiny random backbones of every supported family, rows of random tokens, and prompts from the registry."""

import functools
import itertools
import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from tokenizers import Tokenizer as Inner
from tokenizers import decoders, models, pre_tokenizers, processors
from torch.overrides import TorchFunctionMode
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    PreTrainedTokenizerFast,
)
from transformers.masking_utils import eager_mask
from transformers.models.modernbert import modeling_modernbert

from overture.core.contracts import Losses, RowMethod
from overture.core.injection import Injection, Place, Vectors
from overture.core.rows import Answer, Candidates, Encoded, OneOf
from overture.engine.backbone import Backbone
from overture.engine.compiled import compiled_prompt
from overture.engine.frontends.text import text_backbone
from overture.engine.prompted import PromptedModel
from overture.engine.tokenizer import Tokenizer
from overture.prompt.build import build_prompt
from overture.prompt.config import PromptConfig
from overture.prompt.methods import METHODS
from overture.prompt.source import PromptSource
from tiny_configs import BOS, CONTEXT, EOS, VOCABULARY, config_of

# Between them these run every method with all its options, see FAMILY_CASES.
WHOLE = ("llama", "gemma3_text", "gpt2", "qwen3")
FAMILIES = (*WHOLE, "gemma2", "gpt_neox", "mistral", "opt", "phi3", "qwen2")
# One with learned and one with relative positions; see ENCODER_CASES.
WHOLE_ENCODERS = ("bert", "modernbert")
ENCODERS = (*WHOLE_ENCODERS, "distilbert", "roberta")
# Between them: tied and untied heads, relative and learned positions, as many layers on both sides and not.
SEQ2SEQ = ("t5", "t5 gated", "bart")
# Other shapes that models of these families have.
VARIANTS = ("gpt_neox serial", "opt projected", "phi3 longrope", "mistral unwindowed")
TEXT_IDS = range(40, 240)
SPECIALS = ("<bos>", "<eos>", "<|user|>", "<|bot|>", "<|end|>", "<pad>")
CHAT = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}<|bot|>"


def make_model(family: str, attention: str = "eager", dtype: torch.dtype = torch.float32) -> Any:
    """A random model in which every parameter counts: norms and biases are random too."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        kind = AutoModelForMaskedLM if family in ENCODERS else AutoModelForCausalLM
        kind = AutoModelForSeq2SeqLM if family in SEQ2SEQ else kind
        model = kind.from_config(config_of(family), attn_implementation=attention, dtype=torch.float64)
        with torch.no_grad():
            if family == "t5 gated":
                # Heads of their own are in the weights, whatever the config says.
                model.lm_head.weight = torch.nn.Parameter(0.2 * torch.randn_like(model.lm_head.weight))
            for value in model.parameters():
                value.add_(0.05 * torch.randn_like(value))
            if family == "bart":
                model.final_logits_bias.normal_()
    # From one set of float32 values, so that all precisions are the same model.
    model = model.float().to(dtype).eval()
    if dtype == torch.float64:
        for module in model.modules():
            if type(module).__name__.endswith(("RMSNorm", "T5LayerNorm")):
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


def _rotated_in_full(
    q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, unsqueeze_dim: int = 1
) -> tuple[torch.Tensor, torch.Tensor]:
    """ModernBERT's rotation in the model's own precision; the library's goes through float32."""
    cos, sin = cos.unsqueeze(unsqueeze_dim), sin.unsqueeze(unsqueeze_dim)
    turned = modeling_modernbert.rotate_half
    return q * cos + turned(q) * sin, k * cos + turned(k) * sin


modeling_modernbert.apply_rotary_pos_emb = _rotated_in_full


def make_inner_tokenizer(family: str = "llama") -> PreTrainedTokenizerFast:
    """Bytes, six special tokens and merges up to the vocabulary's size; the Gemma ones put a BOS in front."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: index for index, letter in enumerate(alphabet)}
    vocabulary |= {token: 256 + index for index, token in enumerate(SPECIALS)}
    merges = [(left, right) for left in "aeiou" for right in "bcdfghkl"][: VOCABULARY - len(vocabulary)]
    vocabulary |= {left + right: 262 + index for index, (left, right) in enumerate(merges)}
    inner = Inner(models.BPE(vocabulary, merges))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.decoder = decoders.ByteLevel()
    if family.startswith("gemma"):
        inner.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", BOS)])
    if family.startswith("t5"):
        inner.post_processor = processors.TemplateProcessing(single="$A <eos>", special_tokens=[("<eos>", EOS)])
    named = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>", "chat_template": CHAT}
    if family in (*ENCODERS, "bart"):
        ends = [("<bos>", BOS), ("<eos>", EOS)]
        inner.post_processor = processors.TemplateProcessing(single="<bos> $A <eos>", special_tokens=ends)
        named |= {"cls_token": "<bos>", "sep_token": "<eos>", "mask_token": "<|bot|>"}
    extra = ["<|user|>", "<|bot|>", "<|end|>"]
    return PreTrainedTokenizerFast(tokenizer_object=inner, **named, additional_special_tokens=extra)


def make_backbone(family: str, dtype: torch.dtype = torch.float32) -> Backbone:
    """A backbone that no other test shares."""
    model = make_model(family, dtype=dtype)
    start_id = model.config.decoder_start_token_id if family in SEQ2SEQ else None
    tokenizer = Tokenizer(make_inner_tokenizer(family), CONTEXT, is_encoder=family in ENCODERS, start_id=start_id)
    return text_backbone(model, tokenizer, id=f"tiny-{family}")


@functools.cache
def backbone_of(family: str, dtype: torch.dtype = torch.float32) -> Backbone:
    """A shared backbone; nothing may change it."""
    return make_backbone(family, dtype)


@functools.cache
def reference_of(family: str, dtype: torch.dtype = torch.float32) -> Any:
    """The same model, never touched by us."""
    attention = "eager"
    if dtype == torch.float64:
        # SDPA cannot cap logits, so it refuses Gemma 2.
        attention = "eager in full" if family == "gemma2" else "sdpa"
    return make_model(family, attention, dtype).requires_grad_(False)


class _SoftmaxInFull(TorchFunctionMode):
    """The eager kernels' softmax is in float32 whatever the model is; here it is in float64."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        options = dict(kwargs or {})
        if function is torch.nn.functional.softmax:
            assert options["dtype"] == torch.float32
            options["dtype"] = torch.float64
        return function(*args, **options)


def _eager_in_full(module: Any, *args: Any, **kwargs: Any) -> Any:
    """The library's own eager attention of the module's family, but for the precision of its softmax."""
    eager = sys.modules[type(module).__module__].eager_attention_forward
    with _SoftmaxInFull():
        return eager(module, *args, **kwargs)


AttentionInterface.register("eager in full", _eager_in_full)
AttentionMaskInterface.register("eager in full", eager_mask)


# -- prompts


@dataclass(frozen=True, slots=True)
class Case:
    """A method at a place."""

    method: str
    place: Place
    options: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return "-".join([self.method, self.place, *map(str, self.options.values())])


# Where a method's own widths are too large for models this small, and what it cannot do without.
SMALL: dict[str, dict[str, Any]] = {
    "p_tuning": {"width": 6},
    "residual": {"bottleneck": 4},
    "low_rank": {"rank": 2},
    "ulpt": {"rank": 3},
    "dept": {"rank": 2, "max_tokens": 4},
    "late": {"layer": 1},
    "idpg": {"width": 4},
    "lopa": {"rank": 2, "width": 4},
    "attempt": {"sources": ["first", "second"], "width": 4},
    "pruned": {"tokens": [0, 1], "masks": ["10", "11"]},
}
# Prompts among the labels' words need a model that compares images with texts: tests/contract/test_captions.py.
_OF_TEXTS = {name: method for name, method in METHODS.items() if not method.in_captions}
_PLAIN = [Case(name, place, SMALL.get(name, {})) for name, method in _OF_TEXTS.items() for place in method.places]
_OTHER: dict[str, list[dict[str, Any]]] = {
    "prefix": [{"reparameterise": "mlp", "mlp_width": 6}],
    "p_tuning": [{"encoder": "lstm", "width": 4}],
    "gated": [{"layers": False}, {"columns": False}],
    "mpt": [{"rank": 2, "source": "first"}],
}
_OPTIONS = [
    Case(name, place, each) for name, found in _OTHER.items() for each in found for place in METHODS[name].places
]
CASES = [*_PLAIN, *_OPTIONS]
# What makes the vectors or the memory is no matter of the family, nor of the place where they enter, and `test_grid`
# has every cell. So the other laws have every way into the layers in the four families, the chief ones in every other,
# and each other method and option once, at its places in turn and in one of the four in turn.
_BASIC = [case for case in _PLAIN if case.method in ("vectors", "prefix")]
_WEIGHED_AND_LATE = [case for case in _PLAIN if (case.method, case.place) in (("gated", "memory"), ("late", "before"))]
ENTRIES = [*_BASIC, *_WEIGHED_AND_LATE]
_CHIEF = [case for case in _BASIC if str(case) in ("vectors-before", "prefix-memory", "prefix-after")]


def _once(cases: Sequence[Case]) -> list[Case]:
    """One case of each method with the same options, so that all places are among them."""
    by_method: dict[str, list[Case]] = {}
    for case in cases:
        by_method.setdefault(f"{case.method} {case.options}", []).append(case)
    return [places[number % len(places)] for number, places in enumerate(by_method.values())]


FAMILY_CASES = [(family, case) for family in FAMILIES for case in (ENTRIES if family in WHOLE else _CHIEF)]
FAMILY_CASES += zip(itertools.cycle(WHOLE), _once([case for case in CASES if case not in ENTRIES]), strict=False)


def is_for_encoders(case: Case) -> bool:
    """An encoder keeps no memory of its input for another to follow, and sees what `cpt` would have it predict."""
    is_memory = "memory" in METHODS[case.method].places
    return case.method != "cpt" and not (is_memory and case.place == "after")


_IN_ENCODERS = [case for case in CASES if is_for_encoders(case)]
_SOFT_LABELS = [case for case in _PLAIN if case.method == "warp"]
_ENTRIES_OF_ENCODERS = [case for case in [*ENTRIES, *_SOFT_LABELS] if case in _IN_ENCODERS]
_CHIEF_OF_ENCODERS = [case for case in [*_CHIEF, *_SOFT_LABELS] if case in _IN_ENCODERS and case.place != "slots"]
ENCODER_CASES = [
    (family, case)
    for family in ENCODERS
    for case in (_ENTRIES_OF_ENCODERS if family in WHOLE_ENCODERS else _CHIEF_OF_ENCODERS)
]
ENCODER_CASES += zip(
    itertools.cycle(ENCODERS), _once([case for case in _IN_ENCODERS if case not in _ENTRIES_OF_ENCODERS]), strict=False
)
# Encoder-decoders: as decoders, but nothing in their prompts predicts a next token.
_IN_SEQ2SEQ = [case for case in CASES if case.method != "cpt"]
_BOTH_SIDES = [case for case in _PLAIN if case.place == "after" and case.method in ("warp", "dept", "late", "gated")]
_ENTRIES_OF_SEQ2SEQ = [*ENTRIES, *_BOTH_SIDES]
SEQ2SEQ_CASES = [(family, case) for family in SEQ2SEQ for case in _IN_SEQ2SEQ if case in _ENTRIES_OF_SEQ2SEQ]
SEQ2SEQ_CASES += zip(
    itertools.cycle(SEQ2SEQ), _once([case for case in _IN_SEQ2SEQ if case not in _ENTRIES_OF_SEQ2SEQ]), strict=False
)
VARIANT_CASES = [(variant, case) for variant in VARIANTS for case in _BASIC]


KINDS = ("one token", "several tokens", "free text")
# Tokens that a method's prompt needs at least: two examples.
ROOM = {"cpt": 11}


def is_fit(case: Case, kind: str) -> bool:
    """Whether a prompt can be trained on such rows: vectors of labels have no part in free text."""
    return kind != "free text" or not METHODS[case.method].needs_labels


def with_kinds(cases: Sequence[tuple[str, Case]], kinds: Sequence[str] = KINDS) -> list[tuple[str, Case, str]]:
    """The entries of one family on rows of every kind; each other case on rows of one kind, in turn."""
    chosen = []
    for number, (family, case) in enumerate(cases):
        fit = [kind for kind in kinds if is_fit(case, kind)]
        is_whole = family in ("llama", "t5 gated") and case in ENTRIES
        chosen += [(family, case, kind) for kind in (fit if is_whole else [fit[number % len(fit)]])]
    return chosen


def source_of(
    backbone: Backbone, candidates: Candidates | None = None, examples: Sequence[Encoded] = ()
) -> PromptSource:
    """What a prompt asks of its model; any name is that of a stored prompt of two vectors."""

    def stored(ref: str) -> Injection:
        generator = torch.Generator().manual_seed(len(ref))
        return Injection(Vectors(torch.randn(2, backbone.info.hidden_size, generator=generator), "before"))

    return PromptSource(
        hidden_size=backbone.info.hidden_size,
        embedding_norm=backbone.embedding_norm,
        embed=backbone.embed,
        memory_of=backbone.memory_of,
        encode=backbone.text.tokenizer.encode_plain,
        sample=lambda num, random: backbone.embed(random.choices(TEXT_IDS, k=num)),
        num_layers=backbone.info.num_layers,
        num_heads=backbone.info.num_kv_heads,
        head_dim=backbone.info.head_dim,
        memory_of_layers=backbone.memory_of_layers,
        head_rows=backbone.head_rows,
        candidates=candidates,
        examples=examples,
        prompt=stored,
        encoder=source_of(backbone.encoder, candidates, examples) if backbone.encoder else None,
        null_id=backbone.text.tokenizer.null_id,
    )


def moved(prompt: Any, generator: torch.Generator, noise: float = 0.3) -> Any:
    """The prompt, moved off its start so that no part is at zero."""
    with torch.no_grad():
        for value in prompt.trainable().values():
            value.add_(noise * torch.randn(value.shape, generator=generator, dtype=torch.float64).to(value))
    return prompt


def make_prompt(case: Case, backbone: Backbone, length: int = 3, noise: float = 0.1, seed: int = 0) -> Any:
    """A prompt in the backbone's precision, moved off its start so that no part is at zero."""
    # The rows' slots hold two vectors, so a prompt that stands there has two.
    length = 2 if case.place == "slots" else max(length, ROOM.get(case.method, 0))
    config = PromptConfig(method=case.method, place=case.place, length=length, options=case.options)
    source = source_of(backbone, ONE_TOKEN, make_rows("one token", (1, 1, 1), num_anchor=1))
    prompt = build_prompt(config, source, seed).to(backbone.dtype)
    generator = torch.Generator().manual_seed(seed)
    return moved(prompt, generator, noise)


def injection_of(prompt: Any, backbone: Backbone) -> Injection:
    """What a prompt is for a row; for any, unless it depends on it."""
    found = PromptedModel(backbone, prompt).injections(make_rows("one token", (3,)))[0]
    assert found is not None
    return found


def compiled_of(backbone: Backbone, prompt: Any) -> Any:
    """The prompt as constants; one that depends on the row stays what it is."""
    return prompt if isinstance(prompt, RowMethod) else compiled_prompt(backbone, prompt.injection())


# -- rows


ONE_TOKEN = Candidates(("no", "maybe", "yes"), ((50,), (61,), (72,), (83,)), (0, 1, 2, 2))
SEVERAL_TOKENS = Candidates(("no", "maybe", "yes"), ((50, 51, 52), (61,), (50, 90), (83, 84)), (0, 1, 2, 2))
# Rows of one-token words read at a mask, in the input or behind it; or at the first token, or as a mean.
ENCODER_KINDS = ("mask", "first", "mean")
LENGTHS = (5, 19, 0, 2, 11)


def make_rows(kind: str, lengths: tuple[int, ...] = LENGTHS, num_anchor: int = 2, seed: int = 0) -> list[Encoded]:
    """Rows of random tokens with inputs of these lengths."""
    chance = random.Random(f"{seed} {kind}")
    anchor = tuple(chance.choices(range(32, 240), k=num_anchor))
    return [_row(kind, number, length, anchor, chance) for number, length in enumerate(lengths)]


def _row(kind: str, number: int, length: int, anchor: tuple[int, ...], chance: random.Random) -> Encoded:
    text = tuple(chance.choices(range(32, 240), k=length))
    slots = ((min(1, length), 1), (length + 1, 1))
    if kind == "free text":
        answer = (*chance.choices(range(32, 240), k=chance.randint(0, 4)), EOS)
        return Encoded.of_ids(number, text, anchor, Answer(answer), slots=slots)
    candidates = SEVERAL_TOKENS if kind == "several tokens" else ONE_TOKEN
    read = {"mask": length // (1 + number % 2), "first": 0, "mean": "mean"}.get(kind)
    label = chance.randrange(3)
    return Encoded.of_ids(
        number, text, anchor, OneOf(candidates, label, read=read, is_mask=kind == "mask"), slots=slots
    )


@torch.no_grad()
def log_loss(model: PromptedModel, rows: Sequence[Encoded]) -> torch.Tensor:
    """Sum of the rows' negative log-likelihoods, without what vectors of the prompt must predict."""
    return torch.stack(model.ask(rows, Losses(with_vector_targets=False))).sum()
