"""Adapters of peft by their files alone: what is refused, and how numbers are laid out."""

import json
import os
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from overture.core.errors import ArtifactError, ConfigError
from overture.exchange import peft_files
from overture.exchange.peft_files import fitted_tensors, read_adapter
from overture.exchange.peft_forms import ModelShape

P, D, N, H, K = 4, 8, 2, 2, 3
MODEL = ModelShape("tiny/model", D, N, H, K, 100)
CONFIG: dict[str, Any] = {
    "auto_mapping": None,
    "base_model_name_or_path": "tiny/model",
    "inference_mode": True,
    "modules_to_save": None,
    "num_attention_heads": 4,
    "num_layers": N,
    "num_transformer_submodules": 1,
    "num_virtual_tokens": P,
    "peft_type": "PROMPT_TUNING",
    "peft_version": "0.21.2",
    "prompt_tuning_init": "RANDOM",
    "revision": None,
    "task_type": "CAUSAL_LM",
    "token_dim": D,
    "tokenizer_kwargs": None,
}
PREFIX = {"peft_type": "PREFIX_TUNING", "num_attention_heads": H, "token_dim": H * K}
WIDE = N * 2 * H * K
TASKS = {"prefix_task_cols": torch.ones(2, P, 1), "prefix_task_rows": torch.ones(2, 1, D)}

Make = Callable[..., Path]


def numbers(*shape: int) -> torch.Tensor:
    return torch.arange(torch.Size(shape).numel(), dtype=torch.float32).reshape(shape)


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """An adapter's folder; keywords change its config."""

    def write(tensors: dict[str, torch.Tensor] | None = None, **changes: Any) -> Path:
        folder = tmp_path / "adapter"
        folder.mkdir(exist_ok=True)
        (folder / "adapter_config.json").write_text(json.dumps({**CONFIG, **changes}))
        found = {"prompt_embeddings": numbers(P, D)} if tensors is None else tensors
        (folder / "adapter_model.safetensors").write_bytes(safetensors.torch.save(found, {"format": "pt"}))
        return folder

    return write


# -- layouts


def test_vectors_come_as_they_are(make):
    adapter = read_adapter(make())
    assert (adapter.length, adapter.format.method, adapter.format.place) == (P, "vectors", "before")
    assert torch.equal(fitted_tensors(adapter, MODEL)["vectors"], numbers(P, D))


@pytest.mark.parametrize("kind", ["PREFIX_TUNING", "CARTRIDGE"])
def test_a_prefix_is_cut_by_layer_kind_and_head(make, kind):
    table = numbers(P, WIDE)
    adapter = read_adapter(make({"prompt_embeddings": table}, **PREFIX | {"peft_type": kind}))
    found = fitted_tensors(adapter, MODEL)
    assert (adapter.format.method, adapter.format.place) == ("prefix", "memory")
    for name, kind_index in (("keys", 0), ("values", 1)):
        assert found[name].shape == (N, H, P, K)
        for layer in range(N):
            for head in range(H):
                start = ((layer * 2 + kind_index) * H + head) * K
                assert torch.equal(found[name][layer, head], table[:, start : start + K])


def test_a_task_is_folded_by_its_number(make):
    cols, rows = torch.randn(2, P, 3), torch.randn(2, 3, D)
    tensors = {"prompt_embeddings": numbers(P, D), "prefix_task_cols": cols, "prefix_task_rows": rows}
    folder = make(tensors, peft_type="MULTITASK_PROMPT_TUNING")
    for task_id in (None, 0, 1):
        found = fitted_tensors(read_adapter(folder, task_id), MODEL)["vectors"]
        assert torch.equal(found, numbers(P, D) * (cols[task_id or 0] @ rows[task_id or 0]))
    for wrong in (2, -1):
        with pytest.raises(ConfigError, match="no such task"):
            read_adapter(folder, wrong)


def test_a_task_number_is_not_ignored(make):
    with pytest.raises(ConfigError, match="only an adapter for several tasks"):
        read_adapter(make(), 0)


def test_what_the_config_leaves_open_is_taken_from_the_model(make):
    open_config = dict.fromkeys(("num_layers", "num_attention_heads", "token_dim", "num_virtual_tokens"))
    table = numbers(P, WIDE)
    found = fitted_tensors(read_adapter(make({"prompt_embeddings": table}, **PREFIX | open_config)), MODEL)
    assert torch.equal(found["values"][1, 1], table[:, -K:])


