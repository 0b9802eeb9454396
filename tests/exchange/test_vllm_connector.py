"""The connector's logic, on stand-ins for vLLM's classes: what it promises the scheduler, writes, and refuses."""

import importlib
import json
import random
import sys
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from overture.core.errors import ArtifactError, UnknownPrompt
from overture.exchange.export import write_files
from overture.exchange.vllm_files import ModelFacts, PromptFolder, gap_of, vllm_files, weight_files_digest
from overture.store.manifest import Manifest

LAYERS, HEADS, WIDTH, BLOCK = 3, 4, 5, 4


def made(root, name="movie", length=6, seed=0, **changes):
    """A prompt of random values in a folder of prompts; its tensors."""
    generator = torch.Generator().manual_seed(seed)
    shape = (LAYERS, HEADS, length, WIDTH)
    tensors = {key: torch.randn(shape, generator=generator) for key in ("keys", "values")}
    ref = {
        "id": "tiny",
        "model_type": "llama",
        "hidden_size": 20,
        "num_layers": LAYERS,
        "weights_sha256": "w" * 64,
        "tokenizer_sha256": "t" * 64,
    }
    manifest = Manifest(
        name=name,
        version=1,
        method="prefix",
        place="memory",
        length=length,
        backbone=ref,
        trainable=1,
        tensors_sha256=f"{seed:064d}",
        **changes,
    )
    write_files(root / manifest.ref, vllm_files(manifest, tensors, "f" * 64))
    return tensors


def folder_of(root, budget_bytes=1 << 30, digest="f" * 64):
    return PromptFolder(root, ModelFacts(LAYERS, HEADS, WIDTH, digest), budget_bytes)


# -- the folder


def test_a_prompt_is_read_back_as_columns_of_tokens_and_once(tmp_path):
    tensors, folder = made(tmp_path), folder_of(tmp_path)
    for _ in range(3):
        prompt = folder.get("movie@1", "0" * 64)
    assert prompt.keys.shape == (LAYERS, 6, HEADS, WIDTH)
    assert torch.equal(prompt.keys, tensors["keys"].transpose(1, 2))
    assert torch.equal(prompt.values, tensors["values"].transpose(1, 2))
    assert folder.num_reads == 1


def test_what_was_used_longest_ago_is_dropped_first(tmp_path):
    for number in range(3):
        made(tmp_path, f"p{number}", seed=number)
    folder = folder_of(tmp_path)
    size = folder.get("p0@1").num_bytes
    folder = folder_of(tmp_path, 2 * size)
    for name in ("p0@1", "p1@1", "p0@1", "p2@1", "p0@1"):
        folder.get(name)
    assert folder.num_reads == 3
    folder.get("p1@1")
    assert folder.num_reads == 4
    tiny = folder_of(tmp_path, 1)
    assert tiny.get("p0@1").facts.prompt == "p0@1"


@pytest.mark.parametrize(
    "name",
    [None, 7, True, [], {}, "", "movie", "movie@0", "movie@v1", "movie@01", "movie@prod", "MOVIE@1", "../movie@1"]
    + ["./movie@1", "movie@1/", "a/../movie@1", "movie@1\0", "movie@1\n", "m" * 5000, "mövie@1", "~@1", "con@1"],
)
def test_a_name_that_is_none_touches_no_file(tmp_path, name):
    made(tmp_path)
    with pytest.raises(UnknownPrompt):
        folder_of(tmp_path / "nowhere").get(name)
    with pytest.raises(UnknownPrompt):
        folder_of(tmp_path).get(name)


def test_names_by_chance_never_raise_anything_else(tmp_path):
    made(tmp_path)
    chance, folder = random.Random(0), folder_of(tmp_path)
    pieces = ["..", "/", "\\", "movie", "@", "1", "\0", "é", "%2e", " ", "~", "v", ".", "-"]
    for _ in range(1000):
        name = "".join(chance.choices(pieces, k=chance.randint(1, 7)))
        if name != "movie@1":
            with pytest.raises(UnknownPrompt):
                folder.get(name)
    assert folder.num_reads == 0


def broken_file(folder, how):
    path = folder / "prompt.safetensors"
    if how == "torn":
        path.write_bytes(path.read_bytes()[:-8])
    elif how == "changed":
        raw = bytearray(path.read_bytes())
        raw[-1] ^= 1
        path.write_bytes(bytes(raw))
    elif how == "link":
        path.rename(folder / "elsewhere")
        path.symlink_to(folder / "elsewhere")
    elif how == "gone":
        path.unlink()
    else:
        manifest = json.loads((folder / "prompt.json").read_text())
        changes = {"shape": {"num_layers": 2}, "length": {"length": 5}, "extra": {"x": 1}}[how]
        (folder / "prompt.json").write_text(json.dumps(manifest | changes))


