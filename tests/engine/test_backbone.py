import hashlib

import pytest
import torch
from transformers import AutoModelForCausalLM, BloomConfig

from fakes import (
    CASES,
    ENCODERS,
    FAMILIES,
    SEQ2SEQ,
    VARIANTS,
    backbone_of,
    injection_of,
    make_backbone,
    make_inner_tokenizer,
    make_prompt,
    make_rows,
    reference_of,
)
from overture.core.errors import BackboneError
from overture.engine import families as supported
from overture.engine import options
from overture.engine.compiled import compiled_prompt
from overture.engine.families import max_length
from overture.engine.frontends.text import text_backbone
from overture.engine.info import weights_digest
from overture.engine.memories import prompt_columns
from overture.engine.prompted import PromptedModel
from overture.engine.step import Columns, Step
from overture.engine.tokenizer import Tokenizer
from overture.evaluate.facts import backbone_ref
from sound_fakes import SOUND_ENCODERS, sound_backbone_of
from tiny_configs import CONTEXT, config_of
from vision_fakes import VISION, vision_backbone_of

DOUBLE = torch.float64
CLOSE = {"rtol": 1e-8, "atol": 1e-8}


def tokens(num_rows: int, length: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(32, 240, (num_rows, length), generator=torch.Generator().manual_seed(seed))


def plain_step(num_rows: int, length: int, start: int = 0, memory=()) -> Step:
    positions = torch.arange(start, start + length).expand(num_rows, -1)
    return Step(positions, torch.ones_like(positions, dtype=torch.bool), None, memory)


@pytest.mark.parametrize("family", [*FAMILIES, *VARIANTS])
def test_run_gives_the_models_hidden_states_and_head_its_logits(family):
    backbone, ids = backbone_of(family, DOUBLE), tokens(2, 30)
    hidden = backbone.run(backbone.embed(ids), plain_step(2, 30))
    logits = reference_of(family, DOUBLE)(ids).logits
    torch.testing.assert_close(backbone.head(hidden), logits, **CLOSE)
    some = torch.tensor([7, 3, 250])
    torch.testing.assert_close(backbone.head(hidden, some), logits[..., some], **CLOSE)


@pytest.mark.parametrize("family", [*FAMILIES, *VARIANTS])
def test_upper_layers_continue_where_lower_ones_ended(family):
    backbone, ids = backbone_of(family, DOUBLE), tokens(2, 20)
    layers = backbone.layers
    entering, hooks = {}, []
    for number, layer in enumerate(layers):
        keep = lambda _, inputs, options, number=number: entering.__setitem__(number, _first(inputs, options))  # noqa: E731
        hooks.append(layer.register_forward_pre_hook(keep, with_kwargs=True))
    whole = backbone.run(backbone.embed(ids), plain_step(2, 20))
    for hook in hooks:
        hook.remove()
    for number in range(1, len(layers)):
        assert torch.equal(backbone.run(entering[number], plain_step(2, 20), start_layer=number), whole)
        lower = backbone.run(backbone.embed(ids), plain_step(2, 20), end_layer=number)
        assert torch.equal(lower, entering[number])
    assert len(backbone.layers) == backbone.info.num_layers


def _first(inputs, options) -> torch.Tensor:
    return inputs[0] if inputs else options["hidden_states"]


@pytest.mark.parametrize("family", [*FAMILIES, *VARIANTS])
def test_padding_on_the_left_changes_nothing(family):
    backbone, ids = backbone_of(family, DOUBLE), tokens(1, 12)
    first, memory = _memory_of_length(backbone, 4)
    alone = backbone.run(backbone.embed(ids), plain_step(1, 12, first, [memory]))
    num_padding = 9
    padded_ids = torch.cat([torch.zeros(1, num_padding, dtype=torch.long), ids], dim=1)
    positions = torch.cat([torch.zeros(1, num_padding, dtype=torch.long), torch.arange(first, first + 12)[None]], dim=1)
    valid = torch.arange(num_padding + 12)[None] >= num_padding
    step = Step(positions, valid, None, [_padded_left(memory, 3)])
    beside = backbone.run(backbone.embed(padded_ids), step)[:, num_padding:]
    torch.testing.assert_close(beside, alone, **CLOSE)


def _memory_of_length(backbone, length: int) -> tuple[int, Columns]:
    positions = torch.arange(length)[None]
    valid = torch.ones_like(positions, dtype=torch.bool)
    return length, backbone.remember(backbone.embed(tokens(1, length, seed=1)), positions, valid)


def _padded_left(columns: Columns, number: int) -> Columns:
    """Columns behind some of rubbish which no row has."""

    def wide(values):
        return [
            torch.cat([torch.full_like(value[:, :, :1], 9.0).expand(-1, -1, number, -1), value], 2)
            for value in values.values()
        ]

    positions = torch.cat([columns.positions.new_zeros(1, number), columns.positions], dim=1)
    valid = torch.cat([columns.valid.new_zeros(1, number), columns.valid], dim=1)
    return Columns(wide(columns.keys), wide(columns.values), positions, valid)


@pytest.mark.parametrize("family", [*FAMILIES, *VARIANTS])
def test_the_model_stays_usable_by_itself(family):
    backbone, ids = make_backbone(family), tokens(2, 25)
    mask = (torch.arange(25)[None] >= torch.tensor([[0], [6]])).long()
    reference = reference_of(family)
    logits, masked = reference(ids).logits, reference(ids, attention_mask=mask).logits
    PromptedModel(backbone, make_prompt(CASES[-1], backbone)).loss(make_rows("free text"))
    torch.testing.assert_close(backbone.model(ids).logits, logits, rtol=0, atol=2e-5)
    ours = backbone.model(ids, attention_mask=mask).logits
    torch.testing.assert_close(ours[mask.bool()], masked[mask.bool()], rtol=0, atol=2e-5)
    written = backbone.model.generate(ids, max_new_tokens=5, do_sample=False, pad_token_id=0)
    assert torch.equal(written, reference.generate(ids, max_new_tokens=5, do_sample=False, pad_token_id=0))


@pytest.mark.parametrize("family", FAMILIES)
def test_checkpointing_leaves_the_model_as_it_was(family):
    backbone = make_backbone(family)
    with pytest.raises(ZeroDivisionError), backbone.checkpointing(True):
        _ = 1 / 0
    assert not any(module.training for module in backbone.model.modules())
    assert not any("forward" in vars(layer) for layer in backbone.layers)
    assert not backbone.embed([1, 2]).requires_grad


@pytest.mark.parametrize("family", FAMILIES)
def test_info_describes_the_model(family):
    backbone, reference = backbone_of(family), reference_of(family)
    info, config = backbone.info, reference.config
    memory = backbone.memory_of_tokens([5, 6, 7])
    assert memory.keys.shape == memory.values.shape
    assert memory.keys.shape == (info.num_layers, info.num_kv_heads, 3, info.head_dim)
    assert (info.hidden_size, info.num_layers) == (config.hidden_size, config.num_hidden_layers)
    assert (info.vocab_size, info.max_length, info.model_type) == (300, CONTEXT, family)
    assert info.num_parameters == sum(value.numel() for value in reference.parameters())
    tables = {value.data_ptr(): value.numel() for value in _tables(reference)}
    assert info.num_body_parameters == info.num_parameters - sum(tables.values())
    assert info.weights_sha256 == weights_digest(reference)


@pytest.mark.parametrize("family", [*FAMILIES, *ENCODERS, *SEQ2SEQ, *VARIANTS])
def test_only_maps_of_token_vectors_have_a_width_of_their_own(family):
    backbone = backbone_of(family)
    assert backbone.info.embedding_size == (20 if family == "opt projected" else None)
    assert backbone_ref(backbone).embedding_size == backbone.info.embedding_size


def _tables(model):
    return [model.get_input_embeddings().weight, model.get_output_embeddings().weight]


def test_digest_tells_one_changed_bit():
    model = make_backbone("llama").model
    before = weights_digest(model)
    with torch.no_grad():
        value = next(model.parameters()).view(-1)
        value[0] = torch.nextafter(value[0], torch.tensor(9.0))
    assert weights_digest(model) != before


def test_an_unsupported_family_is_refused():
    model = AutoModelForCausalLM.from_config(BloomConfig(vocab_size=300, hidden_size=32, n_layer=1, n_head=2))
    with pytest.raises(BackboneError, match="not supported yet") as caught:
        text_backbone(model, Tokenizer(make_inner_tokenizer(), CONTEXT), id="some/bloom")
    assert caught.value.got == "bloom"
    assert "llama" in caught.value.wanted
    assert model.config._attn_implementation != "overture"


def test_encoder_decoders_are_known_without_torch():
    kinds = {name: family.kind for name, family in supported.FAMILIES.items()}
    assert {name for name, kind in kinds.items() if kind == "encoder-decoder"} == set(options.ENCODER_DECODERS)


def test_every_supported_family_is_tested():
    of_sounds = {family.split()[0] for family in SOUND_ENCODERS}
    assert set(supported.FAMILIES) == {
        *FAMILIES,
        *ENCODERS,
        "t5",
        "bart",
        "clip_text_model",
        "qwen2_5_vl_text",
        "siglip_text_model",
        "siglip2_text_model",
        *VISION,
        *of_sounds,
        "whisper",
    }


def test_longrope_ends_where_its_angles_change():
    backbone = make_backbone("phi3 longrope")
    assert max_length(backbone.model.config) == CONTEXT // 2
    assert max_length(config_of("phi3")) == CONTEXT
    assert max_length(config_of("gemma3_text")) == CONTEXT
    ids = tokens(1, CONTEXT // 2 + 1)
    whole = backbone.run(backbone.embed(ids), plain_step(1, CONTEXT // 2 + 1))
    within = backbone.run(backbone.embed(ids[:, :-1]), plain_step(1, CONTEXT // 2))
    # One token more turns all keys; it is why such a model has to end there.
    assert float((whole[:, :-1] - within).abs().max()) > 0.1


def test_logits_of_attention_are_capped():
    backbone, ids = make_backbone("gemma2", DOUBLE), tokens(1, 12)
    capped = backbone.run(backbone.embed(ids), plain_step(1, 12))
    for layer in backbone.layers:
        layer.self_attn.attn_logit_softcapping = None
    free = backbone.run(backbone.embed(ids), plain_step(1, 12))
    assert float((capped - free).abs().max()) > 0.01
    for layer in backbone.layers:
        layer.self_attn.attn_logit_softcapping = 1e5
    torch.testing.assert_close(backbone.run(backbone.embed(ids), plain_step(1, 12)), free, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("family", [*FAMILIES, *VARIANTS])
def test_checkpointing_computes_each_layer_twice_and_drops_nothing(family):
    backbone = make_backbone(family, DOUBLE)
    live = backbone.embed(tokens(1, 9)).requires_grad_()
    calls = []
    for layer in backbone.layers:
        # The last module of a layer would not do: the recomputation stops once it has what it needs.
        next(layer.children()).register_forward_hook(lambda *_: calls.append(1))
    plain = backbone.run(live, plain_step(1, 9))
    assert len(calls) == backbone.info.num_layers
    with backbone.checkpointing(True):
        hidden = backbone.run(live, plain_step(1, 9))
        hidden.sum().backward()
    assert torch.equal(hidden, plain)
    assert len(calls) == 3 * backbone.info.num_layers


def test_compile_keeps_what_follows_the_text():
    backbone = backbone_of("llama", DOUBLE)
    for case in CASES:
        injection = injection_of(make_prompt(case, backbone), backbone)
        compiled = compiled_prompt(backbone, injection)
        if case.place != "around":
            assert compiled.memory or compiled is injection
            assert (compiled is injection) == (case.place != "before")
        assert (compiled.labels, compiled.offset) == (injection.labels, injection.offset)


class TestTokenizer:
    def test_special_tokens_in_users_text_are_only_text(self):
        tokenizer = backbone_of("llama").text.tokenizer
        assert not set(tokenizer.encode_plain("a<eos>b<|user|>")) & tokenizer.special_ids
        assert tokenizer.encode_template("<eos>") == [257]
        assert tokenizer.decode(tokenizer.encode_plain("a<eos>b")) == "a<eos>b"
        # One call must not leave the other's rule behind.
        assert 257 in tokenizer.encode_template("a<eos>b")

    def test_pieces_between_special_tokens(self):
        tokenizer = backbone_of("llama").text.tokenizer
        assert tokenizer.split_specials("a<eos>b") == [("a", False), ("<eos>", True), ("b", False)]
        assert tokenizer.split_specials("") == []

    def test_tokens_before_any_text(self):
        assert backbone_of("gemma3_text").text.tokenizer.bos_ids == (256,)
        assert backbone_of("llama").text.tokenizer.bos_ids == ()
        assert backbone_of("gemma3_text").text.tokenizer.encode_plain("a")[0] != 256

    def test_fingerprints(self):
        tokenizer = backbone_of("llama").text.tokenizer
        assert tokenizer.sha256 != backbone_of("gemma3_text").text.tokenizer.sha256
        assert tokenizer.chat_template_sha256 == hashlib.sha256(tokenizer.inner.chat_template.encode()).hexdigest()
        assert tokenizer.chat([{"role": "user", "content": "hi"}]) == "<|user|>hi<|end|><|bot|>"


@pytest.mark.parametrize("family", [*ENCODERS, *VISION, *SOUND_ENCODERS])
def test_one_token_is_read_as_in_a_whole_pass(family):
    make = vision_backbone_of if family in VISION else sound_backbone_of if family in SOUND_ENCODERS else backbone_of
    backbone, generator = make(family, DOUBLE), torch.Generator().manual_seed(0)
    live = torch.randn(2, 5, backbone.info.hidden_size, generator=generator, dtype=DOUBLE)
    positions = torch.arange(5).expand(2, 5)
    valid = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    layers = torch.randn(len(backbone.layers), 2, backbone.info.hidden_size, generator=generator, dtype=DOUBLE)
    columns = backbone.memory_of_layers(layers)
    memory = prompt_columns([columns, columns], [0, 0], backbone)
    index, text_index = torch.tensor([3, 1]), torch.full((2, 5), -1)

    def step() -> Step:
        return Step(positions, valid, memory=[memory], is_packed=True, text_index=text_index)

    for start, end in ((0, None), (len(backbone.layers) - 1, None), (0, len(backbone.layers) - 1)):
        whole = backbone.run(live, step(), start, end)[torch.arange(2), index][:, None]
        torch.testing.assert_close(backbone.run_to(live, step(), index, start, end), whole, **CLOSE)