def test_keys_of_training_are_not_looked_at(make):
    assert read_adapter(make(encoder_dropout=0.5, some_later_option={"a": [1]})).length == P


def test_other_files_of_a_training_folder_are_left_alone(make):
    folder = make()
    for name in ("training_args.bin", "optimizer.pt", "README.md"):
        (folder / name).write_bytes(b"\x80\x04")
    assert read_adapter(folder).length == P


# -- refused unread


@pytest.mark.parametrize(
    "name", ["adapter_model.bin", "adapter_model.pt", "adapter_model.PTH", "adapter_model.old.bin"]
)
@pytest.mark.parametrize("is_alone", [True, False])
def test_a_pickle_is_refused_unread(make, monkeypatch, name, is_alone):
    folder = make()
    (folder / name).write_bytes(b"\x80\x04")
    if is_alone:
        (folder / "adapter_model.safetensors").unlink()
    # Not even the config is read then.
    monkeypatch.setattr(peft_files.precheck, "open_plain", lambda path: pytest.fail(f"{path} was opened"))
    with pytest.raises(ArtifactError, match=f"(?s)pickled.*{name}: a pickle can run code"):
        read_adapter(folder)


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_a_missing_file_is_named(make, name):
    folder = make()
    (folder / name).unlink()
    with pytest.raises(ArtifactError, match=f"(?s)no peft adapter.*no {name}"):
        read_adapter(folder)


@pytest.mark.parametrize("path", ["nowhere", "file", "nul\0"])
def test_a_path_that_is_no_folder(tmp_path, path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactError, match=r"(?s)cannot be read.*hf download"):
        read_adapter(tmp_path / path)


def test_an_empty_folder(tmp_path):
    with pytest.raises(ArtifactError, match=r"no adapter_config\.json and no adapter_model\.safetensors"):
        read_adapter(tmp_path)


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
def test_what_is_no_plain_file_is_not_followed(make, tmp_path, name, kind):
    folder = make()
    (folder / name).rename(tmp_path / "elsewhere")
    match kind:
        case "link":
            (folder / name).symlink_to(tmp_path / "elsewhere")
        case "pipe":
            os.mkfifo(folder / name)
        case "folder":
            (folder / name).mkdir()
    with pytest.raises(ArtifactError, match="wanted: a plain file"):
        read_adapter(folder)


# -- configs


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"auto_mapping": {"base_model_class": "X", "parent_library": "evil"}}, "'auto_mapping': is"),
        ({"auto_mapping": {}}, "'auto_mapping': is"),
        ({"auto_mapping": "evil.module"}, "'auto_mapping': is"),
        ({"trust_remote_code": True}, "'trust_remote_code': is True"),
        ({"trust_remote_code": "yes"}, "'trust_remote_code': is 'yes'"),
        ({"tokenizer_kwargs": {"trust_remote_code": True}}, "'tokenizer_kwargs.trust_remote_code': is True"),
        ({"tokenizer_kwargs": {"a": [{"trust_remote_code": 1.5}]}}, "trust_remote_code': is 1.5"),
    ],
)
def test_what_runs_code_is_refused(make, changes, message):
    with pytest.raises(ArtifactError, match=f"(?s)asks for code to be run.*{message}"):
        read_adapter(make(**changes))


def test_code_that_is_refused_by_the_adapter_itself_is_no_danger(make):
    assert read_adapter(make(trust_remote_code=False, tokenizer_kwargs={"trust_remote_code": None})).length == P


@pytest.mark.parametrize("kind", ["LORA", "ADAPTION_PROMPT", "prompt_tuning", "", "os.system", None, 3, ["CPT"]])
def test_an_unknown_type_is_refused(make, kind):
    with pytest.raises(ArtifactError, match=r"(?s)no prompt that can be imported.*peft_type.*wanted: .*PROMPT_TUNING"):
        read_adapter(make(peft_type=kind))


@pytest.mark.parametrize("kind", ["TOKEN_CLS", "QUESTION_ANS", None, 1, ["CAUSAL_LM"]])
def test_other_kinds_of_models_are_not_supported(make, kind):
    with pytest.raises(ArtifactError, match=r"(?s)not supported.*task_type.*wanted: CAUSAL_LM"):
        read_adapter(make(task_type=kind))