@pytest.mark.parametrize("how", ["torn", "changed", "link", "gone", "shape", "length", "extra"])
def test_a_damaged_folder_is_refused(tmp_path, how):
    made(tmp_path)
    broken_file(tmp_path / "movie@1", how)
    with pytest.raises(ArtifactError):
        folder_of(tmp_path).get("movie@1")


def test_nan_is_refused_though_its_digest_is_right(tmp_path):
    import hashlib

    tensors = made(tmp_path)
    tensors["values"][1, 2, 3, 4] = float("nan")
    path = tmp_path / "movie@1" / "prompt.safetensors"
    save_file(tensors, path)
    manifest = json.loads((path.parent / "prompt.json").read_text())
    manifest["tensors_sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    (path.parent / "prompt.json").write_text(json.dumps(manifest))
    with pytest.raises(ArtifactError, match="no numbers"):
        folder_of(tmp_path).get("movie@1")


def test_other_weights_and_another_prompt_of_the_name_are_refused(tmp_path):
    made(tmp_path)
    with pytest.raises(ArtifactError, match="another model"):
        folder_of(tmp_path, digest="0" * 64).get("movie@1")
    # The fingerprint of a model that was loaded from these very files.
    assert folder_of(tmp_path, digest="w" * 64).get("movie@1")
    with pytest.raises(ArtifactError, match="another prompt"):
        folder_of(tmp_path).get("movie@1", "1" * 64)


def test_what_vllm_cannot_serve_has_a_reason():
    def of(place="memory", **changes):
        values = {"name": "a", "method": "m", "length": 1, "trainable": 1, "backbone": BACKBONE}
        return Manifest(place=place, **values, **changes)

    assert gap_of(of(), ("keys", "values"), "decoder") == ""
    assert gap_of(of("before"), ("vectors",), "decoder") == ""
    assert gap_of(of("after"), ("vectors",), "decoder")
    assert gap_of(of(), ("keys", "values", "labels"), "decoder")
    assert gap_of(of(), ("keys", "values", "weights"), "decoder")
    assert gap_of(of(), ("keys", "values"), "encoder")
    assert gap_of(of("before", options={"prompt": {"options": {"layer": 2}}}), ("vectors",), "decoder")
    assert gap_of(of(options={"adapter": {"rank": 2}}), ("keys", "values"), "decoder")
    with pytest.raises(ArtifactError):
        vllm_files(of(), {"keys": torch.zeros(1), "values": torch.zeros(1), "labels": torch.zeros(1)}, "")


BACKBONE = {
    "id": "tiny",
    "model_type": "llama",
    "hidden_size": 20,
    "num_layers": LAYERS,
    "weights_sha256": "w",
    "tokenizer_sha256": "t",
}


# -- the connector


@dataclass
class FullAttentionSpec:
    """As vLLM's of this name."""

    sliding_window: Any = None
    attention_chunk_size: Any = None


@dataclass
class SlidingWindowSpec(FullAttentionSpec):
    """As vLLM's of this name."""


class Base:
    """As much of vLLM's base class as the connector uses."""

    def __init__(self, vllm_config, role, kv_cache_config):
        self._vllm_config, self.role, self.metadata = vllm_config, role, None

    def _get_connector_metadata(self):
        return self.metadata


@dataclass
class Results:
    finished_sending: set = field(default_factory=set)
    finished_recving: set = field(default_factory=set)
    failed_recving: set = field(default_factory=set)


@pytest.fixture
def module(monkeypatch):
    """The connector's module, on stand-ins for vLLM's."""
    name = "vllm.distributed.kv_transfer.kv_connector.v1.base"
    parts = name.split(".")
    for number in range(1, len(parts)):
        monkeypatch.setitem(sys.modules, ".".join(parts[:number]), ModuleType(parts[number - 1]))
    fake = ModuleType(name)
    fake.KVConnectorBase_V1 = Base
    fake.KVConnectorMetadata = type("KVConnectorMetadata", (), {})
    fake.KVConnectorRole = fake.KVConnectorTransferResults = Results
    monkeypatch.setitem(sys.modules, name, fake)
    monkeypatch.delitem(sys.modules, "overture.exchange.vllm_connector", raising=False)
    yield importlib.import_module("overture.exchange.vllm_connector")
    sys.modules.pop("overture.exchange.vllm_connector", None)


FULL = (FullAttentionSpec(),)


def config_of(root, size=1, specs=FULL, **changes):
    model = SimpleNamespace(
        model="nowhere",
        hf_text_config=SimpleNamespace(num_hidden_layers=LAYERS),
        get_total_num_kv_heads=lambda: HEADS,
        get_head_size=lambda: WIDTH,
    )
    transfer = {"kv_connector_extra_config": {"prompts": str(root), "check_weights": False}}
    transfer |= {"kv_load_failure_policy": changes.pop("policy", "fail")}
    config = SimpleNamespace(
        model_config=model,
        kv_transfer_config=SimpleNamespace(**transfer),
        cache_config=SimpleNamespace(block_size=BLOCK, cache_dtype=changes.pop("cache_dtype", "auto")),
        parallel_config=SimpleNamespace(tensor_parallel_size=size, **changes),
        speculative_config=None,
    )
    groups = SimpleNamespace(kv_cache_groups=[SimpleNamespace(kv_cache_spec=spec) for spec in specs])
    return config, groups


def connector_of(module, root, **changes):
    config, groups = config_of(root, **changes)
    return module.OvertureConnector(config, None, groups)


def request_of(name="movie@1", length=6, number="r1", text=(11, 12, 13), **changes):
    named = {"kv_transfer_params": {"overture": name}} if name is not ... else {"kv_transfer_params": None}
    values = {"request_id": number, "prompt_token_ids": [0] * length + list(text), "skip_reading_prefix_cache": False}
    return SimpleNamespace(**{**values, **named, **changes})


class Blocks:
    def __init__(self, *ids):
        self.ids = list(ids)

    def get_block_ids(self):
        return (self.ids,)


class Layer:
    """A layer's cache of ten blocks; its kernel writes rows by slots, as vLLM's do."""

    def __init__(self, heads=HEADS):
        self.kv_cache = torch.zeros(2, 10 * BLOCK, heads, WIDTH)
        self.impl = self

    def do_kv_cache_update(self, layer, keys, values, cache, slots):
        assert layer is self
        cache[0, slots], cache[1, slots] = keys, values


def step(connector, *requests, heads=HEADS, layers=None):
    """One step of an engine: requests, the tokens that are in the cache, their blocks. The layers, and what failed."""
    told = {}
    for request, computed, blocks in requests:
        num, waits = connector.get_num_new_matched_tokens(request, computed)
        told[request.request_id] = (num, waits)
        if num:
            connector.update_state_after_alloc(request, Blocks(*blocks), num)
        else:
            connector.update_state_after_alloc(request, Blocks(*blocks), 0)
    connector.metadata = connector.build_connector_meta(None)
    layers = layers or {f"model.layers.{number}.self_attn.attn": Layer(heads) for number in range(LAYERS)}
    connector.start_load_kv(SimpleNamespace(no_compile_layers={**layers, "lm_head": object()}))
    results = connector.get_transfer_results(set())
    assert results.finished_recving == results.failed_recving
    return told, list(layers.values()), results.failed_recving, connector.get_block_ids_with_load_errors()


def test_a_prompt_is_written_into_the_first_blocks(module, tmp_path):
    tensors = made(tmp_path)
    connector = connector_of(module, tmp_path)
    told, layers, failed, broken = step(connector, (request_of(), 0, [7, 2, 5]))
    assert told == {"r1": (6, False)}
    assert (failed, broken, connector.num_loads) == (set(), set(), 1)
    slots = [28, 29, 30, 31, 8, 9]
    for number, layer in enumerate(layers):
        assert torch.equal(layer.kv_cache[0, slots], tensors["keys"][number].transpose(0, 1))
        assert torch.equal(layer.kv_cache[1, slots], tensors["values"][number].transpose(0, 1))
        # Where the text goes, and what others have, is left alone.
        assert layer.kv_cache.abs().sum(dim=(0, 2, 3)).count_nonzero() == len(slots)


def test_only_what_the_cache_lacks_is_written(module, tmp_path):
    tensors = made(tmp_path)
    connector = connector_of(module, tmp_path)
    told, layers, _, _ = step(connector, (request_of(), BLOCK, [7, 2, 5]))
    assert told == {"r1": (2, False)}
    assert torch.equal(layers[1].kv_cache[0, [8, 9]], tensors["keys"][1][:, 4:6].transpose(0, 1))
    assert layers[1].kv_cache[0, 28:32].abs().sum() == 0
    told, _, _, _ = step(
        connector, (request_of(number="r2"), 2 * BLOCK, [7, 2, 5]), (request_of(..., number="r3"), 0, [1])
    )
    assert told == {"r2": (0, False), "r3": (0, False)}
    assert connector.num_loads == 1


def test_a_preempted_request_is_written_again_into_its_new_blocks(module, tmp_path):
    made(tmp_path)
    connector, request = connector_of(module, tmp_path), request_of()
    _, first, _, _ = step(connector, (request, 0, [7, 2, 5]))
    _, again, _, _ = step(connector, (request, 0, [0, 1, 3]))
    assert torch.equal(again[2].kv_cache[0, :6], first[2].kv_cache[0, [28, 29, 30, 31, 8, 9]])
    # Nothing is left for a step without requests.
    assert step(connector)[1][0].kv_cache.abs().sum() == 0


def test_being_asked_twice_before_there_are_blocks_has_no_effect(module, tmp_path):
    made(tmp_path)
    connector, good, bad = connector_of(module, tmp_path), request_of(), request_of("no@1", number="r2")
    for _ in range(3):
        assert connector.get_num_new_matched_tokens(good, 0) == (6, False)
        assert connector.get_num_new_matched_tokens(bad, 0) == (1, True)
    connector.metadata = connector.build_connector_meta(None)
    assert connector.metadata.loads == connector.metadata.failed == []
    for request in (good, bad):
        assert connector.request_finished(request, []) == (False, None)
    assert connector._asked == {}


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "no@1"},
        {"name": None},
        {"name": ["movie@1"]},
        {"name": "../movie@1"},
        {"length": 5},
        {"length": 0},
        {"text": ()},
        {"prompt_token_ids": None},
        {"skip_reading_prefix_cache": True},
        {"kv_transfer_params": {"overture": "movie@1", "sha256": "1" * 64}},
    ],
)
def test_a_request_that_cannot_have_its_prompt_fails_alone(module, tmp_path, changes):
    made(tmp_path)
    connector = connector_of(module, tmp_path)
    told, layers, failed, broken = step(
        connector, (request_of(number="bad", **changes), 0, [1]), (request_of(number="good"), 0, [7, 2, 5])
    )
    assert told["bad"] == (1, True)
    assert failed == {"bad"}
    assert broken == set()
    assert layers[0].kv_cache[0, 28].abs().sum() > 0
    assert step(connector)[2] == set()


