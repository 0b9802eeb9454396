"""A model's float32 copy, made once for all processes, and what is told from a config alone."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor

import gguf
import huggingface_hub.constants
import numpy as np
import pytest
import transformers
from transformers import Gemma3Config

from fakes import make_backbone, make_inner_tokenizer
from overture.core.errors import ArtifactError, BackboneError
from overture.engine import load, model_files
from overture.engine.connectors import CONNECTORS
from overture.engine.families import FAMILIES
from overture.engine.info import weights_digest
from overture.engine.input_facts import OF_IMAGES, OF_IMAGES_AND_TEXTS, OF_SOUNDS, input_facts
from overture.engine.load import load_backbone
from overture.engine.options import ENCODERS, TOWERS, is_encoder
from overture.evaluate.facts import backbone_ref, check_backbone
from tiny_configs import config_of


@pytest.fixture
def packed(tmp_path, monkeypatch):
    monkeypatch.setenv("OVERTURE_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "tiny.gguf"
    path.write_bytes(b"GGUF, as far as its digest goes")
    return path


def converts(target) -> None:
    make_backbone("llama").model.save_pretrained(target)
    make_inner_tokenizer().save_pretrained(target)


def test_a_second_load_waits_for_a_conversion_and_takes_it(packed, monkeypatch):
    begun, may_end, conversions = threading.Event(), threading.Event(), []

    def slow(gguf, target):
        conversions.append(target)
        begun.set()
        assert may_end.wait(30)
        converts(target)

    monkeypatch.setattr(model_files, "_convert", slow)
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(load_backbone, str(packed))
        assert begun.wait(30)
        second = threads.submit(load_backbone, str(packed))
        may_end.set()
        assert first.result().info == second.result().info
    assert len(conversions) == 1
    assert not list((packed.parent / "cache" / "models").glob(".overture-tmp-*"))


def test_a_refusal_while_converting_is_told_as_it_is(packed, monkeypatch):
    def refuses(gguf, target):
        raise BackboneError("only decoders are read from GGUF", where=str(gguf))

    monkeypatch.setattr(model_files, "_convert", refuses)
    with pytest.raises(BackboneError, match="only decoders"):
        load_backbone(str(packed))


def test_of_a_model_that_reads_pictures_too_the_text_is_looked_at(tmp_path):
    Gemma3Config(text_config=config_of("gemma3_text").to_dict()).save_pretrained(tmp_path)
    assert load.label_place(str(tmp_path), ["yes", "no"]) == "end"
    assert not is_encoder(str(tmp_path))


def test_the_encoders_known_by_their_config_file_are_those_of_the_families():
    assert set(ENCODERS) == {name for name, family in FAMILIES.items() if not family.is_causal}


def test_the_fingerprint_of_a_hub_model_is_that_of_its_files(tmp_path, monkeypatch):
    """So a prompt that was tuned in float32 can be used in bfloat16, and with a folder of the same files."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "hub" / "models--some--llama"
    snapshot = repository / "snapshots" / commit
    converts(snapshot)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    monkeypatch.setenv("OVERTURE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    folder = load_backbone(str(snapshot), device="cpu")
    full, half = (load_backbone("some/llama", device="cpu", dtype=dtype) for dtype in ("float32", "bfloat16"))
    assert full.info.revision == commit
    assert (full.info.dtype, half.info.dtype) == ("float32", "bfloat16")
    assert full.info.weights_sha256 == half.info.weights_sha256 == folder.info.weights_sha256
    [notice] = check_backbone(backbone_ref(full), half)
    assert "float32" in notice
    assert "bfloat16" in notice
    older = backbone_ref(half).model_copy(update={"dtype": None, "weights_sha256": weights_digest(half.model)})
    assert check_backbone(older, half) == []
    with pytest.raises(ArtifactError):
        check_backbone(older, full)


def test_weights_that_do_not_fit_their_config_are_refused_in_plain_words(tmp_path):
    converts(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"intermediate_size": 7}))
    with pytest.raises(BackboneError) as caught:
        load_backbone(str(tmp_path), device="cpu")
    assert "config.json" in str(caught.value.fix)
    assert not caught.value.got