@pytest.mark.parametrize(("kind", "task_type"), [("CPT", "SEQ_CLS"), ("CPT", "SEQ_2_SEQ_LM")])
def test_a_type_that_a_kind_of_model_does_not_have_is_refused(make, kind, task_type):
    with pytest.raises(ArtifactError, match=f"(?s)not supported.*{task_type}.*{kind}.*wanted: CAUSAL_LM"):
        read_adapter(make(peft_type=kind, task_type=task_type))


@pytest.mark.parametrize("submodules", [None, 2, 1])
def test_of_an_encoder_decoders_vectors_the_encoders_are_read(make, submodules):
    rows = P if submodules == 1 else 2 * P
    given = {"task_type": "SEQ_2_SEQ_LM", "num_transformer_submodules": submodules, "num_layers": 7}
    adapter = read_adapter(make({"prompt_embeddings": numbers(rows, D)}, **given))
    shape = replace(MODEL, kind="encoder-decoder")
    assert torch.equal(fitted_tensors(adapter, shape)["vectors"], numbers(rows, D)[:P])
    with pytest.raises(ArtifactError, match=r"(?s)another kind of model.*decoder.*wanted: encoder-decoder"):
        fitted_tensors(adapter, MODEL)


@pytest.mark.parametrize("submodules", [2, None])
def test_a_multitask_prompt_on_both_sides_is_refused(make, submodules):
    tensors = {"prompt_embeddings": numbers(P, D), **TASKS}
    given = {"peft_type": "MULTITASK_PROMPT_TUNING", "task_type": "SEQ_2_SEQ_LM", "num_virtual_tokens": None}
    with pytest.raises(ArtifactError, match=r"(?s)in the encoder and in the decoder.*num_transformer_submodules=1"):
        read_adapter(make(tensors, num_transformer_submodules=submodules, **given))
    found = read_adapter(make(tensors, num_transformer_submodules=1, **given))
    assert torch.equal(fitted_tensors(found, replace(MODEL, kind="encoder-decoder"))["vectors"], numbers(P, D))


def test_an_encoder_decoders_layers_are_counted_in_twos(make):
    layers, width = 4, 2 * H * K
    table = numbers(P, layers * width)
    given = {"task_type": "SEQ_2_SEQ_LM", "num_transformer_submodules": 2, "num_layers": layers}
    adapter = read_adapter(make({"prompt_embeddings": table}, **PREFIX | given))
    found = fitted_tensors(adapter, ModelShape("tiny", D, 3, H, K, 100, "encoder-decoder"))
    for layer, read in enumerate((0, 2, 0)):
        assert torch.equal(found["keys"][layer, 0], table[:, read * width : read * width + K])
    with pytest.raises(ArtifactError, match=r"(?s)layers: 4, tiny has 5"):
        fitted_tensors(adapter, ModelShape("tiny", D, 5, H, K, 100, "encoder-decoder"))


def test_two_stacks_are_for_encoder_decoders(make):
    with pytest.raises(ArtifactError, match=r"(?s)do not fit its own config.*num_transformer_submodules"):
        read_adapter(make(num_transformer_submodules=2))


def test_trained_modules_are_more_than_a_prompt(make):
    with pytest.raises(ArtifactError, match=r"(?s)more than a prompt.*classifier"):
        read_adapter(make(modules_to_save=["classifier"]))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("num_virtual_tokens", "4"),
        ("num_virtual_tokens", True),
        ("num_virtual_tokens", 0),
        ("token_dim", 8.0),
        ("num_layers", -1),
        ("num_attention_heads", [2]),
        ("num_transformer_submodules", 3),
        ("base_model_name_or_path", 3),
        ("base_model_name_or_path", "x" * 1001),
        ("base_model_name_or_path", "\x1b[2J"),
        ("base_model_name_or_path", "a\n"),
        ("revision", ["main"]),
        ("peft_version", 0.21),
    ],
)
def test_wrong_kinds_of_values_are_named(make, field, value):
    with pytest.raises(ArtifactError, match=f"(?s)config cannot be read.*{field}"):
        read_adapter(make(**{field: value}))


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"[]", "not a mapping"),
        (b'"PROMPT_TUNING"', "not a mapping"),
        (b"{", "JSON cannot be read"),
        (b'{"peft_type": NaN}', "NaN is not"),
        (b'{"peft_type": "CPT", "peft_type": "CPT"}', "more than once"),
        (b"\xff{}", "JSON cannot be read"),
        (b'{"a":' * 100_000, "JSON cannot be read"),
        (json.dumps({**CONFIG, "filling": "x" * 1_000_000}).encode(), "config is too long"),
    ],
)
def test_json_that_is_no_config(make, raw, message):
    folder = make()
    (folder / "adapter_config.json").write_bytes(raw)
    with pytest.raises(ArtifactError, match=message):
        read_adapter(folder)