def test_blocks_that_could_not_be_filled_are_reported_once(module, tmp_path):
    made(tmp_path)
    connector = connector_of(module, tmp_path)
    layers = {"model.layers.0.attn": Layer(heads=3)}
    _, _, failed, broken = step(connector, (request_of(), BLOCK, [7, 2, 5]), layers=layers)
    assert (failed, broken) == (set(), {2})
    assert step(connector)[3] == set()


@pytest.mark.parametrize(("size", "rank", "heads"), [(2, 0, [0, 1]), (2, 1, [2, 3]), (4, 3, [3]), (8, 5, [2])])
def test_each_rank_writes_its_own_heads(module, tmp_path, monkeypatch, size, rank, heads):
    tensors = made(tmp_path)
    monkeypatch.setattr(module, "_tensor_parallel_rank", lambda: rank)
    connector = connector_of(module, tmp_path, size=size)
    _, layers, _, broken = step(connector, (request_of(), 0, [0, 1, 2]), heads=len(heads))
    assert not broken
    assert torch.equal(layers[2].kv_cache[0, :6], tensors["keys"][2][heads].transpose(0, 1))


@pytest.mark.parametrize(
    "changes",
    [
        {"specs": (SlidingWindowSpec(),)},
        {"specs": (FullAttentionSpec(sliding_window=4),)},
        {"specs": (FullAttentionSpec(), FullAttentionSpec())},
        {"specs": ()},
        {"cache_dtype": "fp8"},
        {"decode_context_parallel_size": 2},
        {"size": 3},
        {"policy": "recompute"},
    ],
)
def test_what_was_not_tested_is_refused_at_the_start(module, tmp_path, changes):
    with pytest.raises(ValueError, match="was not tested with"):
        connector_of(module, tmp_path, **changes)


def test_a_folder_is_needed(module, tmp_path):
    with pytest.raises(ValueError, match="prompts"):
        connector_of(module, tmp_path / "nowhere")


def test_weights_are_told_by_all_their_files(tmp_path):
    assert weight_files_digest(tmp_path) == ""
    (tmp_path / "a.safetensors").write_bytes(b"a")
    one = weight_files_digest(tmp_path)
    (tmp_path / "b.safetensors").write_bytes(b"b")
    assert len(one) == 64
    assert one != weight_files_digest(tmp_path)