def write_gguf(path, without: str = "") -> np.ndarray:
    """A llama of one layer, as llama.cpp packs it; gives its embeddings."""
    writer, random = gguf.GGUFWriter(path, "llama"), np.random.default_rng(0)
    writer.add_context_length(64)
    writer.add_embedding_length(32)
    writer.add_block_count(1)
    writer.add_feed_forward_length(48)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    tokens = ["<a>", "<b>", *map(chr, range(33, 290)), '!"']
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([3, 3, *[1] * (len(tokens) - 2)])
    writer.add_token_merges(['! "'])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    norms = {"output_norm": (32,), "blk.0.attn_norm": (32,), "blk.0.ffn_norm": (32,)}
    attention = {"attn_q": (32, 32), "attn_k": (16, 32), "attn_v": (16, 32), "attn_output": (32, 32)}
    inner = attention | {"ffn_gate": (48, 32), "ffn_up": (48, 32), "ffn_down": (32, 48)}
    shapes = {"token_embd": (len(tokens), 32), **norms, **{f"blk.0.{name}": shape for name, shape in inner.items()}}
    values = {name: random.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    for name in values.keys() - {without}:
        writer.add_tensor(f"{name}.weight", values[name])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return values["token_embd"]


def test_a_gguf_file_is_converted_without_accelerate(tmp_path, monkeypatch):
    """The commands import transformers as if accelerate were absent, and most users do not have it."""
    monkeypatch.setenv("OVERTURE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(transformers.modeling_utils, "is_accelerate_available", lambda: False)
    embeddings = write_gguf(tmp_path / "tiny.gguf")
    backbone = load_backbone(str(tmp_path / "tiny.gguf"))
    assert np.array_equal(backbone.model.get_input_embeddings().weight.numpy(), embeddings)
    assert backbone.info.num_layers == 1


def test_a_gguf_file_that_lacks_weights_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("OVERTURE_CACHE", str(tmp_path / "cache"))
    write_gguf(tmp_path / "tiny.gguf", without="blk.0.ffn_up")
    with pytest.raises(BackboneError) as refusal:
        load_backbone(str(tmp_path / "tiny.gguf"))
    assert "mlp.up_proj" in refusal.value.got
    assert not list((tmp_path / "cache" / "models").glob("tiny*"))


def test_the_inputs_known_by_the_config_file_are_those_of_the_families():
    families = FAMILIES.items()
    reads = {name: (family.encoder or family).reads for name, family in families}
    assert {name for name, modality in reads.items() if modality == "image"} == {*OF_IMAGES} - {*TOWERS}
    assert {name for name, modality in reads.items() if modality == "audio"} == {*OF_SOUNDS}
    assert {*OF_IMAGES_AND_TEXTS} == {*CONNECTORS}


def test_what_a_model_reads_is_read_from_its_small_files(tmp_path):
    facts = {"whisper": ({"audio"}, True, 30.0), "hubert": ({"audio"}, False, None), "llama": ({"text"}, True, None)}
    facts |= {
        "vit": ({"image"}, False, None),
        "clip": ({"image"}, False, None),
        "llava": ({"image", "text"}, True, None),
    }
    for name, expected in facts.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps({"model_type": name}))
        if name == "whisper":
            values = {"feature_extractor_type": "WhisperFeatureExtractor"}
            (tmp_path / name / "preprocessor_config.json").write_text(json.dumps(values))
        found = input_facts(str(tmp_path / name))
        assert found is not None
        assert ({*found.modalities}, found.has_words, found.window_s) == expected
    short = input_facts(f"{tmp_path / 'whisper'}@2s")
    assert short is not None
    assert (short.window_s, short.longest_window_s) == (2.0, 30.0)
    assert input_facts("nobody/has-this") is None