# -- tensors


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_values_that_are_no_numbers_are_named_by_their_index(make, bad):
    table = numbers(P, D)
    table[1, 4] = bad
    with pytest.raises(ArtifactError, match=r"prompt_embeddings\[1, 4\]: is -?(nan|inf)"):
        read_adapter(make({"prompt_embeddings": table}))


def test_the_matrices_of_other_tasks_are_looked_at_too(make):
    cols = TASKS["prefix_task_cols"].clone()
    cols[1, 2, 0] = float("nan")
    tensors = {"prompt_embeddings": numbers(P, D), **TASKS, "prefix_task_cols": cols}
    with pytest.raises(ArtifactError, match=r"prefix_task_cols\[1, 2, 0\]: is nan"):
        read_adapter(make(tensors, peft_type="MULTITASK_PROMPT_TUNING"), 0)


def test_infinity_that_comes_from_folding(make):
    huge = {"prompt_embeddings": torch.full((P, D), 1e30), **{name: t * 1e20 for name, t in TASKS.items()}}
    with pytest.raises(ArtifactError, match=r"prompt_embeddings\[0, 0\]: is inf"):
        read_adapter(make(huge, peft_type="MULTITASK_PROMPT_TUNING"))


@pytest.mark.parametrize(
    ("changes", "tensors", "message"),
    [
        ({}, {}, "prompt_embeddings: is missing"),
        (
            {},
            {"prompt_embeddings": numbers(P, D), "base_model.classifier.weight": numbers(2, D)},
            "no part of a prompt",
        ),
        ({}, {"prompt_embeddings": numbers(P, D), "base_model.lm_head.weight": numbers(2, D)}, "no part of a prompt"),
        ({"peft_type": "MULTITASK_PROMPT_TUNING"}, None, "prefix_task_cols: is missing"),
        ({}, {"prompt_embeddings": numbers(P, D), **TASKS}, "'prefix_task_cols': is no part of a prompt"),
    ],
)
def test_the_tensors_are_exactly_those_of_the_type(make, monkeypatch, changes, tensors, message):
    folder = make(tensors or None, **changes)
    if tensors == {}:
        folder = make({"else": numbers(P, D)})
    # The header's names are enough.
    monkeypatch.setattr(safetensors.torch, "load", lambda raw: pytest.fail("it was parsed"))
    with pytest.raises(ArtifactError, match=message):
        read_adapter(folder)


def test_one_classifier_under_two_names(make):
    tensors = {"prompt_embeddings": numbers(P, D), "base_model.score.weight": numbers(2, D)}
    given = {"task_type": "SEQ_CLS", "modules_to_save": ["score"]}
    assert read_adapter(make(tensors, **given)).head.keys() == {"weight"}
    with pytest.raises(
        ArtifactError, match=r"(?s)'base_model.classifier.weight': stands more.*'base_model.score.weight"
    ):
        read_adapter(make({**tensors, "base_model.classifier.weight": -numbers(2, D)}, **given))


@pytest.mark.parametrize(("count", "message"), [(64, "no part of a prompt"), (65, "(?s)number of tensors.*1 to 64")])
def test_more_tensors_than_any_adapter_has(make, monkeypatch, count, message):
    many = {f"base_model.layer.{number}": numbers(1) for number in range(count - 1)}
    folder = make({"prompt_embeddings": numbers(P, D), **many})
    monkeypatch.setattr(safetensors.torch, "load", lambda raw: pytest.fail("it was parsed"))
    with pytest.raises(ArtifactError, match=message):
        read_adapter(folder)


@pytest.mark.parametrize(
    ("changes", "tensors", "message"),
    [
        ({"num_virtual_tokens": P + 1}, None, "4 rows, num_virtual_tokens is 5"),
        ({"token_dim": D + 1}, None, r"8 columns, the config says 1 \* 9"),
        ({}, {"prompt_embeddings": numbers(P * D)}, r"prompt_embeddings: shape \[32\]"),
        ({}, {"prompt_embeddings": numbers(1, P, D)}, r"prompt_embeddings: shape \[1, 4, 8\]"),
        (PREFIX, {"prompt_embeddings": numbers(P, WIDE + 1)}, r"25 columns, the config says 4 \* 6"),
        # A projection that was not folded.
        (PREFIX | {"prefix_projection": True}, {"prompt_embeddings": numbers(P, H * K)}, "6 columns"),
    ],
)
def test_config_and_tensors_must_agree(make, changes, tensors, message):
    with pytest.raises(ArtifactError, match=f"(?s)do not fit its own config.*{message}"):
        read_adapter(make(tensors, **changes))


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("prefix_task_cols", (2, P + 1, 1)),
        ("prefix_task_cols", (3, P, 1)),
        ("prefix_task_cols", (2, P, 2)),
        ("prefix_task_cols", (P, 1)),
        ("prefix_task_rows", (2, 1, D + 1)),
    ],
)
def test_a_tasks_matrices_must_fit_the_table(make, name, shape):
    tensors = {"prompt_embeddings": numbers(P, D), **TASKS, name: torch.ones(shape)}
    with pytest.raises(ArtifactError, match=r"(?s)do not fit its own config.*prefix_task"):
        read_adapter(make(tensors, peft_type="MULTITASK_PROMPT_TUNING"))


def _truncated(raw: bytes) -> bytes:
    return raw[:-1]


def _trailing(raw: bytes) -> bytes:
    return raw + b"PK"


def _duplicate(raw: bytes) -> bytes:
    one = '"prompt_embeddings": {"dtype": "F32", "shape": [4, 8], "data_offsets": [0, 128]}'
    header = f"{{{one}, {one}}}".encode()
    return struct.pack("<Q", len(header)) + header + b"\0" * 128


def _integers(raw: bytes) -> bytes:
    return safetensors.torch.save({"prompt_embeddings": torch.ones(P, D, dtype=torch.int32)})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_truncated, "the tensors end at"),
        (_trailing, "the tensors end at"),
        (_duplicate, "more than once"),
        (_integers, "dtype 'I32'"),
        (lambda raw: raw[:100], "cut off"),
        (lambda raw: b"", "not a safetensors file"),
        (lambda raw: b"\x80\x04" + raw, "not a safetensors file"),
    ],
)
def test_damaged_tensors_are_refused_before_they_are_parsed(make, monkeypatch, change, message):
    folder = make()
    path = folder / "adapter_model.safetensors"
    path.write_bytes(change(path.read_bytes()))
    monkeypatch.setattr(safetensors.torch, "load", lambda raw: pytest.fail("it was parsed"))
    with pytest.raises(ArtifactError, match=message):
        read_adapter(folder)


def test_a_file_too_large_is_not_read(make, monkeypatch):
    monkeypatch.setattr(peft_files, "MAX_TENSOR_FILE_BYTES", 100)
    with pytest.raises(ArtifactError, match="too large for a prompt"):
        read_adapter(make())


# -- models


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": D + 1}, "hidden size: 8, tiny/model has 9"),
        ({"num_layers": N + 1}, "layers: 2, tiny/model has 3"),
        ({"max_length": P}, "length: 4 positions, tiny/model has 4"),
    ],
)
def test_vectors_of_another_model(make, changes, message):
    values = {name: getattr(MODEL, name) for name in MODEL.__dataclass_fields__}
    adapter = read_adapter(make(base_model_name_or_path="its/own"))
    with pytest.raises(ArtifactError, match=f"(?s)another model.*tiny/model.*its/own.*{message}"):
        fitted_tensors(adapter, ModelShape(**{**values, **changes}))


@pytest.mark.parametrize(
    "changes",
    [
        {"num_layers": N + 1},
        {"num_kv_heads": H + 1},
        {"head_dim": K + 1},
        # As many numbers in all, in another order.
        {"num_kv_heads": K, "head_dim": H},
        {"num_layers": H, "num_kv_heads": N * K, "head_dim": 1},
        {"num_layers": 1, "head_dim": 2 * K},
    ],
)
def test_a_prefix_of_another_model(make, changes):
    values = {name: getattr(MODEL, name) for name in MODEL.__dataclass_fields__}
    adapter = read_adapter(make({"prompt_embeddings": numbers(P, WIDE)}, **PREFIX))
    with pytest.raises(ArtifactError, match="another model"):
        fitted_tensors(adapter, ModelShape(**{**values, **changes}))
